//! `infer bench --founding`: the figures that founding reports of the project claimed, measured on this machine, beside
//! what the machine allows. What this version cannot measure is said so, never guessed.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::engine::Event;
use infer::kernel::attention::{AttentionShape, Form};
use infer::kernel::{CpuLevel, Kernels, Precision, RowType, ThreadPool};
use infer::kv::{Geometry, LayerShape};
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, ThreadsOptions};
use serde_json::{Value, json};

use super::limit::Rates;
use super::machine::Machine;
use super::measure::Bench;
use super::probe::Probe;
use super::{allocations, load, median};
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Output, Style, styled};

/// Length of the vectors of the claims that name none.
const N: usize = 1024;
/// Side of the matrices.
const SIDE: usize = 256;
/// How long one sample of a timing takes at least.
const SAMPLE: Duration = Duration::from_millis(2);
/// Samples of a timing; the median counts.
const SAMPLES: usize = 9;

/// What the levels are compared with.
const SCALAR: &str = "the limit is the lanes of a vector against one; the scalar level is plain Rust, which the compiler vectorises for what every CPU has (4 lanes of SSE2 or NEON), so it is no build without SIMD";

/// A line of the table.
struct Figure {
    figure: String,
    claim: &'static str,
    /// The number in its unit; `None` with a reason in `note` when this version cannot measure it.
    measured: Option<f64>,
    /// What the machine allows, in the same unit.
    limit: Option<f64>,
    unit: &'static str,
    note: &'static str,
}

impl Figure {
    fn new(
        figure: impl Into<String>,
        claim: &'static str,
        measured: f64,
        limit: Option<f64>,
        unit: &'static str,
    ) -> Self {
        Self {
            figure: figure.into(),
            claim,
            measured: Some(measured),
            limit,
            unit,
            note: "",
        }
    }

    fn missing(figure: &str, claim: &'static str, note: &'static str) -> Self {
        Self {
            figure: figure.to_string(),
            claim,
            measured: None,
            limit: None,
            unit: "",
            note,
        }
    }

    fn note(self, note: &'static str) -> Self {
        Self { note, ..self }
    }

    fn json(&self) -> Value {
        json!({
            "figure": self.figure,
            "claim": self.claim,
            "measured": self.measured,
            "limit": self.limit,
            "unit": self.unit,
            "note": self.note,
        })
    }
}

/// Measures everything and prints the table.
pub fn run(
    path: &Path,
    options: &EngineOptions,
    model_options: &ModelOptions,
    machine: &Machine,
    json: bool,
) -> Outcome {
    let (level, pool) = super::computing(options)?;
    let model = load(path, model_options)?;
    let kernels = table_of(level)?;
    let scalar = table_of(CpuLevel::Scalar)?;
    let probe = Probe::new(Arc::clone(&pool))?;
    let now = probe.sample();
    drop(probe);

    let mut figures = Vec::new();
    vectors(&mut figures, kernels, scalar, now.clock);
    attention_memory(&mut figures, kernels, pool.threads());
    memory(&mut figures, &model, options)?;
    allocating(&mut figures, &model, options, &pool)?;
    everything(&mut figures, &model, options, &pool)?;
    store(&mut figures)?;
    elsewhere(&mut figures);

    let mut out = Output::new();
    if json {
        out.json(&json!({
            "machine": machine.json(),
            "cpu_level": level.name(),
            "threads": pool.threads(),
            "clock_ghz": now.clock / 1e9,
            "bandwidth_gb_s": now.bandwidth / 1e9,
            "model": { "path": path.to_string_lossy(), "description": model.info().description },
            "founding": figures.iter().map(Figure::json).collect::<Vec<_>>(),
        }))?;
    } else {
        print(&mut out, &figures)?;
    }
    out.flush()?;
    Ok(OK)
}

fn table_of(level: CpuLevel) -> Result<&'static Kernels, Failure> {
    Kernels::for_level(level)
        .ok_or_else(|| Failure::Failed(format!("this CPU has no kernels of level '{}'", level.name())))
}

