"""The table of options, which is the library's own."""

from __future__ import annotations

from ctypes import byref
from dataclasses import dataclass

from . import _c


@dataclass(frozen=True)
class OptionInfo:
    """One option."""

    #: What it belongs to: "model", "engine", "request", "threads" or "kv_cache".
    object: str
    #: The name of the keyword argument.
    name: str
    #: "bool", "integer", "float", "choice" or "text".
    type: str
    #: The default, as text.
    default: str
    #: The values allowed.
    range: str
    #: What it does, with units.
    doc: str


def options(object: str | None = None) -> list[OptionInfo]:
    """All options of the library, or those of one kind of object."""
    _c.enter()
    found: list[OptionInfo] = []
    for index in range(1 << 16):
        info = _c.sized(_c.OptionInfoStruct())
        if _c.call(_c.lib.infer_options_describe, index, byref(info)) == _c.END:
            break
        texts = (info.object, info.name, info.type_name, info.default_value, info.range, info.doc)
        found.append(OptionInfo(*(text.decode() for text in texts)))
    return [o for o in found if object is None or o.object == object]
