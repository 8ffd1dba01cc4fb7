"""The C interface: the shared library, its structs and its functions, as include/infer.h has them."""

from __future__ import annotations

import ctypes
import operator
import os
import sys
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_ubyte,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from pathlib import Path
from typing import Any, Callable

from ._errors import AbiError, ForkedError, InferError, InvalidArgumentError, OptionError, error_of

ABI_VERSION = 1
OK, TIMEOUT, END, BUFFER_TOO_SMALL, NOT_FOUND = 0, 1, 2, -17, -18


class OptionInfoStruct(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("object", c_char_p),
        ("name", c_char_p),
        ("type_name", c_char_p),
        ("default_value", c_char_p),
        ("range", c_char_p),
        ("doc", c_char_p),
    ]


class LogRecordStruct(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("level", c_uint32),
        ("target", c_char_p),
        ("message", c_char_p),
        ("fields_json", c_char_p),
    ]


class ModelInfoStruct(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_vocab", c_uint32),
        ("n_embd", c_uint32),
        ("n_layers", c_uint32),
        ("n_heads", c_uint32),
        ("n_kv_heads", c_uint32),
        ("context_length", c_uint32),
        ("has_chat_template", c_uint32),
        ("n_parameters", c_uint64),
        ("weight_bytes", c_uint64),
        ("architecture", c_char_p),
        ("name", c_char_p),
        ("description", c_char_p),
    ]


class MemoryEstimateStruct(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("weights", c_uint64),
        ("kv_cache", c_uint64),
        ("workspace", c_uint64),
        ("total", c_uint64),
    ]


class EventStruct(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("kind", c_uint32),
        ("tag", c_uint64),
        ("choice", c_uint32),
        ("channel", c_uint32),
        ("text", c_void_p),
        ("text_len", c_size_t),
        ("tokens", POINTER(c_uint32)),
        ("n_tokens", c_size_t),
        ("finish_reason", c_uint32),
        ("reserved", c_uint32),
        ("stop", c_void_p),
        ("stop_len", c_size_t),
        ("error", c_void_p),
        ("prompt_tokens", c_uint64),
        ("cached_tokens", c_uint64),
        ("generated_tokens", c_uint64),
        ("queue_time_ns", c_uint64),
        ("time_to_first_token_ns", c_uint64),
        ("total_time_ns", c_uint64),
        ("decode_tokens_per_second", c_double),
        ("logprobs", POINTER(c_float)),
        ("top_tokens", POINTER(c_uint32)),
        ("top_logprobs", POINTER(c_float)),
        ("n_top_logprobs", c_size_t),
        ("prompt_logprobs", POINTER(c_float)),
        ("n_prompt_logprobs", c_size_t),
        ("embedding", POINTER(c_float)),
        ("n_embedding", c_size_t),
    ]


class KvBlockStruct(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("element_type", c_uint32),
        ("position", c_size_t),
        ("n_tokens", c_size_t),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("token_stride", c_size_t),
        ("head_stride", c_size_t),
    ]


PROGRESS = CFUNCTYPE(c_uint32, c_float, c_void_p)
FREE = CFUNCTYPE(None, c_void_p)
LOG = CFUNCTYPE(None, POINTER(LogRecordStruct), c_void_p)
HOOK = CFUNCTYPE(None, c_uint32, c_void_p)

_S = c_int32
_H = c_void_p  # a handle
_HP = POINTER(c_void_p)  # where a handle is written to
_T, _N = c_char_p, c_size_t  # text and its length
_U32P, _U64P, _NP, _TP = POINTER(c_uint32), POINTER(c_uint64), POINTER(c_size_t), POINTER(c_char_p)
_E = POINTER(c_void_p)  # infer_error **
_OUT = (c_void_p, _N, _NP)  # buffer, capacity, needed
_A = c_void_p  # an array of numbers
_FP = POINTER(c_float)

