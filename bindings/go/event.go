package infer

// #include "infer.h"
import "C"

import (
	"fmt"
	"slices"
	"time"
	"unsafe"
)

// Channel is the part of the answer a text belongs to.
type Channel uint32

const (
	// ChannelContent is the answer itself.
	ChannelContent = Channel(C.INFER_CHANNEL_CONTENT)
	// ChannelReasoning is thinking that precedes the answer.
	ChannelReasoning = Channel(C.INFER_CHANNEL_REASONING)
	// ChannelTool is a call of a tool.
	ChannelTool = Channel(C.INFER_CHANNEL_TOOL)
)

// FinishReason is why a completion ended.
type FinishReason uint32

const (
	// FinishLength means that max_tokens were generated, or the context is full.
	FinishLength = FinishReason(C.INFER_FINISH_LENGTH)
	// FinishStop means that a stop text or stop token was found.
	FinishStop = FinishReason(C.INFER_FINISH_STOP)
	// FinishEndOfGeneration means that the model ended it.
	FinishEndOfGeneration = FinishReason(C.INFER_FINISH_END_OF_GENERATION)
	// FinishCancelled means that it was cancelled, or its engine was closed.
	FinishCancelled = FinishReason(C.INFER_FINISH_CANCELLED)
	// FinishDeadline means that the option deadline_ms ended it.
	FinishDeadline = FinishReason(C.INFER_FINISH_DEADLINE)
	// FinishError means that it failed.
	FinishError = FinishReason(C.INFER_FINISH_ERROR)
)

// String gives "length", "stop", "end_of_generation", "cancelled", "deadline" or "error".
func (r FinishReason) String() string {
	switch r {
	case FinishLength:
		return "length"
	case FinishStop:
		return "stop"
	case FinishEndOfGeneration:
		return "end_of_generation"
	case FinishCancelled:
		return "cancelled"
	case FinishDeadline:
		return "deadline"
	case FinishError:
		return "error"
	}
	return fmt.Sprintf("FinishReason(%d)", uint32(r))
}

// Event is what a completion produced since the event before.
type Event struct {
	// Text is new text, whole code points. It can lag behind Tokens while a code point or a possible stop text is
	// incomplete.
	Text string
	// Tokens are new token ids, the one that ended the completion included.
	Tokens []uint32
	// Logprobs are there with the option logprobs: natural logarithms of the probabilities of Tokens, before penalty
	// and temperature.
	Logprobs []float32
	// TopLogprobs are there with the option top_logprobs: for each of Tokens the most probable ones in its place, most
	// probable first.
	TopLogprobs [][]TokenLogprob
	// PromptLogprobs are there with the option prompt_logprobs, in one event of choice 0: that of each token of the
	// prompt after those before it, NaN for the first.
	PromptLogprobs []float32
	// Embedding is there with the option embedding, in the last event.
	Embedding []float32
	// Choice tells which completion of the request it is, from 0.
	Choice int
	// Channel is the part of the answer.
	Channel Channel
	// Finish is set in the last event only.
	Finish *Finish
}

// TokenLogprob is a token and the natural logarithm of its probability.
type TokenLogprob struct {
	Token   uint32
	Logprob float32
}

// topLogprobs copies the most probable tokens in the places of an event's tokens.
func topLogprobs(event *C.infer_event) [][]TokenLogprob {
	n := int(event.n_top_logprobs)
	if n == 0 {
		return nil
	}
	ids := unsafe.Slice((*uint32)(event.top_tokens), n*int(event.n_tokens))
	logprobs := unsafe.Slice((*float32)(event.top_logprobs), len(ids))
	all := make([]TokenLogprob, len(ids))
	for i, id := range ids {
		all[i] = TokenLogprob{id, logprobs[i]}
	}
	return slices.Collect(slices.Chunk(all, n))
}

// Finish is how a completion ended.
type Finish struct {
	// Reason is why.
	Reason FinishReason
	// Stop is the stop text that was found, or the number of a stop token.
	Stop string
	// Err is nil unless the completion failed, was cancelled, or its engine was closed. A deadline_ms that passed is no
	// error.
	Err error
	// PromptTokens is the length of the prompt.
	PromptTokens int
	// CachedTokens is how many of them did not have to be computed.
	CachedTokens int
	// GeneratedTokens is the length of the completion.
	GeneratedTokens int
	// QueueTime is the time from submission to the first step that computed something for it.
	QueueTime time.Duration
	// TimeToFirstToken is the time from submission to the first token; 0 when there was none.
	TimeToFirstToken time.Duration
	// TotalTime is the time from submission to the end.
	TotalTime time.Duration
	// DecodeTokensPerSecond counts the tokens after the first; 0 when there were fewer than two.
	DecodeTokensPerSecond float64
}

// newFinish copies the end of a completion out of its last event; cause is why it was cancelled, if it was.
func newFinish(event *C.infer_event, cause error) *Finish {
	f := &Finish{
		Reason:                FinishReason(event.finish_reason),
		Stop:                  goText(event.stop, event.stop_len),
		PromptTokens:          int(event.prompt_tokens),
		CachedTokens:          int(event.cached_tokens),
		GeneratedTokens:       int(event.generated_tokens),
		QueueTime:             time.Duration(event.queue_time_ns),
		TimeToFirstToken:      time.Duration(event.time_to_first_token_ns),
		TotalTime:             time.Duration(event.total_time_ns),
		DecodeTokensPerSecond: float64(event.decode_tokens_per_second),
	}
	switch f.Reason {
	case FinishError:
		// The event only lends its error.
		f.Err = &Error{
			Status:  Status(C.infer_error_status(event.error)),
			Message: C.GoString(C.infer_error_message(event.error)),
		}
	case FinishCancelled:
		f.Err = cause
	}
	return f
}
