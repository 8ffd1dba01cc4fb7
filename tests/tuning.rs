//! `docs/tuning.md`, written from the tables of options and presets.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fmt::Write;
use std::path::Path;

use infer::options::preset::{PRESETS, Preset, SizeClass};
use infer::options::{Object, OptionSpec, find, of};

const INTRODUCTION: &str = "\
# Tuning

<!-- Written by LIBINFER_BLESS=1 cargo test --test tuning from src/options; edit there, or the guide in tests/tuning.rs. -->

Every option there is, what the presets choose, and which to turn for what. The same names work everywhere: in C
`infer_engine_options_set(options, \"max_running\", \"8\", &error)`, in Rust a field of `EngineOptions`, in Go and
Python an entry of the options, on the command line `--max-running 8`.

## Presets

The engine option `preset` decides the options that were left at `0` or `auto`, when the engine is created. What was
set keeps its value, in whatever order options are set. `infer_engine_summary` shows what was decided.
";

const SIZES: &str = "
A model is small below 5 billion weights (those called 1B to 3B), medium below 10 billion (7B, 8B), and large above
(13B and more). Why the numbers fall with the size: a step takes time in proportion to weights times rows, so a large
model needs fewer rows for a step that takes a second, and its keys and values take more bytes per token.
Generated tokens depend on the preset by `kv_type`, and by `context_length` where a completion runs into it. Neither
is chosen by the machine, so the same options give the same tokens on every machine (one whose cache cannot hold a
whole context ends completions earlier). `threads` leaves a core free only where there are more than two.
";

const GUIDE: &str = "
## Which to turn for what

**Throughput: more tokens per second for all requests together.** `max_running` up, as long as the cache holds that
many sequences (`kv_budget`, or a smaller `context_length` or `kv_type` q8): a decode step reads every weight once, for
one row or for thirty. `prefill_chunk` up: longer steps read prompts faster. `preset` server does all of it. Read
`infer_engine_stats`: when `running` stays below `max_running` while requests wait, memory of the cache is the limit.

**Latency: the first token sooner, and even time between tokens.** `prefill_chunk` down: a running answer waits for
one chunk of somebody else's prompt at most, and pays with a longer wait for the first token of that prompt.
`max_running` down: fewer rows in a step, faster steps. `max_queued` down: a service that is full says so at once
instead of keeping clients waiting. `deadline_ms` ends a request that takes too long.

**Memory.** Weights: only another file is smaller.
Cache: `context_length` and `max_running` down, `kv_type` q8 (half of f16), or `kv_budget` in bytes; requests that do
not fit wait. Workspace: `prefill_chunk` and `max_running` down. `memory_budget` refuses a model that is too large
before anything is allocated; `infer inspect FILE` and `infer_model_estimate` tell beforehand.

**CPUs.** By default there is a thread for each core that the process may use (affinity, cgroup quota rounded down to
whole CPUs), never two on one core, and where cores are of two kinds a decode step takes those of the fast one and a
prompt takes all. `threads` below that leaves room for the host's own threads; more never helps, so threads beyond the
CPUs just sleep. Several engines in a process share one pool (`infer_threads`, whose options are below) instead of
competing: they take turns, in slices of about a millisecond when both are busy. `cpus` binds it. `infer bench` shows
what was found of the machine.

**Equal results.** The same request gives the same tokens whatever `threads`, `max_running`, `prefill_chunk` and the
other requests are. `kv_type` and `cpu_level` change results slightly; `exact` and
`flash_attention` off are for comparing with a reference.

**Untrusted callers.** `max_prompt_bytes`, `max_queued` and `context_length` bound what one request can cost;
`max_tokens` and `deadline_ms` bound each completion.
";

/// The text of a table's cell: a bar would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn tokens(n: usize) -> String {
    match n {
        usize::MAX => "the model's".to_string(),
        n => n.to_string(),
    }
}

