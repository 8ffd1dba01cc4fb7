"""Engines and requests, read by threads."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import libinfer
from conftest import MODEL, ROOT, skip
from libinfer import FinishReason

PROMPT = "Prince Andrew looked at the sky"


def test_greedy_text_is_that_of_the_command(engine: libinfer.Engine) -> None:
    folders = [Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / mode for mode in ("release", "debug")]
    command = next((f / "infer" for f in folders if (f / "infer").is_file()), None)
    if command is None:
        skip(f"no infer command was built in {folders[0]} or {folders[1]}")
    options = ["--temperature", "0", "--max-tokens", "48", "--json"]
    for prompt in (PROMPT, "„Où?“ \N{GRINNING FACE}", " "):
        output = subprocess.run(
            [str(command), "generate", "--model", str(MODEL), "--prompt", prompt, *options],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        expected = json.loads(output)
        got = engine.generate(prompt, temperature=0, max_tokens=48)
        assert got.text == expected["text"] and got.tokens == expected["generated_ids"]
        assert got.finish.reason == expected["finish_reason"]
        assert got.finish.prompt_tokens == len(expected["prompt_ids"])


def test_events_stream_and_the_last_says_how_it_ended(engine: libinfer.Engine, model: libinfer.Model) -> None:
    events: list[libinfer.Event] = []
    # By hand, because a fast engine can have ended before the first read.
    with libinfer.Engine(model, manual_step=True) as manual:
        with manual.submit(PROMPT, temperature=0, max_tokens=64, tag=7) as request:
            while manual.step():
                events.append(next(request))
            events += request
            assert request.finish is events[-1].finish and request.next() is None and request.tag == 7
    assert len(events) > 60
    assert [e.finished for e in events] == [False] * (len(events) - 1) + [True]
    assert all(e.tag == 7 and e.choice == 0 and e.channel == "content" for e in events)
    finish = events[-1].finish
    assert finish is not None and finish.reason is FinishReason.LENGTH and finish.error is None
    assert finish.generated_tokens == 64 == sum(len(e.tokens) for e in events)
    assert 0 < finish.time_to_first_token <= finish.total_time < 60 and finish.decode_tokens_per_second > 0
    whole = engine.generate(PROMPT, temperature=0, max_tokens=64)
    assert "".join(e.text for e in events) == whole.text == str(whole)


def test_logprobs_come_with_their_tokens(engine: libinfer.Engine, model: libinfer.Model) -> None:
    got = engine.generate(
        PROMPT,
        temperature=0,
        max_tokens=8,
        ignore_end_of_generation=True,
        logprobs=True,
        top_logprobs=3,
        prompt_logprobs=True,
    )
    assert len(got.tokens) == len(got.logprobs) == len(got.top_logprobs) == 8
    for token, logprob, top in zip(got.tokens, got.logprobs, got.top_logprobs):
        assert top[0] == (token, logprob) and len(top) == 3 and 0 > top[0][1] >= top[1][1] >= top[2][1]
    assert len(got.prompt_logprobs) == got.finish.prompt_tokens
    assert math.isnan(got.prompt_logprobs[0]) and all(x < 0 for x in got.prompt_logprobs[1:])
    # A completion is scored as it was generated.
    whole = engine.generate(model.tokenize(PROMPT) + got.tokens, max_tokens=0, prompt_logprobs=True)
    assert whole.prompt_logprobs[-8:] == got.logprobs and whole.tokens == []
    with pytest.raises(libinfer.InvalidArgumentError, match="top_logprobs"):
        engine.generate(PROMPT, top_logprobs=3)


def test_embeddings_are_normalized_states(engine: libinfer.Engine, model: libinfer.Model) -> None:
    for pooling in ("mean", "last", "cls"):
        got = engine.generate(PROMPT, embedding=pooling)
        raw = engine.generate(PROMPT, embedding=pooling, embedding_normalize=False).embedding
        norm = math.sqrt(sum(x * x for x in raw))
        assert len(got.embedding) == model.info.n_embd and got.tokens == []
        assert got.embedding == pytest.approx([x / norm for x in raw], abs=1e-6)


def test_text_ids_and_bytes_are_the_same_prompt(engine: libinfer.Engine, model: libinfer.Model) -> None:
    expected = engine.generate(PROMPT, temperature=0, max_tokens=8)
    assert engine.generate(PROMPT.encode(), temperature=0, max_tokens=8).tokens == expected.tokens
    assert engine.generate(model.tokenize(PROMPT), temperature=0, max_tokens=8).tokens == expected.tokens


def test_seeds_decide(engine: libinfer.Engine) -> None:
    texts = [engine.generate(PROMPT, temperature=1, max_tokens=16, seed=seed).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_stop_texts_and_ids_end_a_completion(engine: libinfer.Engine) -> None:
    plain = engine.generate(PROMPT, temperature=0, max_tokens=32)
    word = plain.text.split()[3]
    stopped = engine.generate(PROMPT, temperature=0, max_tokens=32, stop=["never there", word])
    assert stopped.finish.reason is FinishReason.STOP and stopped.finish.stop == word
    assert stopped.text == plain.text[: plain.text.index(word)]
    assert engine.generate(PROMPT, temperature=0, max_tokens=32, stop=word).text == stopped.text
    id = plain.tokens[5]
    by_id = engine.generate(PROMPT, temperature=0, max_tokens=32, stop_ids=[id])
    assert by_id.finish.reason is FinishReason.STOP and by_id.finish.stop == str(id)
    with pytest.raises(libinfer.InvalidArgumentError, match="at least one character"):
        engine.submit(PROMPT, stop=[""])


def test_cancel_ends_a_request_from_another_thread(engine: libinfer.Engine) -> None:
    engine.pause()
    request = engine.submit(PROMPT, max_tokens=1900, ignore_end_of_generation=True)
    timer = threading.Timer(0.05, request.cancel)
    timer.start()
    completion = request.result()
    timer.join()
    assert completion.finish.reason is FinishReason.CANCELLED
    request.cancel()
    request.close()
    request.close()
    with pytest.raises(libinfer.ClosedError, match="request is closed"):
        request.cancel()
    with pytest.raises(libinfer.ClosedError, match="request is closed"):
        next(request)


def test_cancel_ends_a_request_in_the_middle(model: libinfer.Model) -> None:
    with libinfer.Engine(model, manual_step=True) as engine:
        request = engine.submit(PROMPT, max_tokens=1900, ignore_end_of_generation=True)
        for _ in range(10):
            assert engine.step()
        request.cancel()
        engine.step()
        completion = request.result()
        assert completion.finish.reason is FinishReason.CANCELLED
        assert 0 < completion.finish.generated_tokens <= 10 == engine.stats().steps
        assert engine.stats().kv_bytes_used == 0


def test_deadlines_end_a_request(engine: libinfer.Engine) -> None:
    completion = engine.generate(PROMPT, max_tokens=1900, ignore_end_of_generation=True, deadline_ms=5)
    assert completion.finish.reason is FinishReason.DEADLINE and completion.finish.generated_tokens < 1900


def test_timeouts_raise_and_lose_nothing(engine: libinfer.Engine) -> None:
    engine.pause()
    request = engine.submit(PROMPT, temperature=0, max_tokens=8)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        request.next(timeout=0.15)
    assert 0.1 <= time.monotonic() - begin < 5
    with pytest.raises(TimeoutError):
        request.result(timeout=0)
    engine.resume()
    assert request.result(timeout=60).tokens == engine.generate(PROMPT, temperature=0, max_tokens=8).tokens


def test_bad_requests_are_errors(engine: libinfer.Engine, model: libinfer.Model) -> None:
    with pytest.raises(libinfer.OptionError, match="temprature"):
        engine.submit(PROMPT, temprature=0)
    for value in (-1, float("nan"), "warm", float("inf")):
        with pytest.raises(libinfer.OptionError, match="temperature"):
            engine.submit(PROMPT, temperature=value)
    with pytest.raises(libinfer.OptionError, match="max_tokens"):
        engine.submit(PROMPT, max_tokens=1 << 70)
    with pytest.raises(libinfer.OptionError, match="tag"):
        engine.submit(PROMPT, tag="seven")
    with pytest.raises(libinfer.InvalidUtf8Error):
        engine.submit(b"\xff\xfe")
    with pytest.raises(libinfer.InvalidUtf8Error):
        engine.submit("\udcff")
    with pytest.raises(libinfer.InvalidArgumentError):
        engine.submit([])
    with pytest.raises(libinfer.InvalidArgumentError, match="vocabulary"):
        engine.submit([1, 5000])
    with pytest.raises(libinfer.ContextError, match="2048"):
        engine.submit([1] * 3000)
    with pytest.raises(ValueError):
        engine.submit([1, {"role": "user"}])  # type: ignore[arg-type]
    assert engine.stats().requests_submitted == 0


def test_a_full_queue_is_busy(model: libinfer.Model) -> None:
    with libinfer.Engine(model, max_queued=2, max_running=1) as engine:
        engine.pause()
        requests = [engine.submit(PROMPT, max_tokens=2) for _ in range(2)]
        with pytest.raises(libinfer.BusyError) as caught:
            for _ in range(3):
                requests.append(engine.submit(PROMPT, max_tokens=2))
        assert caught.value.status == -11
        engine.resume()
        assert all(r.result().finish.generated_tokens == 2 for r in requests)


def test_many_prompts_are_submitted_all_or_none(engine: libinfer.Engine) -> None:
    prompts = [f"Chapter {i}" for i in range(12)]
    requests = engine.submit_many(prompts, temperature=0, max_tokens=8)
    assert len({r.id for r in requests}) == 12
    assert [r.result().text for r in requests] == [
        engine.generate(p, temperature=0, max_tokens=8).text for p in prompts
    ]
    submitted = engine.stats().requests_submitted
    with pytest.raises(libinfer.InvalidArgumentError, match="1"):
        engine.submit_many(["fine", [1 << 20]])
    assert engine.stats().requests_submitted == submitted
    assert engine.submit_many([]) == []


def test_eight_threads_generate_while_python_counts(model: libinfer.Model) -> None:
    with libinfer.Engine(model, threads=1) as engine:
        expected = engine.generate(PROMPT, temperature=0, max_tokens=200, ignore_end_of_generation=True).tokens
        got: list[list[int]] = [[] for _ in range(8)]
        submitted, firsts = threading.Barrier(9), threading.Barrier(9)
        engine.pause()

        def generate(i: int) -> None:
            request = engine.submit(PROMPT, temperature=0, max_tokens=200, ignore_end_of_generation=True)
            submitted.wait(60)
            got[i] += next(request).tokens
            # Passing here means that all eight have begun and none has kept the interpreter.
            firsts.wait(60)
            for event in request:
                got[i] += event.tokens

        threads = [threading.Thread(target=generate, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        submitted.wait(60)
        begin, counted = engine.stats(), 0
        engine.resume()
        firsts.wait(60)
        while any(thread.is_alive() for thread in threads):
            counted += 1
        assert got == [expected] * 8
        assert counted > 100
        # All eight were computed together.
        assert engine.stats().max_batch == 8 and (engine.stats() - begin).steps < 8 * 200 / 2


def test_a_blocked_reader_leaves_the_interpreter_to_others(
    engine: libinfer.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without this a reader that keeps the interpreter would give it away ten times a second.
    monkeypatch.setattr("libinfer._request.SLICE_MS", 3_000)
    engine.pause()
    request = engine.submit(PROMPT, max_tokens=1)
    reader = threading.Thread(target=request.result)
    begin, counted = time.monotonic(), 0
    reader.start()
    while time.monotonic() < begin + 0.3:
        counted += 1
    assert time.monotonic() < begin + 2 and counted > 1000 and reader.is_alive()
    with pytest.raises(libinfer.ReentrantError):
        next(request)
    engine.resume()
    reader.join(60)
    assert not reader.is_alive()


def test_closing_a_request_wakes_its_reader(engine: libinfer.Engine) -> None:
    engine.pause()
    request = engine.submit(PROMPT)
    raised: list[BaseException | None] = []

    def read() -> None:
        try:
            request.result()
            raised.append(None)
        except libinfer.ClosedError as error:
            raised.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.05)
    request.close()
    reader.join(60)
    assert not reader.is_alive() and len(raised) == 1


def test_closing_an_engine_ends_requests_and_readers(model: libinfer.Model) -> None:
    engine = libinfer.Engine(model)
    engine.pause()
    requests = [engine.submit(PROMPT, max_tokens=1900) for _ in range(4)]
    drained: list[bool] = []
    drain = threading.Thread(target=lambda: drained.append(engine.drain()))
    drain.start()
    time.sleep(0.02)
    engine.close()
    engine.close()
    drain.join(60)
    assert not drain.is_alive() and drained in ([True], [False])
    for request in requests:
        assert request.result().finish.reason is FinishReason.CANCELLED
    for use in (lambda: engine.submit(PROMPT), engine.stats, engine.summary, engine.pause, lambda: engine.drain(0)):
        with pytest.raises(libinfer.ClosedError, match="engine is closed"):
            use()


def test_objects_are_collected_in_any_order(model: libinfer.Model) -> None:
    for order in itertools.permutations(range(4)):
        own = libinfer.Model(MODEL)
        pool = libinfer.Threads(threads=2)
        engine = libinfer.Engine(own, threads=pool)
        request = engine.submit(PROMPT, max_tokens=500)
        next(request)
        objects: list[Any] = [own, pool, engine, request]
        del own, pool, engine, request
        for i in order:
            objects[i] = None
            gc.collect()


def test_objects_are_closed_in_any_order(model: libinfer.Model) -> None:
    for order in itertools.permutations(range(4)):
        own = libinfer.Model(MODEL)
        pool = libinfer.Threads(threads=2)
        engine = libinfer.Engine(own, threads=pool)
        objects: list[Any] = [own, pool, engine, engine.submit(PROMPT, max_tokens=500)]
        for i in order:
            objects[i].close()


def test_a_request_keeps_what_it_needs(model: libinfer.Model) -> None:
    expected = libinfer.Engine(model).generate(PROMPT, temperature=0, max_tokens=32).tokens
    request = libinfer.Engine(libinfer.Model(MODEL)).submit(PROMPT, temperature=0, max_tokens=32)
    gc.collect()
    assert request.result().tokens == expected


def test_a_draft_model_proposes(model: libinfer.Model) -> None:
    expected = libinfer.Engine(model).generate(PROMPT, temperature=0, max_tokens=40).tokens
    with libinfer.Engine(model, draft=libinfer.Model(MODEL), speculation_adaptive=False) as engine:
        assert engine.generate(PROMPT, temperature=0, max_tokens=40).tokens == expected
        assert engine.drain()
        stats = engine.stats()
        assert 0 < stats.accepted_tokens == stats.draft_tokens and stats.draft_acceptance == 1
        assert "speculation: draft" in engine.summary()


def test_engines_share_a_pool_and_hooks_run_on_its_threads(model: libinfer.Model) -> None:
    started: list[tuple[int, int]] = []
    stopped: list[int] = []
    pool = libinfer.Threads(
        threads=2,
        name="shared",
        on_start=lambda index: started.append((index, threading.get_ident())),
        on_stop=stopped.append,
    )
    assert pool.count == 2
    with libinfer.Engine(model, threads=pool) as one, libinfer.Engine(model, threads=pool) as two:
        pool.close()
        texts = [e.generate(PROMPT, temperature=0, max_tokens=16).text for e in (one, two)]
        assert texts[0] == texts[1]
    assert started and all(ident != threading.get_ident() for _, ident in started)
    assert sorted(stopped) == sorted(index for index, _ in started)
    with pytest.raises(libinfer.ClosedError):
        pool.count
    with pytest.raises(libinfer.InvalidArgumentError, match="a-b"):
        libinfer.Threads(cpus="a-b")


def test_exceptions_in_hooks_and_logs_stay_in_python(model: libinfer.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)

    def fail(_: object) -> None:
        raise ZeroDivisionError("in a callback")

    with libinfer.Threads(threads=2, on_start=fail) as pool, libinfer.Engine(model, threads=pool, log=fail) as engine:
        assert engine.generate(PROMPT, max_tokens=4).finish.generated_tokens == 4
    messages = {i.err_msg for i in ignored if isinstance(i.exc_value, ZeroDivisionError)}
    assert messages == {
        "Exception ignored in the log callback of libinfer",
        "Exception ignored in the thread hook of libinfer",
    }


def test_logs_go_to_a_logger(model: libinfer.Model, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.libinfer")
    with caplog.at_level(logging.DEBUG, "test.libinfer"), libinfer.Engine(model, log=logger) as engine:
        engine.generate(PROMPT, max_tokens=2)
    records = [r for r in caplog.records if r.name == "test.libinfer"]
    assert records and records[0].levelno == logging.INFO and "llama" in records[0].getMessage()
    assert records[0].infer_target == "engine"  # type: ignore[attr-defined]
    assert isinstance(records[0].infer_fields, dict)  # type: ignore[attr-defined]


def test_logs_go_to_a_function_of_their_engine_only(model: libinfer.Model) -> None:
    one: list[libinfer.LogRecord] = []
    two: list[libinfer.LogRecord] = []
    with libinfer.Engine(model, log=one.append), libinfer.Engine(model, log=two.append, context_length=256):
        pass
    assert any("2048" in r.message for r in one) and any("256" in r.message for r in two)
    assert not any("context 256" in r.message for r in one)


def test_stats_count_subtract_and_add(engine: libinfer.Engine) -> None:
    engine.generate(PROMPT, max_tokens=8, ignore_end_of_generation=True)
    before = engine.stats()
    engine.generate(PROMPT, max_tokens=16, ignore_end_of_generation=True)
    after = engine.stats()
    delta = after - before
    assert (before.generated_tokens, after.generated_tokens, delta.generated_tokens) == (8, 24, 16)
    assert (delta.requests_submitted, delta.requests_completed) == (1, 1)
    assert (after + before).generated_tokens == 32 and after.generated_tokens == 24
    assert after.decode_tokens_per_second > 0 and 0 < after.decode_ffn_share < 1
    assert after.as_dict()["generated_tokens"] == 24 and "generated_tokens=24" in repr(after)
    assert "24" in engine.metrics_text() and "# TYPE" in engine.metrics_text()
    assert len(engine.summary()) > 100


def test_histograms_count_subtract_and_add(engine: libinfer.Engine) -> None:
    kinds = libinfer.HistogramKind
    before = engine.histogram(kinds.INTER_TOKEN_TIME)
    engine.generate(PROMPT, max_tokens=16, ignore_end_of_generation=True)
    gaps, firsts = engine.histogram(kinds.INTER_TOKEN_TIME), engine.histogram(kinds.TIME_TO_FIRST_TOKEN)
    assert (before.count, gaps.count, firsts.count) == (0, 15, 1)
    assert gaps.kind is kinds.INTER_TOKEN_TIME and "INTER_TOKEN_TIME, count=15" in repr(gaps)
    assert sum(gaps.counts) == 15 and gaps.bounds == sorted(gaps.bounds) and gaps.bounds[-1] == 2**64 - 1
    assert 0 < gaps.quantile(0.5) <= gaps.quantile(0.99) <= gaps.quantile(1) == gaps.max <= gaps.sum
    assert (gaps - gaps).count == 0 and (gaps + gaps).count == 30 and gaps.count == 15
    with pytest.raises(libinfer.InvalidArgumentError, match="same kind"):
        gaps + firsts
    with pytest.raises(libinfer.InvalidArgumentError, match="0 to 1"):
        gaps.quantile(2)


def test_drain_refuses_and_resume_takes_again(engine: libinfer.Engine) -> None:
    request = engine.submit(PROMPT, max_tokens=4)
    assert engine.drain(60)
    assert request.result().finish.generated_tokens > 0
    with pytest.raises(libinfer.ClosedError, match="drain"):
        engine.submit(PROMPT)
    engine.resume()
    engine.pause()
    request = engine.submit(PROMPT)
    assert engine.drain(0.01) is False
    engine.resume()
    engine.cache_clear()
    engine.cache_clear("someone")
    assert engine.trim(1 << 30) >= 0
    with pytest.raises(ValueError):
        engine.trim(-1)


RESTORE = """
import sys, libinfer
model = libinfer.Model(sys.argv[1])
with libinfer.Engine(model) as engine:
    restored = engine.restore_state(sys.stdin.buffer.read(), "someone")
    prompt = [int(word) for word in sys.argv[2].split()]
    completion = engine.generate(prompt, temperature=0, max_tokens=16, cache_salt="someone")
    print(restored, completion.finish.cached_tokens, *completion.tokens)
