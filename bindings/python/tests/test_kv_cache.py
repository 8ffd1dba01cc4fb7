"""The key/value cache: what is stored comes back, sequences share and copy, prefixes are found again."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Iterator

import pytest

import libinfer
from libinfer import KvCache, KvSequence

LAYERS, ROW = 2, 2 * 16


@pytest.fixture(params=["f32", "f16", "bf16", "q8"])
def cache(request: pytest.FixtureRequest) -> Iterator[KvCache]:
    with KvCache(n_layers=LAYERS, n_kv_heads=2, head_dim=16, kv_type=request.param, hot_tokens=512) as created:
        yield created


def rows(seed: int, layer: int, position: int, n: int) -> array[float]:
    first = position * ROW + 31 * seed + 7 * layer
    return array("f", [((first + i) % 256 - 128) / 256 for i in range(n * ROW)])


def fill(sequence: KvSequence, seed: int, n: int) -> None:
    position = len(sequence)
    for layer in range(LAYERS):
        keys = rows(seed, layer, position, n)
        sequence.store_batch(layer, position, keys, keys)
    sequence.advance(n)


def same(sequence: KvSequence, seed: int, position: int, n: int) -> bool:
    for layer in range(LAYERS):
        keys, values = array("f", bytes(4 * n * ROW)), array("f", bytes(4 * n * ROW))
        sequence.fetch(layer, position, keys, values)
        expected = rows(seed, layer, position, n)
        if keys != values or any(abs(a - b) > 0.005 for a, b in zip(keys, expected)):
            return False
    return True


def test_what_is_stored_comes_back(cache: KvCache) -> None:
    with cache.open("tenant") as sequence:
        fill(sequence, 1, 70)
        for layer in range(LAYERS):
            one = list(rows(1, layer, 70, 1))
            sequence.store(layer, 70, one, one)
        sequence.advance(1)
        assert len(sequence) == 71 and same(sequence, 1, 0, 71) and not same(sequence, 2, 0, 71)
        assert 1 <= sequence.optimal_batch() <= 64
        with sequence.fork() as fork:
            fork.truncate(40)
            fill(fork, 2, 10)
            assert same(fork, 1, 0, 40) and same(fork, 2, 40, 10)
        assert same(sequence, 1, 0, 71)
        sequence.seal(range(71))
    assert len(cache.lookup(range(71))) == 0
    with cache.pin(range(50), "tenant") as pin, cache.lookup(range(71), "tenant") as found:
        assert (len(pin), len(found)) == (50, 64) and same(found, 1, 0, 64)
        stats = cache.stats()
    assert (stats.hit_tokens, stats.misses, stats.hot_blocks_used) == (114, 1, 2)


def test_bytes_go_in_and_out_as_they_are(cache: KvCache) -> None:
    kind = next(k for k in ("f16", "bf16", "q8", "f32") if cache.open().token_bytes(k))
    sequence = cache.open()
    fill(sequence, 1, 40)
    if kind != "f32":
        size = 40 * sequence.token_bytes(kind)  # type: ignore[arg-type]
        keys, values = bytearray(size), bytearray(size)
        sequence.fetch(1, 0, keys, values, type=kind)  # type: ignore[arg-type]
        copy = cache.open()
        for layer in range(LAYERS):
            copy.store_batch(layer, 0, keys, values, type=kind)  # type: ignore[arg-type]
        copy.advance(40)
        blocks = list(copy.view(1, 5, 35))
        assert b"".join(b.keys for b in blocks) == keys[5 * blocks[0].token_stride :]
        assert [(b.position, b.tokens, b.type) for b in blocks] == [(5, 27, kind), (32, 8, kind)]
        # They stay as they are when everything else has gone.
        kept = blocks[0].values
        copy.truncate(0)
        fill(copy, 3, 40)
        copy.close()
        del blocks, copy
        assert kept.readonly and kept == values[5 * (size // 40) : 32 * (size // 40)]


def test_what_does_not_fit_is_refused(cache: KvCache) -> None:
    sequence = cache.open()
    one = rows(0, 0, 0, 1)
    calls: tuple[Callable[[], object], ...] = (
        lambda: sequence.store(0, 0, one[:-1], one),
        lambda: sequence.store(0, -1, one, one),
        lambda: sequence.store(0, 1, one, one),
        lambda: sequence.store(LAYERS, 0, one, one),
        lambda: sequence.advance(1),
        lambda: sequence.seal([1]),
        lambda: sequence.fetch(0, 0, array("f", one), array("f", one)),
    )
    for bad in calls:
        with pytest.raises(libinfer.InvalidArgumentError):
            bad()
    with pytest.raises(libinfer.InvalidArgumentError, match="n_layers"):
        KvCache()
    with pytest.raises(libinfer.OptionError, match="kv_type"):
        KvCache(kv_type="f64")
    sequence.close()
    with pytest.raises(libinfer.ClosedError):
        len(sequence)
