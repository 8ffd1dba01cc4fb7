package infer

import "sync"

// handle guards a pointer of the library: calls share it, closing waits for them and frees it once.
type handle[P comparable] struct {
	mu   sync.RWMutex
	ptr  P
	what string
	free func(P)
}

// use calls f with the pointer, which stays valid until f returns; ErrClosed when there is none any more.
func (h *handle[P]) use(f func(P) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var none P
	if h.ptr == none {
		return newError(ErrClosed, "the %s is closed", h.what)
	}
	return f(h.ptr)
}

func (h *handle[P]) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	var none P
	if h.ptr != none {
		h.free(h.ptr)
		h.ptr = none
	}
}

// calls bounds how many short foreign calls run at once. A goroutine that waits for its turn costs no thread, one
// inside a foreign call does: without the bound a thousand goroutines that submit at once would start as many threads.
var calls = make(chan struct{}, 4)

// call runs a short foreign call when it is its turn.
func call(f func() error) error {
	calls <- struct{}{}
	defer func() { <-calls }()
	return f()
}

// useShort is use for a short foreign call. The turn is taken first, so that closing never waits for a turn.
func (h *handle[P]) useShort(f func(P) error) error {
	return call(func() error { return h.use(f) })
}
