"""How often values fell into buckets."""

from __future__ import annotations

from ctypes import POINTER, Structure, byref, c_double, c_size_t, c_uint32, c_uint64, sizeof
from enum import IntEnum

from . import _c


class HistogramKind(IntEnum):
    """What a histogram is of."""

    #: Sequences with rows in a step; one value per step.
    BATCH_SIZE = 1
    #: Nanoseconds from submission to the first step.
    QUEUE_TIME = 2
    #: Nanoseconds from submission to the first token.
    TIME_TO_FIRST_TOKEN = 3
    #: Nanoseconds since the previous token of the same completion.
    INTER_TOKEN_TIME = 4
    #: Nanoseconds of a step.
    STEP_TIME = 5
    #: Nanoseconds of reading a block from the cold tier.
    COLD_READ_TIME = 6
    #: Nanoseconds of writing a batch of blocks to the cold tier.
    COLD_WRITE_TIME = 7


class Histogram(Structure):
    """How often values fell into each bucket since the engine was created: sequences, or nanoseconds.

    `later - earlier` is what came between two histograms of one engine, `a + b` the sum over two engines.
    """

    #: Number of values.
    count: int
    #: Sum of the values.
    sum: int
    #: Largest value so far.
    max: int

    _fields_ = [
        ("_struct_size", c_uint32),
        ("_kind", c_uint32),
        ("_n_buckets", c_size_t),
        ("_bounds", POINTER(c_uint64)),
        ("count", c_uint64),
        ("sum", c_uint64),
        ("max", c_uint64),
        ("_counts", c_uint64 * 64),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._struct_size = sizeof(self)

    @property
    def kind(self) -> HistogramKind:
        """What it is of."""
        return HistogramKind(self._kind)

    @property
    def bounds(self) -> list[int]:
        """Largest value of each bucket, ascending; the last is 2**64 - 1."""
        return list(self._bounds[: self._n_buckets])

    @property
    def counts(self) -> list[int]:
        """Values in each bucket."""
        return list(self._counts[: self._n_buckets])

    def quantile(self, q: float) -> float:
        """About the value that the share q of all values does not exceed: 0.5 is the median, 1 the maximum."""
        value = c_double()
        _c.call(_c.lib.infer_histogram_quantile, byref(self), q, byref(value))
        return value.value

    def __sub__(self, earlier: Histogram) -> Histogram:
        if not isinstance(earlier, Histogram):
            return NotImplemented
        delta = Histogram()
        _c.call(_c.lib.infer_histogram_delta, byref(self), byref(earlier), byref(delta))
        return delta

    def __add__(self, other: Histogram) -> Histogram:
        if not isinstance(other, Histogram):
            return NotImplemented
        total = Histogram.from_buffer_copy(self)
        _c.call(_c.lib.infer_histogram_merge, byref(total), byref(other))
        return total

    def __repr__(self) -> str:
        return f"Histogram({self.kind.name}, count={self.count}, sum={self.sum}, max={self.max})"
