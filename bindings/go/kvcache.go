package infer

// #include "infer.h"
import "C"

import (
	"runtime"
	"unsafe"
)

// KVCache is a cache of keys and values for programs with an attention of their own: sequences of tokens in blocks of 32,
// which share what they have in common, in memory and, with a cold tier, in a directory. Any number of goroutines may
// use it at the same time.
type KVCache struct {
	handle *handle[*C.infer_kv_cache]
}

// KVSequence is a sequence of tokens of a [KVCache]. Any number of goroutines may read it, also while one writes; a second
// writer is told [ErrBusy].
//
// Keys and values are slices of floats, token by token, in it head by head. They need as many elements as the tokens
// have; otherwise the call fails with [ErrInvalidArgument].
type KVSequence struct {
	handle *handle[*C.infer_kv_seq]
}

// KVPin keeps a prefix in memory until it is closed.
type KVPin struct {
	handle *handle[*C.infer_kv_pin]
}

// KVType is an element type of keys and values.
type KVType uint32

const (
	// KVF32 are 32-bit floats.
	KVF32 = KVType(C.INFER_KV_F32)
	// KVF16 are IEEE half floats.
	KVF16 = KVType(C.INFER_KV_F16)
	// KVBF16 are the upper halves of 32-bit floats.
	KVBF16 = KVType(C.INFER_KV_BF16)
	// KVQ8 has for each token and head a 32-bit float, the scale, and then signed bytes.
	KVQ8 = KVType(C.INFER_KV_Q8)
)

// KVStats are counts of a cache since it was created, and its state now.
//
// The fields are those of infer_kv_stats in infer.h, in the same order.
type KVStats struct {
	header          [2]uint32
	BlockBytes      uint64
	HotBlocks       uint64
	HotBlocksUsed   uint64
	HotBlocksCached uint64
	HotBytes        uint64
	HotTokens       uint64
	Utilization     float64
	TokensStored    uint64
	TokensSealed    uint64
	Lookups         uint64
	LookupTokens    uint64
	HitTokens       uint64
	Misses          uint64
	Evictions       uint64
	Copies          uint64
	Fetches         uint64
	TokensFetched   uint64
	ColdActive      uint64
	ColdBlocks      uint64
	ColdBytes       uint64
	ColdBudget      uint64
	ColdHitTokens   uint64
	ColdReads       uint64
	Spills          uint64
	SpillsRefused   uint64
	ColdQueueBytes  uint64
}

// The two structs have the same layout; these do not compile when the sizes differ.
var (
	_ [unsafe.Sizeof(KVStats{}) - C.sizeof_infer_kv_stats]struct{}
	_ [C.sizeof_infer_kv_stats - unsafe.Sizeof(KVStats{})]struct{}
)

// NewKVCache creates a cache. The options n_layers, n_kv_heads and head_dim have to be set.
func NewKVCache(options Options) (*KVCache, error) {
	o := C.infer_kv_cache_options_new()
	if o == nil {
		return nil, noMemory("key/value cache")
	}
	defer C.infer_kv_cache_options_free(o)
	err := options.apply(func(key, value *C.char, detail **C.infer_error) C.infer_status {
		return C.infer_kv_cache_options_set(o, key, value, detail)
	})
	if err != nil {
		return nil, err
	}
	var ptr *C.infer_kv_cache
	var detail *C.infer_error
	if err := check(C.infer_kv_cache_create(o, &ptr, &detail), &detail); err != nil {
		return nil, err
	}
	c := &KVCache{&handle[*C.infer_kv_cache]{ptr: ptr, what: "key/value cache", free: func(p *C.infer_kv_cache) {
		C.infer_kv_cache_free(p)
	}}}
	runtime.AddCleanup(c, (*handle[*C.infer_kv_cache]).close, c.handle)
	return c, nil
}

// Close frees the cache. Its sequences and pins keep what they need. What is sealed is written to the cold tier when the
// cache and all sequences are closed: the last Close waits for it.
func (c *KVCache) Close() error {
	c.handle.close()
	runtime.KeepAlive(c)
	return nil
}

