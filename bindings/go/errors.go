package infer

// #include "infer.h"
import "C"

import (
	"context"
	"fmt"
)

// Status is the kind of an [Error], for errors.Is. Numbers are those of the C interface; later versions of the library
// can add some.
type Status int32

// What can go wrong.
const (
	// ErrInternal is a defect of the library that was caught.
	ErrInternal = Status(C.INFER_ERR_INTERNAL)
	// ErrInvalidArgument means that an argument or option is out of range or contradicts another.
	ErrInvalidArgument = Status(C.INFER_ERR_INVALID_ARGUMENT)
	// ErrInvalidHandle means that the library was given something that is not its own.
	ErrInvalidHandle = Status(C.INFER_ERR_INVALID_HANDLE)
	// ErrInvalidUTF8 means that text is not UTF-8.
	ErrInvalidUTF8 = Status(C.INFER_ERR_INVALID_UTF8)
	// ErrIO means that the operating system refused to open or read a file.
	ErrIO = Status(C.INFER_ERR_IO)
	// ErrInvalidModel means that a model file is malformed.
	ErrInvalidModel = Status(C.INFER_ERR_INVALID_MODEL)
	// ErrUnsupported means that this version or build cannot do it.
	ErrUnsupported = Status(C.INFER_ERR_UNSUPPORTED)
	// ErrTokenizer means that text could not be turned into tokens or back.
	ErrTokenizer = Status(C.INFER_ERR_TOKENIZER)
	// ErrNoMemory means that memory could not be obtained or a budget would be exceeded.
	ErrNoMemory = Status(C.INFER_ERR_NO_MEMORY)
	// ErrContextOverflow means that prompt and completion do not fit into the context.
	ErrContextOverflow = Status(C.INFER_ERR_CONTEXT)
	// ErrBusy means that the engine's queue is full; submit again later.
	ErrBusy = Status(C.INFER_ERR_BUSY)
	// ErrCancelled means that the operation was cancelled. When a context did it, the error matches the context's too.
	ErrCancelled = Status(C.INFER_ERR_CANCELLED)
	// ErrClosed means that the object was closed or the engine is draining.
	ErrClosed = Status(C.INFER_ERR_CLOSED)
	// ErrReentrant means that a call was made from inside a callback.
	ErrReentrant = Status(C.INFER_ERR_REENTRANT)
	// ErrForked means that the process is a child of the one that created the object.
	ErrForked = Status(C.INFER_ERR_FORKED)
	// ErrABI means that the library that was linked does not fit this package.
	ErrABI = Status(C.INFER_ERR_ABI)
	// ErrNotFound means that there is no entry of that name.
	ErrNotFound = Status(C.INFER_ERR_NOT_FOUND)
)

const bufferTooSmall = Status(C.INFER_ERR_BUFFER_TOO_SMALL)

// Error gives the status' name in C.
func (s Status) Error() string {
	return C.GoString(C.infer_status_name(C.int32_t(s)))
}

// Error is an error of the library.
type Error struct {
	// Status is the kind.
	Status Status
	// Message says what was attempted, on what, what was expected and what was found.
	Message string
	// Cause is the error of a context that cancelled the operation; otherwise nil.
	Cause error
}

// Error gives the message.
func (e *Error) Error() string {
	return e.Message
}

// Unwrap lets errors.Is find the status and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Status}
	}
	return []error{e.Status, e.Cause}
}

func newError(status Status, format string, args ...any) error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// cancelled is the error of an operation that a context ended.
func cancelled(what string, ctx context.Context) error {
	cause := context.Cause(ctx)
	return &Error{Status: ErrCancelled, Message: fmt.Sprintf("%s was cancelled: %v", what, cause), Cause: cause}
}

// check turns the answer of a call into an error, and frees detail. It takes the address, because Go does not say
// whether a variable is read before or after the call beside it.
func check(status C.infer_status, detail **C.infer_error) error {
	if status >= 0 {
		return nil
	}
	err := &Error{Status: Status(status), Message: C.GoString(C.infer_error_message(*detail))}
	C.infer_error_free(*detail)
	return err
}
