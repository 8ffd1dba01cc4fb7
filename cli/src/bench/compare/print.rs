//! The comparison for people: two tables, and what it comes to.

use serde_json::Value;

use super::super::founding::short;
use crate::exit::Failure;
use crate::output::{Lines, Output, Style, bytes, printable, styled};

/// Writes a report.
pub fn print(out: &mut Output, report: &Value) -> Result<(), Failure> {
    let text = |v: &Value| printable(v.as_str().unwrap_or_default(), Lines::Escape).into_owned();
    let (machine, workload) = (&report["machine"], &report["workload"]);
    let load = &workload["measured"];
    let lines = [
        (
            "machine",
            format!("{}, {}", text(&machine["cpu"]), text(&machine["layout"])),
        ),
        ("model", text(&report["model"]["description"])),
        (
            "load",
            format!(
                "{}, seed {}: {} requests of {} conversations, {} prompt and {} generated tokens, at most {} each",
                text(&workload["name"]),
                workload["seed"],
                load["requests"],
                load["conversations"],
                load["prompt_tokens"],
                load["generated_tokens"],
                load["longest_sequence"],
            ),
        ),
        ("cut", cut(report)),
        (
            "runs",
            format!(
                "{} of each, in turns; up to {} sequences; keys and values of up to {}",
                report["repetitions"],
                report["max_running"],
                size(&report["kv_budget"]),
            ),
        ),
    ];
    for (name, line) in lines {
        out.text(&format!("{name:<10} {line}\n"))?;
    }
    let rows: Vec<&Value> = report["configurations"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let width = rows
        .iter()
        .map(|r| text(&r["name"]).chars().count())
        .max()
        .unwrap_or(0);

    let heading = format!(
        "\n{:<width$} {:>9} {:>7} {:>7} {:>24} {:>17} {:>6} {:>6} {:>9}",
        "",
        "tokens/s",
        "x off",
        "req/s",
        "first token p50/95/99 s",
        "gap p50/99 ms",
        "batch",
        "cores",
        "identical"
    );
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    for row in &rows {
        let (first, gap) = (&row["first_token_seconds"], &row["inter_token_seconds"]);
        let milliseconds = |v: &Value| v.as_f64().map_or("-".to_string(), |s| short(1e3 * s));
        out.text(&format!(
            "{:<width$} {:>9} {:>7} {:>7} {:>24} {:>17} {:>6} {:>6} {:>9}\n",
            text(&row["name"]),
            digits(&row["tokens_per_second"]),
            digits(&row["speedup"]),
            digits(&row["requests_per_second"]),
            ["p50", "p95", "p99"].map(|p| digits(&first[p])).join("/"),
            ["p50", "p99"].map(|p| milliseconds(&gap[p])).join("/"),
            percent(&row["batch_utilization"]),
            percent(&row["core_utilization"]),
            identical(&row["identical"]),
        ))?;
    }

    let mut heading = format!(
        "\n{:<width$} {:>9} {:>9} {:>7} {:>10} {:>10}",
        "", "kv/token", "in use", "saved", "kv peak", "attention"
    );
    let (fits, costs) = (!report["memory_gb"].is_null(), !report["cost_per_hour"].is_null());
    if fits {
        heading.push_str(&format!(" {:>9}", format!("in {} GB", report["memory_gb"])));
    }
    if costs {
        heading.push_str(&format!(" {:>12}", "$/M tokens"));
    }
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    for row in &rows {
        let mut line = format!(
            "{:<width$} {:>9} {:>9} {:>7} {:>10} {:>10}",
            text(&row["name"]),
            row["kv_token_bytes"].to_string(),
            digits(&row["kv_bytes_per_context_token"]),
            percent(&row["kv_saved"]),
            size(&row["kv_bytes_peak"]),
            size(&row["attention_workspace_bytes"]),
        );
        if fits {
            line.push_str(&format!(" {:>9}", row["sequences_that_fit"].to_string()));
        }
        if costs {
            line.push_str(&format!(" {:>12}", digits(&row["dollars_per_million_tokens"])));
        }
        out.text(&format!("{line}\n"))?;
    }
    out.text(&format!("\n{}", conclusion(report)))
}

/// What was left out of the load that was asked for.
fn cut(report: &Value) -> String {
    let workload = &report["workload"];
    let (asked, measured) = (&workload["asked"], &workload["measured"]);
    let mut parts = Vec::new();
    if workload["scale"] != workload["scale_asked"] {
        parts.push(format!(
            "lengths to {} of those asked for",
            percent_of(number(&workload["scale"]) / number(&workload["scale_asked"]))
        ));
    }
    if asked["requests"] != measured["requests"] {
        parts.push(format!(
            "the first {} of {} requests",
            measured["requests"], asked["requests"]
        ));
    }
    match is_cut(report) {
        false => "nothing".to_string(),
        true => format!(
            "{}, which everything off completes in {} s",
            parts.join(", "),
            report["max_seconds"]
        ),
    }
}

/// What was measured beside what was promised.
fn conclusion(report: &Value) -> String {
    let founding = &report["founding"];
    let measured = |name: &str| digits(&founding[name]["measured"]);
    let promised = |name: &str| digits(&founding[name]["promised"]);
    let cut = match is_cut(report) {
        true => "of a load that was cut, see above:\n",
        false => "",
    };
    format!(
        "{cut}throughput: everything on computes {} x the tokens per second of everything off; the founding reports promised {} x\n\
         cost: a token costs {} % less on the same machine; the founding reports promised {} % less cost and memory\n\
         memory: keys and values take {} % less per token of context\n",
        measured("throughput"),
        promised("throughput"),
        measured("cost_saved_percent"),
        promised("cost_saved_percent"),
        measured("kv_memory_saved_percent"),
    )
}

fn is_cut(report: &Value) -> bool {
    let workload = &report["workload"];
    workload["scale"] != workload["scale_asked"]
        || workload["asked"]["requests"] != workload["measured"]["requests"]
}

fn identical(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    }
}

fn digits(value: &Value) -> String {
    value.as_f64().map_or("-".to_string(), short)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn size(value: &Value) -> String {
    value.as_f64().map_or("-".to_string(), |v| bytes(v as u64))
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or("-".to_string(), percent_of)
}

fn percent_of(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}