func newKVSequence(ptr *C.infer_kv_seq) *KVSequence {
	s := &KVSequence{&handle[*C.infer_kv_seq]{ptr: ptr, what: "sequence", free: func(p *C.infer_kv_seq) {
		C.infer_kv_seq_free(p)
	}}}
	runtime.AddCleanup(s, (*handle[*C.infer_kv_seq]).close, s.handle)
	return s
}

// Open opens an empty sequence. What it seals is found below the same salt only.
func (c *KVCache) Open(salt string) (*KVSequence, error) {
	defer runtime.KeepAlive(c)
	var ptr *C.infer_kv_seq
	err := c.handle.use(func(p *C.infer_kv_cache) error {
		var detail *C.infer_error
		text, n := textPointer(salt)
		return check(C.infer_kv_seq_open(p, text, n, &ptr, &detail), &detail)
	})
	if err != nil {
		return nil, err
	}
	return newKVSequence(ptr), nil
}

func tokenPointer(tokens []uint32) *C.uint32_t {
	return (*C.uint32_t)(unsafe.SliceData(tokens))
}

// Lookup opens a sequence that begins with the longest prefix of tokens that was sealed below the salt. Its length is 0
// where nothing was found.
func (c *KVCache) Lookup(salt string, tokens []uint32) (*KVSequence, error) {
	defer runtime.KeepAlive(c)
	var ptr *C.infer_kv_seq
	err := c.handle.use(func(p *C.infer_kv_cache) error {
		var detail *C.infer_error
		text, n := textPointer(salt)
		status := C.infer_kv_cache_lookup(p, text, n, tokenPointer(tokens), C.size_t(len(tokens)), &ptr, &detail)
		return check(status, &detail)
	})
	if err != nil {
		return nil, err
	}
	return newKVSequence(ptr), nil
}

// Pin keeps the longest prefix of tokens that was sealed below the salt in memory until the answer is closed.
func (c *KVCache) Pin(salt string, tokens []uint32) (*KVPin, error) {
	defer runtime.KeepAlive(c)
	var ptr *C.infer_kv_pin
	err := c.handle.use(func(p *C.infer_kv_cache) error {
		var detail *C.infer_error
		text, n := textPointer(salt)
		status := C.infer_kv_cache_pin(p, text, n, tokenPointer(tokens), C.size_t(len(tokens)), &ptr, &detail)
		return check(status, &detail)
	})
	if err != nil {
		return nil, err
	}
	pin := &KVPin{&handle[*C.infer_kv_pin]{ptr: ptr, what: "pin", free: func(p *C.infer_kv_pin) {
		C.infer_kv_pin_free(p)
	}}}
	runtime.AddCleanup(pin, (*handle[*C.infer_kv_pin]).close, pin.handle)
	return pin, nil
}

// Stats takes a snapshot of the counters.
func (c *KVCache) Stats() (KVStats, error) {
	defer runtime.KeepAlive(c)
	var s KVStats
	err := c.handle.use(func(p *C.infer_kv_cache) error {
		var detail *C.infer_error
		raw := (*C.infer_kv_stats)(unsafe.Pointer(&s))
		raw.struct_size = C.sizeof_infer_kv_stats
		return check(C.infer_kv_cache_stats(p, raw, &detail), &detail)
	})
	return s, err
}

// Len is the number of tokens of the prefix; 0 where nothing was found.
func (p *KVPin) Len() int {
	n := 0
	_ = p.handle.use(func(ptr *C.infer_kv_pin) error {
		n = int(C.infer_kv_pin_length(ptr))
		return nil
	})
	runtime.KeepAlive(p)
	return n
}

// Close lets the prefix be evicted again.
func (p *KVPin) Close() error {
	p.handle.close()
	runtime.KeepAlive(p)
	return nil
}