# name: (what it answers, its arguments)
PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "infer_version": (c_char_p, ()),
    "infer_cpu_level_name": (c_char_p, ()),
    "infer_abi_check": (_S, (c_uint32, _E)),
    "infer_status_name": (c_char_p, (c_int32,)),
    "infer_error_message": (c_char_p, (_H,)),
    "infer_error_status": (c_int32, (_H,)),
    "infer_error_free": (None, (_H,)),
    "infer_options_describe": (_S, (c_size_t, POINTER(OptionInfoStruct), _E)),
    "infer_model_options_new": (_H, ()),
    "infer_model_options_free": (None, (_H,)),
    "infer_model_options_set": (_S, (_H, _T, _T, _E)),
    "infer_model_options_set_progress": (_S, (_H, PROGRESS, c_void_p, FREE, _E)),
    "infer_engine_options_new": (_H, ()),
    "infer_engine_options_free": (None, (_H,)),
    "infer_engine_options_set": (_S, (_H, _T, _T, _E)),
    "infer_engine_options_set_log": (_S, (_H, LOG, c_void_p, FREE, _E)),
    "infer_engine_options_set_threads": (_S, (_H, _H, _E)),
    "infer_engine_options_set_draft_model": (_S, (_H, _H, _E)),
    "infer_request_options_new": (_H, ()),
    "infer_request_options_free": (None, (_H,)),
    "infer_request_options_reset": (_S, (_H, _E)),
    "infer_request_options_copy": (_S, (_H, _HP, _E)),
    "infer_request_options_set": (_S, (_H, _T, _T, _E)),
    "infer_request_options_set_prompt": (_S, (_H, _T, _N, _E)),
    "infer_request_options_set_prompt_ids": (_S, (_H, _U32P, _N, _E)),
    "infer_request_options_set_messages": (_S, (_H, _TP, _TP, _NP, _N, _E)),
    "infer_request_options_set_messages_json": (_S, (_H, _T, _N, _E)),
    "infer_request_options_set_max_tokens": (_S, (_H, c_uint64, _E)),
    "infer_request_options_set_temperature": (_S, (_H, c_double, _E)),
    "infer_request_options_set_seed": (_S, (_H, c_uint64, _E)),
    "infer_request_options_set_tag": (_S, (_H, c_uint64, _E)),
    "infer_request_options_add_stop": (_S, (_H, _T, _N, _E)),
    "infer_request_options_add_stop_id": (_S, (_H, c_uint32, _E)),
    "infer_request_options_set_queue": (_S, (_H, _H, c_uint64, _E)),
    "infer_threads_options_new": (_H, ()),
    "infer_threads_options_free": (None, (_H,)),
    "infer_threads_options_set": (_S, (_H, _T, _T, _E)),
    "infer_threads_options_set_hooks": (_S, (_H, HOOK, HOOK, c_void_p, FREE, _E)),
    "infer_threads_create": (_S, (_H, _HP, _E)),
    "infer_threads_free": (None, (_H,)),
    "infer_threads_count": (c_uint32, (_H,)),
    "infer_model_load": (_S, (_T, _N, _H, _HP, _E)),
    "infer_model_load_from_memory": (_S, (c_void_p, _N, _H, _HP, _E)),
    "infer_model_free": (None, (_H,)),
    "infer_model_get_info": (_S, (_H, POINTER(ModelInfoStruct), _E)),
    "infer_model_estimate": (_S, (_T, _N, _H, _H, POINTER(MemoryEstimateStruct), _E)),
    "infer_model_metadata_count": (c_size_t, (_H,)),
    "infer_model_metadata_at": (_S, (_H, c_size_t, POINTER(c_void_p), _NP, _E)),
    "infer_model_metadata_get": (_S, (_H, _T, _N, *_OUT, _E)),
    "infer_model_tokenize": (_S, (_H, _T, _N, c_uint32, _U32P, _N, _NP, _E)),
    "infer_model_detokenize": (_S, (_H, _U32P, _N, c_uint32, *_OUT, _E)),
    "infer_model_token_text": (_S, (_H, c_uint32, *_OUT, _E)),
    "infer_model_special_token": (_S, (_H, c_uint32, _U32P, _E)),
    "infer_model_is_end_of_generation": (_S, (_H, c_uint32, _U32P, _E)),
    "infer_model_apply_chat_template": (_S, (_H, _TP, _TP, _NP, _N, c_uint32, *_OUT, _E)),
    "infer_model_apply_chat_template_json": (_S, (_H, _T, _N, c_uint32, *_OUT, _E)),
    "infer_engine_create": (_S, (_H, _H, _HP, _E)),
    "infer_engine_free": (None, (_H,)),
    "infer_engine_submit": (_S, (_H, _H, _HP, _E)),
    "infer_engine_submit_batch": (_S, (_H, _HP, _N, _HP, _E)),
    "infer_engine_wait": (_S, (_H, c_int64, _HP, _N, _NP, _E)),
    "infer_engine_drain": (_S, (_H, c_int64, _E)),
    "infer_engine_pause": (_S, (_H, _E)),
    "infer_engine_resume": (_S, (_H, _E)),
    "infer_engine_trim": (_S, (_H, c_uint64, _U64P, _E)),
    "infer_engine_cache_clear": (_S, (_H, _T, _N, _E)),
    "infer_engine_state_save": (_S, (_H, _U32P, _N, _T, _N, *_OUT, _E)),
    "infer_engine_state_restore": (_S, (_H, c_void_p, _N, _T, _N, _NP, _E)),
    "infer_engine_step": (_S, (_H, _U32P, _E)),
    "infer_engine_stats": (_S, (_H, c_void_p, _E)),
    "infer_engine_histogram": (_S, (_H, c_uint32, c_void_p, _E)),
    "infer_engine_summary": (_S, (_H, *_OUT, _E)),
    "infer_engine_metrics_text": (_S, (_H, *_OUT, _E)),
    "infer_request_next": (_S, (_H, c_int64, POINTER(EventStruct), _E)),
    "infer_request_next_many": (_S, (_H, c_int64, POINTER(EventStruct), _N, _N, _NP, _E)),
    "infer_request_cancel": (_S, (_H, _E)),
    "infer_request_free": (None, (_H,)),
    "infer_request_tag": (c_uint64, (_H,)),
    "infer_request_id": (c_uint64, (_H,)),
    "infer_queue_create": (_S, (_HP, _E)),
    "infer_queue_free": (None, (_H,)),
    "infer_queue_next": (_S, (_H, c_int64, POINTER(EventStruct), _N, _N, _NP, _E)),
    "infer_queue_fd": (_S, (_H, POINTER(c_int), _E)),
    "infer_stats_delta": (_S, (c_void_p, c_void_p, c_void_p, _E)),
    "infer_stats_merge": (_S, (c_void_p, c_void_p, _E)),
    "infer_histogram_quantile": (_S, (c_void_p, c_double, POINTER(c_double), _E)),
    "infer_histogram_delta": (_S, (c_void_p, c_void_p, c_void_p, _E)),
    "infer_histogram_merge": (_S, (c_void_p, c_void_p, _E)),
    "infer_kernels_create": (_S, (_T, _HP, _E)),
    "infer_kernels_free": (None, (_H,)),
    "infer_kernels_level": (c_char_p, (_H,)),
    "infer_kernels_level_at": (c_char_p, (_N,)),
    "infer_kernels_dot": (_S, (_H, _A, _A, _N, _FP, _E)),
    "infer_kernels_dot_kahan": (_S, (_H, _A, _A, _N, _FP, _E)),
    "infer_kernels_sum": (_S, (_H, _A, _N, _FP, _E)),
    "infer_kernels_matmul": (_S, (_H, _A, _A, _N, _N, _N, _A, _E)),
    "infer_kernels_matmul_i8": (_S, (_H, _A, _A, _N, _N, _N, _A, _E)),
    "infer_kernels_add": (_S, (_H, _A, _A, _N, _A, _E)),
    "infer_kernels_mul": (_S, (_H, _A, _A, _N, _A, _E)),
    "infer_kernels_relu": (_S, (_H, _A, _N, _A, _E)),
    "infer_kernels_silu": (_S, (_H, _A, _N, _A, _E)),
    "infer_kernels_gelu": (_S, (_H, _A, _N, _A, _E)),
    "infer_kernels_sigmoid": (_S, (_H, _A, _N, _A, _E)),
    "infer_kernels_softmax": (_S, (_H, _A, _N, _A, _E)),
    "infer_kernels_rms_norm": (_S, (_H, _A, _A, _N, c_float, _A, _E)),
    "infer_kernels_layer_norm": (_S, (_H, _A, _A, _A, _N, c_float, _A, _E)),
    "infer_kernels_rope": (_S, (_H, _A, _N, _N, _A, _A, _N, c_uint32, _E)),
    "infer_kernels_dequantize": (_S, (_H, _T, _A, _N, _N, _A, _E)),
    "infer_kernels_quantize": (_S, (_H, _T, _A, _N, _A, _N, _E)),
    "infer_kv_cache_options_new": (_H, ()),
    "infer_kv_cache_options_free": (None, (_H,)),
    "infer_kv_cache_options_set": (_S, (_H, _T, _T, _E)),
    "infer_kv_cache_create": (_S, (_H, _HP, _E)),
    "infer_kv_cache_free": (None, (_H,)),
    "infer_kv_cache_lookup": (_S, (_H, _T, _N, _U32P, _N, _HP, _E)),
    "infer_kv_cache_pin": (_S, (_H, _T, _N, _U32P, _N, _HP, _E)),
    "infer_kv_cache_stats": (_S, (_H, c_void_p, _E)),
    "infer_kv_cache_store": (_S, (_H, c_uint32, _N, _A, _A, _E)),
    "infer_kv_cache_store_batch": (_S, (_H, c_uint32, _N, _N, c_uint32, _A, _A, _E)),
    "infer_kv_cache_advance": (_S, (_H, _N, _E)),
    "infer_kv_cache_optimal_batch": (_S, (_H, _NP, _E)),
    "infer_kv_cache_fetch": (_S, (_H, c_uint32, _N, _N, c_uint32, _A, _A, _E)),
    "infer_kv_cache_view": (_S, (_H, c_uint32, _N, _N, _HP, _E)),
    "infer_kv_cache_seal": (_S, (_H, _U32P, _N, _E)),
    "infer_kv_seq_open": (_S, (_H, _T, _N, _HP, _E)),
    "infer_kv_seq_fork": (_S, (_H, _HP, _E)),
    "infer_kv_seq_truncate": (_S, (_H, _N, _E)),
    "infer_kv_seq_length": (c_size_t, (_H,)),
    "infer_kv_seq_token_bytes": (c_size_t, (_H, c_uint32)),
    "infer_kv_seq_free": (None, (_H,)),
    "infer_kv_pin_length": (c_size_t, (_H,)),
    "infer_kv_pin_free": (None, (_H,)),
    "infer_kv_view_block": (_S, (_H, _N, POINTER(KvBlockStruct), _E)),
    "infer_kv_view_free": (None, (_H,)),
}


