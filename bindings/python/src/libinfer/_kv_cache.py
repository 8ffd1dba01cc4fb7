"""A cache of keys and values for programs with an attention of their own."""

from __future__ import annotations

from ctypes import Structure, byref, c_double, c_size_t, c_ubyte, c_uint32, c_uint64, c_void_p, sizeof
from types import TracebackType
from typing import Any, Iterable, Iterator, Literal

from . import _c
from ._c import OptionValue
from ._errors import InvalidArgumentError
from ._handle import Handle
from ._kernels import Numbers, _Array

_TYPES = {"f32": 1, "f16": 2, "bf16": 3, "q8": 4}

#: An element type of keys and values.
KvType = Literal["f32", "f16", "bf16", "q8"]


class KvStats(Structure):
    """Counts of a cache since it was created, and its state now. Those that begin with cold_ are 0 without a cold tier."""

    block_bytes: int
    hot_blocks: int
    hot_blocks_used: int
    hot_blocks_cached: int
    hot_bytes: int
    hot_tokens: int
    utilization: float
    tokens_stored: int
    tokens_sealed: int
    lookups: int
    lookup_tokens: int
    hit_tokens: int
    misses: int
    evictions: int
    copies: int
    fetches: int
    tokens_fetched: int
    cold_active: int
    cold_blocks: int
    cold_bytes: int
    cold_budget: int
    cold_hit_tokens: int
    cold_reads: int
    spills: int
    spills_refused: int
    cold_queue_bytes: int

    _fields_ = [
        ("_struct_size", c_uint32),
        ("_reserved", c_uint32),
        ("block_bytes", c_uint64),
        ("hot_blocks", c_uint64),
        ("hot_blocks_used", c_uint64),
        ("hot_blocks_cached", c_uint64),
        ("hot_bytes", c_uint64),
        ("hot_tokens", c_uint64),
        ("utilization", c_double),
        ("tokens_stored", c_uint64),
        ("tokens_sealed", c_uint64),
        ("lookups", c_uint64),
        ("lookup_tokens", c_uint64),
        ("hit_tokens", c_uint64),
        ("misses", c_uint64),
        ("evictions", c_uint64),
        ("copies", c_uint64),
        ("fetches", c_uint64),
        ("tokens_fetched", c_uint64),
        ("cold_active", c_uint64),
        ("cold_blocks", c_uint64),
        ("cold_bytes", c_uint64),
        ("cold_budget", c_uint64),
        ("cold_hit_tokens", c_uint64),
        ("cold_reads", c_uint64),
        ("spills", c_uint64),
        ("spills_refused", c_uint64),
        ("cold_queue_bytes", c_uint64),
    ]


class KvBlock:
    """The part of a view that lies in one block: `keys` and `values` are read-only memoryviews of bytes. Token t begins at
    t * token_stride, its head h at h * head_stride behind that."""

    def __init__(self, block: _c.KvBlockStruct, view: Handle) -> None:
        self.type: str = next(name for name, number in _TYPES.items() if number == block.element_type)
        self.position = int(block.position)
        self.tokens = int(block.n_tokens)
        self.token_stride = int(block.token_stride)
        self.head_stride = int(block.head_stride)
        size = self.tokens * self.token_stride
        self.keys = _lend(block.keys, size, view)
        self.values = _lend(block.values, size, view)


def _lend(address: int, size: int, owner: Handle) -> memoryview:
    """Memory of the library that lives as long as its owner, which the answer keeps."""
    memory: Any = (c_ubyte * size).from_address(address)
    memory._owner = owner
    return memoryview(memory).cast("B").toreadonly()


def _check_number(what: str, number: int) -> int:
    if not 0 <= number < 1 << 63:
        raise InvalidArgumentError(f"{what}: expected a number that is not negative, found {number}")
    return number


class _Closes:
    _handle: Handle

    def close(self) -> None:
        """Frees it now, or when the last call that uses it returns."""
        self._handle.close()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class KvPin(_Closes):
    """Keeps a prefix in memory until it is closed; `len` of it is the number of tokens, 0 where nothing was found."""

    def __init__(self, pointer: int) -> None:
        self._handle = Handle(pointer, _c.lib.infer_kv_pin_free, "pin")

    def __len__(self) -> int:
        with self._handle as pointer:
            return int(_c.lib.infer_kv_pin_length(pointer))

    def __enter__(self) -> KvPin:
        return self


