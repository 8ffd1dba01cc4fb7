"""Submitted requests."""

from __future__ import annotations

import asyncio
import threading
import time
from ctypes import byref, c_void_p
from types import TracebackType
from typing import TYPE_CHECKING, AsyncIterator, Generator, Iterator

from . import _c
from ._errors import ClosedError, InferError, ReentrantError
from ._event import Completion, Event, Finish, join, read_event
from ._handle import Handle
from ._queue_reader import SLICE_MS, Inbox, QueueReader

if TYPE_CHECKING:
    from ._engine import Engine


class Request:
    """One submitted completion: iterate over it, or take the whole with `result()`, or await it.

    `for event in request` and `async for event in request` give events until the last, which has `finish`; when the
    completion failed, the error is raised after that. One thread or task may read at a time; `cancel()` and
    `close()` may be called from any.

    A request keeps its engine. When it is collected or closed before its end, it is cancelled.
    """

    def __init__(self, engine: Engine, pointer: int, tag: int, queue: tuple[QueueReader, Inbox] | None) -> None:
        self._engine = engine
        self._handle = Handle(pointer, _c.lib.infer_request_free, "request")
        self._tag = tag
        self._queue = queue
        self._reading = threading.Lock()
        self._finish: Finish | None = None
        self._executed: asyncio.Future[Event | None] | None = None
        self._awaited = False
        self._event = _c.sized(_c.EventStruct())
        self._error = c_void_p()
        self._event_ref = byref(self._event)
        self._error_ref = byref(self._error)

    # Reading

    @property
    def finish(self) -> Finish | None:
        """How it ended; None until the last event was read."""
        return self._finish

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None after the last.

        Raises TimeoutError when none came within `timeout` seconds, and the completion's error after the last event
        when it failed.
        """
        if self._finish is not None:
            self._raise_failure(self._finish)
            return None
        self._enter()
        try:
            end = None if timeout is None else time.monotonic() + timeout
            event = self._wait(end) if self._queue is None else self._wait_queue(*self._queue, end)
            if event.finish is not None:
                self._finish = event.finish
            return event
        finally:
            self._reading.release()

    def _enter(self) -> None:
        if not self._reading.acquire(blocking=False):
            raise ReentrantError("another thread or task is reading this request")

    def _raise_failure(self, finish: Finish) -> None:
        if self._handle.closed:
            raise ClosedError("this request is closed")
        if finish.error is not None:
            raise finish.error

    def _wait(self, end: float | None) -> Event:
        ms = SLICE_MS
        while True:
            if end is not None:
                ms = min(SLICE_MS, max(0, round((end - time.monotonic()) * 1e3)))
            with self._handle as pointer:
                status = _c.lib.infer_request_next(pointer, ms, self._event_ref, self._error_ref)
                if status == _c.OK:
                    return read_event(self._event, self._tag)
            if status < 0:
                raise _c.failure(status, self._error)
            if end is not None and time.monotonic() >= end:
                raise TimeoutError("no event of the request came in time")

    def _wait_queue(self, reader: QueueReader, inbox: Inbox, end: float | None) -> Event:
        self._handle.check()
        event = reader.wait(inbox, end)
        if event is None:
            if inbox.closed:
                raise ClosedError("this request was closed while it was read")
            raise TimeoutError("no event of the request came in time")
        return event

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def result(self, timeout: float | None = None) -> Completion:
        """Waits for the end and gives everything that was not read before.

        Raises the completion's error when it failed, and TimeoutError when it did not end within `timeout` seconds;
        what was read until then is lost.
        """
        end = None if timeout is None else time.monotonic() + timeout
        events: list[Event] = []
        while (event := self.next(None if end is None else max(0.0, end - time.monotonic()))) is not None:
            events.append(event)
        assert self._finish is not None
        return join(events, self._finish)

    # Reading in an event loop

    async def anext(self) -> Event | None:
        """As next(), for a task. Use asyncio.timeout() to limit it; no event is lost by that."""
        if self._finish is not None:
            self._raise_failure(self._finish)
            return None
        loop = asyncio.get_running_loop()
        if self._queue is None or self._queue[0].loop is not loop:
            # Submitted outside of this loop: a thread of the loop's executor reads.
            if self._awaited:
                raise ReentrantError("another task is reading this request")
            executed = self._executed
            if executed is None or executed.get_loop() is not loop:
                executed = self._executed = loop.run_in_executor(None, self.next)
            self._awaited = True
            try:
                # When this task is cancelled the thread goes on, and the next call gets its event.
                event = await asyncio.shield(executed)
            finally:
                self._awaited = False
                if executed.done():
                    self._executed = None
            return event
        self._enter()
        try:
            self._handle.check()
            event = await self._queue[0].wait_in_loop(self._queue[1])
            if event is None:
                raise ClosedError("this request was closed while it was read")
            if event.finish is not None:
                self._finish = event.finish
            return event
        finally:
            self._reading.release()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self.anext()
        if event is None:
            raise StopAsyncIteration
        return event

    async def aresult(self) -> Completion:
        """As result(), for a task; `await request` is the same. When the task is cancelled, so is the request."""
        events: list[Event] = []
        try:
            async for event in self:
                events.append(event)
        except asyncio.CancelledError:
            self.cancel()
            raise
        assert self._finish is not None
        return join(events, self._finish)

    def __await__(self) -> Generator[None, None, Completion]:
        return self.aresult().__await__()

    # Everything else

    @property
    def tag(self) -> int:
        """The tag from the request's options."""
        return self._tag

    @property
    def id(self) -> int:
        """A number that no other request of this process has."""
        with self._handle as pointer:
            return int(_c.lib.infer_request_id(pointer))

    def cancel(self) -> None:
        """Ends it soon; its last event then says so. Twice, or after the end, changes nothing."""
        with self._handle as pointer:
            _c.call(_c.lib.infer_request_cancel, pointer)

    def close(self) -> None:
        """Frees it; when it has not ended it is cancelled. Who reads it gets a ClosedError."""
        if self._handle.in_use and not self._handle.closed:
            try:
                self.cancel()
            except InferError:
                pass  # Closed meanwhile, or from inside a callback.
        self._handle.close()
        if self._queue is not None:
            self._queue[0].forget(self._queue[1])

    def __del__(self) -> None:
        queue = getattr(self, "_queue", None)
        if queue is not None and not _c.forked():
            self._handle.close()
            queue[0].forget(queue[1])

    def __enter__(self) -> Request:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Request:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
