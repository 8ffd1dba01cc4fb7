package infer

/*
#include <stdlib.h>
#include "callbacks.h"
*/
import "C"

import (
	"context"
	"runtime"
	"runtime/cgo"
	"sync"
	"unsafe"
)

// Model is a loaded model: weights, tokenizer, chat template. It does not change.
type Model struct {
	handle *handle[*C.infer_model]
	info   ModelInfo
}

// ModelConfig is how a model is loaded. nil means the defaults.
type ModelConfig struct {
	// Options has keys of the object "model".
	Options Options
	// Progress is told how far loading has come, from 0 to 1, on the goroutine that loads. False cancels the load.
	Progress func(fraction float32) bool
}

// ModelInfo is what a model is, in numbers.
type ModelInfo struct {
	// Architecture as the file names it, like "llama".
	Architecture string
	// Name as the file gives it; empty when it gives none.
	Name string
	// Description is one line for people: architecture, number of parameters, main tensor type.
	Description string
	// VocabularySize bounds token ids.
	VocabularySize int
	// EmbeddingLength is the width of the residual stream.
	EmbeddingLength int
	// Layers is the number of layers.
	Layers int
	// Heads is the number of query heads of the first layer.
	Heads int
	// KVHeads is the number of key/value heads of the first layer.
	KVHeads int
	// ContextLength is how many tokens the model was trained to attend to.
	ContextLength int
	// HasChatTemplate tells whether the file has one.
	HasChatTemplate bool
	// Parameters is the number of weights.
	Parameters uint64
	// WeightBytes is the size of all weights.
	WeightBytes uint64
}

// MemoryEstimate is the memory a model and an engine will take, in bytes.
type MemoryEstimate struct {
	// Weights of the model.
	Weights uint64
	// KVCache is cached keys and values at the context length and number of sequences of the options.
	KVCache uint64
	// Workspace is intermediate results of a step.
	Workspace uint64
	// Total is the sum.
	Total uint64
}

// Version is that of the library that is linked.
func Version() string {
	return C.GoString(C.infer_version())
}

// CPULevel is the best set of kernels this CPU can run: "scalar"; "sse41", "avx2", "avx_vnni", "avx512" or
// "avx512_bf16" on x86-64; "neon", "neon_dotprod" or "i8mm" on aarch64.
func CPULevel() string {
	return C.GoString(C.infer_cpu_level_name())
}

var checkABI = sync.OnceValue(func() error {
	var detail *C.infer_error
	return check(C.infer_abi_check(C.INFER_ABI_VERSION, &detail), &detail)
})

// LoadModel loads a model from a GGUF file, or from the first of several it is split over. The context cancels loading.
func LoadModel(ctx context.Context, path string, config *ModelConfig) (*Model, error) {
	return loadModel(ctx, config, func(o *C.infer_model_options, m **C.infer_model, detail **C.infer_error) C.infer_status {
		text, n := textPointer(path)
		return C.infer_model_load(text, n, o, m, detail)
	})
}

// LoadModelFromMemory loads a model from the bytes of a GGUF file, which are needed only during the call.
func LoadModelFromMemory(ctx context.Context, data []byte, config *ModelConfig) (*Model, error) {
	return loadModel(ctx, config, func(o *C.infer_model_options, m **C.infer_model, detail **C.infer_error) C.infer_status {
		return C.infer_model_load_from_memory(unsafe.Pointer(unsafe.SliceData(data)), C.size_t(len(data)), o, m, detail)
	})
}

func loadModel(
	ctx context.Context,
	config *ModelConfig,
	load func(*C.infer_model_options, **C.infer_model, **C.infer_error) C.infer_status,
) (*Model, error) {
	if config == nil {
		config = &ModelConfig{}
	}
	if err := checkABI(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, cancelled("loading a model", ctx)
	}
	options, err := newModelOptions(config.Options)
	if err != nil {
		return nil, err
	}
	defer C.infer_model_options_free(options)

	watch := &progress{ctx: ctx, user: config.Progress}
	var detail *C.infer_error
	if ctx.Done() != nil || config.Progress != nil {
		h := cgo.NewHandle(watch)
		defer h.Delete()
		if err := check(C.infer_go_set_progress(options, C.uintptr_t(h), &detail), &detail); err != nil {
			return nil, err
		}
	}
	var ptr *C.infer_model
	err = check(load(options, &ptr, &detail), &detail)
	if watch.panicked != nil {
		C.infer_model_free(ptr)
		panic(watch.panicked)
	}
	if err != nil {
		if watch.stopped && ctx.Err() != nil {
			return nil, cancelled("loading a model", ctx)
		}
		return nil, err
	}
	h := &handle[*C.infer_model]{ptr: ptr, what: "model", free: func(p *C.infer_model) { C.infer_model_free(p) }}
	m := &Model{handle: h}
	runtime.AddCleanup(m, (*handle[*C.infer_model]).close, h)
	m.info, err = readInfo(ptr)
	return m, err
}

func newModelOptions(options Options) (*C.infer_model_options, error) {
	o := C.infer_model_options_new()
	if o == nil {
		return nil, noMemory("model")
	}
	err := options.apply(func(key, value *C.char, detail **C.infer_error) C.infer_status {
		return C.infer_model_options_set(o, key, value, detail)
	})
	if err != nil {
		C.infer_model_options_free(o)
		return nil, err
	}
	return o, nil
}

// progress is what the library's callback reaches during a load.
type progress struct {
	ctx      context.Context
	user     func(float32) bool
	stopped  bool
	panicked any
}

