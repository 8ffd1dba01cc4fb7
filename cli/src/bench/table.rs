//! The report of `infer bench` for people.

use serde_json::Value;

use crate::exit::Failure;
use crate::output::{Lines, Output, Style, bytes, printable, styled};

/// Writes a report as lines and a table.
pub fn print(out: &mut Output, report: &Value) -> Result<(), Failure> {
    let text = |v: &Value| printable(v.as_str().unwrap_or_default(), Lines::Escape).into_owned();
    let size = |v: &Value| bytes(v.as_u64().unwrap_or(0));
    let (machine, model) = (&report["machine"], &report["model"]);
    let threads = &report["results"][0]["threads"];
    let lines = [
        (
            "machine",
            format!(
                "{}, {}, {}",
                text(&machine["cpu"]),
                text(&machine["layout"]),
                size(&machine["memory_bytes"])
            ),
        ),
        (
            "model",
            format!(
                "{}, {} of weights, loaded in {:.2} s",
                text(&model["description"]),
                size(&model["weight_bytes"]),
                number(&report["load_seconds"])
            ),
        ),
        (
            "computing",
            format!(
                "{} threads, kernels {}, cache of {}",
                threads,
                text(&report["options"]["cpu_level"]),
                text(&report["options"]["kv_type"])
            ),
        ),
        (
            "memory",
            format!(
                "{} at most, {} private",
                size(&report["peak_rss_bytes"]),
                size(&report["rss_anon_bytes"])
            ),
        ),
    ];
    for (name, line) in lines {
        out.text(&format!("{name:<10} {line}\n"))?;
    }
    let heading = format!(
        "{:<11} {:>7} {:>6} {:>7} {:>10} {:>7} {:>10} {:>9} {:>6} {:>5}",
        "kind", "tokens", "batch", "depth", "tokens/s", "spread", "limit", "of limit", "GB/s", "GHz"
    );
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    for row in report["results"].as_array().into_iter().flatten() {
        let tokens =
            row["prompt_tokens"].as_u64().unwrap_or(0) + row["generate_tokens"].as_u64().unwrap_or(0);
        out.text(&format!(
            "{:<11} {:>7} {:>6} {:>7} {:>10.1} {:>5.1} % {:>10.1} {:>7.1} % {:>6.1} {:>5.2}\n",
            row["kind"].as_str().unwrap_or_default(),
            tokens,
            row["batch"].as_u64().unwrap_or(0),
            row["depth"].as_u64().unwrap_or(0),
            number(&row["tokens_per_second"]),
            100.0 * number(&row["spread"]),
            number(&row["limit_tokens_per_second"]),
            100.0 * number(&row["fraction_of_limit"]),
            number(&row["bandwidth_gb_s"]),
            number(&row["clock_ghz"]),
        ))?;
    }
    Ok(())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}
