"""Kernels against plain Python, with lists, buffers and numpy arrays."""

from __future__ import annotations

import math
import struct
from array import array
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Iterator

import pytest

import libinfer
from conftest import skip
from libinfer import Kernels


@pytest.fixture(params=Kernels.levels())
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    with Kernels(request.param) as created:
        assert created.level == request.param
        yield created


def wave(n: int, step: float) -> array[float]:
    return array("f", [math.sin(step * i) for i in range(n)])


def near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected)
    assert all(abs(f - e) <= tolerance for f, e in zip(found, expected)), (found, expected)


def test_levels_and_words() -> None:
    levels = Kernels.levels()
    assert levels[0] == "scalar" and levels[-1] == libinfer.cpu_level()
    with Kernels() as best:
        assert best.level in levels
    with pytest.raises(libinfer.InvalidArgumentError, match="AVX9"):
        Kernels("AVX9")
    for word in {"sse41", "avx2", "avx_vnni", "avx512", "avx512_bf16", "neon", "neon_dotprod", "i8mm"} - set(levels):
        with pytest.raises(libinfer.UnsupportedError, match=word):
            Kernels(word)


def test_reductions_match(kernels: Kernels) -> None:
    for n in (0, 1, 7, 16, 33, 100):
        a, b = wave(n, 0.3), wave(n, 0.7)
        dot = math.fsum(x * y for x, y in zip(a, b))
        assert abs(kernels.dot(a, b) - dot) < 1e-5 and abs(kernels.dot_kahan(a, b) - dot) < 1e-5
        assert abs(kernels.sum(a) - math.fsum(a)) < 1e-5
    assert kernels.dot([1, 2], (3, 4)) == 11
    assert math.isnan(kernels.sum([1.0, math.nan]))


def test_functions_match_and_may_work_in_place(kernels: Kernels) -> None:
    x, y = wave(37, 0.5), wave(37, 1.1)
    near(kernels.add(x, y), [a + b for a, b in zip(x, y)])
    near(kernels.mul(x, y), [a * b for a, b in zip(x, y)])
    near(kernels.relu(x), [max(v, 0) for v in x])
    near(kernels.sigmoid(x), [1 / (1 + math.exp(-v)) for v in x])
    near(kernels.silu(x), [v / (1 + math.exp(-v)) for v in x])
    near(
        kernels.gelu(x), [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x]
    )
    total = sum(math.exp(v) for v in x)
    near(kernels.softmax(x), [math.exp(v) / total for v in x])
    square = sum(v * v for v in x) / len(x)
    near(kernels.rms_norm(x, y, 1e-5), [a / math.sqrt(square + 1e-5) * b for a, b in zip(x, y)])
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    normed = [(a - mean) / math.sqrt(variance + 1e-5) * b for a, b in zip(x, y)]
    near(kernels.layer_norm(x, y), normed)
    near(kernels.layer_norm(x, y, y, 1e-5), [a + b for a, b in zip(normed, y)])
    expected = kernels.silu(x)
    assert kernels.silu(x, out=x) is x and x == expected


def test_products_match(kernels: Kernels) -> None:
    assert list(kernels.matmul([1, 2, 3, 4], [5, 6, 7, 8], (2, 2, 2))) == [19, 22, 43, 50]
    a, b = array("b", [-128, 127, 3, 4, 5, 6]), array("b", [127, -128, 1])
    out = array("i", [0, 0])
    assert kernels.matmul_i8(a, b, (2, 3, 1), out) is out
    assert list(out) == [-128 * 127 - 127 * 128 + 3, 4 * 127 - 5 * 128 + 6]


def test_rope_turns_pairs(kernels: Kernels) -> None:
    x = array("f", [1, 2, 3, 4, 5] * 2)
    kernels.rope(x, [0, 0], [1, 1], head_dim=5)
    assert list(x) == [-2, 1, -4, 3, 5] * 2
    x = array("f", [1, 2, 3, 4, 5] * 2)
    kernels.rope(x, [0, 0], [1, 1], head_dim=5, pairs="neox")
    assert list(x) == [-3, -4, 1, 2, 5] * 2


