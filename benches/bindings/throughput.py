"""The job of benches/bindings by the Python package: one event loop, and a task per request that reads its events.

    python throughput.py MODEL TOKENS PROMPT...
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import libinfer

# Generated at first and not measured, so that buffers have grown and caches are warm.
WARM_UP = 4


async def read(request: libinfer.Request) -> tuple[list[int], str]:
    """What a request brings."""
    tokens: list[int] = []
    texts: list[str] = []
    async for event in request:
        tokens += event.tokens
        texts.append(event.text)
    assert request.finish is not None and request.finish.reason == libinfer.FinishReason.LENGTH, request.finish
    return tokens, "".join(texts)


async def complete(engine: libinfer.Engine, prompts: list[str], max_tokens: int) -> list[tuple[list[int], str]]:
    """Submits all prompts and reads their events to the end."""
    requests = engine.submit_many(prompts, max_tokens=max_tokens, temperature=0, ignore_end_of_generation=True)
    return await asyncio.gather(*(read(request) for request in requests))


def checksum(streams: list[tuple[list[int], str]]) -> int:
    """FNV-1a over the ids, each as four bytes, and the text of all requests."""
    hash = 0xCBF29CE484222325
    for tokens, text in streams:
        for byte in b"".join(id.to_bytes(4, "little") for id in tokens) + text.encode():
            hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return hash


async def main(path: str, max_tokens: str, *prompts: str) -> None:
    with libinfer.Model(path) as model, libinfer.Engine(model, threads=2, max_running=16) as engine:
        await complete(engine, list(prompts), WARM_UP)

        # This thread is the only one that is not the library's.
        begin, cpu_begin, host_begin = time.perf_counter(), time.process_time(), time.thread_time()
        streams = await complete(engine, list(prompts), int(max_tokens))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
        host = time.thread_time() - host_begin

        tokens = sum(len(ids) for ids, _ in streams)
        result = {
            "tokens": tokens,
            "seconds": round(seconds, 6),
            "tokens_per_second": round(tokens / seconds, 1),
            "us_per_token": round(seconds * 1e6 / tokens, 3),
            "cpu_seconds": round(cpu, 6),
            "host_cpu_seconds": round(host, 6),
            "checksum": f"{checksum(streams):016x}",
        }
        print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: throughput.py MODEL TOKENS PROMPT...")
    asyncio.run(main(*sys.argv[1:]))
