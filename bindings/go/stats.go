package infer

// #include "infer.h"
import "C"

import (
	"time"
	"unsafe"
)

// Stats is a snapshot of an engine's counters. Counts and times only grow; Running, Queued and the KV fields say how it
// is at the moment; those that begin with Max are the largest so far. Rates and shares, from 0 to 1, are computed from
// the counts and times beside them.
//
// The fields are those of infer_stats in infer.h, in the same order.
type Stats struct {
	header                 [2]uint32
	RequestsSubmitted      uint64
	RequestsRefused        uint64
	RequestsCompleted      uint64
	RequestsCancelled      uint64
	RequestsExpired        uint64
	RequestsFailed         uint64
	Running                uint64
	Queued                 uint64
	Steps                  uint64
	MaxBatch               uint64
	PromptTokens           uint64
	GeneratedTokens        uint64
	QueueTime              time.Duration
	MaxQueueTime           time.Duration
	TimeToFirstToken       time.Duration
	MaxTimeToFirstToken    time.Duration
	PrefillTime            time.Duration
	DecodeTime             time.Duration
	PrefillEmbeddingTime   time.Duration
	PrefillAttentionTime   time.Duration
	PrefillFFNTime         time.Duration
	PrefillProjectionTime  time.Duration
	PrefillSamplingTime    time.Duration
	DecodeEmbeddingTime    time.Duration
	DecodeAttentionTime    time.Duration
	DecodeFFNTime          time.Duration
	DecodeProjectionTime   time.Duration
	DecodeSamplingTime     time.Duration
	KVBytesUsed            uint64
	KVBytesPeak            uint64
	KVBytesBudget          uint64
	KVTokensUsed           uint64
	Panics                 uint64
	DecodeTokensPerSecond  float64
	PrefillTokensPerSecond float64
	PrefillEmbeddingShare  float64
	PrefillAttentionShare  float64
	PrefillFFNShare        float64
	PrefillProjectionShare float64
	PrefillSamplingShare   float64
	DecodeEmbeddingShare   float64
	DecodeAttentionShare   float64
	DecodeFFNShare         float64
	DecodeProjectionShare  float64
	DecodeSamplingShare    float64
	PrefixLookups          uint64
	PrefixHitTokens        uint64
	PrefixEvictions        uint64
	KVBytesCached          uint64
	KVSlotsUsed            uint64
	KVUtilization          float64
	PrefixHitShare         float64
	Preemptions            uint64
	DecodeRows             uint64
	AttentionTiledCalls    uint64
	AttentionTwoPassCalls  uint64
	AlertsQueueTime        uint64
	AlertsTimeToFirstToken uint64
	AlertsInterTokenTime   uint64
	AlertsKVUsed           uint64
	AlertsPreemptions      uint64
	KVTokensPeak           uint64
	SpeculativeSteps       uint64
	DraftTokens            uint64
	AcceptedTokens         uint64
	DraftAcceptance        float64
	KVColdState            uint64
	KVColdBlocks           uint64
	KVColdBytes            uint64
	KVColdBytesBudget      uint64
	KVColdLookups          uint64
	KVColdHitTokens        uint64
	KVColdRecomputedTokens uint64
	KVColdReads            uint64
	KVColdMisses           uint64
	KVColdCorrupt          uint64
	KVColdSpills           uint64
	KVColdEvictions        uint64
	KVColdRefusals         uint64
	KVColdDropped          uint64
	KVColdQueued           uint64
	KVColdBytesWritten     uint64
	KVColdBytesRead        uint64
	KVColdPrefetchUseful   uint64
	KVColdPrefetchUseless  uint64
	KVColdErrors           uint64
	KVColdForeignFiles     uint64
	KVColdWriter           uint64
}

// The two structs have the same layout; these do not compile when the sizes differ.
var (
	_ [unsafe.Sizeof(Stats{}) - C.sizeof_infer_stats]struct{}
	_ [C.sizeof_infer_stats - unsafe.Sizeof(Stats{})]struct{}
)

// raw is the struct as the library sees it.
func (s *Stats) raw() *C.infer_stats {
	raw := (*C.infer_stats)(unsafe.Pointer(s))
	raw.struct_size = C.sizeof_infer_stats
	return raw
}

// Stats takes a snapshot of the engine's counters.
func (e *Engine) Stats() (Stats, error) {
	var s Stats
	err := e.short(func(p *C.infer_engine, detail **C.infer_error) C.infer_status {
		return C.infer_engine_stats(p, s.raw(), detail)
	})
	return s, err
}

// Since computes what happened between an earlier snapshot of the same engine and this one: counts and times are
// subtracted, the present state and maxima stay, rates and shares are those of the time between.
func (s Stats) Since(earlier Stats) (Stats, error) {
	var delta Stats
	var detail *C.infer_error
	err := check(C.infer_stats_delta(s.raw(), earlier.raw(), delta.raw(), &detail), &detail)
	return delta, err
}

// Merge adds the snapshot of another engine: counts, times and present states are added, the larger maximum stays,
// rates and shares are those of both.
func (s Stats) Merge(other Stats) (Stats, error) {
	var detail *C.infer_error
	err := check(C.infer_stats_merge(s.raw(), other.raw(), &detail), &detail)
	return s, err
}