def _load() -> ctypes.CDLL:
    name = {"darwin": "libinfer.dylib", "win32": "infer.dll"}.get(sys.platform, "libinfer.so")
    path = os.environ.get("LIBINFER_LIBRARY") or str(Path(__file__).with_name(name))
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"the library of libinfer, {path}, could not be loaded: {error}", path=path) from error
    for function, (answer, arguments) in PROTOTYPES.items():
        try:
            symbol = getattr(library, function)
        except AttributeError:
            raise AbiError(f"{path} has no function {function}: it is another version of libinfer") from None
        symbol.restype = answer
        symbol.argtypes = arguments
    return library


# ctypes.CDLL releases the global interpreter lock around every call.
lib: Any = _load()


class _Process:
    """What this process did with the library."""

    entered = False
    forked = False


def enter() -> None:
    """To be called before anything is created. The first call checks the binary interface.

    That is not done when the module is imported, because a process that only imported it may still fork children
    that use the library.
    """
    if _Process.forked:
        raise ForkedError("libinfer was used before this process was forked: it has to be used by the parent only")
    if not _Process.entered:
        error = c_void_p()
        status = lib.infer_abi_check(ABI_VERSION, ctypes.byref(error))
        if status != OK:
            raise failure(status, error)
        _Process.entered = True


