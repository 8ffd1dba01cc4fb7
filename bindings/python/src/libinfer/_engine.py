"""Engines: they schedule the requests of one model and compute them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import threading
import weakref
from ctypes import byref, c_size_t, c_uint32, c_uint64, c_void_p
from types import TracebackType
from typing import Any, Mapping, Sequence, Union

from . import _c, _callbacks
from ._c import OptionValue
from ._callbacks import LogFunction
from ._errors import BufferTooSmallError, InferError, InvalidArgumentError
from ._event import Completion
from ._handle import Handle, close_engine_at_exit
from ._histogram import Histogram, HistogramKind
from ._model import Message, Model, messages_json
from ._queue_reader import Inbox, QueueReader
from ._request import Request
from ._stats import Stats
from ._threads import Threads

#: A text, token ids, or a conversation for the model's chat template.
Prompt = Union[str, bytes, Sequence[int], Sequence[Message]]


def _milliseconds(timeout: float | None) -> int:
    return -1 if timeout is None else max(0, round(timeout * 1e3))


class Engine:
    """Computes the requests of one model on threads of its own, or on a shared pool. May be used from any thread.

    Options are those that `libinfer.options("engine")` lists. `threads` may also be a `Threads` that several engines
    share. `draft` is a smaller model with the same tokens that proposes what the engine's model verifies, unless the
    option `speculation` says otherwise. `log` receives the engine's log records: a logger, or a function that is called with a `LogRecord` on any
    thread. Without it the engine is silent.
    """

    def __init__(
        self,
        model: Model,
        *,
        threads: int | Threads | None = None,
        draft: Model | None = None,
        log: logging.Logger | LogFunction | None = None,
        **options: OptionValue,
    ) -> None:
        pool = threads if isinstance(threads, Threads) else None
        if not isinstance(threads, Threads):
            options["threads"] = threads
        created = c_void_p()
        with _c.Options("engine", options) as pointer:
            if log is not None:
                with _callbacks.Registered(_callbacks.log_function(log)) as number:
                    _c.call(_c.lib.infer_engine_options_set_log, pointer, _callbacks.log, number, _callbacks.free)
            with contextlib.ExitStack() as used:
                if pool is not None:
                    shared = used.enter_context(pool._handle)
                    _c.call(_c.lib.infer_engine_options_set_threads, pointer, shared)
                if draft is not None:
                    smaller = used.enter_context(draft._handle)
                    _c.call(_c.lib.infer_engine_options_set_draft_model, pointer, smaller)
                weights = used.enter_context(model._handle)
                _c.call(_c.lib.infer_engine_create, weights, pointer, byref(created))
        assert created.value is not None
        self._handle = Handle(created.value, _c.lib.infer_engine_free, "engine")
        self._lock = threading.Lock()
        self._readers: list[QueueReader] = []
        self._requests: weakref.WeakValueDictionary[int, Request] = weakref.WeakValueDictionary()
        close_engine_at_exit(self)

    # Requests

    def submit(
        self,
        prompt: Prompt,
        *,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        **options: OptionValue,
    ) -> Request:
        """Submits a request; it never waits for other requests.

        The prompt is a text, token ids, or a conversation: a list of mappings with `role` and `content`. `stop` is
        a text or several that end the completion, `stop_ids` are tokens that do. Options are those that
        `libinfer.options("request")` lists.

        In a running event loop the request reports to the loop: any number of them cost one file descriptor and no
        thread.
        """
        return self._submit([prompt], stop, stop_ids, options)[0]

    def submit_many(
        self,
        prompts: Sequence[Prompt],
        *,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        **options: OptionValue,
    ) -> list[Request]:
        """Submits one request per prompt with the same options: all of them, or none."""
        return self._submit(prompts, stop, stop_ids, options)

    def generate(
        self,
        prompt: Prompt,
        *,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        **options: OptionValue,
    ) -> Completion:
        """Submits a request and waits for its end."""
        with self.submit(prompt, stop=stop, stop_ids=stop_ids, **options) as request:
            return request.result()

    def _submit(
        self,
        prompts: Sequence[Prompt],
        stop: str | Sequence[str],
        stop_ids: Sequence[int],
        options: dict[str, OptionValue],
    ) -> list[Request]:
        reader = self._reader()
        tag = 0
        inboxes: list[Inbox] = []
        submitted = (c_void_p * len(prompts))()
        try:
            with contextlib.ExitStack() as used:
                engine = used.enter_context(self._handle)
                pointers = (c_void_p * len(prompts))()
                for i, prompt in enumerate(prompts):
                    pointers[i] = pointer = used.enter_context(_c.Options("request", options))
                    tag = int(options.get("tag") or 0)  # The library has accepted it.
                    _set_prompt(pointer, prompt)
                    _set_stops(pointer, stop, stop_ids)
                    if reader is not None:
                        inbox = reader.add(tag)
                        inboxes.append(inbox)
                        with reader.handle as queue:
                            _c.call(_c.lib.infer_request_options_set_queue, pointer, queue, inbox.number)
                if len(prompts) == 1:
                    _c.call(_c.lib.infer_engine_submit, engine, pointers[0], submitted)
                elif prompts:
                    _c.call(_c.lib.infer_engine_submit_batch, engine, pointers, len(prompts), submitted)
        except BaseException:
            for inbox in inboxes:
                assert reader is not None
                reader.forget(inbox)
            raise
        requests = []
        for i in range(len(prompts)):
            request = Request(self, submitted[i] or 0, tag, (reader, inboxes[i]) if reader is not None else None)
            self._requests[id(request)] = request
            requests.append(request)
        return requests

    def _reader(self) -> QueueReader | None:
        """What reads for the running event loop, if there is one."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        with self._handle, self._lock:
            self._readers = [r for r in self._readers if not r.loop.is_closed()]
            for reader in self._readers:
                if reader.loop is loop:
                    return reader
            reader = QueueReader(loop)
            self._readers.append(reader)
            return reader

    # The engine's life

    def drain(self, timeout: float | None = None) -> bool:
        """Takes no more requests and waits until those that were taken have ended; False when time ran out."""
        with self._handle as pointer:
            return _c.call(_c.lib.infer_engine_drain, pointer, _milliseconds(timeout)) == _c.OK

    def pause(self) -> None:
        """Stops computing after the current step."""
        with self._handle as pointer:
            _c.call(_c.lib.infer_engine_pause, pointer)

    def resume(self) -> None:
        """Goes on after pause(), and takes requests again after drain()."""
        with self._handle as pointer:
            _c.call(_c.lib.infer_engine_resume, pointer)

    def step(self) -> bool:
        """Computes one step on this thread, for an engine with the option manual_step; False when nothing is left."""
        more = c_uint32()
        with self._handle as pointer:
            _c.call(_c.lib.infer_engine_step, pointer, byref(more))
        return more.value != 0

    def trim(self, bytes: int) -> int:
        """Gives up to that much memory back that is only kept for speed; the answer is how much it was."""
        if not 0 <= bytes < 1 << 64:
            raise InvalidArgumentError(f"{bytes} is no number of bytes")
        freed = c_uint64()
        with self._handle as pointer:
            _c.call(_c.lib.infer_engine_trim, pointer, bytes, byref(freed))
        return freed.value

    def cache_clear(self, salt: str = "") -> None:
        """Forgets cached keys and values of finished requests: those with this salt, or all."""
        data = _c.utf8(salt)
        with self._handle as pointer:
            _c.call(_c.lib.infer_engine_cache_clear, pointer, data, len(data))

    def save_state(self, ids: Sequence[int], salt: str = "") -> bytes:
        """What the prefix cache holds of the longest cached prefix of these ids, for restore_state() elsewhere.

        The bytes hold the ids in the clear. Running requests wait while it is copied.
        """
        data, array = _c.utf8(salt), _c.ids_in(ids)
        capacity = 0
        while True:
            buffer = ctypes.create_string_buffer(capacity) if capacity else None
            needed = c_size_t()
            try:
                with self._handle as pointer:
                    _c.call(
                        _c.lib.infer_engine_state_save,
                        pointer,
                        array,
                        len(array),
                        data,
                        len(data),
                        buffer,
                        capacity,
                        byref(needed),
                    )
                if buffer is not None:
                    return ctypes.string_at(buffer, needed.value)
            except BufferTooSmallError:
                # It grows with requests that are running.
                pass
            capacity = needed.value

    def restore_state(self, state: bytes, salt: str = "") -> int:
        """Brings a saved state into the prefix cache; the answer is how many tokens are cached then.

        A state of another model, element type, CPU level or precision is refused with the reason. Restore only what you
        saved: who writes states can choose what the model takes for the meaning of a prompt.
        """
        data, found = _c.utf8(salt), c_size_t()
        with self._handle as pointer:
            _c.call(
                _c.lib.infer_engine_state_restore, pointer, state, len(state), data, len(data), byref(found)
            )
        return found.value

    def stats(self) -> Stats:
        """A snapshot of the counters."""
        stats = Stats()
        with self._handle as pointer:
            _c.call(_c.lib.infer_engine_stats, pointer, byref(stats))
        return stats

    def histogram(self, kind: HistogramKind) -> Histogram:
        """How often values fell into each bucket."""
        histogram = Histogram()
        with self._handle as pointer:
            _c.call(_c.lib.infer_engine_histogram, pointer, kind, byref(histogram))
        return histogram

    def summary(self) -> str:
        """A report for people: what is on, and what was measured."""
        with self._handle as pointer:
            return _c.text_out(_c.lib.infer_engine_summary, pointer)

    def metrics_text(self) -> str:
        """The counters and histograms in Prometheus' text format."""
        with self._handle as pointer:
            return _c.text_out(_c.lib.infer_engine_metrics_text, pointer)

    def close(self) -> None:
        """Ends its requests as cancelled, and its threads. Requests can still be read to their end."""
        if self._handle.in_use and not self._handle.closed:
            # A thread in drain() returns when they have ended; the last one out frees the engine.
            for request in self._alive():
                try:
                    request.cancel()
                except InferError:
                    pass
        self._handle.close()

    def _alive(self) -> list[Request]:
        # valuerefs() is one step, whatever other threads submit meanwhile.
        alive = [reference() for reference in self._requests.valuerefs()]
        return [request for request in alive if request is not None]

    _at_exit = close

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _set_prompt(pointer: int, prompt: Prompt) -> None:
    lib = _c.lib
    if isinstance(prompt, (str, bytes)):
        data = _c.utf8(prompt)
        _c.call(lib.infer_request_options_set_prompt, pointer, data, len(data))
        return
    items: list[Any] = list(prompt)
    if items and all(isinstance(item, Mapping) for item in items):
        data = messages_json(items)
        _c.call(lib.infer_request_options_set_messages_json, pointer, data, len(data))
    else:
        ids = _c.ids_in(items)
        _c.call(lib.infer_request_options_set_prompt_ids, pointer, ids, len(ids))


def _set_stops(pointer: int, stop: str | Sequence[str], stop_ids: Sequence[int]) -> None:
    for text in [stop] if isinstance(stop, str) else stop:
        data = _c.utf8(text)
        _c.call(_c.lib.infer_request_options_add_stop, pointer, data, len(data))
    for number in _c.ids_in(stop_ids):
        _c.call(_c.lib.infer_request_options_add_stop_id, pointer, number)
