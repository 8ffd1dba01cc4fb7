"""Reads the events of all requests that one event loop submitted to one engine, from one completion queue.

The loop watches the queue's file descriptor; where there is none, or the loop cannot watch it, a thread reads. A
thread that iterates such a request without `async` reads the queue itself, for all.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from ctypes import byref, c_int, c_size_t, c_void_p, sizeof

from . import _c
from ._errors import InferError
from ._event import Event, read_event
from ._handle import Handle

_CAPACITY = 64
#: Longest wait inside the library, so that Ctrl-C and close() are noticed.
SLICE_MS = 100
#: A step of a small model is over before Python has handed out what the one before it brought. Events are taken once in
#: this many seconds at most; what came meanwhile is taken together.
_GATHER = 0.001


class Inbox:
    """Events of one request that nobody took yet."""

    __slots__ = ("number", "tag", "events", "waiter", "closed")

    def __init__(self, number: int, tag: int) -> None:
        self.number = number
        self.tag = tag
        self.events: deque[Event] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.closed = False


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class QueueReader:
    """A completion queue and who waits for its events."""

    #: Whether loops are asked to watch the descriptor.
    watch_descriptor = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        queue = c_void_p()
        _c.call(_c.lib.infer_queue_create, byref(queue))
        assert queue.value is not None
        self._handle = Handle(queue.value, _c.lib.infer_queue_free, "queue")
        self._events = (_c.EventStruct * _CAPACITY)()
        self._lent = list(self._events)  # Every index of the array would make an object.
        self._inboxes: dict[int, Inbox] = {}
        self._numbers = itertools.count(1)
        # Guards the four below. Reentrant: a finalizer may run anywhere.
        self._changed = threading.Condition(threading.RLock())
        self._reading = False
        self._thread: threading.Thread | None = None
        self._watched: int | None = None
        # Used by the loop's thread only: events are left to come together before they are taken.
        self._gathering = False
        self._taken = -_GATHER
        self._cannot_watch = not QueueReader.watch_descriptor

    @property
    def handle(self) -> Handle:
        return self._handle

    def add(self, tag: int) -> Inbox:
        """A place for the events of a request that is about to be submitted. To be called in the loop."""
        inbox = Inbox(next(self._numbers), tag)
        with self._changed:
            self._inboxes[inbox.number] = inbox
            self._watch()
            if self._cannot_watch and self._thread is None:
                self._thread = threading.Thread(target=self._read_until_idle, name="libinfer-queue", daemon=True)
                self._thread.start()
        return inbox

    def forget(self, inbox: Inbox) -> None:
        """The request is closed. May be called from a finalizer, on any thread."""
        inbox.closed = True
        self._inboxes.pop(inbox.number, None)
        self._wake(inbox, False)
        if not self._inboxes and self._watched is not None:
            self._later(self._unwatch)

    def _later(self, function: object, *arguments: object) -> None:
        try:
            self.loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
        except RuntimeError:
            pass  # The loop is closed, and nobody waits in it.

    def _watch(self) -> None:
        if self._watched is not None or self._cannot_watch:
            return
        try:
            descriptor = c_int()
            with self._handle as queue:
                _c.call(_c.lib.infer_queue_fd, queue, byref(descriptor))
            # The loop keeps this object, and with it the descriptor, until it is told to forget it.
            self.loop.add_reader(descriptor.value, self._readable)
            self._watched = descriptor.value
        except (InferError, NotImplementedError):
            self._cannot_watch = True

    def _unwatch(self) -> None:
        with self._changed:
            if self._watched is not None and not self._inboxes and not self._gathering:
                self.loop.remove_reader(self._watched)
                self._watched = None

    def _readable(self) -> None:
        since = self.loop.time() - self._taken
        if since >= _GATHER or len(self._inboxes) < 2:
            self._take_in_loop()
        elif self._watched is not None:
            self._gathering = True
            self.loop.remove_reader(self._watched)
            self.loop.call_later(_GATHER - since, self._gathered)

    def _gathered(self) -> None:
        self._gathering = False
        if self._watched is not None:
            self.loop.add_reader(self._watched, self._readable)
        self._take_in_loop()

    def _take_in_loop(self) -> None:
        with self._changed:
            if self._reading:
                return  # Another thread takes them, and wakes us.
            self._reading = True
        try:
            self._take(0, True)
        except BaseException:
            # The descriptor would stay readable, and the loop would come here forever.
            for inbox in list(self._inboxes.values()):
                self.forget(inbox)
            raise
        finally:
            self._leave()
        self._taken = self.loop.time()
        if not self._inboxes:
            self._unwatch()

    def _leave(self) -> None:
        with self._changed:
            self._reading = False
            self._changed.notify_all()

    def _take(self, timeout_ms: int, in_loop: bool) -> None:
        """Takes what is there and hands it out. Only the one who set _reading may."""
        n, error = c_size_t(), c_void_p()
        with self._handle as queue:
            status = _c.lib.infer_queue_next(
                queue, timeout_ms, self._events, _CAPACITY, sizeof(_c.EventStruct), byref(n), byref(error)
            )
            if status < 0:
                raise _c.failure(status, error)
            for lent in self._lent[: n.value]:
                inbox = self._inboxes.get(lent.tag)
                if inbox is None:
                    continue
                event = read_event(lent, inbox.tag)
                if event.finish is not None:
                    self._inboxes.pop(inbox.number, None)
                inbox.events.append(event)
                self._wake(inbox, in_loop)

    def _wake(self, inbox: Inbox, in_loop: bool) -> None:
        waiter = inbox.waiter
        if waiter is None:
            return
        if in_loop:
            _resolve(waiter)
        else:
            self._later(_resolve, waiter)

    def _read_until_idle(self) -> None:
        while True:
            with self._changed:
                if not self._inboxes:
                    self._thread = None
                    return
                if self._reading:
                    self._changed.wait(SLICE_MS / 1e3)
                    continue
                self._reading = True
            try:
                self._take(SLICE_MS, False)
            finally:
                self._leave()
            if len(self._inboxes) > 1:
                time.sleep(_GATHER)

    def wait(self, inbox: Inbox, end: float | None) -> Event | None:
        """The next event of a request, for a thread that may block; None when there is none at the time `end`."""
        while True:
            with self._changed:
                if inbox.events:
                    return inbox.events.popleft()
                if inbox.closed:
                    return None
                left = SLICE_MS if end is None else min(SLICE_MS, max(0, round((end - time.monotonic()) * 1e3)))
                lead = not self._reading
                if lead:
                    self._reading = True
                else:
                    self._changed.wait(left / 1e3)
            if lead:
                try:
                    self._take(left, False)
                finally:
                    self._leave()
            if end is not None and time.monotonic() >= end and not inbox.events:
                return None

    async def wait_in_loop(self, inbox: Inbox) -> Event | None:
        """The next event of a request, for a task of the loop; None when the request was closed."""
        while True:
            if inbox.events:
                return inbox.events.popleft()
            if inbox.closed:
                return None
            waiter = self.loop.create_future()
            inbox.waiter = waiter
            try:
                # An event that another thread added before it could see the waiter.
                if not inbox.events and not inbox.closed:
                    await waiter
            finally:
                inbox.waiter = None
