"""Requests read by asyncio."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

import libinfer
from conftest import skip
from libinfer import FinishReason
from libinfer._queue_reader import QueueReader

PROMPTS = [f"Chapter {i}. The prince" for i in range(20)]


@pytest.fixture(params=["descriptor", "thread"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read a queue: the second is for systems without eventfd and loops without add_reader."""
    if request.param == "descriptor":
        loop = asyncio.new_event_loop()
        watches = hasattr(loop, "_add_reader")
        loop.close()
        if not watches:
            skip("this event loop watches no descriptors")
    monkeypatch.setattr(QueueReader, "watch_descriptor", request.param == "descriptor")


def test_twenty_requests_at_once(engine: libinfer.Engine, reading: None) -> None:
    expected = [engine.generate(p, temperature=0, max_tokens=24) for p in PROMPTS]
    threads = threading.active_count()
    most = 0

    async def stream(prompt: str) -> tuple[str, list[int]]:
        nonlocal most
        text, tokens = "", []
        async for event in engine.submit(prompt, temperature=0, max_tokens=24):
            most = max(most, threading.active_count())
            text += event.text
            tokens += event.tokens
        return text, tokens

    async def main() -> list[tuple[str, list[int]]]:
        return await asyncio.gather(*map(stream, PROMPTS))

    assert asyncio.run(main(), debug=True) == [(c.text, c.tokens) for c in expected]
    assert most <= threads + (0 if QueueReader.watch_descriptor else 1)
    assert engine.stats().max_batch > 1


