"""An engine's counters."""

from __future__ import annotations

from ctypes import Structure, byref, c_double, c_uint32, c_uint64, sizeof

from . import _c


class Stats(Structure):
    """A snapshot of an engine's counters.

    Names that end in _ns are nanoseconds. Counts and times only grow; running, queued and the kv_ fields say how it
    is at the moment; those that begin with max_ are the largest so far. Shares go from 0 to 1. `later - earlier` is
    what happened between two snapshots of one engine, `a + b` the sum over two engines.
    """

    requests_submitted: int
    requests_refused: int
    requests_completed: int
    requests_cancelled: int
    requests_expired: int
    requests_failed: int
    running: int
    queued: int
    steps: int
    max_batch: int
    prompt_tokens: int
    generated_tokens: int
    queue_time_ns: int
    max_queue_time_ns: int
    time_to_first_token_ns: int
    max_time_to_first_token_ns: int
    prefill_time_ns: int
    decode_time_ns: int
    prefill_embedding_time_ns: int
    prefill_attention_time_ns: int
    prefill_ffn_time_ns: int
    prefill_projection_time_ns: int
    prefill_sampling_time_ns: int
    decode_embedding_time_ns: int
    decode_attention_time_ns: int
    decode_ffn_time_ns: int
    decode_projection_time_ns: int
    decode_sampling_time_ns: int
    kv_bytes_used: int
    kv_bytes_peak: int
    kv_bytes_budget: int
    kv_tokens_used: int
    panics: int
    decode_tokens_per_second: float
    prefill_tokens_per_second: float
    prefill_embedding_share: float
    prefill_attention_share: float
    prefill_ffn_share: float
    prefill_projection_share: float
    prefill_sampling_share: float
    decode_embedding_share: float
    decode_attention_share: float
    decode_ffn_share: float
    decode_projection_share: float
    decode_sampling_share: float
    prefix_lookups: int
    prefix_hit_tokens: int
    prefix_evictions: int
    kv_bytes_cached: int
    kv_slots_used: int
    kv_utilization: float
    prefix_hit_share: float
    preemptions: int
    decode_rows: int
    attention_tiled_calls: int
    attention_two_pass_calls: int
    alerts_queue_time: int
    alerts_time_to_first_token: int
    alerts_inter_token_time: int
    alerts_kv_used: int
    alerts_preemptions: int
    kv_tokens_peak: int
    speculative_steps: int
    draft_tokens: int
    accepted_tokens: int
    draft_acceptance: float
    kv_cold_state: int
    kv_cold_blocks: int
    kv_cold_bytes: int
    kv_cold_bytes_budget: int
    kv_cold_lookups: int
    kv_cold_hit_tokens: int
    kv_cold_recomputed_tokens: int
    kv_cold_reads: int
    kv_cold_misses: int
    kv_cold_corrupt: int
    kv_cold_spills: int
    kv_cold_evictions: int
    kv_cold_refusals: int
    kv_cold_dropped: int
    kv_cold_queued: int
    kv_cold_bytes_written: int
    kv_cold_bytes_read: int
    kv_cold_prefetch_useful: int
    kv_cold_prefetch_useless: int
    kv_cold_errors: int
    kv_cold_foreign_files: int
    kv_cold_writer: int

    # The fields of infer_stats are the names above, in this order: tests compare them with the header.
    _fields_ = [
        ("_struct_size", c_uint32),
        ("_reserved", c_uint32),
        *((name, c_double if kind in ("float", float) else c_uint64) for name, kind in __annotations__.items()),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._struct_size = sizeof(self)

    def __sub__(self, earlier: Stats) -> Stats:
        if not isinstance(earlier, Stats):
            return NotImplemented
        delta = Stats()
        _c.call(_c.lib.infer_stats_delta, byref(self), byref(earlier), byref(delta))
        return delta

    def __add__(self, other: Stats) -> Stats:
        if not isinstance(other, Stats):
            return NotImplemented
        total = Stats.from_buffer_copy(self)
        _c.call(_c.lib.infer_stats_merge, byref(total), byref(other))
        return total

    def as_dict(self) -> dict[str, int | float]:
        """All counters by name."""
        return {name: getattr(self, name) for name in Stats.__annotations__}

    def __repr__(self) -> str:
        return f"Stats({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"
