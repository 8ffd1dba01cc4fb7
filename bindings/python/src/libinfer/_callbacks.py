"""Callbacks of the library into Python.

C sees three functions that live forever, and a number. The number finds the Python function here, until the library
says that it needs it no more: nothing depends on the order in which objects are collected.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
from ctypes import c_void_p, py_object, pythonapi
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Callable

from . import _c

_functions: dict[int, Any] = {}
_numbers = itertools.count(1)


@dataclass(frozen=True)
class LogRecord:
    """One log record of an engine."""

    #: A level of the logging module.
    level: int
    #: The part of the library that speaks, like "engine".
    target: str
    #: A sentence.
    message: str
    #: Keys and values.
    fields: dict[str, Any] = field(default_factory=dict)


ProgressFunction = Callable[[float], bool | None]
LogFunction = Callable[[LogRecord], None]
HookFunction = Callable[[int], None]
_LEVELS = {1: logging.ERROR, 2: logging.WARNING, 3: logging.INFO, 4: logging.DEBUG}


@dataclass
class _Unraisable:
    """What sys.unraisablehook takes."""

    exc_type: type[BaseException]
    exc_value: BaseException | None
    exc_traceback: TracebackType | None
    err_msg: str | None
    object: Any


def _report(what: str, error: BaseException) -> None:
    """Reports an exception, which must not cross into C."""
    sys.unraisablehook(
        _Unraisable(type(error), error, error.__traceback__, f"Exception ignored in the {what} of libinfer", None)
    )


def _level(number: int) -> int:
    return _LEVELS.get(number, logging.DEBUG)


def _decode(text: bytes | None) -> str:
    return (text or b"").decode("utf-8", "replace")


def _free(user_data: int, forget: Callable[[int, None], Any] = _functions.pop) -> None:
    """Forgets a function; called by the library, once. Uses no globals, which an ending interpreter has not."""
    forget(user_data, None)


def _log(record: Any, user_data: int) -> None:
    """Gives a record to the function it is for."""
    try:
        function = _functions.get(user_data)
        if function is not None:
            r = record.contents
            fields = json.loads(_decode(r.fields_json) or "{}")
            function(LogRecord(_level(r.level), _decode(r.target), _decode(r.message), fields))
    except BaseException as error:
        _report("log callback", error)


class Progress:
    """Told about the progress of one load; keeps what the user's function raised."""

    def __init__(self, function: ProgressFunction | None) -> None:
        self._function = function
        self.raised: BaseException | None = None

    def __call__(self, fraction: float) -> bool:
        return self._function is None or self._function(fraction) is not False


def _progress(fraction: float, user_data: int) -> int:
    """Asks whether to go on. An exception, Ctrl-C included, cancels the load, which then raises it."""
    load = None
    try:
        load = _functions.get(user_data)
        return 1 if load is None or load(fraction) else 0
    except BaseException as error:
        if load is not None:
            load.raised = error
        return 0


def _thread_started(index: int, user_data: int) -> None:
    """Runs a pool's on_start."""
    _hook(0, index, user_data)


def _thread_stops(index: int, user_data: int) -> None:
    """Runs a pool's on_stop."""
    _hook(1, index, user_data)


def _hook(which: int, index: int, user_data: int) -> None:
    try:
        pair = _functions.get(user_data)
        if pair is not None and pair[which] is not None:
            pair[which](index)
    except BaseException as error:
        _report("thread hook", error)


class Registered:
    """A function registered while it is handed to the library; taken back when that fails."""

    def __init__(self, function: Any) -> None:
        self._number = next(_numbers)
        _functions[self._number] = function

    def __enter__(self) -> c_void_p:
        return c_void_p(self._number)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            _functions.pop(self._number, None)


class _LoggerBridge:
    """Writes records of an engine to a logger."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __call__(self, record: LogRecord) -> None:
        extra = {"infer_target": record.target, "infer_fields": record.fields}
        self._logger.log(record.level, "%s: %s", record.target, record.message, extra=extra)


def log_function(log: logging.Logger | LogFunction) -> LogFunction:
    """What takes the records."""
    return _LoggerBridge(log) if isinstance(log, logging.Logger) else log


# What C sees.
free = _c.FREE(_free)
log = _c.LOG(_log)
progress = _c.PROGRESS(_progress)
thread_started = _c.HOOK(_thread_started)
thread_stops = _c.HOOK(_thread_stops)

# Modules are emptied when the interpreter ends, but a handle freed after that still calls `free`.
for _function in (free, log, progress, thread_started, thread_stops):
    pythonapi.Py_IncRef(py_object(_function))
