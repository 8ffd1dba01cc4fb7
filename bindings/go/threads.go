package infer

// #include "infer.h"
import "C"

import "runtime"

// Threads is a pool of worker threads that several engines may share; they take turns.
type Threads struct {
	handle *handle[*C.infer_threads]
}

// NewThreads creates a pool. It fails with [ErrInvalidArgument] for CPUs this process may not use.
func NewThreads(options Options) (*Threads, error) {
	o := C.infer_threads_options_new()
	if o == nil {
		return nil, noMemory("thread pool")
	}
	defer C.infer_threads_options_free(o)
	err := options.apply(func(key, value *C.char, detail **C.infer_error) C.infer_status {
		return C.infer_threads_options_set(o, key, value, detail)
	})
	if err != nil {
		return nil, err
	}
	var ptr *C.infer_threads
	var detail *C.infer_error
	if err := check(C.infer_threads_create(o, &ptr, &detail), &detail); err != nil {
		return nil, err
	}
	t := &Threads{&handle[*C.infer_threads]{ptr: ptr, what: "thread pool", free: func(p *C.infer_threads) {
		C.infer_threads_free(p)
	}}}
	runtime.AddCleanup(t, (*handle[*C.infer_threads]).close, t.handle)
	return t, nil
}

// Count is the number of threads that compute, that of the engine included; 0 after Close.
func (t *Threads) Count() int {
	count := 0
	_ = t.handle.use(func(p *C.infer_threads) error {
		count = int(C.infer_threads_count(p))
		return nil
	})
	runtime.KeepAlive(t)
	return count
}

// Close frees the pool. Engines that use it keep it alive.
func (t *Threads) Close() error {
	t.handle.close()
	runtime.KeepAlive(t)
	return nil
}
