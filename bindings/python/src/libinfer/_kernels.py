"""Vector and matrix operations of one CPU level, on arrays of the caller."""

from __future__ import annotations

import sys
from array import array
from ctypes import addressof, byref, c_char, c_float, c_void_p
from types import TracebackType
from typing import Any, Literal

from . import _c
from ._errors import InvalidArgumentError
from ._handle import Handle

#: Numbers for a kernel: a numpy array, another object with a buffer of the right type (array.array, memoryview), or a
#: sequence of numbers, which is copied.
Numbers = Any

_FORMATS = {"f": "float32", "b": "int8", "i": "int32", "B": "bytes"}


class _Array:
    """An array in memory, which lives as long as this object."""

    def __init__(self, values: Numbers, kind: str, what: str, writable: bool = False) -> None:
        if not _has_buffer(values):
            if writable:
                raise InvalidArgumentError(f"{what} has to be a writable buffer of {_FORMATS[kind]}")
            try:
                values = array(kind, values)
            except (TypeError, OverflowError) as error:
                raise InvalidArgumentError(f"{what} has to be numbers of {_FORMATS[kind]}: {error}") from None
        self.view = view = memoryview(values)
        if kind == "B":
            fits = view.itemsize == 1
        else:
            # "l" is what some platforms call their int32.
            fits = view.format == kind or (kind, view.format, view.itemsize) == ("i", "l", 4)
        if not fits or not view.c_contiguous or (writable and view.readonly):
            raise InvalidArgumentError(
                f"{what} has to be a contiguous{' writable' if writable else ''} buffer of {_FORMATS[kind]}; "
                f"its format is {view.format!r}"
            )
        self.n = view.nbytes // view.itemsize
        self.shape: tuple[int, ...] = view.shape or (self.n,)
        if view.readonly:
            # ctypes gives no address of what cannot be written.
            view = memoryview(bytearray(view))
        self._memory = (c_char * view.nbytes).from_buffer(view) if view.nbytes else None

    @property
    def pointer(self) -> int | None:
        return None if self._memory is None else addressof(self._memory)


def _has_buffer(values: Numbers) -> bool:
    try:
        memoryview(values)
    except TypeError:
        return False
    return True