/// Nanoseconds of a call.
fn time(mut call: impl FnMut()) -> f64 {
    let mut calls = 1u32;
    let mut batch = |calls: u32| {
        let started = Instant::now();
        for _ in 0..calls {
            call();
        }
        started.elapsed()
    };
    while batch(calls) < SAMPLE && calls < 1 << 30 {
        calls *= 2;
    }
    let mut samples: Vec<f64> = (0..SAMPLES)
        .map(|_| batch(calls).as_secs_f64() * 1e9 / f64::from(calls))
        .collect();
    median(&mut samples)
}

/// Numbers between -1 and 1.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 51.0).collect()
}

/// Times of the vector and matrix operations at a level, in nanoseconds.
struct Times {
    dot: f64,
    matmul: f64,
    relu: f64,
    sigmoid: f64,
    sum: f64,
}

impl Times {
    fn of(k: &Kernels) -> Self {
        let (a, b) = (numbers(N), numbers(N));
        let (x, y) = (numbers(SIDE * SIDE), numbers(SIDE * SIDE));
        let mut out = vec![0.0f32; N];
        let mut product = vec![0.0f32; SIDE * SIDE];
        Self {
            dot: time(|| _ = black_box(k.dot_f32(black_box(&a), &b))),
            sum: time(|| _ = black_box(k.sum(black_box(&a)))),
            relu: time(|| k.relu(black_box(&a), black_box(&mut out))),
            sigmoid: time(|| k.sigmoid(black_box(&a), black_box(&mut out))),
            matmul: time(|| {
                // The lengths fit, so there is no error to hear of.
                _ = k.matmul_f32((SIDE, SIDE, SIDE), black_box(&x), &y, black_box(&mut product));
            }),
        }
    }
}

/// Operations alone, and the levels beside each other.
fn vectors(figures: &mut Vec<Figure>, k: &Kernels, scalar: &Kernels, clock: f64) {
    let rates = Rates::measure(k);
    // A fused multiply-add of two vectors per cycle gives the lanes of a vector; as many loads, half as many stores.
    let lanes = rates.f32() / 2.0;
    let nanoseconds = |cycles: f64| cycles / clock * 1e9;
    let loads = |values: usize| Some(nanoseconds(values as f64 / (2.0 * lanes)));
    let stores = |values: usize| Some(nanoseconds(values as f64 / lanes));
    let products = (SIDE * SIDE * SIDE) as f64;
    let (fast, slow) = (Times::of(k), Times::of(scalar));

    figures.push(Figure::new(
        "dot of 1024 f32",
        "53 ns",
        fast.dot,
        loads(2 * N),
        "ns",
    ));
    let limit = nanoseconds(products / rates.f32()) / 1e6;
    figures.push(Figure::new(
        "matmul 256 x 256 f32, one thread",
        "7.8 and 67.9 ms",
        fast.matmul / 1e6,
        Some(limit),
        "ms",
    ));
    figures.push(Figure::new("ReLU of 1024", "28 ns", fast.relu, stores(N), "ns"));
    figures.push(
        Figure::new("sigmoid of 1024", "75 ns", fast.sigmoid, stores(N), "ns")
            .note("the limit is that of storing"),
    );
    figures.push(Figure::new("sum of 1024", "42 ns", fast.sum, loads(N), "ns"));
    for (n, claim) in [(512, "2 µs"), (1024, "4 µs"), (2048, "8 µs")] {
        let (x, w) = (numbers(n), numbers(n));
        let mut out = vec![0.0f32; n];
        let t = time(|| k.rms_norm(black_box(&x), &w, 1e-5, black_box(&mut out)));
        // x twice and the weight once, each loaded.
        let limit = loads(3 * n).map(|t| t / 1e3);
        figures.push(Figure::new(
            format!("RMS norm of {n}"),
            claim,
            t / 1e3,
            limit,
            "µs",
        ));
    }
    let claim = ">= 16 x";
    let lanes = Some(lanes);
    for (name, slow, fast) in [
        ("dot", slow.dot, fast.dot),
        ("matmul", slow.matmul, fast.matmul),
        ("ReLU", slow.relu, fast.relu),
        ("sigmoid", slow.sigmoid, fast.sigmoid),
        ("sum", slow.sum, fast.sum),
    ] {
        let figure = Figure::new(
            format!("{name}, {} against scalar", k.level().name()),
            claim,
            slow / fast,
            lanes,
            "x",
        );
        figures.push(figure.note(SCALAR));
    }
    figures.push(Figure::new(
        "RMS norm of 2048, fused against several passes",
        ">= 2 x",
        norms(k),
        None,
        "x",
    ));
    let int8 = bytes(k);
    let limit = rates.int8() / rates.f32();
    figures.push(Figure::new(
        "matmul 256 x 256 int8 against f32",
        "4 x",
        fast.matmul / int8,
        Some(limit),
        "x",
    ));
}

