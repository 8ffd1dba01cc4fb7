package infer

// #include "infer.h"
import "C"

import (
	"context"
	"io"
	"iter"
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

// Completion is what an engine is asked for. Give one of Prompt, Tokens, Messages and MessagesJSON.
type Completion struct {
	// Prompt is text to continue.
	Prompt string
	// Tokens are token ids to continue, used as they are.
	Tokens []uint32
	// Messages are a conversation, rendered by the model's chat template.
	Messages []Message
	// MessagesJSON is a conversation with fields that [Message] lacks: an array of objects.
	MessagesJSON string
	// Stop are texts that end the completion where they appear; they are not part of it.
	Stop []string
	// StopTokens are token ids that end the completion.
	StopTokens []uint32
	// Options has keys of the object "request", tag excepted.
	Options Options
}

// newOptions makes the library's options; free them.
func (c *Completion) newOptions() (*C.infer_request_options, error) {
	o := C.infer_request_options_new()
	if o == nil {
		return nil, noMemory("request")
	}
	if err := c.fill(o); err != nil {
		C.infer_request_options_free(o)
		return nil, err
	}
	return o, nil
}

func (c *Completion) fill(o *C.infer_request_options) error {
	if _, ok := c.Options["tag"]; ok {
		return newError(ErrInvalidArgument, "request option 'tag': this package uses it to tell requests apart")
	}
	err := c.Options.apply(func(key, value *C.char, detail **C.infer_error) C.infer_status {
		return C.infer_request_options_set(o, key, value, detail)
	})
	if err != nil {
		return err
	}
	if err := c.fillPrompt(o); err != nil {
		return err
	}
	var detail *C.infer_error
	for _, stop := range c.Stop {
		text, n := textPointer(stop)
		if err := check(C.infer_request_options_add_stop(o, text, n, &detail), &detail); err != nil {
			return err
		}
	}
	for _, id := range c.StopTokens {
		if err := check(C.infer_request_options_add_stop_id(o, C.uint32_t(id), &detail), &detail); err != nil {
			return err
		}
	}
	return nil
}

func (c *Completion) fillPrompt(o *C.infer_request_options) error {
	given := 0
	for _, is := range []bool{c.Prompt != "", c.Tokens != nil, c.Messages != nil, c.MessagesJSON != ""} {
		if is {
			given++
		}
	}
	if given > 1 {
		return newError(ErrInvalidArgument, "a completion takes one of Prompt, Tokens, Messages and MessagesJSON, found %d of them", given)
	}
	var detail *C.infer_error
	if c.Tokens != nil {
		ids := (*C.uint32_t)(unsafe.SliceData(c.Tokens))
		return check(C.infer_request_options_set_prompt_ids(o, ids, C.size_t(len(c.Tokens)), &detail), &detail)
	}
	conversation := c.MessagesJSON
	if c.Messages != nil {
		var err error
		if conversation, err = messagesJSON(c.Messages); err != nil {
			return err
		}
	}
	if conversation != "" {
		text, n := textPointer(conversation)
		return check(C.infer_request_options_set_messages_json(o, text, n, &detail), &detail)
	}
	text, n := textPointer(c.Prompt)
	return check(C.infer_request_options_set_prompt(o, text, n, &detail), &detail)
}

// Request is one submitted completion. Its methods may be called from several goroutines; each event goes to one of
// them.
type Request struct {
	mailbox *mailbox
	// A request in use keeps its engine from being collected.
	engine *Engine
}

// newRequest cancels what nobody can read any more.
func newRequest(m *mailbox, engine *Engine) *Request {
	r := &Request{m, engine}
	runtime.AddCleanup(r, func(m *mailbox) { m.cancel(errForgotten) }, m)
	return r
}

var (
	errForgotten = newError(ErrCancelled, "the request was cancelled because nothing refers to it any more")
	errCancelled = newError(ErrCancelled, "the request was cancelled")
	errClosed    = newError(ErrClosed, "the engine was closed before the completion ended")
)

// Next waits for the next event. After the last one, that with Finish set, it answers io.EOF. The context limits the
// wait only; it does not cancel the request.
func (r *Request) Next(ctx context.Context) (Event, error) {
	defer runtime.KeepAlive(r)
	for {
		event, state := r.mailbox.take()
		switch state {
		case mailEvent:
			return event, nil
		case mailEnd:
			return Event{}, io.EOF
		}
		select {
		case <-r.mailbox.wake:
		case <-r.mailbox.done:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// Events iterates over the events that are left. When the completion failed or was cancelled, the last event comes with
// the error. Breaking out of the loop leaves the request running: close it.
func (r *Request) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := r.Next(context.Background())
			if err == io.EOF {
				return
			}
			if event.Finish != nil {
				err = event.Finish.Err
			}
			if !yield(event, err) {
				return
			}
		}
	}
}

// Text waits for the end and gives the rest of the answer, the text of [ChannelContent]. When the completion failed or
// was cancelled it gives what there is, and the error. The context cancels the request.
func (r *Request) Text(ctx context.Context) (string, error) {
	defer runtime.KeepAlive(r)
	stop := context.AfterFunc(ctx, func() { r.mailbox.cancel(cancelled("the request", ctx)) })
	defer stop()
	var text strings.Builder
	for event, err := range r.Events() {
		if event.Channel == ChannelContent {
			text.WriteString(event.Text)
		}
		if err != nil {
			return text.String(), err
		}
	}
	return text.String(), nil
}

// Reader gives the rest of the answer, the text of [ChannelContent], as it is produced. A completion that failed or was
// cancelled ends with its error, others with io.EOF. Read waits for the model; to end it, cancel the request.
func (r *Request) Reader() io.Reader {
	return &textReader{request: r}
}

type textReader struct {
	request *Request
	text    string
	err     error
}

func (t *textReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for t.text == "" {
		if t.err != nil {
			return 0, t.err
		}
		event, err := t.request.Next(context.Background())
		if event.Channel == ChannelContent {
			t.text = event.Text
		}
		if event.Finish != nil {
			err = event.Finish.Err
		}
		t.err = err
	}
	n := copy(p, t.text)
	t.text = t.text[n:]
	return n, nil
}

// Finish is how the completion ended, or nil when it has not ended yet.
func (r *Request) Finish() *Finish {
	r.mailbox.mu.Lock()
	defer r.mailbox.mu.Unlock()
	return r.mailbox.finish
}

// Done is closed when the completion has ended. Events may still have to be read then.
func (r *Request) Done() <-chan struct{} {
	return r.mailbox.done
}

// Engine is where the request was submitted.
func (r *Request) Engine() *Engine {
	return r.engine
}

// Cancel makes the completion end within one layer of the model; its last event is then an [ErrCancelled]. It does not
// wait for that. Cancelling twice, or after the end, changes nothing.
func (r *Request) Cancel() {
	r.mailbox.cancel(errCancelled)
	runtime.KeepAlive(r)
}

// Close cancels the completion if it has not ended. Events that were not read can still be read.
func (r *Request) Close() error {
	r.Cancel()
	return nil
}

// mailbox is the state of a request that the reading goroutine of its engine writes. Putting something in never waits.
type mailbox struct {
	engine *engineState
	// Has something when there are events; room for one.
	wake chan struct{}
	// Closed when the last event is in.
	done chan struct{}

	mu sync.Mutex
	// NULL before it was submitted and after it has ended.
	request *C.infer_request
	// Ends the watch over the context; nil when there is none.
	unwatch func() bool
	// Why it was cancelled.
	cause  error
	parts  []part
	finish *Finish
	// The last event was taken.
	ended bool
}

// part is text of one choice and channel.
type part struct {
	choice  C.uint32_t
	channel C.uint32_t
	text    strings.Builder
	tokens  []uint32
	outputs
}

// outputs are what a request gives beside text and tokens.
type outputs struct {
	logprobs, promptLogprobs, embedding []float32
	top                                 [][]TokenLogprob
}

func (o *outputs) add(event *C.infer_event) {
	if event.logprobs != nil {
		o.logprobs = append(o.logprobs, unsafe.Slice((*float32)(event.logprobs), int(event.n_tokens))...)
		o.top = append(o.top, topLogprobs(event)...)
	}
	if n := int(event.n_prompt_logprobs); n > 0 {
		o.promptLogprobs = append(o.promptLogprobs, unsafe.Slice((*float32)(event.prompt_logprobs), n)...)
	}
	if n := int(event.n_embedding); n > 0 {
		o.embedding = append(o.embedding, unsafe.Slice((*float32)(event.embedding), n)...)
	}
}

func newMailbox(engine *engineState) *mailbox {
	return &mailbox{engine: engine, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// put joins an event with those that wait. It is called by the reading goroutine only; the memory of the event is the
// library's and is copied.
func (m *mailbox) put(event *C.infer_event) {
	m.mu.Lock()
	n := len(m.parts)
	if n == 0 || m.parts[n-1].choice != event.choice || m.parts[n-1].channel != event.channel {
		m.parts = append(m.parts, part{choice: event.choice, channel: event.channel})
		n++
	}
	last := &m.parts[n-1]
	if event.text_len > 0 {
		last.text.WriteString(unsafe.String((*byte)(unsafe.Pointer(event.text)), int(event.text_len)))
	}
	if event.n_tokens > 0 {
		last.tokens = append(last.tokens, unsafe.Slice((*uint32)(event.tokens), int(event.n_tokens))...)
	}
	last.add(event)
	if event.kind != C.INFER_EVENT_FINISHED {
		m.mu.Unlock()
		select {
		case m.wake <- struct{}{}:
		default:
		}
		return
	}
	cause := m.cause
	if cause == nil {
		cause = errClosed
	}
	m.finish = newFinish(event, cause)
	request, unwatch := m.request, m.unwatch
	m.request, m.unwatch = nil, nil
	m.mu.Unlock()
	close(m.done)
	if unwatch != nil {
		unwatch()
	}
	C.infer_request_free(request)
}

// submitted hands over the library's request. The last event may already be in: then nobody else frees it.
func (m *mailbox) submitted(request *C.infer_request, ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.finish != nil {
		C.infer_request_free(request)
		return
	}
	m.request = request
	if ctx.Done() != nil {
		m.unwatch = context.AfterFunc(ctx, func() { m.cancel(cancelled("the request", ctx)) })
	}
}

func (m *mailbox) cancel(cause error) {
	// One cancellation of an engine at a time: when a thousand contexts end at once, one thread enters the library.
	m.engine.cancelling.Lock()
	defer m.engine.cancelling.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.request == nil {
		return
	}
	if m.cause == nil {
		m.cause = cause
	}
	C.infer_request_cancel(m.request, nil)
}

type mailState int

const (
	mailEmpty mailState = iota
	mailEvent
	mailEnd
)

// take gives what waits.
func (m *mailbox) take() (Event, mailState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.parts) == 0 {
		if m.ended {
			return Event{}, mailEnd
		}
		return Event{}, mailEmpty
	}
	first := &m.parts[0]
	event := Event{
		Text:           first.text.String(),
		Tokens:         first.tokens,
		Logprobs:       first.logprobs,
		TopLogprobs:    first.top,
		PromptLogprobs: first.promptLogprobs,
		Embedding:      first.embedding,
		Choice:         int(first.choice),
		Channel:        Channel(first.channel),
	}
	if len(m.parts) == 1 {
		m.parts = nil
		event.Finish = m.finish
		m.ended = m.finish != nil
	} else {
		m.parts = m.parts[1:]
		// More is there, for this reader or another.
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	return event, mailEvent
}
