"""What the tests share."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, Iterator

import pytest

import libinfer
from libinfer import _c

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models" / "tolstoy-3m-Q8_0.gguf"


def skip(reason: str) -> None:
    """Skips, or fails where nothing may be skipped."""
    if os.environ.get("LIBINFER_SKIP_NOTHING"):
        pytest.fail(f"nothing may be skipped, but {reason}")
    pytest.skip(f"SKIPPED: {reason}")


def with_chat_template(template: str) -> bytes:
    """The demo model with a chat template, as the bytes of a GGUF file."""
    data = MODEL.read_bytes()
    magic, version, tensors, keys = struct.unpack_from("<4sIQQ", data)
    assert (magic, version) == (b"GGUF", 3)
    key, text = b"tokenizer.chat_template", template.encode()
    # The tensors stay aligned when what is inserted is a multiple of 32 bytes; templates may end with blanks.
    text += b" " * (-(8 + len(key) + 4 + 8 + len(text)) % 32)
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(text)) + text
    return struct.pack("<4sIQQ", magic, version, tensors, keys + 1) + entry + data[24:]


@pytest.fixture(scope="session")
def model() -> Iterator[libinfer.Model]:
    with libinfer.Model(MODEL) as loaded:
        yield loaded


@pytest.fixture
def engine(model: libinfer.Model) -> Iterator[libinfer.Engine]:
    with libinfer.Engine(model, threads=2) as created:
        yield created


def pytest_sessionstart() -> None:
    """With LIBINFER_CALLED set, the functions of the library that are called are written to the file it names."""
    if "LIBINFER_CALLED" not in os.environ:
        return
    called = open(os.environ["LIBINFER_CALLED"], "w")
    for name in _c.PROTOTYPES:
        # ctypes hands every answer to this hook; the first one is enough.
        def note(answer: Any, function: Any, arguments: Any, name: str = name) -> Any:
            if function.noted is False:
                function.noted = True
                print(name, file=called, flush=True)
            return answer

        function = getattr(_c.lib, name)
        function.noted = False
        function.errcheck = note
