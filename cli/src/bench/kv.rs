//! `infer bench --kv`: the key/value store alone. Tokens stored by one call and by several, fetched and found again, beside
//! what copying the same bytes takes at that moment.
//!
//! Everything runs on one thread. What is stored is hot in the caches, as what was just computed is; the blocks are used
//! for the second time, so the system has no pages to give. The limit is `memcpy` of the bytes as they are stored, from
//! one place to the same pattern of addresses, in calls of the same size. Repetitions of both take turns; medians count.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use infer::kv::BLOCK_TOKENS;
use infer::kv::store::{Elements, ElementsMut, KvStore, Sequence, Shape};
use infer::memory::{self, Region};
use infer::options::KvCacheOptions;
use serde_json::{Value, json};

use super::machine::Machine;
use super::{kv_cold, median};
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Output, Style, styled};

/// The configuration of the founding reports.
pub const LAYERS: usize = 32;
pub const HEADS: usize = 8;
pub const HEAD_DIM: usize = 128;
pub const TOKENS: usize = 2048;

/// Tokens of a call.
const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

const TYPES: [&str; 4] = ["f32", "f16", "bf16", "q8"];

fn store(
    kv_type: &'static str,
    (n_layers, n_kv_heads, head_dim): (usize, usize, usize),
) -> infer::Result<KvStore> {
    KvStore::new(&KvCacheOptions {
        n_layers,
        n_kv_heads,
        head_dim,
        kv_type,
        hot_tokens: TOKENS,
        ..KvCacheOptions::default()
    })
}

