package infer

// #include "infer.h"
import "C"

import (
	"encoding/json"
	"runtime"
	"unicode/utf8"
	"unsafe"
)

// TokenizeFlags say how text becomes tokens; combine them with |.
type TokenizeFlags uint32

const (
	// AddSpecial adds the begin and end tokens the model asks for.
	AddSpecial = TokenizeFlags(C.INFER_TOKENIZE_ADD_SPECIAL)
	// ParseSpecial reads the texts of special tokens as these tokens.
	ParseSpecial = TokenizeFlags(C.INFER_TOKENIZE_PARSE_SPECIAL)
)

// DetokenizeFlags say how tokens become text.
type DetokenizeFlags uint32

// RenderSpecial writes the texts of special tokens instead of leaving them out.
const RenderSpecial = DetokenizeFlags(C.INFER_DETOKENIZE_RENDER_SPECIAL)

// SpecialToken is a token with a meaning of its own.
type SpecialToken uint32

// Special tokens; a model need not have all of them.
const (
	TokenBOS       = SpecialToken(C.INFER_TOKEN_BOS)
	TokenEOS       = SpecialToken(C.INFER_TOKEN_EOS)
	TokenEOT       = SpecialToken(C.INFER_TOKEN_EOT)
	TokenEOM       = SpecialToken(C.INFER_TOKEN_EOM)
	TokenUnknown   = SpecialToken(C.INFER_TOKEN_UNKNOWN)
	TokenPadding   = SpecialToken(C.INFER_TOKEN_PADDING)
	TokenSeparator = SpecialToken(C.INFER_TOKEN_SEPARATOR)
)

// Message is one message of a conversation.
type Message struct {
	// Role is "system", "user", "assistant" or another that the model's template knows.
	Role string `json:"role"`
	// Content is the text.
	Content string `json:"content"`
}

// messagesJSON is a conversation as the library takes it: an array of pointers to text of Go's would break cgo's rules.
// encoding/json would replace what is not UTF-8, so it is refused here.
func messagesJSON(messages []Message) (string, error) {
	for i, m := range messages {
		if !utf8.ValidString(m.Role) || !utf8.ValidString(m.Content) {
			return "", newError(ErrInvalidUTF8, "message %d of the conversation is not UTF-8", i)
		}
	}
	text, err := json.Marshal(messages)
	return string(text), err
}

// Tokenize turns text into token ids.
func (m *Model) Tokenize(text string, flags TokenizeFlags) ([]uint32, error) {
	defer runtime.KeepAlive(m)
	var ids []uint32
	err := m.handle.useShort(func(p *C.infer_model) error {
		input, n := textPointer(text)
		for capacity := len(text)/2 + 8; ; {
			ids = make([]uint32, capacity)
			var needed C.size_t
			var detail *C.infer_error
			status := C.infer_model_tokenize(p, input, n, C.uint32_t(flags), (*C.uint32_t)(&ids[0]), C.size_t(capacity), &needed, &detail)
			err := check(status, &detail)
			if status == C.INFER_ERR_BUFFER_TOO_SMALL && int(needed) > capacity {
				capacity = int(needed)
				continue
			}
			ids = ids[:needed:needed]
			return err
		}
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// Detokenize turns token ids into text. Bytes that are not UTF-8 are replaced by U+FFFD.
func (m *Model) Detokenize(ids []uint32, flags DetokenizeFlags) (string, error) {
	return m.text(8*len(ids), func(p *C.infer_model, buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status {
		return C.infer_model_detokenize(p, (*C.uint32_t)(unsafe.SliceData(ids)), C.size_t(len(ids)), C.uint32_t(flags), buffer, capacity, needed, detail)
	})
}

// TokenText gives the text of one token, special tokens included. A token that is only a part of a code point gives
// U+FFFD: to show a stream, use the text of events.
func (m *Model) TokenText(id uint32) (string, error) {
	return m.text(32, func(p *C.infer_model, buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status {
		return C.infer_model_token_text(p, C.uint32_t(id), buffer, capacity, needed, detail)
	})
}

// SpecialToken gives the id of a special token, or [ErrNotFound].
func (m *Model) SpecialToken(kind SpecialToken) (uint32, error) {
	var id C.uint32_t
	err := m.short(func(p *C.infer_model, detail **C.infer_error) C.infer_status {
		return C.infer_model_special_token(p, C.uint32_t(kind), &id, detail)
	})
	return uint32(id), err
}

// IsEndOfGeneration tells whether a token ends a completion. A model can have several such tokens.
func (m *Model) IsEndOfGeneration(id uint32) (bool, error) {
	var answer C.uint32_t
	err := m.short(func(p *C.infer_model, detail **C.infer_error) C.infer_status {
		return C.infer_model_is_end_of_generation(p, C.uint32_t(id), &answer, detail)
	})
	return answer != 0, err
}

// ApplyChatTemplate renders a conversation by the model's chat template; answer ends it with what makes the model
// answer as the assistant. A model without a template is [ErrUnsupported]; when the template refuses the messages, the
// error is [ErrInvalidArgument] with its reason.
func (m *Model) ApplyChatTemplate(messages []Message, answer bool) (string, error) {
	conversation, err := messagesJSON(messages)
	if err != nil {
		return "", err
	}
	return m.ApplyChatTemplateJSON(conversation, answer)
}

// ApplyChatTemplateJSON is [Model.ApplyChatTemplate] with the messages as JSON: an array of objects with role, content
// and whatever else the template knows.
func (m *Model) ApplyChatTemplateJSON(messages string, answer bool) (string, error) {
	var flags C.uint32_t
	if answer {
		flags = C.INFER_CHAT_ADD_GENERATION_PROMPT
	}
	text, n := textPointer(messages)
	return m.text(2*len(messages), func(p *C.infer_model, buffer *C.char, capacity C.size_t, needed *C.size_t, detail **C.infer_error) C.infer_status {
		return C.infer_model_apply_chat_template_json(p, text, n, flags, buffer, capacity, needed, detail)
	})
}
