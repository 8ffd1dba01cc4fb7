package infer

/*
#include <stdlib.h>
#include "infer.h"
*/
import "C"

import (
	"os"
	"syscall"
	"unsafe"
)

// Events the reading goroutine takes from the library at once.
const readCapacity = 64

// queueReader reads the events of a queue and waits for them in Go's own poller, by the queue's file descriptor. A
// goroutine that waits inside a foreign call would keep Go's monitor looking after it many times in every step of the
// engine, which takes more time than all else that is done for the step. Where there is no descriptor, it does wait
// inside the library.
type queueReader struct {
	queue  *C.infer_queue
	events []C.infer_event
	// nil where there is no descriptor.
	file *os.File
	conn syscall.RawConn
}

// newQueueReader takes the queue over.
func newQueueReader(queue *C.infer_queue) *queueReader {
	memory := C.calloc(readCapacity, C.sizeof_infer_event)
	r := &queueReader{queue: queue, events: unsafe.Slice((*C.infer_event)(memory), readCapacity)}
	var descriptor C.int
	if C.infer_queue_fd(queue, &descriptor, nil) != C.INFER_OK {
		return r
	}
	// The file closes its descriptor, and that of the queue is the queue's.
	syscall.ForkLock.RLock()
	own, err := syscall.Dup(int(descriptor))
	if err == nil {
		syscall.CloseOnExec(own)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return r
	}
	r.file = os.NewFile(uintptr(own), "queue of libinfer")
	if r.conn, err = r.file.SyscallConn(); err != nil {
		r.conn = nil
	}
	return r
}

// next waits for events and gives those that are there, which live until the next call; false when memory is short.
func (r *queueReader) next() ([]C.infer_event, bool) {
	if r.conn != nil {
		var n C.size_t
		var status C.infer_status
		// It asks before it waits, so what was left behind by the call before is found although the poller only tells of
		// changes.
		err := r.conn.Read(func(uintptr) bool {
			n, status = r.take(0)
			return status != C.INFER_TIMEOUT
		})
		if err == nil {
			return r.events[:n], status == C.INFER_OK
		}
		// The poller could not take the descriptor.
		r.conn = nil
	}
	n, status := r.take(-1)
	return r.events[:n], status == C.INFER_OK
}

func (r *queueReader) take(timeout C.int64_t) (n C.size_t, status C.infer_status) {
	status = C.infer_queue_next(r.queue, timeout, &r.events[0], readCapacity, C.sizeof_infer_event, &n, nil)
	return n, status
}

func (r *queueReader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
	C.free(unsafe.Pointer(&r.events[0]))
	C.infer_queue_free(r.queue)
}
