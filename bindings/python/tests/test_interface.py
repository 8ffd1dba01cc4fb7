"""The bindings against the header, and what comes with them."""

from __future__ import annotations

import ctypes
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import libinfer
from conftest import MODEL, ROOT
from libinfer import _c, _errors, _event
from libinfer._histogram import Histogram
from libinfer._kv_cache import _TYPES, KvStats
from libinfer._stats import Stats

HEADER = (ROOT / "include" / "infer.h").read_text()
CODE = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
C_TYPES = {
    "uint32_t": ctypes.c_uint32,
    "int32_t": ctypes.c_int32,
    "infer_status": ctypes.c_int32,
    "uint64_t": ctypes.c_uint64,
    "int64_t": ctypes.c_int64,
    "size_t": ctypes.c_size_t,
    "double": ctypes.c_double,
    "float": ctypes.c_float,
}


def test_every_function_is_declared_with_its_arguments() -> None:
    found = re.findall(r"^([a-z][a-z0-9_ ]*?[ *]+)(infer_\w+)\(([^;]*)\);", CODE, flags=re.MULTILINE)
    functions = {name: (answer.strip(), arguments) for answer, name, arguments in found}
    assert set(functions) == set(_c.PROTOTYPES) and len(functions) > 70
    for name, (answer, arguments) in functions.items():
        expected = [a.strip() for a in arguments.split(",") if a.strip() != "void"]
        declared_answer, declared = _c.PROTOTYPES[name]
        assert len(expected) == len(declared), name
        for text, ctype in zip(expected, declared):
            kind = text.replace("const ", "").rsplit(" ", 1)[0].strip() if "*" not in text else "*"
            if kind in C_TYPES:
                assert ctype is C_TYPES[kind], (name, text)
            else:
                assert ctypes.sizeof(ctype) == ctypes.sizeof(ctypes.c_void_p), (name, text)
        if "*" not in answer and answer != "void":
            assert declared_answer is C_TYPES[answer], name
        elif answer == "void":
            assert declared_answer is None, name


@pytest.mark.parametrize(
    "name, struct",
    [
        ("infer_option_info", _c.OptionInfoStruct),
        ("infer_log_record", _c.LogRecordStruct),
        ("infer_model_info", _c.ModelInfoStruct),
        ("infer_memory_estimate", _c.MemoryEstimateStruct),
        ("infer_event", _c.EventStruct),
        ("infer_stats", Stats),
        ("infer_histogram", Histogram),
        ("infer_kv_stats", KvStats),
        ("infer_kv_block", _c.KvBlockStruct),
    ],
)
def test_structs_have_the_fields_of_the_header(name: str, struct: type[ctypes.Structure]) -> None:
    match = re.search(r"typedef struct \{([^}]*)\} " + name + ";", CODE)
    assert match is not None
    fields = [f.strip() for f in match.group(1).split(";") if f.strip()]
    declared = [(field[0].lstrip("_"), field[1]) for field in struct._fields_]
    assert [re.split(r"[ *]", f)[-1].split("[")[0] for f in fields] == [field for field, _ in declared]
    for text, (field, ctype) in zip(fields, declared):
        if "[" in text:
            length = re.search(r"#define INFER_HISTOGRAM_BUCKETS (\d+)", HEADER)
            assert length is not None and text == f"uint64_t {field}[INFER_HISTOGRAM_BUCKETS]"
            assert ctype is ctypes.c_uint64 * int(length.group(1)), field
        elif "*" in text:
            assert ctypes.sizeof(ctype) == ctypes.sizeof(ctypes.c_void_p), field
        else:
            assert ctype is C_TYPES[text.split(" ")[0]], field


def test_every_status_has_its_exception() -> None:
    statuses = {int(number): name for name, number in re.findall(r"INFER_ERR_(\w+) = (-\d+)", CODE)}
    assert set(statuses) == set(_errors._CLASSES) and len(statuses) == 18
    for number, name in statuses.items():
        error = _errors.error_of(number, "a sentence")
        assert error.status == number and str(error) == "a sentence" == error.message
        assert type(error).__name__ in libinfer.__all__
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and (again.status, str(again)) == (number, "a sentence")
        assert _c.lib.infer_status_name(number).decode() == f"INFER_ERR_{name}"
    later = _errors.error_of(-999, "new")
    assert type(later) is libinfer.InferError and later.status == -999


