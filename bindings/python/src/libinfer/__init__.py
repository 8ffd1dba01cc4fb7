"""Text generation with GGUF language models on CPUs, inside your process.

    import libinfer

    with libinfer.Model("model.gguf") as model, libinfer.Engine(model) as engine:
        for event in engine.submit("Once upon a time", max_tokens=100):
            print(event.text, end="", flush=True)

A program that wants many completions at once submits many requests: from threads, from asyncio, or with
`Engine.submit_many`. The engine batches them.
"""

from __future__ import annotations

import os

from . import _c
from ._c import OptionValue
from ._callbacks import LogRecord
from ._engine import Engine, Prompt
from ._errors import (
    AbiError,
    BufferTooSmallError,
    BusyError,
    CancelledError,
    ClosedError,
    ContextError,
    FileError,
    ForkedError,
    InferError,
    InternalError,
    InvalidArgumentError,
    InvalidHandleError,
    InvalidModelError,
    InvalidUtf8Error,
    NoMemoryError,
    NotFoundError,
    OptionError,
    ReentrantError,
    TokenizerError,
    UnsupportedError,
)
from ._event import Channel, Completion, Event, Finish, FinishReason
from ._histogram import Histogram, HistogramKind
from ._kernels import Kernels, Numbers
from ._kv_cache import KvBlock, KvCache, KvPin, KvSequence, KvStats, KvType
from ._model import MemoryEstimate, Message, Metadata, Model, ModelInfo
from ._options import OptionInfo, options
from ._options import options as _all_options
from ._request import Request
from ._stats import Stats
from ._threads import Threads

__all__ = [
    "AbiError",
    "BufferTooSmallError",
    "BusyError",
    "CancelledError",
    "Channel",
    "ClosedError",
    "Completion",
    "ContextError",
    "Engine",
    "Event",
    "FileError",
    "Finish",
    "FinishReason",
    "ForkedError",
    "Histogram",
    "HistogramKind",
    "InferError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidHandleError",
    "InvalidModelError",
    "InvalidUtf8Error",
    "Kernels",
    "KvBlock",
    "KvCache",
    "KvPin",
    "KvSequence",
    "KvStats",
    "KvType",
    "LogRecord",
    "MemoryEstimate",
    "Message",
    "Metadata",
    "Model",
    "ModelInfo",
    "NoMemoryError",
    "NotFoundError",
    "Numbers",
    "OptionError",
    "OptionInfo",
    "OptionValue",
    "Prompt",
    "ReentrantError",
    "Request",
    "Stats",
    "Threads",
    "TokenizerError",
    "UnsupportedError",
    "cpu_level",
    "generate",
    "options",
    "version",
]

#: The version of the library that is running.
version: str = _c.lib.infer_version().decode()
__version__ = version


def cpu_level() -> str:
    """The best set of kernels this CPU can run: "scalar"; "sse41", "avx2", "avx_vnni", "avx512" or "avx512_bf16" on x86-64;
    "neon", "neon_dotprod" or "i8mm" on aarch64."""
    return str(_c.lib.infer_cpu_level_name().decode())


def generate(model_path: str | os.PathLike[str], prompt: Prompt, **options: OptionValue) -> Completion:
    """Loads a model, generates one completion, and frees everything.

    Takes the options of models, engines and requests. `threads` is the engine's.
    """
    owners = {o.name: o.object for o in _all_options() if o.object not in ("threads", "kv_cache")}
    split: dict[str, dict[str, OptionValue]] = {"model": {}, "engine": {}, "request": {}}
    for name, value in options.items():
        # The library says what is wrong with an unknown one.
        split[owners.get(name, "request")][name] = value
    # Checked before the model is read.
    for kind, some in split.items():
        with _c.Options(kind, some):
            pass
    threads = split["engine"].pop("threads", None)
    with Model(model_path, **split["model"]) as model:  # type: ignore[arg-type]
        with Engine(model, threads=threads, **split["engine"]) as engine:  # type: ignore[arg-type]
            return engine.generate(prompt, **split["request"])  # type: ignore[arg-type]
