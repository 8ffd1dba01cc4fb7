package infer

// #include "callbacks.h"
import "C"

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"runtime/cgo"
	"slices"
	"sync/atomic"
)

// Records that wait for a slow handler; more are dropped and counted.
const logCapacity = 1024

// logSink takes an engine's log records from its threads to a goroutine: handlers run outside the library, cannot stall
// it, and may call this package.
type logSink struct {
	records chan logRecord
	dropped atomic.Uint64
}

type logRecord struct {
	level                   slog.Level
	target, message, fields string
}

// setLog starts a goroutine that ends when the library needs the sink no more.
func setLog(options *C.infer_engine_options, logger *slog.Logger) error {
	sink := &logSink{records: make(chan logRecord, logCapacity)}
	h := cgo.NewHandle(sink)
	var detail *C.infer_error
	status := C.infer_go_set_log(options, C.uintptr_t(h), &detail)
	if err := check(status, &detail); err != nil {
		h.Delete()
		return err
	}
	go sink.deliver(logger)
	return nil
}

func (s *logSink) deliver(logger *slog.Logger) {
	for record := range s.records {
		attrs := []slog.Attr{slog.String("target", record.target)}
		var fields map[string]any
		if json.Unmarshal([]byte(record.fields), &fields) == nil {
			for _, key := range slices.Sorted(maps.Keys(fields)) {
				attrs = append(attrs, slog.Any(key, fields[key]))
			}
		}
		if n := s.dropped.Swap(0); n > 0 {
			attrs = append(attrs, slog.Uint64("dropped_before", n))
		}
		logger.LogAttrs(context.Background(), record.level, record.message, attrs...)
	}
}

//export inferGoLog
func inferGoLog(level C.uint32_t, target, message, fields *C.char, user C.uintptr_t) {
	record := logRecord{slog.LevelDebug, C.GoString(target), C.GoString(message), C.GoString(fields)}
	switch level {
	case C.INFER_LOG_ERROR:
		record.level = slog.LevelError
	case C.INFER_LOG_WARN:
		record.level = slog.LevelWarn
	case C.INFER_LOG_INFO:
		record.level = slog.LevelInfo
	}
	sink := cgo.Handle(user).Value().(*logSink)
	select {
	case sink.records <- record:
	default:
		sink.dropped.Add(1)
	}
}

//export inferGoLogDone
func inferGoLogDone(user C.uintptr_t) {
	h := cgo.Handle(user)
	close(h.Value().(*logSink).records)
	h.Delete()
}
