//! What `--stats` tells about an engine that ran: a table for people, an object for programs.

use infer::engine::{Engine, Histogram, HistogramKind};
use serde_json::{Map, Value, json};

use crate::output::bytes;

/// Shares of the values for which a quantile is shown, and what it is called.
const QUANTILES: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// What it is called in the table.
fn name(kind: HistogramKind) -> &'static str {
    match kind {
        HistogramKind::BatchSize => "sequences of a step",
        HistogramKind::QueueTime => "waiting, ms",
        HistogramKind::TimeToFirstToken => "first token, ms",
        HistogramKind::InterTokenTime => "between tokens, ms",
        HistogramKind::StepTime => "a step, ms",
        HistogramKind::ColdReadTime => "reading a block, ms",
        HistogramKind::ColdWriteTime => "writing blocks, ms",
    }
}

/// A line for each histogram, and one about memory.
pub fn table(engine: &Engine) -> Vec<String> {
    let headings = QUANTILES.map(|(_, name)| format!("{name:>9}")).concat();
    let mut lines = vec![format!(
        "{:<20}{:>9}{headings}{:>9}{:>9}",
        "", "mean", "max", "values"
    )];
    for kind in HistogramKind::ALL {
        let h = engine.histogram(kind);
        let cold = matches!(kind, HistogramKind::ColdReadTime | HistogramKind::ColdWriteTime);
        if cold && h.count() == 0 {
            continue;
        }
        let scale = if kind.is_time() { 1e-6 } else { 1.0 };
        let cell = |value: f64| format!("{:>9.2}", value * scale);
        lines.push(format!(
            "{:<20}{}{}{}{:>9}",
            name(kind),
            cell(h.mean()),
            QUANTILES.map(|(q, _)| cell(h.quantile(q))).concat(),
            cell(h.max() as f64),
            h.count()
        ));
    }
    let stats = engine.stats();
    lines.push(format!(
        "key/value memory: {} of {} at most; {} prompt tokens found in the prefix cache; {} preemptions",
        bytes(stats.kv_bytes_peak),
        bytes(stats.kv_bytes_budget),
        stats.prefix_hit_tokens,
        stats.preemptions
    ));
    lines
}

/// The same by the names of the counters; times in seconds.
pub fn object(engine: &Engine) -> Value {
    let mut object = Map::new();
    for kind in HistogramKind::ALL {
        let name = match kind.is_time() {
            true => format!("{}_seconds", kind.name()),
            false => kind.name().to_string(),
        };
        object.insert(name, distribution(&engine.histogram(kind)));
    }
    let stats = engine.stats();
    for (name, n) in [
        ("steps", stats.steps),
        ("kv_bytes_peak", stats.kv_bytes_peak),
        ("kv_bytes_budget", stats.kv_bytes_budget),
        ("prefix_hit_tokens", stats.prefix_hit_tokens),
        ("preemptions", stats.preemptions),
    ] {
        object.insert(name.to_string(), json!(n));
    }
    Value::Object(object)
}

fn distribution(h: &Histogram) -> Value {
    let scale = if h.kind().is_time() { 1e-9 } else { 1.0 };
    let mut object = Map::new();
    object.insert("count".to_string(), json!(h.count()));
    object.insert("mean".to_string(), json!(h.mean() * scale));
    for (q, name) in QUANTILES {
        object.insert(name.to_string(), json!(h.quantile(q) * scale));
    }
    object.insert("max".to_string(), json!(h.max() as f64 * scale));
    Value::Object(object)
}
