package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	infer "github.com/libinfer/libinfer/bindings/go"
)

const (
	largestBody = 4 << 20
	// A client that takes nothing for this long is gone.
	writeTimeout = 30 * time.Second
)

// body is what clients send.
type body struct {
	Prompt   string          `json:"prompt"`
	Messages []infer.Message `json:"messages"`
	Stop     []string        `json:"stop"`
	// Keys of the object "request".
	Options infer.Options `json:"options"`
}

// chunk is the data of an event with text.
type chunk struct {
	Text string `json:"text"`
}

// end is the data of the last event, whose name is "done".
type end struct {
	Reason          string  `json:"reason"`
	Error           string  `json:"error,omitempty"`
	PromptTokens    int     `json:"prompt_tokens"`
	GeneratedTokens int     `json:"generated_tokens"`
	FirstTokenMs    float64 `json:"first_token_ms"`
	TokensPerSecond float64 `json:"tokens_per_second"`
}

func newHandler(engine *infer.Engine) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) { generate(engine, w, r) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		text, err := engine.MetricsText()
		if err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprint(w, text)
	})
	return mux
}

// generate streams one completion. The context of the HTTP request ends when its client goes away, and with it the
// completion.
func generate(engine *infer.Engine, w http.ResponseWriter, r *http.Request) {
	var in body
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, largestBody))
	decoder.DisallowUnknownFields()
	// Seeds do not fit into a float64.
	decoder.UseNumber()
	if err := decoder.Decode(&in); err != nil {
		http.Error(w, "the body is not as expected: "+err.Error(), http.StatusBadRequest)
		return
	}
	request, err := engine.Submit(r.Context(), infer.Completion{
		Prompt: in.Prompt, Messages: in.Messages, Stop: in.Stop, Options: in.Options,
	})
	if err != nil {
		fail(w, err)
		return
	}
	defer request.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	out := &stream{w, http.NewResponseController(w)}
	for event, err := range request.Events() {
		if event.Text != "" && !out.send("", chunk{event.Text}) {
			return
		}
		if f := event.Finish; f != nil {
			last := end{
				Reason: f.Reason.String(), PromptTokens: f.PromptTokens, GeneratedTokens: f.GeneratedTokens,
				FirstTokenMs: f.TimeToFirstToken.Seconds() * 1000, TokensPerSecond: f.DecodeTokensPerSecond,
			}
			if err != nil {
				last.Error = err.Error()
			}
			out.send("done", last)
		}
	}
}

// stream writes server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// send writes one event; false when the client is gone.
func (s *stream) send(name string, data any) bool {
	text, err := json.Marshal(data)
	if err != nil {
		return false
	}
	// Not every ResponseWriter knows deadlines.
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if name != "" {
		fmt.Fprintf(s.w, "event: %s\n", name)
	}
	if _, err := fmt.Fprintf(s.w, "data: %s\n\n", text); err != nil {
		return false
	}
	return s.control.Flush() == nil
}

// fail answers with the status that fits an error.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, infer.ErrBusy), errors.Is(err, infer.ErrClosed):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	case errors.Is(err, infer.ErrInvalidArgument), errors.Is(err, infer.ErrInvalidUTF8),
		errors.Is(err, infer.ErrContextOverflow), errors.Is(err, infer.ErrTokenizer), errors.Is(err, infer.ErrUnsupported):
		status = http.StatusBadRequest
	}
	http.Error(w, err.Error(), status)
}