class KvSequence(_Closes):
    """A sequence of tokens of a `KvCache`; `len` of it is the number of tokens that can be read.

    Keys and values are numpy arrays or other buffers of 32-bit floats, or sequences of numbers: token by token, in it
    head by head. With another `type`, which has to be that of the cache, they are buffers of bytes. Any number of threads
    may read, also while one writes; a second writer gets a `BusyError`.
    """

    def __init__(self, pointer: int) -> None:
        self._handle = Handle(pointer, _c.lib.infer_kv_seq_free, "sequence")

    def __len__(self) -> int:
        with self._handle as pointer:
            return int(_c.lib.infer_kv_seq_length(pointer))

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> KvSequence:
        return self

    def token_bytes(self, type: KvType = "f32") -> int:
        """Bytes of the keys of one token and layer, and of its values; 0 for a type that is neither f32 nor the cache's."""
        with self._handle as pointer:
            return int(_c.lib.infer_kv_seq_token_bytes(pointer, _TYPES.get(type, 0)))

    def fork(self) -> KvSequence:
        """A sequence with the same tokens, which shares every block."""
        created = c_void_p()
        with self._handle as pointer:
            _c.call(_c.lib.infer_kv_seq_fork, pointer, byref(created))
        assert created.value is not None
        return KvSequence(created.value)

    def truncate(self, length: int) -> None:
        """Forgets all tokens from a position on."""
        with self._handle as pointer:
            _c.call(_c.lib.infer_kv_seq_truncate, pointer, _check_number("length", length))

    def _arrays(
        self, type: str, n: int | None, keys: Numbers, values: Numbers, writable: bool
    ) -> tuple[_Array, _Array, int]:
        """Both arrays, and of how many tokens they are; the library says what is wrong with a type."""
        kind = "f" if type == "f32" else "B"
        k, v = _Array(keys, kind, "keys", writable), _Array(values, kind, "values", writable)
        size = 4 if kind == "f" else 1
        token = self.token_bytes(type) or size  # type: ignore[arg-type]
        found = k.n * size // token
        if k.n != v.n or found * token != k.n * size or (n is not None and n != found):
            expected = "whole tokens" if n is None else f"{n} tokens"
            raise InvalidArgumentError(
                f"keys and values: expected {expected} of {token} bytes each, found {k.n * size} and {v.n * size} bytes"
            )
        return k, v, found

    def store(self, layer: int, position: int, keys: Numbers, values: Numbers) -> None:
        """Stores one token of a layer."""
        k, v, _ = self._arrays("f32", 1, keys, values, False)
        with self._handle as pointer:
            _c.call(
                _c.lib.infer_kv_cache_store,
                pointer,
                _check_number("layer", layer),
                _check_number("position", position),
                k.pointer,
                v.pointer,
            )

    def store_batch(
        self, layer: int, position: int, keys: Numbers, values: Numbers, *, type: KvType = "f32"
    ) -> None:
        """Stores as many tokens of a layer as the arrays hold. Positions follow on those of the layer without a gap."""
        k, v, n = self._arrays(type, None, keys, values, False)
        with self._handle as pointer:
            _c.call(
                _c.lib.infer_kv_cache_store_batch,
                pointer,
                _check_number("layer", layer),
                _check_number("position", position),
                n,
                _TYPES.get(type, 0),
                k.pointer,
                v.pointer,
            )

    def advance(self, n: int) -> None:
        """Makes n more tokens readable; every layer has to have them."""
        with self._handle as pointer:
            _c.call(_c.lib.infer_kv_cache_advance, pointer, _check_number("n", n))

    def optimal_batch(self) -> int:
        """How many tokens to give to a `store_batch`, measured when it is first asked for. A call from Python costs more
        than what is measured, so more tokens do no harm."""
        n = c_size_t()
        with self._handle as pointer:
            _c.call(_c.lib.infer_kv_cache_optimal_batch, pointer, byref(n))
        return int(n.value)

    def fetch(self, layer: int, position: int, keys: Numbers, values: Numbers, *, type: KvType = "f32") -> None:
        """Fills two writable buffers with as many tokens of a layer as they have room for."""
        k, v, n = self._arrays(type, None, keys, values, True)
        with self._handle as pointer:
            _c.call(
                _c.lib.infer_kv_cache_fetch,
                pointer,
                _check_number("layer", layer),
                _check_number("position", position),
                n,
                _TYPES.get(type, 0),
                k.pointer,
                v.pointer,
            )

    def view(self, layer: int, position: int, n: int) -> Iterator[KvBlock]:
        """n tokens of a layer as they lie in memory, block by block. They stay as they are while a block or one of its
        memoryviews lives."""
        created = c_void_p()
        with self._handle as pointer:
            _c.call(
                _c.lib.infer_kv_cache_view,
                pointer,
                _check_number("layer", layer),
                _check_number("position", position),
                _check_number("n", n),
                byref(created),
            )
        assert created.value is not None
        return _blocks(Handle(created.value, _c.lib.infer_kv_view_free, "view"))

    def seal(self, tokens: Iterable[int]) -> None:
        """Says which tokens the sequence holds from its beginning: its full blocks of 32 tokens are found by them from now
        on."""
        ids = _c.ids_in(tokens)
        with self._handle as pointer:
            _c.call(_c.lib.infer_kv_cache_seal, pointer, ids, len(ids))


