//! The comparison as a bar chart: throughput and memory.

use serde_json::Value;

use super::super::founding::short;
use super::super::svg::{Bar, Chart, Panel};

/// The chart of a report.
pub fn draw(report: &Value) -> String {
    let rows: Vec<&Value> = report["configurations"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let bars = |value: &dyn Fn(&Value) -> Option<f64>, unit: &str| -> Vec<Bar> {
        let bar = |row: &&Value| {
            let value = value(row)?;
            Some(Bar {
                label: text(&row["name"]),
                value,
                text: format!("{}{unit}", short(value)),
                strong: row["kind"] == "on" || row["kind"] == "off",
            })
        };
        rows.iter().filter_map(bar).collect()
    };
    let load = &report["workload"]["measured"];
    let chart = Chart {
        title: format!(
            "{}: throughput and memory, feature by feature",
            text(&report["model"]["description"])
        ),
        subtitle: format!(
            "{}; load {} of {} requests, {} prompt and {} generated tokens",
            text(&report["machine"]["cpu"]),
            text(&report["workload"]["name"]),
            load["requests"],
            load["prompt_tokens"],
            load["generated_tokens"]
        ),
        panels: vec![
            Panel {
                axis: "tokens per second, as a multiple of everything off".to_string(),
                bars: bars(&|row| row["speedup"].as_f64(), " x"),
            },
            Panel {
                axis: "keys and values, bytes per token of context".to_string(),
                bars: bars(&|row| row["kv_bytes_per_context_token"].as_f64(), ""),
            },
        ],
    };
    chart.draw()
}