// Close frees the sequence. What it sealed stays in the cache until its memory is needed.
func (s *KVSequence) Close() error {
	s.handle.close()
	runtime.KeepAlive(s)
	return nil
}

func (s *KVSequence) call(f func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status) error {
	defer runtime.KeepAlive(s)
	return s.handle.use(func(p *C.infer_kv_seq) error {
		var detail *C.infer_error
		return check(f(p, &detail), &detail)
	})
}

// Len is the number of tokens that can be read; 0 after Close.
func (s *KVSequence) Len() int {
	n := 0
	_ = s.handle.use(func(p *C.infer_kv_seq) error {
		n = int(C.infer_kv_seq_length(p))
		return nil
	})
	runtime.KeepAlive(s)
	return n
}

// TokenBytes is the number of bytes of the keys of one token and layer, and of its values; 0 for a type that is neither
// [KVF32] nor that of the cache, and after Close.
func (s *KVSequence) TokenBytes(kind KVType) int {
	n := 0
	_ = s.handle.use(func(p *C.infer_kv_seq) error {
		n = int(C.infer_kv_seq_token_bytes(p, C.uint32_t(kind)))
		return nil
	})
	runtime.KeepAlive(s)
	return n
}

// Fork opens a sequence with the same tokens, which shares every block.
func (s *KVSequence) Fork() (*KVSequence, error) {
	var ptr *C.infer_kv_seq
	err := s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_seq_fork(p, &ptr, detail)
	})
	if err != nil {
		return nil, err
	}
	return newKVSequence(ptr), nil
}

// negative fails for numbers that C would take for huge ones.
func negative(numbers ...int) error {
	for _, n := range numbers {
		if n < 0 {
			return newError(ErrInvalidArgument, "expected no negative number, found %d", n)
		}
	}
	return nil
}

// Truncate forgets all tokens from position n on.
func (s *KVSequence) Truncate(n int) error {
	if err := negative(n); err != nil {
		return err
	}
	return s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_seq_truncate(p, C.size_t(n), detail)
	})
}

// fits fails unless arrays of so many bytes hold n tokens. The library says what is wrong with a type.
func (s *KVSequence) fits(kind KVType, layer, position, n, keys, values int) error {
	if err := negative(layer, position, n); err != nil {
		return err
	}
	bytes := s.TokenBytes(kind)
	if bytes > 0 && (keys != values || keys%bytes != 0 || keys/bytes != n) {
		return newError(ErrInvalidArgument, "expected keys and values of %d tokens of %d bytes, found %d and %d bytes",
			n, bytes, keys, values)
	}
	return nil
}

// Store stores keys and values of one token of a layer.
func (s *KVSequence) Store(layer, position int, keys, values []float32) error {
	if err := s.fits(KVF32, layer, position, 1, 4*len(keys), 4*len(values)); err != nil {
		return err
	}
	return s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_cache_store(p, C.uint32_t(layer), C.size_t(position), floats(keys), floats(values), detail)
	})
}

func (s *KVSequence) store(kind KVType, layer, position, n int, keys, values unsafe.Pointer) error {
	return s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_cache_store_batch(p, C.uint32_t(layer), C.size_t(position), C.size_t(n), C.uint32_t(kind),
			keys, values, detail)
	})
}

// StoreBatch stores n tokens of a layer from a position on. Positions follow on those of the layer without a gap.
func (s *KVSequence) StoreBatch(layer, position, n int, keys, values []float32) error {
	if err := s.fits(KVF32, layer, position, n, 4*len(keys), 4*len(values)); err != nil {
		return err
	}
	return s.store(KVF32, layer, position, n, unsafe.Pointer(floats(keys)), unsafe.Pointer(floats(values)))
}

// StoreRaw is StoreBatch of tokens that are given in the type of the cache.
func (s *KVSequence) StoreRaw(kind KVType, layer, position, n int, keys, values []byte) error {
	if err := s.fits(kind, layer, position, n, len(keys), len(values)); err != nil {
		return err
	}
	k, v := unsafe.SliceData(keys), unsafe.SliceData(values)
	return s.store(kind, layer, position, n, unsafe.Pointer(k), unsafe.Pointer(v))
}

