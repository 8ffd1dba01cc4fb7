"""Completes several prompts at once: they share the steps of one engine, and one event loop reads all.

    python batch.py MODEL MAX_TOKENS PROMPT...

Prints each completion when it ends, marked with the number of its prompt.
"""

import asyncio
import sys

import libinfer


async def complete(request: libinfer.Request, number: int) -> None:
    completion = await request
    print(f"[{number}] {completion.text}")


async def main(path: str, max_tokens: str, *prompts: str) -> None:
    with libinfer.Model(path) as model, libinfer.Engine(model) as engine:
        requests = engine.submit_many(prompts, max_tokens=max_tokens, temperature=0)
        await asyncio.gather(*(complete(request, number) for number, request in enumerate(requests)))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: batch.py MODEL MAX_TOKENS PROMPT...")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except libinfer.InferError as error:
        sys.exit(f"batch: {error}")
