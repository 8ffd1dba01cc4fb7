package infer

/*
#include <stdlib.h>
#include "callbacks.h"
*/
import "C"

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"unsafe"
)

// Engine schedules the requests of one model and computes them on its threads.
type Engine struct {
	state *engineState
	model *Model
}

// EngineConfig is how an engine is created. nil means the defaults.
type EngineConfig struct {
	// Options has keys of the object "engine".
	Options Options
	// Threads is a pool to compute on instead of one of the engine's own.
	Threads *Threads
	// Draft is a smaller model with the same tokens that proposes what the engine's model verifies. The option
	// "speculation" says whether it is used; "auto", the default, does.
	Draft *Model
	// Logger receives the engine's log records; nil means silence. It is called from a goroutine of its own.
	Logger *slog.Logger
}

// NewEngine creates an engine, which keeps the model alive.
func NewEngine(model *Model, config *EngineConfig) (*Engine, error) {
	if config == nil {
		config = &EngineConfig{}
	}
	options, err := newEngineOptions(config.Options)
	if err != nil {
		return nil, err
	}
	defer C.infer_engine_options_free(options)
	var detail *C.infer_error
	if t := config.Threads; t != nil {
		err := t.handle.use(func(p *C.infer_threads) error {
			return check(C.infer_engine_options_set_threads(options, p, &detail), &detail)
		})
		runtime.KeepAlive(t)
		if err != nil {
			return nil, err
		}
	}
	if d := config.Draft; d != nil {
		err := d.handle.use(func(m *C.infer_model) error {
			return check(C.infer_engine_options_set_draft_model(options, m, &detail), &detail)
		})
		runtime.KeepAlive(d)
		if err != nil {
			return nil, err
		}
	}
	if config.Logger != nil {
		if err := setLog(options, config.Logger); err != nil {
			return nil, err
		}
	}
	var queue *C.infer_queue
	if err := check(C.infer_queue_create(&queue, &detail), &detail); err != nil {
		return nil, err
	}
	var ptr *C.infer_engine
	err = model.handle.use(func(m *C.infer_model) error {
		return check(C.infer_engine_create(m, options, &ptr, &detail), &detail)
	})
	runtime.KeepAlive(model)
	if err != nil {
		C.infer_queue_free(queue)
		return nil, err
	}
	e := &Engine{newEngineState(ptr, queue), model}
	// Not in the collector's own goroutine, which closing would hold up.
	runtime.AddCleanup(e, func(s *engineState) { go s.close() }, e.state)
	return e, nil
}

func newEngineOptions(options Options) (*C.infer_engine_options, error) {
	o := C.infer_engine_options_new()
	if o == nil {
		return nil, noMemory("engine")
	}
	err := options.apply(func(key, value *C.char, detail **C.infer_error) C.infer_status {
		return C.infer_engine_options_set(o, key, value, detail)
	})
	if err != nil {
		C.infer_engine_options_free(o)
		return nil, err
	}
	return o, nil
}

// Model is the engine's model.
func (e *Engine) Model() *Model {
	return e.model
}

// Submit asks for a completion. It does not wait for others: when max_queued requests wait already, it answers
// [ErrBusy]. The context cancels the completion.
func (e *Engine) Submit(ctx context.Context, completion Completion) (*Request, error) {
	requests, err := e.SubmitBatch(ctx, []Completion{completion})
	if err != nil {
		return nil, err
	}
	return requests[0], nil
}

// SubmitBatch asks for several completions, all or none.
func (e *Engine) SubmitBatch(ctx context.Context, completions []Completion) ([]*Request, error) {
	defer runtime.KeepAlive(e)
	if ctx.Err() != nil {
		return nil, cancelled("submitting a request", ctx)
	}
	options := make([]*C.infer_request_options, 0, len(completions))
	defer func() {
		for _, o := range options {
			C.infer_request_options_free(o)
		}
	}()
	for i := range completions {
		o, err := completions[i].newOptions()
		if err != nil {
			return nil, atIndex(i, len(completions), err)
		}
		options = append(options, o)
	}
	mailboxes, err := e.state.submit(ctx, options)
	if err != nil {
		return nil, err
	}
	requests := make([]*Request, len(mailboxes))
	for i, m := range mailboxes {
		requests[i] = newRequest(m, e)
	}
	return requests, nil
}

// atIndex says which of several completions is meant, as the library does.
func atIndex(i, n int, err error) error {
	var detail *Error
	if n == 1 || !errors.As(err, &detail) {
		return err
	}
	return newError(detail.Status, "request %d of the batch: %s", i, detail.Message)
}

// Generate submits a completion and waits for its text. The context cancels it.
func (e *Engine) Generate(ctx context.Context, completion Completion) (string, error) {
	request, err := e.Submit(ctx, completion)
	if err != nil {
		return "", err
	}
	return request.Text(ctx)
}

// Close ends all requests as cancelled, with [ErrClosed], and waits until the engine's threads have ended.
func (e *Engine) Close() error {
	e.state.close()
	runtime.KeepAlive(e)
	return nil
}

// short makes one short call with the engine.
func (e *Engine) short(f func(p *C.infer_engine, detail **C.infer_error) C.infer_status) error {
	defer runtime.KeepAlive(e)
	return e.state.handle.useShort(func(p *C.infer_engine) error {
		var detail *C.infer_error
		return check(f(p, &detail), &detail)
	})
}

