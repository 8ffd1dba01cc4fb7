package infer_test

import (
	"bytes"
	"sync"
	"testing"

	infer "github.com/libinfer/libinfer/bindings/go"
)

const kvRow = 2 * 16

func newKVCache(t *testing.T, kind string) *infer.KVCache {
	t.Helper()
	cache, err := infer.NewKVCache(infer.Options{
		"n_layers": 2, "n_kv_heads": 2, "head_dim": 16, "kv_type": kind, "hot_tokens": 512,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	return cache
}

// kvFill stores n tokens behind those there are.
func kvFill(s *infer.KVSequence, seed, n int) error {
	from := s.Len()
	for layer := range 2 {
		keys, values := kvRows(seed, layer, from, n)
		if err := s.StoreBatch(layer, from, n, keys, values); err != nil {
			return err
		}
	}
	return s.Advance(n)
}

// kvRows are numbers that a half float holds exactly.
func kvRows(seed, layer, position, n int) (keys, values []float32) {
	keys, values = make([]float32, n*kvRow), make([]float32, n*kvRow)
	for i := range keys {
		keys[i] = float32((position*kvRow+i+31*seed+7*layer)%1024) / 1024
		values[i] = -keys[i]
	}
	return keys, values
}

func kvWant(t *testing.T, s *infer.KVSequence, seed, position, n int) {
	t.Helper()
	keys, values := make([]float32, n*kvRow), make([]float32, n*kvRow)
	for layer := range 2 {
		if err := s.Fetch(layer, position, n, keys, values); err != nil {
			t.Fatal(err)
		}
		wantKeys, wantValues := kvRows(seed, layer, position, n)
		for i := range keys {
			if keys[i] != wantKeys[i] || values[i] != wantValues[i] {
				t.Fatalf("layer %d, element %d: found %g and %g", layer, i, keys[i], values[i])
			}
		}
	}
}

func TestKVCacheGivesBackWhatWasStored(t *testing.T) {
	cache := newKVCache(t, "f16")
	s, err := cache.Open("tenant")
	if err != nil {
		t.Fatal(err)
	}
	if err := kvFill(s, 1, 70); err != nil {
		t.Fatal(err)
	}
	keys, values := kvRows(1, 0, 70, 1)
	for layer := range 2 {
		keys, values = kvRows(1, layer, 70, 1)
		if err := s.Store(layer, 70, keys, values); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Advance(1); err != nil || s.Len() != 71 {
		t.Fatal(s.Len(), err)
	}
	kvWant(t, s, 1, 0, 71)
	if s.TokenBytes(infer.KVF16) != 2*kvRow || s.TokenBytes(infer.KVF32) != 4*kvRow || s.TokenBytes(infer.KVQ8) != 0 {
		t.Fatal("unexpected sizes of a token")
	}
	if n, err := s.OptimalBatch(); err != nil || n < 1 || n > 64 {
		t.Fatal(n, err)
	}
	fork, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	if err := fork.Truncate(40); err != nil {
		t.Fatal(err)
	}
	if err := kvFill(fork, 2, 10); err != nil {
		t.Fatal(err)
	}
	kvWant(t, fork, 1, 0, 40)
	kvWant(t, fork, 2, 40, 10)
	kvWant(t, s, 1, 0, 71)

	rawKeys, rawValues := make([]byte, 71*2*kvRow), make([]byte, 71*2*kvRow)
	if err := s.FetchRaw(infer.KVF16, 1, 0, 71, rawKeys, rawValues); err != nil {
		t.Fatal(err)
	}
	at := 5
	err = s.View(1, 5, 66, func(b infer.KVBlock) error {
		if b.Type != infer.KVF16 || b.Position != at || b.TokenStride != 2*kvRow || b.HeadStride != kvRow {
			t.Fatalf("unexpected block %+v", b)
		}
		end := at + b.Tokens
		if !bytes.Equal(b.Keys, rawKeys[at*b.TokenStride:end*b.TokenStride]) ||
			!bytes.Equal(b.Values, rawValues[at*b.TokenStride:end*b.TokenStride]) {
			t.Fatal("the view has other bytes")
		}
		at = end
		return nil
	})
	if err != nil || at != 71 {
		t.Fatal(at, err)
	}
	if err := fork.StoreRaw(infer.KVF16, 0, 50, 71, rawKeys, rawValues); err != nil {
		t.Fatal(err)
	}

	tokens := make([]uint32, 71)
	for i := range tokens {
		tokens[i] = uint32(i)
	}
	if err := s.Seal(tokens); err != nil {
		t.Fatal(err)
	}
	s.Close()
	fork.Close()
	pin, err := cache.Pin("tenant", tokens[:50])
	if err != nil || pin.Len() != 50 {
		t.Fatal(pin.Len(), err)
	}
	pin.Close()
	found, err := cache.Lookup("tenant", tokens)
	if err != nil || found.Len() != 64 {
		t.Fatal(found.Len(), err)
	}
	kvWant(t, found, 1, 0, 64)
	other, err := cache.Lookup("", tokens)
	if err != nil || other.Len() != 0 {
		t.Fatal(other.Len(), err)
	}
	stats, err := cache.Stats()
	if err != nil || stats.HitTokens != 114 || stats.Misses != 1 || stats.HotBlocksUsed != 2 {
		t.Fatalf("%+v, %v", stats, err)
	}
}

func TestKVCacheRefusesWhatDoesNotFit(t *testing.T) {
	_, err := infer.NewKVCache(infer.Options{})
	wantError(t, err, infer.ErrInvalidArgument, "n_layers")
	_, err = infer.NewKVCache(infer.Options{"kv_type": "f64"})
	wantError(t, err, infer.ErrInvalidArgument, "kv_type")
	cache := newKVCache(t, "q8")
	s, err := cache.Open("")
	if err != nil {
		t.Fatal(err)
	}
	x := make([]float32, kvRow)
	wantError(t, s.StoreBatch(0, 0, 2, x, x), infer.ErrInvalidArgument, "2 tokens")
	wantError(t, s.Store(0, -1, x, x), infer.ErrInvalidArgument, "-1")
	wantError(t, s.StoreRaw(infer.KVF16, 0, 0, 1, nil, nil), infer.ErrInvalidArgument, "element_type")
	wantError(t, s.Advance(1), infer.ErrInvalidArgument, "advance")
	wantError(t, s.Fetch(0, 0, 1, x, make([]float32, kvRow)), infer.ErrInvalidArgument, "0 tokens")
	s.Close()
	wantError(t, s.Advance(0), infer.ErrClosed, "sequence")
}

func TestKVCacheIsUsedFromManyGoroutines(t *testing.T) {
	cache := newKVCache(t, "f32")
	var group sync.WaitGroup
	for g := range 4 {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := range 20 {
				s, err := cache.Open("")
				if err != nil {
					t.Error(err)
					return
				}
				seed := 100*g + round
				tokens := make([]uint32, 96)
				for i := range tokens {
					tokens[i] = uint32(seed)
				}
				if err := kvFill(s, seed, 96); err != nil {
					t.Error(err)
				}
				if err := s.Seal(tokens); err != nil {
					t.Error(err)
				}
				s.Close()
				found, err := cache.Lookup("", tokens)
				if err != nil {
					t.Error(err)
					return
				}
				if n := found.Len(); n > 0 {
					kvWant(t, found, seed, 0, n)
				}
				found.Close()
			}
		}()
	}
	group.Wait()
}