def _blocks(view: Handle) -> Iterator[KvBlock]:
    index = 0
    while True:
        block = _c.sized(_c.KvBlockStruct())
        with view as pointer:
            if _c.call(_c.lib.infer_kv_view_block, pointer, index, byref(block)) == _c.END:
                return
        yield KvBlock(block, view)
        index += 1


class KvCache(_Closes):
    """Keys and values of sequences in blocks of 32 tokens, which share what they have in common, in memory and, with a cold
    tier, in a directory.

    Options are those that `libinfer.options("kv_cache")` lists; n_layers, n_kv_heads and head_dim have to be set. Any
    number of threads may use it at the same time.
    """

    def __init__(self, **options: OptionValue) -> None:
        created = c_void_p()
        with _c.Options("kv_cache", options) as o:
            _c.call(_c.lib.infer_kv_cache_create, o, byref(created))
        assert created.value is not None
        self._handle = Handle(created.value, _c.lib.infer_kv_cache_free, "key/value cache")

    def __enter__(self) -> KvCache:
        return self

    def open(self, salt: str = "") -> KvSequence:
        """An empty sequence; what it seals is found below the same salt only."""
        created, text = c_void_p(), _c.utf8(salt)
        with self._handle as pointer:
            _c.call(_c.lib.infer_kv_seq_open, pointer, text, len(text), byref(created))
        assert created.value is not None
        return KvSequence(created.value)

    def _find(self, function: Any, tokens: Iterable[int], salt: str) -> int:
        created, text, ids = c_void_p(), _c.utf8(salt), _c.ids_in(tokens)
        with self._handle as pointer:
            _c.call(function, pointer, text, len(text), ids, len(ids), byref(created))
        assert created.value is not None
        return created.value

    def lookup(self, tokens: Iterable[int], salt: str = "") -> KvSequence:
        """A sequence that begins with the longest prefix of the tokens that was sealed below the salt; it may be empty."""
        return KvSequence(self._find(_c.lib.infer_kv_cache_lookup, tokens, salt))

    def pin(self, tokens: Iterable[int], salt: str = "") -> KvPin:
        """Keeps the longest prefix of the tokens that was sealed below the salt in memory until the answer is closed."""
        return KvPin(self._find(_c.lib.infer_kv_cache_pin, tokens, salt))

    def stats(self) -> KvStats:
        """A snapshot of the counters."""
        stats = KvStats()
        stats._struct_size = sizeof(stats)
        with self._handle as pointer:
            _c.call(_c.lib.infer_kv_cache_stats, pointer, byref(stats))
        return stats
