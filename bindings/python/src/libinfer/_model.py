"""Loaded models."""

from __future__ import annotations

import ctypes
import json
import os
from ctypes import byref, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Iterator, Literal, Mapping, Sequence

from . import _c, _callbacks
from ._c import OptionValue
from ._callbacks import ProgressFunction
from ._errors import BufferTooSmallError, CancelledError, InferError, NotFoundError
from ._handle import Handle

#: A message of a conversation: role, content, and whatever else the model's chat template knows.
Message = Mapping[str, Any]

SpecialToken = Literal["bos", "eos", "eot", "eom", "unknown", "padding", "separator"]
_SPECIAL: dict[str, int] = {"bos": 1, "eos": 2, "eot": 3, "eom": 4, "unknown": 5, "padding": 6, "separator": 7}


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, in numbers."""

    #: Entries of the vocabulary: token ids are below this.
    n_vocab: int
    #: Width of the residual stream.
    n_embd: int
    #: Layers.
    n_layers: int
    #: Query heads of the first layer.
    n_heads: int
    #: Key/value heads of the first layer.
    n_kv_heads: int
    #: Tokens the model was trained to attend to.
    context_length: int
    #: Whether the file has a chat template.
    has_chat_template: bool
    #: Number of weights.
    n_parameters: int
    #: Bytes of all weights.
    weight_bytes: int
    #: The architecture as the file names it, like "llama".
    architecture: str
    #: The model's name as the file gives it; empty when it gives none.
    name: str
    #: One line for people.
    description: str


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory a model and an engine will take, in bytes."""

    weights: int
    kv_cache: int
    workspace: int
    total: int