/// How many times faster the fused norm is than one pass per operation.
fn norms(k: &Kernels) -> f64 {
    let n = 2048;
    let (x, w) = (numbers(n), numbers(n));
    let mut out = vec![0.0f32; n];
    let fused = time(|| k.rms_norm(black_box(&x), &w, 1e-5, black_box(&mut out)));
    let mut squares = vec![0.0f32; n];
    let passes = time(|| {
        squares.copy_from_slice(black_box(&x));
        k.mul_in_place(&mut squares, &x);
        let mean = k.sum(&squares) / n as f32;
        out.copy_from_slice(&x);
        k.scale_in_place(&mut out, 1.0 / (mean + 1e-5).sqrt());
        k.mul_in_place(black_box(&mut out), &w);
    });
    passes / fused
}

/// Nanoseconds of the product of signed bytes.
fn bytes(k: &Kernels) -> f64 {
    let a: Vec<i8> = (0..SIDE * SIDE).map(|i| (i * 37 % 251) as u8 as i8).collect();
    let mut product = vec![0i32; SIDE * SIDE];
    time(|| {
        // The lengths fit, so there is no error to hear of.
        _ = k.matmul_i8((SIDE, SIDE, SIDE), black_box(&a), &a, black_box(&mut product));
    })
}

/// Options of an engine by hand, with room for `batch` sequences.
fn options_for(
    options: &EngineOptions,
    pool: &Arc<ThreadPool>,
    batch: usize,
    context: usize,
) -> EngineOptions {
    EngineOptions {
        shared_threads: Some(Arc::clone(pool)),
        max_running: batch,
        max_queued: batch,
        context_length: context,
        ..options.clone()
    }
}

/// What tiled attention computes in, against two passes.
fn attention_memory(figures: &mut Vec<Figure>, k: &'static Kernels, threads: usize) {
    let positions = 8192;
    let shape = AttentionShape {
        n_heads: 32,
        n_kv_heads: 8,
        key_dim: 128,
        value_dim: 128,
        scale: 1.0,
        window: None,
        softcap: None,
        precision: Precision::Native,
    };
    let per_query = |form: Form| form.bytes_per_query(k, RowType::F16, &shape, positions);
    let saved = 100.0 * (1.0 - per_query(Form::Tiled) / per_query(Form::TwoPass));
    figures.push(
        Figure::new(
            "flash-attention workspace saved, 8192 tokens",
            "92 %",
            saved,
            Some(100.0),
            "%",
        )
        .note("for each query in hand: 32 heads, 8 of keys and values, of 128, in f16"),
    );
    for (form, note) in [
        (Form::Tiled, "many queries in hand per thread"),
        (Form::TwoPass, "flash_attention off: one query in hand per thread"),
    ] {
        let bytes = form.bytes(k, RowType::F16, &shape, threads, positions);
        let figure = format!("all workspace of {} attention, 8192 tokens", form.name());
        figures.push(Figure::new(figure, "", bytes as f64 / 1024.0, None, "KiB").note(note));
    }
}