def test_formats(kernels: Kernels) -> None:
    values = [float(v) for v in range(-16, 16)]
    for kind, size in (("F32", 4), ("F16", 2), ("BF16", 2)):
        row = kernels.quantize(kind, values)
        assert len(row) == 32 * size and list(kernels.dequantize(kind, row, 32)) == values
    block = struct.pack("<e32b", 0.5, *range(-16, 16))
    assert list(kernels.dequantize("Q8_0", block, 32)) == [v / 2 for v in values]
    with pytest.raises(libinfer.UnsupportedError, match="IQ1_S"):
        kernels.dequantize("IQ1_S", bytes(50), 256)
    with pytest.raises(libinfer.UnsupportedError, match="Q8_0"):
        kernels.quantize("Q8_0", values)


def test_what_does_not_fit_is_refused() -> None:
    with Kernels() as k:
        x = array("f", [1, 2, 3, 4])
        for call in (
            lambda: k.dot(x, [1]),
            lambda: k.add(x, x, out=array("f", [0])),
            lambda: k.add(x, x, out=[0, 0, 0, 0]),
            lambda: k.add(x, x, out=bytes(16)),
            lambda: k.sum(array("d", [1])),
            lambda: k.sum(["one"]),
            lambda: k.relu(memoryview(x)[::2]),
            lambda: k.relu(memoryview(x)[:3], out=memoryview(x)[1:]),
            lambda: k.matmul(x, x),
            lambda: k.matmul(x, x, (2, 2, 3)),
            lambda: k.matmul(x, x, (-2, -2, -2)),
            lambda: k.matmul(x, x, (2, 2, 2), out=x),
            lambda: k.matmul_i8([128], [1], (1, 1, 1)),
            lambda: k.rope(x, [1], [1], head_dim=3),
            lambda: k.rope(x, [1], [1], head_dim=1),
            lambda: k.rope(x, [1], [1], pairs="both"),  # type: ignore[arg-type]
            lambda: k.dequantize("Q8_0", bytes(33), 32),
            lambda: k.dequantize("Q8_0\0", bytes(34), 32),
            lambda: k.dequantize("nothing", b"", 0),
        ):
            with pytest.raises(libinfer.InvalidArgumentError):
                call()
        assert list(x) == [1, 2, 3, 4]
    with pytest.raises(libinfer.ClosedError):
        k.sum(x)


def test_threads_share_kernels() -> None:
    with Kernels() as k, ThreadPoolExecutor(8) as pool:
        a = wave(10_000, 0.01)
        expected = k.dot(a, a)
        assert set(pool.map(lambda _: k.dot(a, a), range(200))) == {expected}


def test_numpy_arrays_go_in_and_come_out(kernels: Kernels) -> None:
    try:
        numpy = import_module("numpy")
    except ImportError:
        skip("there is no numpy")
    rng = numpy.random.default_rng(1)
    a = rng.standard_normal((17, 40)).astype(numpy.float32)
    b = rng.standard_normal((40, 33)).astype(numpy.float32)
    product = kernels.matmul(a, b)
    assert product.shape == (17, 33) and numpy.allclose(product, a @ b, atol=1e-4)
    p, q = (rng.integers(-128, 128, shape, numpy.int8) for shape in ((5, 300), (300, 9)))
    sums = kernels.matmul_i8(p, q)
    assert sums.dtype == numpy.int32 and (sums == p.astype(numpy.int32) @ q.astype(numpy.int32)).all()
    squared = kernels.mul(a, a)
    assert squared.shape == a.shape and (squared == a * a).all()
    # What cannot be written can still be read.
    a.flags.writeable = False
    assert numpy.allclose(kernels.relu(a), numpy.maximum(a, 0))
    heads = rng.standard_normal((4, 8)).astype(numpy.float32)
    before = heads.copy()
    kernels.rope(heads, numpy.ones(4, numpy.float32), numpy.zeros(4, numpy.float32))
    assert (heads == before).all()
    with pytest.raises(libinfer.InvalidArgumentError, match="float32"):
        kernels.sum(numpy.ones(3))
