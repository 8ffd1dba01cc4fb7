// Kvcache keeps keys and values of a prompt in a directory. The first run computes and stores them; a second run, a
// process of its own, finds them and computes nothing.
//
//	go run ./examples/kvcache DIRECTORY
//
// "Computing" is a formula here: in a program with an attention of its own the rows come from its layers.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	infer "github.com/libinfer/libinfer/bindings/go"
)

const (
	layers  = 4
	heads   = 2
	headDim = 64
	row     = heads * headDim
	prompt  = 1000
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: kvcache DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kvcache:", err)
		os.Exit(1)
	}
}

// compute gives keys and values of tokens in a layer. A half float holds each number exactly.
func compute(tokens []uint32, position, layer int) (keys, values []float32) {
	for t, token := range tokens {
		for i := range row {
			x := int(token)*131 + (position+t)*31 + layer*7 + i
			keys = append(keys, float32(x%2048)/2048)
			values = append(values, float32(x%1999)/2048)
		}
	}
	return keys, values
}

func run(directory string, out io.Writer) (err error) {
	cache, err := infer.NewKVCache(infer.Options{
		"n_layers": layers, "n_kv_heads": heads, "head_dim": headDim, "kv_type": "f16", "hot_tokens": 65536,
		"cold_dir": directory, "identity": "the formula of this example",
	})
	if err != nil {
		return err
	}
	// The last to be closed writes what is sealed to the directory.
	defer cache.Close()

	tokens := make([]uint32, prompt)
	for i := range tokens {
		tokens[i] = uint32(i * i % 32000)
	}
	sequence, err := cache.Lookup("", tokens)
	if err != nil {
		return err
	}
	defer sequence.Close()
	found := sequence.Len()
	same, err := compare(sequence, tokens[:found])
	if err != nil {
		return err
	}
	if err := store(sequence, tokens, found); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d tokens: %d found, identical: %v, %d computed\n", prompt, found, same, prompt-found)
	return err
}

// compare tells whether keys and values are those that would be computed, to the last bit.
func compare(sequence *infer.KVSequence, tokens []uint32) (bool, error) {
	keys, values := make([]float32, len(tokens)*row), make([]float32, len(tokens)*row)
	for layer := range layers {
		if err := sequence.Fetch(layer, 0, len(tokens), keys, values); err != nil {
			return false, err
		}
		wantKeys, wantValues := compute(tokens, 0, layer)
		if !slices.Equal(keys, wantKeys) || !slices.Equal(values, wantValues) {
			return false, nil
		}
	}
	return true, nil
}

// store computes and stores the tokens from a position on, several at a time, and says what they are.
func store(sequence *infer.KVSequence, tokens []uint32, from int) error {
	batch, err := sequence.OptimalBatch()
	if err != nil {
		return err
	}
	for at := from; at < len(tokens); at += batch {
		some := tokens[at:min(at+batch, len(tokens))]
		for layer := range layers {
			keys, values := compute(some, at, layer)
			if err := sequence.StoreBatch(layer, at, len(some), keys, values); err != nil {
				return err
			}
		}
		// Every layer has them: they can be read.
		if err := sequence.Advance(len(some)); err != nil {
			return err
		}
	}
	return sequence.Seal(tokens)
}