def test_awaiting_gives_the_whole(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> libinfer.Completion:
        async with engine.submit(PROMPTS[0], temperature=0, max_tokens=24) as request:
            return await request

    assert asyncio.run(main()).tokens == engine.generate(PROMPTS[0], temperature=0, max_tokens=24).tokens


def test_other_tasks_run_meanwhile(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> int:
        engine.pause()
        request = engine.submit(PROMPTS[0], max_tokens=4)
        task = asyncio.ensure_future(request.aresult())
        turns = 0
        for _ in range(20):
            await asyncio.sleep(0.005)
            turns += 1
        assert not task.done()
        with pytest.raises(libinfer.ReentrantError):
            await request.anext()
        engine.resume()
        await task
        return turns

    assert asyncio.run(main()) == 20


def test_many_requests_are_submitted_at_once(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> list[str]:
        requests = engine.submit_many(PROMPTS, temperature=0, max_tokens=8, tag=9)
        assert [r.tag for r in requests] == [9] * 20
        return [c.text for c in await asyncio.gather(*requests)]

    assert asyncio.run(main()) == [engine.generate(p, temperature=0, max_tokens=8).text for p in PROMPTS]


def test_waiting_can_time_out_without_losing_events(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> list[int]:
        engine.pause()
        request = engine.submit(PROMPTS[0], temperature=0, max_tokens=8)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(request.anext(), 0.05)
        engine.resume()
        return (await request).tokens

    assert asyncio.run(main()) == engine.generate(PROMPTS[0], temperature=0, max_tokens=8).tokens


def test_a_cancelled_task_cancels_its_request(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> None:
        engine.pause()
        request = engine.submit(PROMPTS[0], max_tokens=1900)
        task = asyncio.ensure_future(request.aresult())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rest = await request
        assert rest.finish.reason is FinishReason.CANCELLED

    asyncio.run(main())


def test_closing_wakes_the_reader(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> None:
        engine.pause()
        request = engine.submit(PROMPTS[0])
        task = asyncio.ensure_future(request.aresult())
        await asyncio.sleep(0.02)
        request.close()
        with pytest.raises(libinfer.ClosedError):
            await asyncio.wait_for(task, 10)

    asyncio.run(main())


def test_closing_the_engine_ends_async_requests(model: libinfer.Model, reading: None) -> None:
    async def main() -> None:
        engine = libinfer.Engine(model)
        await engine.submit(PROMPTS[0], max_tokens=2)
        engine.pause()
        requests = [engine.submit(p, max_tokens=1900) for p in PROMPTS]
        tasks = [asyncio.ensure_future(r.aresult()) for r in requests]
        await asyncio.sleep(0.02)
        engine.close()
        for completion in await asyncio.gather(*tasks):
            assert completion.finish.reason is FinishReason.CANCELLED

    asyncio.run(main())


def test_abandoned_requests_are_cancelled(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> None:
        for prompt in PROMPTS:
            async for _ in engine.submit(prompt, max_tokens=1900, ignore_end_of_generation=True):
                break
        engine.pause()
        for prompt in PROMPTS:
            engine.submit(prompt, max_tokens=1900)
        gc.collect()
        engine.resume()
        for _ in range(1000):
            if engine.stats().running == 0:
                break
            await asyncio.sleep(0.01)
        stats = engine.stats()
        assert stats.running == stats.queued == 0 and stats.requests_cancelled >= 20
        assert len((await engine.submit("x", max_tokens=4)).tokens) > 0

    asyncio.run(main())


def test_requests_of_a_loop_can_be_read_without_it(engine: libinfer.Engine, reading: None) -> None:
    expected = [engine.generate(p, temperature=0, max_tokens=24).tokens for p in PROMPTS]

    async def submit() -> list[libinfer.Request]:
        # As in a notebook: a loop runs, and the code below it does not await.
        requests = [engine.submit(p, temperature=0, max_tokens=24) for p in PROMPTS]
        assert requests[0].result().tokens == expected[0]
        assert (await asyncio.to_thread(requests[1].result)).tokens == expected[1]
        return requests

    requests = asyncio.run(submit())
    got: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: requests[i].result(60).tokens})) for i in range(2, 20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == dict(list(enumerate(expected))[2:])


def test_timeouts_of_a_request_of_a_loop(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> None:
        engine.pause()
        request = engine.submit(PROMPTS[0])
        with pytest.raises(TimeoutError):
            request.next(timeout=0.05)

    asyncio.run(main())


def test_requests_from_elsewhere_can_be_awaited(engine: libinfer.Engine, reading: None) -> None:
    async def submit() -> libinfer.Request:
        return engine.submit(PROMPTS[1], temperature=0, max_tokens=24)

    other = asyncio.run(submit())

    async def main() -> list[libinfer.Completion]:
        engine.pause()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(request.anext(), 0.05)
        task = asyncio.ensure_future(request.aresult())
        await asyncio.sleep(0)
        with pytest.raises(libinfer.ReentrantError):
            await request.anext()
        engine.resume()
        return [await task, await other]

    engine.pause()
    request = engine.submit(PROMPTS[0], temperature=0, max_tokens=24)
    for completion, prompt in zip(asyncio.run(main()), PROMPTS):
        assert completion.tokens == engine.generate(prompt, temperature=0, max_tokens=24).tokens


def test_several_loops_use_one_engine(engine: libinfer.Engine, reading: None) -> None:
    expected = [engine.generate(p, temperature=0, max_tokens=16).tokens for p in PROMPTS]
    got: dict[int, list[list[int]]] = {}

    def run(i: int) -> None:
        async def main() -> list[list[int]]:
            return [
                c.tokens
                for c in await asyncio.gather(*[engine.submit(p, temperature=0, max_tokens=16) for p in PROMPTS])
            ]

        got[i] = asyncio.run(main())

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: expected for i in range(4)}


def test_errors_of_submission_leave_nothing_behind(engine: libinfer.Engine, reading: None) -> None:
    async def main() -> None:
        with pytest.raises(libinfer.OptionError):
            engine.submit("x", nonsense=1)
        with pytest.raises(libinfer.InvalidArgumentError):
            engine.submit_many(["x", [1 << 20]])
        assert engine._readers[0]._inboxes == {}
        assert len((await engine.submit("x", max_tokens=4)).tokens) > 0

    asyncio.run(main())


def test_events_of_a_step_are_taken_together(
    engine: libinfer.Engine, reading: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = 0
    take = QueueReader._take

    def counted(self: QueueReader, timeout_ms: int, in_loop: bool) -> None:
        nonlocal takes
        takes += 1
        take(self, timeout_ms, in_loop)

    monkeypatch.setattr(QueueReader, "_take", counted)

    async def main() -> list[libinfer.Completion]:
        return await asyncio.gather(*engine.submit_many(PROMPTS, max_tokens=32, ignore_end_of_generation=True))

    assert sum(len(c.tokens) for c in asyncio.run(main())) == 20 * 32
    assert takes < 20 * 32 / 4