def forked() -> bool:
    """Whether what the parent process created cannot be used here."""
    return _Process.forked


def _after_fork() -> None:
    _Process.forked = _Process.entered


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def failure(status: int, error: c_void_p) -> InferError:
    """Takes an infer_error over and makes an exception of it."""
    if error.value is None:
        return error_of(status, f"the call failed with {lib.infer_status_name(status).decode()}")
    message = lib.infer_error_message(error).decode("utf-8", "replace")
    lib.infer_error_free(error)
    return error_of(status, message)


def call(function: Any, *arguments: Any) -> int:
    """Calls a function whose last argument is the error; negative statuses become exceptions."""
    error = c_void_p()
    status: int = function(*arguments, ctypes.byref(error))
    if status < 0:
        raise failure(status, error)
    return status


def utf8(text: str | bytes) -> bytes:
    """Text for the library, which names the first byte that is not UTF-8."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)


def text_out(function: Any, *arguments: Any) -> str:
    """Calls a function that copies text into a buffer, with a buffer that is large enough."""
    capacity = 1024
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        needed, error = c_size_t(), c_void_p()
        status = function(*arguments, buffer, capacity, ctypes.byref(needed), ctypes.byref(error))
        if status >= 0:
            return buffer.raw[: needed.value - 1].decode("utf-8", "replace")
        problem = failure(status, error)
        if status != BUFFER_TOO_SMALL or needed.value <= capacity:
            raise problem
        # A report can grow between two calls.
        capacity = needed.value + needed.value // 4


def ids_in(ids: Any) -> Any:
    """An array of token ids."""
    values = []
    for i, value in enumerate(ids):
        try:
            values.append(operator.index(value))
        except TypeError:
            values.append(-1)
        # ctypes would silently keep the low 32 bits.
        if not 0 <= values[i] < 1 << 32:
            raise InvalidArgumentError(f"the token id {value!r} at index {i} is not a number from 0 to {(1 << 32) - 1}")
    return (c_uint32 * len(values))(*values)


OptionValue = bool | int | float | str | None


class Options:
    """An options object of the library, freed when the block ends."""

    def __init__(self, kind: str, options: dict[str, OptionValue]) -> None:
        enter()
        self._set = getattr(lib, f"infer_{kind}_options_set")
        self._free: Callable[[int], None] = getattr(lib, f"infer_{kind}_options_free")
        pointer = getattr(lib, f"infer_{kind}_options_new")()
        if not pointer:
            raise MemoryError(f"options of the {kind} could not be allocated")
        self.pointer: int = pointer
        try:
            for key, value in options.items():
                self._put(key, value)
        except BaseException:
            self._free(self.pointer)
            raise

    def _put(self, key: str, value: OptionValue) -> None:
        if value is None:
            return
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, (int, float)):
            text = repr(value)
        elif isinstance(value, str):
            text = value
        else:
            raise OptionError(f"the option {key} is a {type(value).__name__}; it has to be a bool, int, float or str")
        if "\0" in text or "\0" in key:
            raise OptionError(f"the option {key!r} contains a NUL character")
        try:
            call(self._set, self.pointer, utf8(key), utf8(text))
        except InferError as error:
            if error.status != OptionError._of_class:
                raise
            raise OptionError(error.message) from None

    def __enter__(self) -> int:
        return self.pointer

    def __exit__(self, *_: object) -> None:
        self._free(self.pointer)


def sized(struct: Any) -> Any:
    """Sets a struct's size."""
    struct.struct_size = sizeof(struct)
    return struct
