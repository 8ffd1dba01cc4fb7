"""Exceptions: one class per status of the C interface, all of them InferError."""

from __future__ import annotations

from typing import ClassVar


class InferError(Exception):
    """A call failed. The message says what was attempted, on what, what was expected and what was found."""

    #: The number of the status, as in infer.h.
    status: int = -1
    #: The sentence of the library.
    message: str
    _of_class: ClassVar[int] = -1

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = type(self)._of_class if status is None else status

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[InferError], tuple[str, int]]:
        return type(self), (self.message, self.status)


class InternalError(InferError):
    """A defect of libinfer that was caught. The process can go on."""

    _of_class = -1


class InvalidArgumentError(InferError, ValueError):
    """An argument is out of range or contradicts another."""

    _of_class = -2


class OptionError(InvalidArgumentError):
    """There is no option of that name, or its value is not allowed."""


class InvalidHandleError(InferError):
    """A handle is not what it should be."""

    _of_class = -3


class InvalidUtf8Error(InferError, ValueError):
    """Text cannot be written as UTF-8."""

    _of_class = -4


class FileError(InferError, OSError):
    """The operating system refused to open or read a file."""

    _of_class = -5


class InvalidModelError(InferError):
    """A model file is malformed."""

    _of_class = -6


class UnsupportedError(InferError):
    """This version or this build cannot do it."""

    _of_class = -7


class TokenizerError(InferError):
    """Text could not be turned into tokens or back."""

    _of_class = -8


class NoMemoryError(InferError, MemoryError):
    """Memory could not be obtained, or a budget would be exceeded."""

    _of_class = -9


class ContextError(InferError):
    """Prompt and completion do not fit into the context."""

    _of_class = -10


class BusyError(InferError):
    """The engine's queue is full; submit again later."""

    _of_class = -11


class CancelledError(InferError):
    """A callback cancelled the operation."""

    _of_class = -12


class ClosedError(InferError):
    """The engine is draining, or the object was closed."""

    _of_class = -13


class ReentrantError(InferError):
    """Called from inside a callback, or while another thread reads the same request."""

    _of_class = -14


class ForkedError(InferError):
    """Called in a child process for something its parent created."""

    _of_class = -15


class AbiError(InferError, ImportError):
    """The library has another binary interface than these bindings."""

    _of_class = -16


class BufferTooSmallError(InferError):
    """A buffer is too small."""

    _of_class = -17


class NotFoundError(InferError, KeyError):
    """There is no entry of that name."""

    _of_class = -18

    __str__ = InferError.__str__


_CLASSES: dict[int, type[InferError]] = {
    c._of_class: c
    for c in (
        InternalError,
        InvalidArgumentError,
        InvalidHandleError,
        InvalidUtf8Error,
        FileError,
        InvalidModelError,
        UnsupportedError,
        TokenizerError,
        NoMemoryError,
        ContextError,
        BusyError,
        CancelledError,
        ClosedError,
        ReentrantError,
        ForkedError,
        AbiError,
        BufferTooSmallError,
        NotFoundError,
    )
}


def error_of(status: int, message: str) -> InferError:
    """The exception for a status; a number of a later version gives a plain InferError."""
    return _CLASSES.get(status, InferError)(message, status)