class Metadata(Mapping[str, str]):
    """The metadata of a model, in the order of the file: numbers in decimal, arrays as JSON."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __getitem__(self, key: str) -> str:
        if not isinstance(key, str):
            raise KeyError(key)
        name = _c.utf8(key)
        with self._handle as pointer:
            return _c.text_out(_c.lib.infer_model_metadata_get, pointer, name, len(name))

    def __len__(self) -> int:
        with self._handle as pointer:
            return int(_c.lib.infer_model_metadata_count(pointer))

    def __iter__(self) -> Iterator[str]:
        index = 0
        while True:
            key, length = c_void_p(), c_size_t()
            with self._handle as pointer:
                if _c.call(_c.lib.infer_model_metadata_at, pointer, index, byref(key), byref(length)) == _c.END:
                    return
                text = ctypes.string_at(key.value or 0, length.value).decode("utf-8", "replace")
            yield text
            index += 1


class Model:
    """A loaded model: weights, tokenizer, chat template. May be used by several threads and engines at once.

    `path` is a GGUF file; of a split model, the first. `progress` is called with a fraction from 0 to 1 while it
    loads; when it returns False or raises, loading is cancelled. Options are those that
    `libinfer.options("model")` lists.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        progress: ProgressFunction | None = None,
        **options: OptionValue,
    ) -> None:
        name = os.fsencode(path)
        self._load(_c.lib.infer_model_load, name, len(name), progress, options)

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        progress: ProgressFunction | None = None,
        **options: OptionValue,
    ) -> Model:
        """Loads the bytes of a GGUF file; they are not needed afterwards."""
        self = cls.__new__(cls)
        # An array over a writable buffer also keeps it from being resized meanwhile.
        view = memoryview(data)
        if view.readonly or not view.contiguous:
            data = bytes(data)
            pointer = ctypes.cast(ctypes.c_char_p(data), c_void_p)
        else:
            pointer = ctypes.cast((ctypes.c_char * view.nbytes).from_buffer(data), c_void_p)
        self._load(_c.lib.infer_model_load_from_memory, pointer, view.nbytes, progress, options)
        return self

    def _load(
        self, function: Any, source: Any, size: int, progress: ProgressFunction | None, options: dict[str, OptionValue]
    ) -> None:
        watch = _callbacks.Progress(progress)
        loaded = c_void_p()
        with _c.Options("model", options) as pointer:
            with _callbacks.Registered(watch) as number:
                _c.call(_c.lib.infer_model_options_set_progress, pointer, _callbacks.progress, number, _callbacks.free)
            try:
                _c.call(function, source, size, pointer, byref(loaded))
            except CancelledError:
                if watch.raised is not None:
                    raise watch.raised from None
                raise
        assert loaded.value is not None
        self._handle = Handle(loaded.value, _c.lib.infer_model_free, "model")
        if watch.raised is not None:  # Too late to cancel.
            self._handle.close()
            raise watch.raised

    @staticmethod
    def estimate(
        path: str | os.PathLike[str],
        *,
        model: Mapping[str, OptionValue] | None = None,
        engine: Mapping[str, OptionValue] | None = None,
    ) -> MemoryEstimate:
        """How much memory a model and an engine with these options would take, from the file's header alone."""
        name = os.fsencode(path)
        e = _c.sized(_c.MemoryEstimateStruct())
        with _c.Options("model", dict(model or {})) as m, _c.Options("engine", dict(engine or {})) as g:
            _c.call(_c.lib.infer_model_estimate, name, len(name), m, g, byref(e))
        return MemoryEstimate(e.weights, e.kv_cache, e.workspace, e.total)

    @property
    def info(self) -> ModelInfo:
        """The model's numbers and names."""
        i = _c.sized(_c.ModelInfoStruct())
        with self._handle as pointer:
            _c.call(_c.lib.infer_model_get_info, pointer, byref(i))
            names = [(t or b"").decode("utf-8", "replace") for t in (i.architecture, i.name, i.description)]
        return ModelInfo(
            i.n_vocab,
            i.n_embd,
            i.n_layers,
            i.n_heads,
            i.n_kv_heads,
            i.context_length,
            bool(i.has_chat_template),
            i.n_parameters,
            i.weight_bytes,
            *names,
        )

    @property
    def metadata(self) -> Metadata:
        """The metadata of the file."""
        return Metadata(self._handle)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text.

        `add_special` adds the begin and end tokens the model asks for, `parse_special` reads the texts of special
        tokens as these tokens.
        """
        data = _c.utf8(text)
        flags = (1 if add_special else 0) | (2 if parse_special else 0)
        # Few texts have more tokens than bytes, and special ones.
        capacity = len(data) + 8
        while True:
            ids = (c_uint32 * capacity)()
            needed = c_size_t()
            try:
                with self._handle as pointer:
                    _c.call(_c.lib.infer_model_tokenize, pointer, data, len(data), flags, ids, capacity, byref(needed))
                return ids[: needed.value]
            except BufferTooSmallError:
                capacity = needed.value

    def detokenize(self, ids: Sequence[int], *, render_special: bool = False) -> str:
        """The text of token ids; `render_special` writes the texts of special tokens."""
        array = _c.ids_in(ids)
        with self._handle as pointer:
            return _c.text_out(_c.lib.infer_model_detokenize, pointer, array, len(array), 1 if render_special else 0)

    def token_text(self, id: int) -> str:
        """The text of one token, special ones included."""
        (checked,) = _c.ids_in([id])
        with self._handle as pointer:
            return _c.text_out(_c.lib.infer_model_token_text, pointer, checked)

    def special_token(self, kind: SpecialToken) -> int | None:
        """The id of a special token, or None when the model has none."""
        if kind not in _SPECIAL:
            raise ValueError(f"{kind!r} is no special token; there are {', '.join(_SPECIAL)}")
        id = c_uint32()
        try:
            with self._handle as pointer:
                _c.call(_c.lib.infer_model_special_token, pointer, _SPECIAL[kind], byref(id))
        except NotFoundError:
            return None
        return id.value

    def is_end_of_generation(self, id: int) -> bool:
        """Whether a token ends a completion."""
        (checked,) = _c.ids_in([id])
        answer = c_uint32()
        with self._handle as pointer:
            _c.call(_c.lib.infer_model_is_end_of_generation, pointer, checked, byref(answer))
        return answer.value != 0

    def apply_chat_template(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Renders a conversation by the model's chat template."""
        data = messages_json(messages)
        flags = 1 if add_generation_prompt else 0
        with self._handle as pointer:
            return _c.text_out(_c.lib.infer_model_apply_chat_template_json, pointer, data, len(data), flags)

    def close(self) -> None:
        """Frees the model; engines that use it keep its weights."""
        self._handle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            return f"<libinfer.Model {self.info.description}>"
        except InferError as error:
            return f"<libinfer.Model: {error}>"


def messages_json(messages: Sequence[Message]) -> bytes:
    """A conversation as the library reads it."""
    return _c.utf8(json.dumps([dict(message) for message in messages], ensure_ascii=False, allow_nan=False))