// Drain stops taking requests, which are answered with [ErrClosed] from then on, and waits until those that were taken
// have ended or the context is done. [Engine.Resume] takes requests again.
func (e *Engine) Drain(ctx context.Context) error {
	err := e.short(func(p *C.infer_engine, detail **C.infer_error) C.infer_status {
		return C.infer_engine_drain(p, 0, detail)
	})
	if err != nil {
		return err
	}
	select {
	case <-e.state.idle():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Pause stops computing after the current step until [Engine.Resume]. Requests can still be submitted and cancelled.
func (e *Engine) Pause() error {
	return e.short(func(p *C.infer_engine, detail **C.infer_error) C.infer_status {
		return C.infer_engine_pause(p, detail)
	})
}

// Resume goes on after [Engine.Pause], and takes requests again after [Engine.Drain].
func (e *Engine) Resume() error {
	return e.short(func(p *C.infer_engine, detail **C.infer_error) C.infer_status {
		return C.infer_engine_resume(p, detail)
	})
}

// Trim gives up to limit bytes of memory that is only kept for speed back to the system, and tells how much it was.
func (e *Engine) Trim(limit uint64) (uint64, error) {
	var freed C.uint64_t
	err := e.short(func(p *C.infer_engine, detail **C.infer_error) C.infer_status {
		return C.infer_engine_trim(p, C.uint64_t(limit), &freed, detail)
	})
	return uint64(freed), err
}

// ClearCache forgets cached keys and values of finished requests: those with this salt, or all when it is empty.
func (e *Engine) ClearCache(salt string) error {
	return e.short(func(p *C.infer_engine, detail **C.infer_error) C.infer_status {
		text, n := textPointer(salt)
		return C.infer_engine_cache_clear(p, text, n, detail)
	})
}

// SaveState copies what the prefix cache holds of the longest cached prefix of these ids with this salt, so that
// [Engine.RestoreState] can bring it back in another engine or process. The bytes hold the ids in the clear. Running
// requests wait while it is copied.
func (e *Engine) SaveState(ids []uint32, salt string) ([]byte, error) {
	defer runtime.KeepAlive(e)
	var state []byte
	err := e.state.handle.use(func(p *C.infer_engine) error {
		text, n := textPointer(salt)
		for {
			var needed C.size_t
			var detail *C.infer_error
			status := C.infer_engine_state_save(p, (*C.uint32_t)(unsafe.SliceData(ids)), C.size_t(len(ids)), text, n,
				(*C.uint8_t)(unsafe.SliceData(state)), C.size_t(len(state)), &needed, &detail)
			err := check(status, &detail)
			// The first call asks for the size, which can grow until the second.
			if int(needed) > len(state) && (err == nil || status == C.INFER_ERR_BUFFER_TOO_SMALL) {
				state = make([]byte, needed)
				continue
			}
			if err == nil {
				state = state[:needed:needed]
			}
			return err
		}
	})
	if err != nil {
		return nil, err
	}
	return state, nil
}

// RestoreState brings a saved state into the prefix cache, where requests with this salt find it, and tells how many
// tokens are cached then: fewer than were saved when the cache is too small. A state of another model, element type,
// CPU level or precision is refused with the reason. Restore only what you saved: who writes states can choose what
// the model takes for the meaning of a prompt.
func (e *Engine) RestoreState(state []byte, salt string) (int, error) {
	defer runtime.KeepAlive(e)
	var restored C.size_t
	err := e.state.handle.use(func(p *C.infer_engine) error {
		text, n := textPointer(salt)
		var detail *C.infer_error
		return check(C.infer_engine_state_restore(p, (*C.uint8_t)(unsafe.SliceData(state)), C.size_t(len(state)), text, n,
			&restored, &detail), &detail)
	})
	return int(restored), err
}

// Step computes one step on the calling goroutine, for engines with the option manual_step. It tells whether there is
// still work.
func (e *Engine) Step() (bool, error) {
	defer runtime.KeepAlive(e)
	var more C.uint32_t
	err := e.state.handle.use(func(p *C.infer_engine) error {
		var detail *C.infer_error
		return check(C.infer_engine_step(p, &more, &detail), &detail)
	})
	return more != 0, err
}

// Summary is a report for people: for each feature whether it is on, what the model's geometry predicts, and what was
// measured.
func (e *Engine) Summary() (string, error) {
	return e.text(func(p *C.infer_engine, buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status {
		return C.infer_engine_summary(p, buffer, capacity, needed, detail)
	})
}

// MetricsText gives the counters and histograms in Prometheus' text format.
func (e *Engine) MetricsText() (string, error) {
	return e.text(func(p *C.infer_engine, buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status {
		return C.infer_engine_metrics_text(p, buffer, capacity, needed, detail)
	})
}

func (e *Engine) text(f func(*C.infer_engine, *C.char, C.size_t, *C.size_t, **C.infer_error) C.infer_status) (string, error) {
	defer runtime.KeepAlive(e)
	var text string
	err := e.state.handle.useShort(func(p *C.infer_engine) (err error) {
		text, err = fillText(8192, func(buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status {
			return f(p, buffer, capacity, needed, detail)
		})
		return err
	})
	return text, err
}
