package infer

// #include "infer.h"
import "C"

import (
	"context"
	"sync"
	"time"
)

// engineState is what outlives an [Engine] that the garbage collector found: requests and the reading goroutine refer
// to it and not to the Engine.
//
// The reading goroutine waits for events only while live is positive. Every request that was accepted gets a last
// event, at the latest when the engine is freed, so that its wait needs no timeout and nothing to interrupt it.
type engineState struct {
	handle     handle[*C.infer_engine]
	queue      *C.infer_queue
	cancelling sync.Mutex

	mu sync.Mutex
	// Told when live grows or the engine is closed.
	changed *sync.Cond
	// By tag: all whose last event has not come.
	mailboxes map[C.uint64_t]*mailbox
	lastTag   C.uint64_t
	// Requests that were accepted less those whose last event came. A last event can be counted before its request is.
	live   int
	closed bool
	// Closed and dropped when live falls to zero.
	waiters []chan struct{}
}

func newEngineState(ptr *C.infer_engine, queue *C.infer_queue) *engineState {
	s := &engineState{
		handle: handle[*C.infer_engine]{ptr: ptr, what: "engine", free: func(p *C.infer_engine) { C.infer_engine_free(p) }},
		queue:  queue, mailboxes: make(map[C.uint64_t]*mailbox),
	}
	s.changed = sync.NewCond(&s.mu)
	go s.read()
	return s
}

// close frees the engine, which ends its requests; the reading goroutine delivers their last events and ends.
func (s *engineState) close() {
	s.handle.close()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.changed.Signal()
}

// submit hands requests with these options to the library. It keeps none of the options.
func (s *engineState) submit(ctx context.Context, options []*C.infer_request_options) ([]*mailbox, error) {
	n := len(options)
	mailboxes := make([]*mailbox, n)
	requests := make([]*C.infer_request, n)
	err := s.handle.useShort(func(engine *C.infer_engine) error {
		if n == 0 {
			return nil
		}
		first := s.announce(mailboxes)
		err := s.accept(engine, first, options, requests)
		s.accepted(first, n, err == nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, m := range mailboxes {
		m.submitted(requests[i], ctx)
	}
	return mailboxes, nil
}

// announce makes mailboxes with tags from the one answered on. Events can come as soon as the library has the request.
func (s *engineState) announce(mailboxes []*mailbox) C.uint64_t {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.lastTag + 1
	for i := range mailboxes {
		mailboxes[i] = newMailbox(s)
		s.lastTag++
		s.mailboxes[s.lastTag] = mailboxes[i]
	}
	return first
}

func (s *engineState) accept(
	engine *C.infer_engine,
	first C.uint64_t,
	options []*C.infer_request_options,
	requests []*C.infer_request,
) error {
	var detail *C.infer_error
	for i, o := range options {
		if err := check(C.infer_request_options_set_queue(o, s.queue, first+C.uint64_t(i), &detail), &detail); err != nil {
			return err
		}
	}
	// The message of a single request does not name an index.
	if len(options) == 1 {
		return check(C.infer_engine_submit(engine, options[0], &requests[0], &detail), &detail)
	}
	return check(C.infer_engine_submit_batch(engine, &options[0], C.size_t(len(options)), &requests[0], &detail), &detail)
}

// accepted counts requests, or forgets those that were refused.
func (s *engineState) accepted(first C.uint64_t, n int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok {
		s.live += n
		s.changed.Signal()
		s.wakeIdle()
		return
	}
	for i := range n {
		delete(s.mailboxes, first+C.uint64_t(i))
	}
}

// idle is closed when no request is live.
func (s *engineState) idle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan struct{})
	s.waiters = append(s.waiters, c)
	s.wakeIdle()
	return c
}

func (s *engineState) wakeIdle() {
	if s.live != 0 {
		return
	}
	for _, c := range s.waiters {
		close(c)
	}
	s.waiters = nil
}

// read is the reading goroutine.
func (s *engineState) read() {
	reader := newQueueReader(s.queue)
	defer reader.close()
	receivers := make([]*mailbox, readCapacity)
	for s.awaitLive() {
		events, ok := reader.next()
		if !ok {
			// Only a passing lack of memory comes here; what was not read stays in the queue.
			time.Sleep(10 * time.Millisecond)
			continue
		}
		s.deliver(events, receivers)
	}
}

// awaitLive waits until there is something to read; false when there never will be again.
func (s *engineState) awaitLive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.live <= 0 && !s.closed {
		s.changed.Wait()
	}
	return s.live > 0
}

func (s *engineState) deliver(events []C.infer_event, receivers []*mailbox) {
	s.mu.Lock()
	for i := range events {
		tag := events[i].tag
		receivers[i] = s.mailboxes[tag]
		if events[i].kind == C.INFER_EVENT_FINISHED {
			delete(s.mailboxes, tag)
		}
	}
	s.mu.Unlock()

	ended := 0
	for i, m := range receivers[:len(events)] {
		receivers[i] = nil
		// A request that was accepted and then refused for lack of memory has none.
		if m == nil {
			continue
		}
		m.put(&events[i])
		if events[i].kind == C.INFER_EVENT_FINISHED {
			ended++
		}
	}
	if ended > 0 {
		s.mu.Lock()
		s.live -= ended
		s.wakeIdle()
		s.mu.Unlock()
	}
}