/// Keys and values: what grouped heads save, and how much of the blocks is used.
fn memory(figures: &mut Vec<Figure>, model: &Arc<Model>, options: &EngineOptions) -> Result<(), Failure> {
    let layers = |n_kv_heads| {
        let shape = LayerShape {
            n_kv_heads,
            key_dim: 128,
            value_dim: 128,
            window: None,
        };
        Geometry::new(RowType::F16, vec![shape; 32]).map(|g| g.token_bytes() as f64)
    };
    let saved = 100.0 * (1.0 - layers(8)? / layers(32)?);
    figures.push(Figure::new(
        "keys and values saved by 4 heads sharing one",
        "75 %",
        saved,
        Some(75.0),
        "%",
    ));

    let context = model.info().context_length.min(1024);
    let pool = one_thread()?;
    let batch = 8;
    let bench = Bench::new(Arc::clone(model), options_for(options, &pool, batch, context))?;
    let geometry = Geometry::new(super::kv_type(model, options)?, model.body()?.layer_shapes())?;
    // Lengths from a quarter of the context to nearly all of it.
    let mut shares = Vec::new();
    for i in 0..batch {
        let depth = context / 4 + i * (context * 5 / 8) / batch + i;
        let filled = bench.fill(1, depth.min(context.saturating_sub(8)), 1)?;
        let stats = bench.stats();
        let used = stats.kv_tokens_used as f64 * geometry.token_bytes() as f64;
        shares.push(100.0 * used / stats.kv_bytes_used.max(1) as f64);
        bench.end(filled)?;
    }
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    figures.push(
        Figure::new(
            "blocks of keys and values in use",
            ">= 95 %",
            mean,
            Some(100.0),
            "%",
        )
        .note("eight sequences of a quarter of the model's context, or of 1024, to nearly all of it"),
    );
    Ok(())
}

fn one_thread() -> Result<Arc<ThreadPool>, Failure> {
    let options = ThreadsOptions {
        threads: 1,
        ..ThreadsOptions::default()
    };
    Ok(Arc::new(
        ThreadPool::from_options(&options).map_err(infer::Error::from)?,
    ))
}

/// Allocations of requests from submission to their last event, and of decode steps alone.
fn allocating(
    figures: &mut Vec<Figure>,
    model: &Arc<Model>,
    options: &EngineOptions,
    pool: &Arc<ThreadPool>,
) -> Result<(), Failure> {
    let (batch, prompt, steps) = (8, 32, 64);
    let bench = Bench::new(
        Arc::clone(model),
        options_for(options, pool, batch, prompt + steps + 8),
    )?;
    let warm = bench.fill(batch, prompt, steps)?;
    bench.end(warm)?;

    let started = Instant::now();
    let (count, result) = allocations::during(|| -> Result<(), Failure> {
        let mut event = Event::default();
        for _ in 0..4 {
            let filled = bench.fill(batch, prompt, steps)?;
            for _ in 0..steps {
                bench.decode(&filled, 1)?;
                bench.read(&filled, &mut event)?;
            }
            bench.end(filled)?;
        }
        Ok(())
    });
    result?;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let claim = "< 1000 /s";
    figures.push(Figure::new("allocations over whole requests", claim, rate, Some(0.0), "/s")
        .note("8 requests at a time, 32 prompt and 64 generated tokens; the faster the model, the more requests per second"));
    let per_request = count as f64 / (4 * batch) as f64;
    figures.push(
        Figure::new("allocations per request", "", per_request, None, "")
            .note("from submission to the last event, those of the caller's prompts included"),
    );

    let filled = bench.fill(batch, prompt, steps)?;
    bench.decode(&filled, 8)?;
    let (count, result) = allocations::during(|| bench.decode(&filled, steps / 2));
    result?;
    bench.end(filled)?;
    figures.push(Figure::new(
        "allocations per decode step",
        "0",
        count as f64 / (steps / 2) as f64,
        Some(0.0),
        "",
    ));
    Ok(())
}