def _new(kind: str, shape: tuple[int, ...], like: Numbers) -> Any:
    """A new array: of numpy when the input was, else a flat array.array."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(like, numpy.ndarray):
        return numpy.zeros(shape, numpy.float32 if kind == "f" else numpy.int32)
    n = 1
    for length in shape:
        n *= length
    return array(kind, bytes(4 * n))


def _same(expected: int, *others: tuple[str, int]) -> None:
    for what, found in others:
        if found != expected:
            raise InvalidArgumentError(f"{what}: expected {expected} elements, found {found}")


class Kernels:
    """The kernels of one CPU level: "auto", or one that `Kernels.levels()` lists.

    Arrays are numpy arrays or other buffers of 32-bit floats (matrix products of bytes: of int8), or sequences of
    numbers. Results are new arrays, of numpy when the first input is, else `array.array`; or they are written to `out`,
    which may be the input itself. Any number of threads may use an object at the same time.
    """

    def __init__(self, level: str = "auto") -> None:
        _c.enter()
        if "\0" in level:
            raise InvalidArgumentError(f"the level {level!r} contains a NUL character")
        created = c_void_p()
        _c.call(_c.lib.infer_kernels_create, _c.utf8(level), byref(created))
        assert created.value is not None
        self._handle = Handle(created.value, _c.lib.infer_kernels_free, "kernels object")

    @staticmethod
    def levels() -> list[str]:
        """The levels that this CPU and this build have, lowest first."""
        found: list[str] = []
        while (level := _c.lib.infer_kernels_level_at(len(found))) is not None:
            found.append(level.decode())
        return found

    @property
    def level(self) -> str:
        """The level, never "auto"."""
        with self._handle as pointer:
            return str(_c.lib.infer_kernels_level(pointer).decode())

    def _reduce(self, function: Any, *inputs: _Array) -> float:
        _same(inputs[0].n, *(("b", i.n) for i in inputs[1:]))
        answer = c_float()
        with self._handle as pointer:
            _c.call(function, pointer, *(i.pointer for i in inputs), inputs[0].n, byref(answer))
        return answer.value

    def dot(self, a: Numbers, b: Numbers) -> float:
        """The sum of a[i] * b[i]."""
        return self._reduce(_c.lib.infer_kernels_dot, _Array(a, "f", "a"), _Array(b, "f", "b"))

    def dot_kahan(self, a: Numbers, b: Numbers) -> float:
        """The sum of a[i] * b[i], with an error that does not grow with the length."""
        return self._reduce(_c.lib.infer_kernels_dot_kahan, _Array(a, "f", "a"), _Array(b, "f", "b"))

    def sum(self, x: Numbers) -> float:
        """The sum of x[i]."""
        return self._reduce(_c.lib.infer_kernels_sum, _Array(x, "f", "x"))

    def _multiply(
        self, function: Any, kinds: str, a: Numbers, b: Numbers, shape: tuple[int, int, int] | None, out: Numbers | None
    ) -> Any:
        left, right = _Array(a, kinds[0], "a"), _Array(b, kinds[0], "b")
        if shape is None:
            if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[0]:
                raise InvalidArgumentError(
                    f"expected matrices of m x k and k x n, or a shape (m, k, n); found {left.shape} and {right.shape}"
                )
            shape = (left.shape[0], left.shape[1], right.shape[1])
        m, k, n = shape
        if min(shape) < 0:
            raise InvalidArgumentError(f"the shape {shape} has a negative length")
        _same(m * k, ("a", left.n))
        _same(k * n, ("b", right.n))
        out = _new(kinds[1], (m, n), a) if out is None else out
        result = _Array(out, kinds[1], "out", True)
        _same(m * n, ("out", result.n))
        with self._handle as pointer:
            _c.call(function, pointer, left.pointer, right.pointer, m, k, n, result.pointer)
        return out

    def matmul(
        self, a: Numbers, b: Numbers, shape: tuple[int, int, int] | None = None, out: Numbers | None = None
    ) -> Any:
        """The product of a matrix of m x k values and one of k x n, row by row: m x n values.

        Arrays without two dimensions need the shape (m, k, n).
        """
        return self._multiply(_c.lib.infer_kernels_matmul, "ff", a, b, shape, out)

    def matmul_i8(
        self, a: Numbers, b: Numbers, shape: tuple[int, int, int] | None = None, out: Numbers | None = None
    ) -> Any:
        """The exact product of matrices of int8, in int32; k is at most 131071."""
        return self._multiply(_c.lib.infer_kernels_matmul_i8, "bi", a, b, shape, out)

    def _map(self, function: Any, inputs: dict[str, Numbers], *numbers: Any, out: Numbers | None) -> Any:
        arrays = {what: None if x is None else _Array(x, "f", what) for what, x in inputs.items()}
        first = next(iter(arrays.values()))
        assert first is not None
        _same(first.n, *((what, a.n) for what, a in arrays.items() if a is not None))
        out = _new("f", first.shape, next(iter(inputs.values()))) if out is None else out
        result = _Array(out, "f", "out", True)
        _same(first.n, ("out", result.n))
        pointers = [None if a is None else a.pointer for a in arrays.values()]
        with self._handle as pointer:
            _c.call(function, pointer, *pointers, first.n, *numbers, result.pointer)
        return out

    def add(self, a: Numbers, b: Numbers, out: Numbers | None = None) -> Any:
        """a[i] + b[i]."""
        return self._map(_c.lib.infer_kernels_add, {"a": a, "b": b}, out=out)

    def mul(self, a: Numbers, b: Numbers, out: Numbers | None = None) -> Any:
        """a[i] * b[i]."""
        return self._map(_c.lib.infer_kernels_mul, {"a": a, "b": b}, out=out)

    def relu(self, x: Numbers, out: Numbers | None = None) -> Any:
        """max(x[i], 0)."""
        return self._map(_c.lib.infer_kernels_relu, {"x": x}, out=out)

    def silu(self, x: Numbers, out: Numbers | None = None) -> Any:
        """x[i] / (1 + exp(-x[i]))."""
        return self._map(_c.lib.infer_kernels_silu, {"x": x}, out=out)

    def gelu(self, x: Numbers, out: Numbers | None = None) -> Any:
        """The Gaussian error unit in its tanh form."""
        return self._map(_c.lib.infer_kernels_gelu, {"x": x}, out=out)

    def sigmoid(self, x: Numbers, out: Numbers | None = None) -> Any:
        """1 / (1 + exp(-x[i]))."""
        return self._map(_c.lib.infer_kernels_sigmoid, {"x": x}, out=out)

    def softmax(self, x: Numbers, out: Numbers | None = None) -> Any:
        """exp(x[i]) / the sum of exp(x[j]), over all elements."""
        return self._map(_c.lib.infer_kernels_softmax, {"x": x}, out=out)

    def rms_norm(self, x: Numbers, weight: Numbers, eps: float = 1e-5, out: Numbers | None = None) -> Any:
        """x[i] / sqrt(mean of x[j]^2 + eps) * weight[i]."""
        return self._map(_c.lib.infer_kernels_rms_norm, {"x": x, "weight": weight}, eps, out=out)

    def layer_norm(
        self,
        x: Numbers,
        weight: Numbers,
        bias: Numbers | None = None,
        eps: float = 1e-5,
        out: Numbers | None = None,
    ) -> Any:
        """(x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]."""
        inputs = {"x": x, "weight": weight, "bias": bias}
        return self._map(_c.lib.infer_kernels_layer_norm, inputs, eps, out=out)

    def rope(
        self,
        x: Numbers,
        cos: Numbers,
        sin: Numbers,
        head_dim: int | None = None,
        pairs: Literal["adjacent", "neox"] = "adjacent",
    ) -> None:
        """Turns the first 2 * len(cos) values of each row of head_dim values, pair by pair, in place.

        Without head_dim the last dimension of x is a row.
        """
        rows, c, s = _Array(x, "f", "x", True), _Array(cos, "f", "cos"), _Array(sin, "f", "sin")
        head_dim = rows.shape[-1] if head_dim is None else head_dim
        _same(c.n, ("sin", s.n))
        numbers = {"adjacent": 1, "neox": 2}
        if pairs not in numbers:
            raise InvalidArgumentError(f"pairs: expected 'adjacent' or 'neox', found {pairs!r}")
        if head_dim < 0 or (rows.n % head_dim if head_dim else rows.n):
            raise InvalidArgumentError(f"x: expected a multiple of {head_dim} elements, found {rows.n}")
        n_heads = rows.n // head_dim if head_dim else 0
        with self._handle as pointer:
            _c.call(
                _c.lib.infer_kernels_rope,
                pointer,
                rows.pointer,
                n_heads,
                head_dim,
                c.pointer,
                s.pointer,
                c.n,
                numbers[pairs],
            )

    def dequantize(self, type: str, src: Numbers, n: int, out: Numbers | None = None) -> Any:
        """The n values in the blocks of src (bytes) of a GGUF tensor type like "Q4_K"."""
        if "\0" in type or n < 0:
            raise InvalidArgumentError(f"{type!r} is not a tensor type or {n} not a number of values")
        blocks = _Array(src, "B", "src")
        out = _new("f", (n,), src) if out is None else out
        result = _Array(out, "f", "out", True)
        _same(n, ("out", result.n))
        with self._handle as pointer:
            _c.call(
                _c.lib.infer_kernels_dequantize, pointer, _c.utf8(type), blocks.pointer, blocks.n, n, result.pointer
            )
        return out

    def quantize(self, type: str, x: Numbers) -> bytes:
        """x as a row of a GGUF tensor of type "F32", "F16" or "BF16"."""
        if "\0" in type:
            raise InvalidArgumentError(f"{type!r} is not a tensor type")
        values = _Array(x, "f", "x")
        # The library refuses the other types whatever the size is.
        row = bytearray(values.n * (4 if type == "F32" else 2))
        result = _Array(row, "B", "out", True)
        with self._handle as pointer:
            _c.call(
                _c.lib.infer_kernels_quantize, pointer, _c.utf8(type), values.pointer, values.n, result.pointer, result.n
            )
        return bytes(row)

    def close(self) -> None:
        """Frees the kernels."""
        self._handle.close()

    def __enter__(self) -> Kernels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