"""


def test_a_state_goes_on_in_another_process(model: libinfer.Model, engine: libinfer.Engine) -> None:
    ids = model.tokenize("The old prince said nothing. " * 8)
    expected = engine.generate(ids, temperature=0, max_tokens=16).tokens
    state = engine.save_state(ids)
    assert len(state) > 1000
    arguments = [sys.executable, "-c", RESTORE, str(MODEL), " ".join(map(str, ids))]
    found = subprocess.run(arguments, input=state, stdout=subprocess.PIPE, check=True).stdout.split()
    assert [int(word) for word in found] == [len(ids), len(ids) - 1, *expected]
    for bad in (b"", state[:100], state[:-1]):
        with pytest.raises(libinfer.InvalidArgumentError, match="state"):
            engine.restore_state(bad)
    assert engine.restore_state(engine.save_state([])) == 0
    with libinfer.Engine(model, prefix_cache=False) as off, pytest.raises(libinfer.UnsupportedError):
        off.save_state(ids)


def test_manual_steps_compute_on_this_thread(model: libinfer.Model, engine: libinfer.Engine) -> None:
    with libinfer.Engine(model, manual_step=True) as manual:
        request = manual.submit(PROMPT, temperature=0, max_tokens=8)
        while manual.step():
            pass
        assert request.result().tokens == engine.generate(PROMPT, temperature=0, max_tokens=8).tokens
    with pytest.raises(libinfer.InvalidArgumentError):
        engine.step()


def test_engine_options_are_checked_by_the_library(model: libinfer.Model) -> None:
    with pytest.raises(libinfer.OptionError, match="kv_typ"):
        libinfer.Engine(model, kv_typ="f16")
    with pytest.raises(libinfer.OptionError, match="kv_type"):
        libinfer.Engine(model, kv_type="f64")
    with pytest.raises(libinfer.InferError):
        libinfer.Engine(model, kv_budget=1)
    with libinfer.Model(MODEL, vocabulary_only=True) as vocabulary, pytest.raises(libinfer.InferError, match="weights"):
        libinfer.Engine(vocabulary)


def test_a_later_engine_finds_prompts_in_the_directory_of_the_cold_tier(model: libinfer.Model, tmp_path: Path) -> None:
    ids = model.tokenize((PROMPT + ", and the sky was high. ") * 20)[:200]
    directory = tmp_path / "cold"
    results = []
    for kept in (0, 192):
        with libinfer.Engine(model, kv_cold_dir=str(directory)) as engine:
            results.append(engine.generate(ids, temperature=0, max_tokens=24, ignore_end_of_generation=True))
            # Whole blocks of 32 tokens; the last token of a prompt is computed in any case.
            assert results[-1].finish.cached_tokens == kept
            stats = engine.stats()
            assert (stats.kv_cold_state, stats.kv_cold_writer) == (1, 1)
            assert (stats.kv_cold_hit_tokens, stats.kv_cold_reads) == (kept, kept // 32)
    assert results[0].tokens == results[1].tokens and results[0].text == results[1].text
    # Without it nothing is there.
    with libinfer.Engine(model) as engine:
        assert engine.generate(ids, temperature=0, max_tokens=24).finish.cached_tokens == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SKIPPED: no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_refused_and_exits_cleanly(engine: libinfer.Engine, model: libinfer.Model) -> None:
    request = engine.submit(PROMPT, max_tokens=8)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            uses: list[Any] = [
                lambda: model.info,
                lambda: engine.submit(PROMPT),
                lambda: next(request),
                request.cancel,
                lambda: libinfer.Model(MODEL),
                libinfer.options,
            ]
            for use in uses:
                try:
                    use()
                    os._exit(2)
                except libinfer.ForkedError as error:
                    assert error.status == -15
            request.close()
            engine.close()
            del request
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert request.result().finish.generated_tokens > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SKIPPED: no fork here")
def test_a_process_that_only_imported_it_may_fork_workers() -> None:
    program = (
        "import os, sys, libinfer\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    libinfer.generate(sys.argv[1], 'x', max_tokens=2)\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(MODEL)]).returncode == 0


def test_an_interpreter_that_ends_in_the_middle_ends_well() -> None:
    program = (
        "import asyncio, sys, threading, libinfer\n"
        "pool = libinfer.Threads(threads=2, on_start=lambda i: None, on_stop=lambda i: None)\n"
        "engine = libinfer.Engine(libinfer.Model(sys.argv[1]), threads=pool, log=lambda r: None)\n"
        "requests = [engine.submit('x', max_tokens=1900) for _ in range(8)]\n"
        "threading.Thread(target=requests[0].result, daemon=True).start()\n"
        "next(requests[1])\n"
        "async def main():\n"
        "    requests.append(engine.submit('x', max_tokens=1900))\n"
        "    await requests[-1].anext()\n"
        "libinfer._queue_reader.QueueReader.watch_descriptor = len(sys.argv) > 2\n"
        "asyncio.run(main())\n"
        "requests[2].cycle = engine.cycle = [requests, engine]\n"
    )
    for more in ([], ["watch"]):
        command = [sys.executable, "-c", program, str(MODEL), *more]
        ended = subprocess.run(command, stderr=subprocess.PIPE, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, b"")


def test_ctrl_c_interrupts_a_wait() -> None:
    program = (
        "import signal, sys, libinfer\n"
        "engine = libinfer.Engine(libinfer.Model(sys.argv[1]))\n"
        "engine.pause()\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.1)\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "try:\n"
        "    engine.submit('x').result()\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(MODEL)], stdout=subprocess.PIPE, timeout=60)
    assert ended.stdout == b"interrupted\n"