def test_an_event_that_failed_brings_its_error() -> None:
    error = ctypes.c_void_p()
    status = _c.lib.infer_abi_check(_c.ABI_VERSION + 1, ctypes.byref(error))
    event = _c.EventStruct(kind=_event._FINISHED, error=error)
    failure = _event._read_finish(event).error
    assert isinstance(failure, libinfer.AbiError) and failure.status == status < 0
    _c.lib.infer_error_free(error)


def test_constants_are_those_of_the_header() -> None:
    assert f"INFER_ABI_VERSION {_c.ABI_VERSION}\n" in HEADER
    assert f'INFER_VERSION "{libinfer.version}"' in HEADER
    assert _c.lib.infer_version().decode() == libinfer.version
    for kind in libinfer.HistogramKind:
        assert f"INFER_HISTOGRAM_{kind.name} = {kind.value}," in HEADER
    for name, number in _TYPES.items():
        assert f"INFER_KV_{name.upper()} = {number}," in HEADER
    assert "INFER_ROPE_ADJACENT = 1," in HEADER and "INFER_ROPE_NEOX = 2," in HEADER
    manifest = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{libinfer.version}"' in manifest


def test_another_binary_interface_is_refused() -> None:
    program = "import libinfer._c as c\nc.ABI_VERSION = 99\nimport libinfer\nlibinfer.options()"
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1 and "AbiError" in ended.stderr and "version 99" in ended.stderr


def test_options_are_listed_and_can_be_set_to_their_defaults() -> None:
    every = libinfer.options()
    assert {o.object for o in every} == {"model", "engine", "request", "threads", "kv_cache"}
    for kind in ("model", "engine", "request", "threads", "kv_cache"):
        some = libinfer.options(kind)
        assert some and all(o.doc and o.type for o in some)
        with _c.Options(kind, {o.name: o.default for o in some}):
            pass


def test_generate_takes_options_of_every_object() -> None:
    options: dict[str, libinfer.OptionValue] = {
        "temperature": 0,
        "max_tokens": 8,
        "threads": 1,
        "context_length": 128,
        "load_mode": "mmap",
    }
    completion = libinfer.generate(MODEL, "Once upon a time", **options)
    assert completion.finish.generated_tokens == 8
    with pytest.raises(libinfer.OptionError, match="nonsense"):
        libinfer.generate(MODEL, "x", nonsense=True)


def test_the_module_prints_what_it_is() -> None:
    output = subprocess.run([sys.executable, "-m", "libinfer"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert f"libinfer {libinfer.version}" in output and libinfer.cpu_level() in output
    assert all(option.name in output for option in libinfer.options())


def test_the_readme_program_runs() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(programs) >= 2
    for program in programs:
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True
        )
        assert len(ended.stdout) > 20


def test_examples_run() -> None:
    examples = ROOT / "examples" / "python"
    model = str(MODEL)

    def run(name: str, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(examples / name), *arguments]
        return subprocess.run(command, input=input, capture_output=True, text=True, cwd=ROOT, timeout=120)

    hello = run("hello.py", model, "Hello there", "16", "0")
    assert hello.returncode == 0 and hello.stdout.rstrip("\n") == libinfer.generate(
        MODEL, "Hello there", max_tokens=16, temperature=0
    ).text.rstrip("\n")
    batch = run("batch.py", model, "8", "One", "Two", "Three")
    assert batch.returncode == 0 and {line[:3] for line in batch.stdout.splitlines() if line[:1] == "["} == {
        "[0]",
        "[1]",
        "[2]",
    }
    chat = run("chat.py", model, input="Hello\n")
    assert chat.returncode == 1 and "has no chat template" in chat.stderr
    missing = run("hello.py", "nowhere.gguf")
    assert missing.returncode == 1 and missing.stderr.startswith("hello: ") and "nowhere.gguf" in missing.stderr


def test_the_chat_example_answers(tmp_path: Path) -> None:
    from conftest import with_chat_template

    path = tmp_path / "chat.gguf"
    path.write_bytes(with_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"))
    command = [sys.executable, str(ROOT / "examples" / "python" / "chat.py"), str(path), "8", "0"]
    ended = subprocess.run(command, input="Hello\nAnd you?\n", capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "") and len(ended.stdout.splitlines()) >= 2
