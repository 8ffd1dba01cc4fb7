"""Thread pools that engines may share."""

from __future__ import annotations

from ctypes import byref, c_void_p
from types import TracebackType

from . import _c, _callbacks
from ._c import OptionValue
from ._callbacks import HookFunction
from ._handle import Handle, close_pool_at_exit


class Threads:
    """A pool of worker threads that several engines may share; they take turns.

    Options are those that `libinfer.options("threads")` lists. `on_start` and `on_stop` run on each thread of the
    pool when it starts and before it ends, with its number.
    """

    def __init__(
        self,
        *,
        on_start: HookFunction | None = None,
        on_stop: HookFunction | None = None,
        **options: OptionValue,
    ) -> None:
        o = _c.Options("threads", options)
        with o as pointer:
            if on_start is not None or on_stop is not None:
                with _callbacks.Registered((on_start, on_stop)) as number:
                    _c.call(
                        _c.lib.infer_threads_options_set_hooks,
                        pointer,
                        _callbacks.thread_started,
                        _callbacks.thread_stops,
                        number,
                        _callbacks.free,
                    )
            created = c_void_p()
            _c.call(_c.lib.infer_threads_create, pointer, byref(created))
        assert created.value is not None
        self._handle = Handle(created.value, _c.lib.infer_threads_free, "thread pool")
        close_pool_at_exit(self)

    @property
    def count(self) -> int:
        """The number of threads that compute, that of the engine included."""
        with self._handle as pointer:
            return int(_c.lib.infer_threads_count(pointer))

    def close(self) -> None:
        """Frees the pool; engines that use it keep its threads."""
        self._handle.close()

    _at_exit = close

    def __enter__(self) -> Threads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
