"""Prints the version, what the CPU can do, and all options."""

from __future__ import annotations

import textwrap

from . import cpu_level, options, version


def main() -> None:
    print(f"libinfer {version}, kernels for this CPU: {cpu_level()}")
    names = {
        "model": "a model",
        "engine": "an engine",
        "request": "a request",
        "threads": "threads",
        "kv_cache": "a key/value cache",
    }
    for kind, name in names.items():
        print(f"\nOptions of {name}:")
        for option in options(kind):
            default = option.default or "empty"
            print(f"  {option.name} ({option.type}, {option.range}; default {default})")
            print(textwrap.indent(textwrap.fill(option.doc, 110), "      "))


if __name__ == "__main__":
    main()