// A panic must not unwind through the frames of the library: it is kept, and goes on after the load.
//
//export inferGoProgress
func inferGoProgress(fraction C.float, user C.uintptr_t) (proceed C.uint32_t) {
	p := cgo.Handle(user).Value().(*progress)
	defer func() {
		if r := recover(); r != nil {
			p.panicked = r
			proceed = 0
		}
	}()
	if p.panicked != nil || p.ctx.Err() != nil || p.user != nil && !p.user(float32(fraction)) {
		p.stopped = true
		return 0
	}
	return 1
}

func readInfo(ptr *C.infer_model) (ModelInfo, error) {
	info := C.infer_model_info{struct_size: C.sizeof_infer_model_info}
	var detail *C.infer_error
	err := check(C.infer_model_get_info(ptr, &info, &detail), &detail)
	return ModelInfo{
		Architecture:    C.GoString(info.architecture),
		Name:            C.GoString(info.name),
		Description:     C.GoString(info.description),
		VocabularySize:  int(info.n_vocab),
		EmbeddingLength: int(info.n_embd),
		Layers:          int(info.n_layers),
		Heads:           int(info.n_heads),
		KVHeads:         int(info.n_kv_heads),
		ContextLength:   int(info.context_length),
		HasChatTemplate: info.has_chat_template != 0,
		Parameters:      uint64(info.n_parameters),
		WeightBytes:     uint64(info.weight_bytes),
	}, err
}

// EstimateMemory computes, from the header of a GGUF file alone, how much memory a model and an engine with these
// options would take.
func EstimateMemory(path string, model, engine Options) (MemoryEstimate, error) {
	mo, err := newModelOptions(model)
	if err != nil {
		return MemoryEstimate{}, err
	}
	defer C.infer_model_options_free(mo)
	eo, err := newEngineOptions(engine)
	if err != nil {
		return MemoryEstimate{}, err
	}
	defer C.infer_engine_options_free(eo)
	estimate := C.infer_memory_estimate{struct_size: C.sizeof_infer_memory_estimate}
	text, n := textPointer(path)
	var detail *C.infer_error
	err = check(C.infer_model_estimate(text, n, mo, eo, &estimate, &detail), &detail)
	return MemoryEstimate{
		Weights:   uint64(estimate.weights),
		KVCache:   uint64(estimate.kv_cache),
		Workspace: uint64(estimate.workspace),
		Total:     uint64(estimate.total),
	}, err
}

// Info is what the model is. It can be read after Close too.
func (m *Model) Info() ModelInfo {
	return m.info
}

// Close frees the model. Engines that use it keep it alive.
func (m *Model) Close() error {
	m.handle.close()
	runtime.KeepAlive(m)
	return nil
}

// short makes one short call with the model.
func (m *Model) short(f func(p *C.infer_model, detail **C.infer_error) C.infer_status) error {
	defer runtime.KeepAlive(m)
	return m.handle.useShort(func(p *C.infer_model) error {
		var detail *C.infer_error
		return check(f(p, &detail), &detail)
	})
}

// MetadataKeys lists the metadata keys in the order of the file.
func (m *Model) MetadataKeys() ([]string, error) {
	var keys []string
	err := m.short(func(p *C.infer_model, detail **C.infer_error) C.infer_status {
		keys = make([]string, 0, int(C.infer_model_metadata_count(p)))
		for i := C.size_t(0); ; i++ {
			var key *C.char
			var n C.size_t
			if status := C.infer_model_metadata_at(p, i, &key, &n, detail); status != C.INFER_OK {
				return status
			}
			keys = append(keys, goText(key, n))
		}
	})
	return keys, err
}

// Metadata gives a value as text: a string as it is, numbers in decimal, an array as JSON. A key that is not there is
// [ErrNotFound].
func (m *Model) Metadata(key string) (string, error) {
	text, n := textPointer(key)
	return m.text(64, func(p *C.infer_model, buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status {
		return C.infer_model_metadata_get(p, text, n, buffer, capacity, needed, detail)
	})
}

// goText copies text of the library.
func goText(text *C.char, n C.size_t) string {
	if n == 0 {
		return ""
	}
	return string(unsafe.Slice((*byte)(unsafe.Pointer(text)), int(n)))
}

type textCall func(p *C.infer_model, buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status

// text calls a function that copies text into a buffer, first one of the size guessed.
func (m *Model) text(guess int, f textCall) (string, error) {
	defer runtime.KeepAlive(m)
	var text string
	err := m.handle.useShort(func(p *C.infer_model) (err error) {
		text, err = fillText(guess, func(buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status {
			return f(p, buffer, capacity, needed, detail)
		})
		return err
	})
	return text, err
}

// fillText grows the buffer until it is large enough: what is copied may have grown between two calls.
func fillText(guess int, f func(*C.char, C.size_t, *C.size_t, **C.infer_error) C.infer_status) (string, error) {
	for {
		buffer := make([]byte, guess+1)
		var needed C.size_t
		var detail *C.infer_error
		status := f((*C.char)(unsafe.Pointer(&buffer[0])), C.size_t(len(buffer)), &needed, &detail)
		err := check(status, &detail)
		if status == C.INFER_ERR_BUFFER_TOO_SMALL && int(needed) > len(buffer) {
			guess = int(needed) + int(needed)/8
			continue
		}
		if err != nil || needed == 0 {
			return "", err
		}
		return unsafe.String(&buffer[0], int(needed)-1), nil
	}
}
