"""Loading models, and what they answer."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import libinfer
from conftest import MODEL, with_chat_template


def test_info_and_metadata_are_those_of_the_file(model: libinfer.Model) -> None:
    info = model.info
    assert (info.architecture, info.n_vocab, info.n_layers, info.context_length) == ("llama", 4096, 2, 2048)
    assert info.n_parameters == 2622720 and info.weight_bytes < MODEL.stat().st_size
    assert not info.has_chat_template
    metadata = model.metadata
    assert len(metadata) == len(list(metadata)) > 10
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.block_count"] == "2"
    assert len(metadata["tokenizer.ggml.tokens"]) > 4096
    assert "no.such.key" not in metadata and metadata.get("no.such.key") is None
    with pytest.raises(KeyError, match="no.such.key"):
        metadata["no.such.key"]


def test_bytes_of_every_kind_load_like_the_file(model: libinfer.Model) -> None:
    data = MODEL.read_bytes()
    strided = memoryview(bytes(b for byte in data for b in (byte, 0)))[::2]
    for source in (data, bytearray(data), memoryview(data), memoryview(bytearray(data)), strided):
        with libinfer.Model.from_bytes(source) as other:
            assert other.info == model.info


def test_tokens_and_text_are_turned_into_each_other(model: libinfer.Model) -> None:
    text = "Prince Andrew said: „ça va“ \N{GRINNING FACE}"
    ids = model.tokenize(text, add_special=False)
    assert model.detokenize(ids) == text
    bos = model.special_token("bos")
    assert bos is not None and model.tokenize(text) == [bos, *ids]
    assert model.detokenize([bos, *ids]) == text
    assert len(model.detokenize([bos, *ids], render_special=True)) > len(text)
    assert "".join(model.token_text(id) for id in model.tokenize("the sky", add_special=False)) == "the sky"
    eos = model.special_token("eos")
    assert eos is not None and model.is_end_of_generation(eos) and not model.is_end_of_generation(ids[0])
    assert model.tokenize("", add_special=False) == [] and model.detokenize([]) == ""
    long = text * 500
    assert model.detokenize(model.tokenize(long, add_special=False)) == long
    with pytest.raises(ValueError, match="there are bos"):
        model.special_token("mos")  # type: ignore[arg-type]


def test_ids_outside_the_vocabulary_are_errors(model: libinfer.Model) -> None:
    with pytest.raises(libinfer.InvalidArgumentError, match="4096"):
        model.detokenize([1, 4096])
    for wrong in (-1, 1 << 32, "7", 1.5):
        with pytest.raises(ValueError, match="token id"):
            model.detokenize([wrong])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="token id"):
            model.token_text(wrong)  # type: ignore[arg-type]


def test_text_that_is_not_unicode_is_an_error(model: libinfer.Model) -> None:
    with pytest.raises(libinfer.InvalidUtf8Error) as caught:
        model.tokenize("abc\ud800")
    assert caught.value.status == -4 and isinstance(caught.value, ValueError) and "3" in str(caught.value)


def test_progress_grows_to_one() -> None:
    seen: list[float] = []
    libinfer.Model(MODEL, progress=seen.append).close()
    assert seen[0] == 0.0 and seen[-1] == 1.0 and seen == sorted(seen) and len(seen) > 2


def test_progress_can_cancel_by_its_answer() -> None:
    with pytest.raises(libinfer.CancelledError):
        libinfer.Model(MODEL, progress=lambda fraction: fraction < 0.5)


def test_progress_can_cancel_by_an_exception() -> None:
    def progress(fraction: float) -> None:
        if fraction > 0.5:
            raise ZeroDivisionError("from the callback")

    def late(fraction: float) -> None:
        if fraction == 1.0:
            raise ZeroDivisionError("at the end")

    with pytest.raises(ZeroDivisionError, match="from the callback"):
        libinfer.Model(MODEL, progress=progress)
    with pytest.raises(ZeroDivisionError, match="at the end"):
        libinfer.Model(MODEL, progress=late)


def test_calls_from_inside_a_callback_are_refused(model: libinfer.Model) -> None:
    def progress(fraction: float) -> None:
        model.tokenize("x")

    with pytest.raises(libinfer.ReentrantError):
        libinfer.Model(MODEL, progress=progress)


def test_callbacks_are_forgotten_when_they_are_no_longer_needed() -> None:
    from libinfer import _callbacks

    before = len(_callbacks._functions)
    libinfer.Model(MODEL, progress=lambda _: True).close()
    with pytest.raises(libinfer.FileError):
        libinfer.Model("nowhere.gguf", progress=lambda _: True)
    with libinfer.Model(MODEL) as model:
        libinfer.Engine(model, log=lambda _: None).close()
        missing = next(word for word in ("avx2", "neon") if word not in libinfer.Kernels.levels())
        with pytest.raises(libinfer.UnsupportedError):
            libinfer.Engine(model, log=lambda _: None, cpu_level=missing)
    libinfer.Threads(on_start=lambda _: None).close()
    gc.collect()
    assert len(_callbacks._functions) == before


def test_files_that_are_not_there_or_not_models(tmp_path: Path) -> None:
    with pytest.raises(libinfer.FileError, match="nowhere.gguf") as caught:
        libinfer.Model(tmp_path / "nowhere.gguf")
    assert caught.value.status == -5 and isinstance(caught.value, OSError)
    for data in (b"", b"GGUF", b"not a model at all", MODEL.read_bytes()[:100000]):
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(data)
        with pytest.raises(libinfer.InvalidModelError, match="bad.gguf"):
            libinfer.Model(bad)
        for source in (data, bytearray(data)):
            with pytest.raises(libinfer.InvalidModelError):
                libinfer.Model.from_bytes(source)


def test_options_are_checked_by_the_library() -> None:
    with pytest.raises(libinfer.OptionError, match="colour") as caught:
        libinfer.Model(MODEL, colour="red")
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, libinfer.InferError)
    with pytest.raises(libinfer.OptionError, match="load_mode"):
        libinfer.Model(MODEL, load_mode="fly")
    with pytest.raises(libinfer.OptionError, match="NUL"):
        libinfer.Model(MODEL, load_mode="read\0x")
    with pytest.raises(libinfer.OptionError, match="list"):
        libinfer.Model(MODEL, load_mode=["read"])  # type: ignore[arg-type]
    with libinfer.Model(MODEL, load_mode="mmap", check_tensors=True, memory_budget=1 << 30, load_threads=None):
        pass
    with pytest.raises(libinfer.NoMemoryError):
        libinfer.Model(MODEL, memory_budget=1000)


def test_estimate_reads_the_header_only(model: libinfer.Model) -> None:
    small = libinfer.Model.estimate(MODEL, engine={"context_length": 128, "max_running": 1})
    large = libinfer.Model.estimate(MODEL, engine={"context_length": 128, "max_running": 8})
    assert small.weights >= model.info.weight_bytes
    assert large.kv_cache == 8 * small.kv_cache > 0
    assert small.total == small.weights + small.kv_cache + small.workspace


def test_chat_templates_render(model: libinfer.Model) -> None:
    each = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    template = each + "{% if add_generation_prompt %}<assistant>{% endif %}"
    messages = [{"role": "user", "content": "Où est \N{GRINNING FACE}?"}]
    with libinfer.Model.from_bytes(with_chat_template(template)) as chat:
        assert chat.info.has_chat_template
        assert chat.apply_chat_template(messages).rstrip() == "<user>Où est \N{GRINNING FACE}?<assistant>"
        assert (
            chat.apply_chat_template(messages, add_generation_prompt=False).rstrip()
            == "<user>Où est \N{GRINNING FACE}?"
        )
        with libinfer.Engine(chat) as engine:
            asked = engine.generate(messages, temperature=0, max_tokens=8)
            rendered = engine.generate(chat.apply_chat_template(messages), temperature=0, max_tokens=8)
            assert asked.tokens == rendered.tokens
            assert asked.finish.prompt_tokens == rendered.finish.prompt_tokens
    with pytest.raises(libinfer.UnsupportedError, match="template"):
        model.apply_chat_template(messages)


def test_a_template_that_refuses_says_why() -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    with libinfer.Model.from_bytes(with_chat_template(template)) as chat:
        with pytest.raises(libinfer.InvalidArgumentError, match="roles must alternate"):
            chat.apply_chat_template([{"role": "user", "content": "x"}])
        with libinfer.Engine(chat) as engine, pytest.raises(libinfer.InferError, match="roles must alternate"):
            engine.submit([{"role": "user", "content": "x"}])


def test_use_after_close_raises_and_closing_twice_is_fine() -> None:
    model = libinfer.Model(MODEL)
    metadata = model.metadata
    model.close()
    model.close()
    for use in (lambda: model.info, lambda: model.tokenize("x"), lambda: len(metadata), lambda: libinfer.Engine(model)):
        with pytest.raises(libinfer.ClosedError, match="model is closed"):
            use()
    assert "closed" in repr(model)
