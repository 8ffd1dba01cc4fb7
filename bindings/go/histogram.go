package infer

// #include "infer.h"
import "C"

import (
	"runtime"
	"slices"
	"unsafe"
)

// HistogramKind is what a histogram is of.
type HistogramKind uint32

const (
	// HistogramBatchSize is of the sequences with rows in a step; one value per step.
	HistogramBatchSize = HistogramKind(C.INFER_HISTOGRAM_BATCH_SIZE)
	// HistogramQueueTime is of nanoseconds from submission to the first step.
	HistogramQueueTime = HistogramKind(C.INFER_HISTOGRAM_QUEUE_TIME)
	// HistogramTimeToFirstToken is of nanoseconds from submission to the first token.
	HistogramTimeToFirstToken = HistogramKind(C.INFER_HISTOGRAM_TIME_TO_FIRST_TOKEN)
	// HistogramInterTokenTime is of nanoseconds since the previous token of the same completion.
	HistogramInterTokenTime = HistogramKind(C.INFER_HISTOGRAM_INTER_TOKEN_TIME)
	// HistogramStepTime is of nanoseconds of a step.
	HistogramStepTime = HistogramKind(C.INFER_HISTOGRAM_STEP_TIME)
	// HistogramColdReadTime is of nanoseconds of reading a block from the cold tier.
	HistogramColdReadTime = HistogramKind(C.INFER_HISTOGRAM_COLD_READ_TIME)
	// HistogramColdWriteTime is of nanoseconds of writing a batch of blocks to the cold tier.
	HistogramColdWriteTime = HistogramKind(C.INFER_HISTOGRAM_COLD_WRITE_TIME)
)

// Histogram tells how often values fell into each bucket since the engine was created: sequences, or nanoseconds.
type Histogram struct {
	raw C.infer_histogram
}

// Kind is what it is of.
func (h Histogram) Kind() HistogramKind { return HistogramKind(h.raw.kind) }

// Count is the number of values.
func (h Histogram) Count() uint64 { return uint64(h.raw.count) }

// Sum is the sum of the values.
func (h Histogram) Sum() uint64 { return uint64(h.raw.sum) }

// Max is the largest value so far.
func (h Histogram) Max() uint64 { return uint64(h.raw.max) }

// Bounds are the largest values of each bucket, ascending; the last is the largest uint64.
func (h Histogram) Bounds() []uint64 {
	return slices.Clone(unsafe.Slice((*uint64)(unsafe.Pointer(h.raw.bounds)), int(h.raw.n_buckets)))
}

// Counts are the values in each bucket.
func (h Histogram) Counts() []uint64 {
	counts := make([]uint64, int(h.raw.n_buckets))
	for i := range counts {
		counts[i] = uint64(h.raw.counts[i])
	}
	return counts
}

// Quantile estimates the value that the share q of all values does not exceed: 0.5 is the median, 1 the maximum.
func (h Histogram) Quantile(q float64) (float64, error) {
	var value C.double
	var detail *C.infer_error
	err := check(C.infer_histogram_quantile(&h.raw, C.double(q), &value, &detail), &detail)
	return float64(value), err
}

// Since computes what came between an earlier histogram of the same engine and kind and this one; the maximum stays.
func (h Histogram) Since(earlier Histogram) (Histogram, error) {
	delta := newHistogram()
	var detail *C.infer_error
	err := check(C.infer_histogram_delta(&h.raw, &earlier.raw, &delta.raw, &detail), &detail)
	return delta, err
}

// Merge adds the values of another engine's histogram of the same kind.
func (h Histogram) Merge(other Histogram) (Histogram, error) {
	var detail *C.infer_error
	err := check(C.infer_histogram_merge(&h.raw, &other.raw, &detail), &detail)
	return h, err
}

func newHistogram() (h Histogram) {
	h.raw.struct_size = C.sizeof_infer_histogram
	return h
}

// Histogram tells how often values fell into each bucket.
func (e *Engine) Histogram(kind HistogramKind) (Histogram, error) {
	defer runtime.KeepAlive(e)
	h := newHistogram()
	err := e.short(func(p *C.infer_engine, detail **C.infer_error) C.infer_status {
		return C.infer_engine_histogram(p, C.uint32_t(kind), &h.raw, detail)
	})
	return h, err
}