/// Rows of `n` tokens of a layer, keys and values.
pub struct Rows {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

impl Rows {
    pub fn new(shape: &Shape, n: usize) -> infer::Result<Self> {
        let n = n * shape.token_elements();
        let mut keys = memory::filled(0.0f32, n, "rows to store")?;
        for (i, x) in keys.iter_mut().enumerate() {
            *x = (i * 7919 % 1009) as f32 / 1009.0 - 0.5;
        }
        let values = memory::copy(&keys, "rows to store")?;
        Ok(Self { keys, values })
    }
}

/// Stores into an empty sequence until it is full; answers the seconds.
fn fill(sequence: &Sequence, batch: usize, rows: (Elements<'_>, Elements<'_>)) -> infer::Result<f64> {
    sequence.truncate(0)?;
    let layers = sequence.shape().n_layers;
    let started = Instant::now();
    for position in (0..TOKENS).step_by(batch) {
        for layer in 0..layers {
            sequence.store_batch(layer, position, batch, rows.0, rows.1)?;
        }
        sequence.advance(batch)?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Copies the bytes that [`fill`] stores to where it stores them.
fn copy(shape: &Shape, memory: &mut [u8], batch: usize, source: &[u8]) -> f64 {
    let token = shape.token_bytes();
    let half = BLOCK_TOKENS * token;
    let started = Instant::now();
    for position in (0..TOKENS).step_by(batch) {
        for layer in 0..2 * shape.n_layers {
            let mut at = position;
            while at < position + batch {
                let (block, slot) = (at / BLOCK_TOKENS, at % BLOCK_TOKENS);
                let n = (BLOCK_TOKENS - slot).min(position + batch - at);
                let start = block * shape.block_bytes() + layer * half + slot * token;
                let from = (at - position) * token;
                memory[start..start + n * token].copy_from_slice(&source[from..from + n * token]);
                at += n;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    black_box(&memory[0]);
    seconds
}

/// Stores of one type.
pub fn stores(kv_type: &'static str, repetitions: usize) -> infer::Result<Vec<Value>> {
    let store = store(kv_type, (LAYERS, HEADS, HEAD_DIM))?;
    let shape = *store.shape();
    let sequence = store.open("")?;
    let most = BATCHES[BATCHES.len() - 1];
    let rows = Rows::new(&shape, most)?;
    let floats = |n: usize| {
        let n = n * shape.token_elements();
        (Elements::F32(&rows.keys[..n]), Elements::F32(&rows.values[..n]))
    };
    let mut memory = Region::new(TOKENS / BLOCK_TOKENS * shape.block_bytes(), "memory to copy to")?;
    // Both touch their memory first.
    fill(&sequence, most, floats(most))?;
    let mut own = memory::filled(0u8, most * shape.token_bytes(), "rows to store")?;
    let mut own_values = memory::filled(0u8, most * shape.token_bytes(), "rows to store")?;
    sequence.fetch(
        0,
        0,
        most,
        ElementsMut::Stored(&mut own),
        ElementsMut::Stored(&mut own_values),
    )?;
    copy(&shape, &mut memory, most, &own);
    let optimal = sequence.optimal_batch()?;
    let mut results = Vec::new();
    for batch in BATCHES {
        let mut times = [const { Vec::new() }; 3];
        let bytes = batch * shape.token_bytes();
        let taken_over = (
            Elements::Stored(&own[..bytes]),
            Elements::Stored(&own_values[..bytes]),
        );
        for _ in 0..repetitions {
            times[0].push(fill(&sequence, batch, floats(batch))?);
            times[1].push(copy(&shape, &mut memory, batch, &own));
            times[2].push(fill(&sequence, batch, taken_over)?);
        }
        let [converted, copied, taken] = times.each_mut().map(|t| median(t));
        // Floats that stay floats are taken over either way.
        let sources = if kv_type == "f32" { 1 } else { 2 };
        for (source, seconds) in [("f32", converted), (kv_type, taken)].into_iter().take(sources) {
            results.push(json!({
                "operation": "store",
                "kv_type": kv_type,
                "source": source,
                "batch": batch,
                "optimal": batch == optimal,
                "tokens_per_second": TOKENS as f64 / seconds,
                "gb_s": (2 * LAYERS * TOKENS * shape.token_bytes()) as f64 / seconds / 1e9,
                "memcpy_tokens_per_second": TOKENS as f64 / copied,
                "fraction_of_memcpy": copied / seconds,
            }));
        }
    }
    results.extend(reads(&store, &sequence, repetitions)?);
    Ok(results)
}

/// Fetching, viewing and finding what [`stores`] has stored.
fn reads(store: &KvStore, sequence: &Sequence, repetitions: usize) -> infer::Result<Vec<Value>> {
    let shape = store.shape();
    let kv_type = shape.row_type.name();
    let mut floats = [(); 2].map(|()| vec![0.0f32; TOKENS * shape.token_elements()]);
    let mut bytes = [(); 2].map(|()| vec![0u8; TOKENS * shape.token_bytes()]);
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..repetitions {
        let [keys, values] = &mut floats;
        times[0].push(each_layer(sequence, |layer| {
            sequence.fetch(layer, 0, TOKENS, ElementsMut::F32(keys), ElementsMut::F32(values))
        })?);
        let [keys, values] = &mut bytes;
        times[1].push(each_layer(sequence, |layer| {
            sequence.fetch(
                layer,
                0,
                TOKENS,
                ElementsMut::Stored(keys),
                ElementsMut::Stored(values),
            )
        })?);
        times[2].push(each_layer(sequence, |layer| {
            sequence.view(layer, 0, TOKENS).map(|view| {
                black_box(&view);
            })
        })?);
        // The limit of the copies: from one place that is not hot to another that is.
        times[3].push(each_layer(sequence, |layer| {
            let view = sequence.view(layer, 0, TOKENS)?;
            let mut at = 0;
            for part in (0..view.len()).filter_map(|i| view.part(i)) {
                keys[at..at + part.keys.len()].copy_from_slice(part.keys);
                values[at..at + part.values.len()].copy_from_slice(part.values);
                at += part.keys.len();
            }
            Ok(())
        })?);
    }
    let [converted, copied, viewed, limit] = times.each_mut().map(|t| median(t));
    let of = |operation: &str, target: &str, seconds: f64| {
        json!({
            "operation": operation,
            "kv_type": kv_type,
            "target": target,
            "tokens_per_second": TOKENS as f64 / seconds,
            "gb_s": (2 * LAYERS * TOKENS * shape.token_bytes()) as f64 / seconds / 1e9,
            "memcpy_tokens_per_second": TOKENS as f64 / limit,
            "fraction_of_memcpy": limit / seconds,
        })
    };
    let tokens: Vec<u32> = (0..TOKENS as u32).collect();
    let started = Instant::now();
    sequence.seal(&tokens)?;
    let seal = started.elapsed().as_secs_f64();
    let mut lookups = Vec::new();
    for _ in 0..repetitions.max(5) {
        let started = Instant::now();
        let found = store.lookup("", &tokens)?;
        lookups.push(started.elapsed().as_secs_f64());
        drop(found);
    }
    Ok(vec![
        of("fetch", "f32", converted),
        of("fetch", kv_type, copied),
        json!({
            "operation": "view",
            "kv_type": kv_type,
            "tokens": TOKENS,
            "microseconds": viewed / LAYERS as f64 * 1e6,
        }),
        json!({"operation": "seal", "kv_type": kv_type, "tokens": TOKENS, "microseconds": seal * 1e6}),
        json!({
            "operation": "lookup",
            "kv_type": kv_type,
            "tokens": TOKENS,
            "microseconds": median(&mut lookups) * 1e6,
        }),
    ])
}

fn each_layer(sequence: &Sequence, mut work: impl FnMut(usize) -> infer::Result<()>) -> infer::Result<f64> {
    let started = Instant::now();
    for layer in 0..sequence.shape().n_layers {
        work(layer)?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// What a call costs beside its rows, per token and layer: stores of rows of one element.
pub fn overhead(repetitions: usize) -> infer::Result<Value> {
    let store = store("f32", (LAYERS, 1, 1))?;
    let sequence = store.open("")?;
    let rows = vec![0.5f32; TOKENS];
    let mut times = Vec::new();
    for batch in BATCHES {
        let rows = Elements::F32(&rows[..batch]);
        fill(&sequence, batch, (rows, rows))?;
        let mut taken = Vec::new();
        for _ in 0..repetitions {
            taken.push(fill(&sequence, batch, (rows, rows))?);
        }
        times.push(median(&mut taken) / (TOKENS * LAYERS) as f64 * 1e9);
    }
    let by_batch: Vec<Value> = BATCHES
        .iter()
        .zip(&times)
        .map(|(batch, ns)| json!({"batch": batch, "nanoseconds": ns, "less": 1.0 - ns / times[0]}))
        .collect();
    Ok(json!(by_batch))
}

/// Runs the measurements and reports them.
pub fn run(machine: &Machine, repetitions: Option<u32>, folder: Option<&Path>, json: bool) -> Outcome {
    let repetitions = repetitions.unwrap_or(5) as usize;
    let mut results = Vec::new();
    for kv_type in TYPES {
        results.extend(stores(kv_type, repetitions)?);
    }
    let report = json!({
        "machine": machine.json(),
        "version": env!("CARGO_PKG_VERSION"),
        "commit": option_env!("INFER_COMMIT"),
        "shape": {"n_layers": LAYERS, "n_kv_heads": HEADS, "head_dim": HEAD_DIM, "hot_tokens": TOKENS},
        "repetitions": repetitions,
        "results": results,
        "call_overhead_per_token_and_layer": overhead(repetitions)?,
        "cold": folder.map(|folder| kv_cold::measure(folder, repetitions)).transpose()?,
    });
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        print(&mut out, machine, &report)?;
    }
    Ok(OK)
}

fn print(out: &mut Output, machine: &Machine, report: &Value) -> Result<(), Failure> {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    out.text(&format!("machine    {}, {}\n", machine.cpu, machine.layout))?;
    out.text(&format!(
        "store      {LAYERS} layers x {HEADS} heads x {HEAD_DIM}, {TOKENS} tokens in memory, one thread; * the optimal batch\n"
    ))?;
    let heading = format!(
        "{:<8} {:<5} {:<6} {:>6} {:>12} {:>7} {:>12} {:>10}",
        "", "type", "from/to", "batch", "tokens/s", "GB/s", "memcpy", "of memcpy"
    );
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    let rows = || report["results"].as_array().into_iter().flatten();
    for row in rows().filter(|row| row["tokens_per_second"].is_number()) {
        let batch = row["batch"].as_u64().map_or(String::new(), |n| {
            let mark = if row["optimal"] == true { "*" } else { "" };
            format!("{n}{mark}")
        });
        let other = if row["source"].is_string() {
            &row["source"]
        } else {
            &row["target"]
        };
        out.text(&format!(
            "{:<8} {:<5} {:<7} {:>6} {:>12.0} {:>7.2} {:>12.0} {:>8.2}\n",
            text(&row["operation"]),
            text(&row["kv_type"]),
            text(other),
            batch,
            number(&row["tokens_per_second"]),
            number(&row["gb_s"]),
            number(&row["memcpy_tokens_per_second"]),
            number(&row["fraction_of_memcpy"]),
        ))?;
    }
    for row in rows().filter(|row| row["microseconds"].is_number()) {
        out.text(&format!(
            "{:<8} {:<5} {} tokens: {:.1} us\n",
            text(&row["operation"]),
            text(&row["kv_type"]),
            row["tokens"],
            number(&row["microseconds"])
        ))?;
    }
    for row in report["call_overhead_per_token_and_layer"]
        .as_array()
        .into_iter()
        .flatten()
    {
        out.text(&format!(
            "a call of {:>2} tokens costs {:>6.1} ns per token and layer beside its rows ({:+.1} %)\n",
            row["batch"],
            number(&row["nanoseconds"]),
            -100.0 * number(&row["less"])
        ))?;
    }
    if report["cold"].is_object() {
        kv_cold::print(out, &report["cold"])?;
    }
    Ok(())
}
