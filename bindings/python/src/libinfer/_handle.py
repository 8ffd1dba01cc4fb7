"""Handles of the library that may be closed at any time, from any thread."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import Any, Protocol

from . import _c
from ._errors import ClosedError, ForkedError


class Handle:
    """A pointer that is freed when it was closed and no call uses it any more.

    `with handle as pointer:` surrounds every use, and the copying of what the call lends.
    """

    __slots__ = ("_pointer", "_free", "_what", "_lock", "_users", "_closed")

    def __init__(self, pointer: int, free: Any, what: str) -> None:
        self._pointer = pointer
        self._free = free
        self._what = what
        # Reentrant, because a signal handler or a finalizer can close what it interrupted.
        self._lock = threading.RLock()
        self._users = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def in_use(self) -> bool:
        return self._users > 0

    def check(self) -> None:
        """Raises what entering it would raise."""
        if _c.forked():
            raise ForkedError(
                f"this {self._what} was created before this process was forked; only the parent can use it"
            )
        if self._closed:
            raise ClosedError(f"this {self._what} is closed")

    def __enter__(self) -> int:
        if _c.forked():
            self.check()  # Another thread of the parent may have held the lock.
        with self._lock:
            if self._closed:
                self.check()
            self._users += 1
        return self._pointer

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            free = self._closed and self._users == 0
        if free:
            self._free(self._pointer)

    def close(self) -> None:
        """Frees it now, or when the last call that uses it returns."""
        if _c.forked():
            # Another thread of the parent may have held the lock.
            self._closed = True
            return
        with self._lock:
            free = not self._closed and self._users == 0
            self._closed = True
        if free:
            self._free(self._pointer)

    def __del__(self) -> None:
        # Missing when __init__ did not come that far; nobody uses what is collected.
        if getattr(self, "_closed", True):
            return
        self._closed = True
        self._free(self._pointer)


class _AtExit(Protocol):
    def _at_exit(self) -> None: ...


_engines: weakref.WeakSet[_AtExit] = weakref.WeakSet()
_pools: weakref.WeakSet[_AtExit] = weakref.WeakSet()


def close_engine_at_exit(engine: _AtExit) -> None:
    """Threads of the library must not call into an interpreter that has ended."""
    with _registering:
        _engines.add(engine)


def close_pool_at_exit(pool: _AtExit) -> None:
    """As close_engine_at_exit, after all engines."""
    with _registering:
        _pools.add(pool)


_registering = threading.RLock()


@atexit.register
def _close_all() -> None:
    if _c.forked():
        return
    with _registering:
        everything = [*_engines, *_pools]
    for each in everything:
        each._at_exit()
