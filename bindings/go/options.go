package infer

/*
#include <stdlib.h>
#include "infer.h"
*/
import "C"

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// Options are keys and values for models, engines, requests, thread pools or key/value caches. Values are booleans, numbers, strings, a
// json.Number, or a time.Duration for keys that end in _ms. [DescribeOptions] lists what there is.
type Options map[string]any

// OptionInfo describes one option.
type OptionInfo struct {
	// Object is what the option belongs to: "model", "engine", "request", "threads" or "kv_cache".
	Object string
	// Name is the key in [Options].
	Name string
	// Type is "bool", "integer", "float", "choice" or "text".
	Type string
	// Default is the value when none is given.
	Default string
	// Range is the values allowed, like "1..=4096" or "f32|f16|bf16|q8".
	Range string
	// Doc is what it does, with units.
	Doc string
}

// DescribeOptions lists the options of all objects.
func DescribeOptions() []OptionInfo {
	var list []OptionInfo
	for i := C.size_t(0); ; i++ {
		info := C.infer_option_info{struct_size: C.sizeof_infer_option_info}
		if C.infer_options_describe(i, &info, nil) != C.INFER_OK {
			return list
		}
		list = append(list, OptionInfo{
			Object:  C.GoString(info.object),
			Name:    C.GoString(info.name),
			Type:    C.GoString(info.type_name),
			Default: C.GoString(info.default_value),
			Range:   C.GoString(info._range),
			Doc:     C.GoString(info.doc),
		})
	}
}

// apply sets every option in the order of the keys, so that of several errors always the same one is reported.
func (o Options) apply(set func(key, value *C.char, detail **C.infer_error) C.infer_status) error {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		text, err := optionText(name, o[name])
		if err != nil {
			return err
		}
		key, value := C.CString(name), C.CString(text)
		var detail *C.infer_error
		status := set(key, value, &detail)
		C.free(unsafe.Pointer(key))
		C.free(unsafe.Pointer(value))
		if err := check(status, &detail); err != nil {
			return err
		}
	}
	return nil
}

func optionText(name string, value any) (string, error) {
	var text string
	switch v := value.(type) {
	case time.Duration:
		if !strings.HasSuffix(name, "_ms") {
			return "", newError(ErrInvalidArgument, "option '%s': a duration fits only keys that end in _ms, found %v", name, v)
		}
		// Rounded up: a deadline shorter than a millisecond is not none.
		text = strconv.FormatInt(int64((v+time.Millisecond-1)/time.Millisecond), 10)
	case float32:
		text = strconv.FormatFloat(float64(v), 'f', -1, 32)
	case float64:
		// Without an exponent, which whole numbers may not have.
		text = strconv.FormatFloat(v, 'f', -1, 64)
	case bool, string, json.Number, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		text = fmt.Sprint(v)
	default:
		return "", newError(ErrInvalidArgument, "option '%s': expected a boolean, number, string or duration, found %T", name, value)
	}
	if strings.ContainsRune(name+text, 0) {
		return "", newError(ErrInvalidArgument, "option %q: expected text without NUL, found %q", name, text)
	}
	return text, nil
}

// textPointer lends the bytes of a string to one foreign call.
func textPointer(s string) (*C.char, C.size_t) {
	if s == "" {
		return nil, 0
	}
	return (*C.char)(unsafe.Pointer(unsafe.StringData(s))), C.size_t(len(s))
}

func noMemory(what string) error {
	return newError(ErrNoMemory, "no memory for options of a %s", what)
}