/// What a preset gives an option: one value, or one for each size.
fn chosen(preset: &Preset, name: &str) -> Option<String> {
    let by_size = |value: &dyn Fn(SizeClass) -> String| {
        let values = SizeClass::ALL.map(value);
        if values.iter().all(|v| *v == values[0]) {
            values[0].clone()
        } else {
            values.join(" / ")
        }
    };
    Some(match name {
        "threads" => match preset.spare_cpus {
            0 => "all cores".to_string(),
            n => format!("all cores but {n}"),
        },
        "kv_type" => preset.kv_type.to_string(),
        "kv_budget" => format!("{} % of free memory", preset.kv_percent),
        "max_queued" => preset.max_queued.to_string(),
        "max_running" => by_size(&|c| preset.sized(c).max_running.to_string()),
        "context_length" => by_size(&|c| tokens(preset.sized(c).context_length)),
        "prefill_chunk" => by_size(&|c| preset.sized(c).prefill_chunk.to_string()),
        _ => return None,
    })
}

fn presets(out: &mut String) {
    out.push('\n');
    for preset in PRESETS {
        writeln!(out, "- `{}`: {}", preset.name, preset.doc).unwrap();
    }
    let names: Vec<String> = PRESETS.iter().map(|p| format!("`{}`", p.name)).collect();
    writeln!(
        out,
        "\nOne value, or one each for small / medium / large models; `context_length` and `kv_budget` are upper \
         limits:\n\n| option | {} |\n|---|{}",
        names.join(" | "),
        "---|".repeat(names.len())
    )
    .unwrap();
    for spec in of(Object::Engine) {
        let values: Vec<String> = PRESETS.iter().filter_map(|p| chosen(p, spec.name)).collect();
        if !values.is_empty() {
            writeln!(out, "| `{}` | {} |", spec.name, values.join(" | ")).unwrap();
        }
    }
    out.push_str(SIZES);
}

fn reference(out: &mut String) {
    out.push_str("\n## Every option\n");
    for (object, title) in [
        (Object::Model, "Loading a model"),
        (Object::Engine, "Engine"),
        (Object::Request, "Request"),
        (Object::Threads, "Thread pool"),
        (Object::KvCache, "Key/value cache of its own"),
    ] {
        writeln!(
            out,
            "\n### {title} (`infer_{}_options_set`)\n\n| option | type | default | range | |\n|---|---|---|---|---|",
            object.name()
        )
        .unwrap();
        for OptionSpec {
            name,
            kind,
            default,
            doc,
            ..
        } in of(object)
        {
            let default = match *default {
                "" => String::new(),
                text => format!("`{text}`"),
            };
            writeln!(
                out,
                "| `{name}` | {} | {default} | {} | {} |",
                kind.name(),
                cell(&kind.range()),
                cell(doc)
            )
            .unwrap();
        }
    }
}

#[test]
fn the_committed_page_is_the_generated_one() {
    let mut page = INTRODUCTION.to_string();
    presets(&mut page);
    page.push_str(GUIDE);
    reference(&mut page);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tuning.md");
    if std::env::var_os("LIBINFER_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let different = page
        .lines()
        .zip(committed.lines())
        .position(|(a, b)| a != b)
        .map(|i| i + 1);
    assert!(
        page == committed,
        "docs/tuning.md is not what the tables give (first at line {different:?}); \
         LIBINFER_BLESS=1 cargo test --test tuning writes it"
    );
}

#[test]
fn the_guide_names_only_options_that_exist() {
    let objects = [
        Object::Model,
        Object::Engine,
        Object::Request,
        Object::Threads,
        Object::KvCache,
    ];
    let mut named = 0;
    for word in GUIDE.split('`').skip(1).step_by(2) {
        let other = word.starts_with("infer") || word == "running";
        if !other {
            named += 1;
            assert!(objects.iter().any(|o| find(*o, word).is_ok()), "{word}");
        }
    }
    assert!(named > 20);
}

#[test]
fn options_left_open_by_default_are_those_the_page_lists() {
    for spec in of(Object::Engine) {
        let open = spec.doc.contains("by the preset") || spec.name == "kv_budget";
        assert_eq!(chosen(&PRESETS[0], spec.name).is_some(), open, "{}", spec.name);
    }
}
