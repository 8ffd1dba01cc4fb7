"""What a request produces."""

from __future__ import annotations

import enum
from ctypes import string_at
from dataclasses import dataclass, field
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
    #: With the option logprobs, ln of the probabilities of the tokens, before penalty and temperature.
    logprobs: list[float] = field(default_factory=list)
    #: With the option top_logprobs, for each token the most probable ones in its place, as pairs of id and logprob.
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    #: With the option prompt_logprobs, once, in an event of choice 0: that of each token of the prompt, NaN first.
    prompt_logprobs: list[float] = field(default_factory=list)
    #: With the option embedding, the prompt's embedding, in the last event.
    embedding: list[float] = field(default_factory=list)

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
    #: As those of an Event, of the whole completion.
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    embedding: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text


def read_event(e: Any, tag: int) -> Event:
    """Copies an event; what it points to is only lent."""
    n = e.text_len
    text = string_at(e.text, n).decode("utf-8", "replace") if n else ""
    n = e.n_tokens
    tokens = e.tokens[:n] if n else []
    finish = _read_finish(e) if e.kind == _FINISHED else None
    event = Event(text, tokens, e.choice, _CHANNELS.get(e.channel, Channel.CONTENT), tag, finish)
    if e.logprobs:
        event.logprobs = e.logprobs[:n]
        if k := e.n_top_logprobs:
            pairs = list(zip(e.top_tokens[: n * k], e.top_logprobs[: n * k]))
            event.top_logprobs = [pairs[i : i + k] for i in range(0, n * k, k)]
    if n := e.n_prompt_logprobs:
        event.prompt_logprobs = e.prompt_logprobs[:n]
    if n := e.n_embedding:
        event.embedding = e.embedding[:n]
    return event


def join(events: list[Event], finish: Finish) -> Completion:
    """What events say together."""
    return Completion(
        "".join(e.text for e in events),
        [token for e in events for token in e.tokens],
        finish,
        [logprob for e in events for logprob in e.logprobs],
        [top for e in events for top in e.top_logprobs],
        [logprob for e in events for logprob in e.prompt_logprobs],
        [x for e in events for x in e.embedding],
    )


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