// Advance makes n more tokens readable; every layer has to have them.
func (s *KVSequence) Advance(n int) error {
	if err := negative(n); err != nil {
		return err
	}
	return s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_cache_advance(p, C.size_t(n), detail)
	})
}

// OptimalBatch is how many tokens to give to a StoreBatch, measured when it is first asked for. A call from Go costs
// more than what is measured, so more tokens do no harm.
func (s *KVSequence) OptimalBatch() (int, error) {
	var n C.size_t
	err := s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_cache_optimal_batch(p, &n, detail)
	})
	return int(n), err
}

func (s *KVSequence) fetch(kind KVType, layer, position, n int, keys, values unsafe.Pointer) error {
	return s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_cache_fetch(p, C.uint32_t(layer), C.size_t(position), C.size_t(n), C.uint32_t(kind), keys,
			values, detail)
	})
}

// Fetch copies n tokens of a layer from a position on.
func (s *KVSequence) Fetch(layer, position, n int, keys, values []float32) error {
	if err := s.fits(KVF32, layer, position, n, 4*len(keys), 4*len(values)); err != nil {
		return err
	}
	return s.fetch(KVF32, layer, position, n, unsafe.Pointer(floats(keys)), unsafe.Pointer(floats(values)))
}

// FetchRaw is Fetch of tokens in the type of the cache.
func (s *KVSequence) FetchRaw(kind KVType, layer, position, n int, keys, values []byte) error {
	if err := s.fits(kind, layer, position, n, len(keys), len(values)); err != nil {
		return err
	}
	k, v := unsafe.SliceData(keys), unsafe.SliceData(values)
	return s.fetch(kind, layer, position, n, unsafe.Pointer(k), unsafe.Pointer(v))
}

// KVBlock is the part of a view that lies in one block. Token t begins at t*TokenStride of keys and values, its head h at
// h*HeadStride behind that.
type KVBlock struct {
	Type                    KVType
	Position, Tokens        int
	TokenStride, HeadStride int
	Keys, Values            []byte
}

// View calls f with n tokens of a layer from a position on as they lie in memory, block by block. The memory must not be
// written to, and not be used when f has returned.
func (s *KVSequence) View(layer, position, n int, f func(KVBlock) error) error {
	if err := negative(layer, position, n); err != nil {
		return err
	}
	var view *C.infer_kv_view
	err := s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_cache_view(p, C.uint32_t(layer), C.size_t(position), C.size_t(n), &view, detail)
	})
	if err != nil {
		return err
	}
	defer C.infer_kv_view_free(view)
	for i := C.size_t(0); ; i++ {
		block := C.infer_kv_block{struct_size: C.sizeof_infer_kv_block}
		var detail *C.infer_error
		status := C.infer_kv_view_block(view, i, &block, &detail)
		if status == C.INFER_END {
			return nil
		}
		if err := check(status, &detail); err != nil {
			return err
		}
		bytes := int(block.n_tokens * block.token_stride)
		err := f(KVBlock{
			Type:        KVType(block.element_type),
			Position:    int(block.position),
			Tokens:      int(block.n_tokens),
			TokenStride: int(block.token_stride),
			HeadStride:  int(block.head_stride),
			Keys:        unsafe.Slice((*byte)(block.keys), bytes),
			Values:      unsafe.Slice((*byte)(block.values), bytes),
		})
		if err != nil {
			return err
		}
	}
}

// Seal says which tokens the sequence holds from its beginning: its full blocks of 32 tokens are found by them from now
// on.
func (s *KVSequence) Seal(tokens []uint32) error {
	return s.call(func(p *C.infer_kv_seq, detail **C.infer_error) C.infer_status {
		return C.infer_kv_cache_seal(p, tokenPointer(tokens), C.size_t(len(tokens)), detail)
	})
}
