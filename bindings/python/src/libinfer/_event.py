"""What a request produces."""

from __future__ import annotations

import enum
from ctypes import string_at
from dataclasses import dataclass
from typing import Any

from . import _c
from ._errors import InferError, error_of


class FinishReason(str, enum.Enum):
    """Why a completion ended."""

    #: max_tokens were generated, or the context is full.
    LENGTH = "length"
    #: A stop text or stop id was found.
    STOP = "stop"
    #: The model produced a token that ends the completion.
    END_OF_GENERATION = "end_of_generation"
    #: It was cancelled, or its engine was closed.
    CANCELLED = "cancelled"
    #: Its deadline passed.
    DEADLINE = "deadline"
    #: It failed.
    ERROR = "error"
    #: A reason that a later version of the library gives.
    OTHER = "other"

    __str__ = str.__str__


class Channel(str, enum.Enum):
    """Which part of the answer a text belongs to."""

    #: The answer itself.
    CONTENT = "content"
    #: Thinking that precedes the answer.
    REASONING = "reasoning"
    #: A call of a tool.
    TOOL = "tool"

    __str__ = str.__str__


_REASONS = {
    1: FinishReason.LENGTH,
    2: FinishReason.STOP,
    3: FinishReason.END_OF_GENERATION,
    4: FinishReason.CANCELLED,
    5: FinishReason.DEADLINE,
    6: FinishReason.ERROR,
}
_CHANNELS = {1: Channel.CONTENT, 2: Channel.REASONING, 3: Channel.TOOL}
_FINISHED = 2


@dataclass(slots=True)
class Finish:
    """How a completion ended. Times are seconds since it was submitted."""

    reason: FinishReason
    #: The stop text that was found, or the number of a stop id.
    stop: str | None
    #: The failure when the reason is ERROR.
    error: InferError | None
    #: Tokens of the prompt.
    prompt_tokens: int
    #: Prompt tokens that did not have to be computed.
    cached_tokens: int
    #: Tokens generated.
    generated_tokens: int
    #: Until the first step that computed something for it.
    queue_time: float
    #: Until the first generated token; 0 when there was none.
    time_to_first_token: float
    #: Until the end.
    total_time: float
    #: Generated tokens after the first, per second.
    decode_tokens_per_second: float


@dataclass(slots=True)
class Event:
    """One event of a request: what was generated since the last one."""

    #: New text, whole code points. It can lag behind the tokens.
    text: str
    #: New token ids.
    tokens: list[int]
    #: Which completion of the request, from 0.
    choice: int
    channel: Channel
    #: The tag from the request's options.
    tag: int
    #: How the completion ended; None but for the last event.
    finish: Finish | None

    @property
    def finished(self) -> bool:
        """Whether this is the last event."""
        return self.finish is not None


@dataclass(slots=True)
class Completion:
    """A whole completion."""

    text: str
    tokens: list[int]
    finish: Finish

    def __str__(self) -> str:
        return self.text


def read_event(e: Any, tag: int) -> Event:
    """Copies an event; what it points to is only lent."""
    n = e.text_len
    text = string_at(e.text, n).decode("utf-8", "replace") if n else ""
    n = e.n_tokens
    tokens = e.tokens[:n] if n else []
    finish = _read_finish(e) if e.kind == _FINISHED else None
    return Event(text, tokens, e.choice, _CHANNELS.get(e.channel, Channel.CONTENT), tag, finish)


def _read_finish(e: Any) -> Finish:
    error = None
    if e.error:
        status = _c.lib.infer_error_status(e.error)
        error = error_of(status, _c.lib.infer_error_message(e.error).decode("utf-8", "replace"))
    return Finish(
        _REASONS.get(e.finish_reason, FinishReason.OTHER),
        string_at(e.stop, e.stop_len).decode("utf-8", "replace") if e.stop else None,
        error,
        e.prompt_tokens,
        e.cached_tokens,
        e.generated_tokens,
        e.queue_time_ns / 1e9,
        e.time_to_first_token_ns / 1e9,
        e.total_time_ns / 1e9,
        e.decode_tokens_per_second,
    )