/// Throughput with batching, threads and the best level against a sequence at a time, one thread and the scalar level.
fn everything(
    figures: &mut Vec<Figure>,
    model: &Arc<Model>,
    options: &EngineOptions,
    pool: &Arc<ThreadPool>,
) -> Result<(), Failure> {
    let depth = 64;
    let speed = |options: EngineOptions, batch: usize, steps: usize| -> Result<f64, Failure> {
        let bench = Bench::new(Arc::clone(model), options)?;
        let mut speeds = Vec::new();
        for _ in 0..3 {
            let filled = bench.fill(batch, depth, steps)?;
            let decoded = bench.decode(&filled, steps)?;
            speeds.push(decoded.tokens as f64 / decoded.time.as_secs_f64().max(1e-9));
            bench.end(filled)?;
        }
        Ok(median(&mut speeds))
    };
    let on = speed(options_for(options, pool, 32, depth + 64), 32, 16)?;
    let off = EngineOptions {
        cpu_level: CpuLevel::Scalar.name(),
        ..options_for(options, &one_thread()?, 1, depth + 16)
    };
    let off = speed(off, 1, 4)?;
    figures.push(
        Figure::new(
            "decode, everything on against everything off",
            ">= 24 x",
            on / off,
            None,
            "x",
        )
        .note("32 sequences on all threads at the best level against one on one thread at the scalar level"),
    );
    Ok(())
}

/// The key/value store of `infer_kv_cache` in the founding reports' configuration.
fn store(figures: &mut Vec<Figure>) -> infer::Result<()> {
    const REPETITIONS: usize = 3;
    for kv_type in ["f16", "f32"] {
        let results = super::kv::stores(kv_type, REPETITIONS)?;
        let best = results.iter().find(|row| row["optimal"] == true);
        let of = |name: &str| best.and_then(|row| row[name].as_f64());
        let figure = format!("key/value store of {kv_type}, 32 layers x 8 heads x 128, rows of f32");
        if let Some(measured) = of("tokens_per_second") {
            figures.push(
                Figure::new(
                    figure,
                    ">= 50 000 tokens/s",
                    measured,
                    of("memcpy_tokens_per_second"),
                    "tokens/s",
                )
                .note("at the optimal batch, one thread; the limit is memcpy of the bytes that are stored"),
            );
        }
    }
    let overhead = super::kv::overhead(REPETITIONS)?;
    let less = overhead.as_array().and_then(|rows| rows.last()?["less"].as_f64());
    if let Some(less) = less {
        figures.push(
            Figure::new(
                "call overhead saved by storing 64 tokens at once",
                "97 %",
                less * 100.0,
                None,
                "%",
            )
            .note("per token and layer, against one call per token"),
        );
    }
    Ok(())
}

/// What is measured elsewhere.
fn elsewhere(figures: &mut Vec<Figure>) {
    for (figure, claim, note) in [
        (
            "L1 hit rate",
            "92 %",
            "measured by benches/cachegrind, which needs valgrind",
        ),
        (
            "first token of a cached prompt",
            "<= 1.2 decode steps",
            "measured by the ignored test of tests/prefix_cache.rs, on a model of your own",
        ),
        (
            "a prompt read back from the disk",
            ">= 50 x",
            "measured by infer bench --tier",
        ),
    ] {
        figures.push(Figure::missing(figure, claim, note));
    }
}

fn print(out: &mut Output, figures: &[Figure]) -> Result<(), Failure> {
    let width = figures
        .iter()
        .map(|f| f.figure.chars().count())
        .max()
        .unwrap_or(0);
    let heading = format!(
        "{:<width$}  {:>20}  {:>12}  {:>12}  note",
        "figure", "claim", "measured", "limit"
    );
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    for f in figures {
        let number = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{} {}", short(v), f.unit));
        let line = format!(
            "{:<width$}  {:>20}  {:>12}  {:>12}  {}",
            f.figure,
            f.claim,
            number(f.measured).trim_end(),
            number(f.limit).trim_end(),
            f.note
        );
        out.text(&format!("{}\n", line.trim_end()))?;
    }
    Ok(())
}

/// Three digits, or all before the point.
pub(super) fn short(v: f64) -> String {
    match v.abs() {
        a if a >= 100.0 || a == 0.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        a if a >= 1.0 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(short(0.0), "0");
        assert_eq!(short(0.0421), "0.042");
        assert_eq!(short(3.456), "3.46");
        assert_eq!(short(34.56), "34.6");
        assert_eq!(short(3456.7), "3457");
    }
}
