//! The counters in words: a summary for people and Prometheus text for scrapers.

use std::fmt::Write;

use super::Shared;
use super::stats::{ComponentTimes, FIELDS, Stats, Unit};
use crate::kernel::attention::Form;
use crate::options::preset::SizeClass;

/// What is on, and what was measured.
pub(super) fn summary(shared: &Shared) -> String {
    let machine = &shared.machine;
    let info = shared.model.info();
    let stats = shared.counters.snapshot();
    let mut out = String::new();
    let attention = shared.options.attention();
    let bytes = |form: Form| {
        // Who has an engine has a body.
        let mut shape = shared.model.body().ok()?.widths().attention_shape();
        shape.precision = shared.options.precision();
        Some(form.bytes(
            machine.kernels,
            machine.kv_type,
            &shape,
            machine.threads,
            shared.context,
        ))
    };
    let group = info.n_heads / info.n_kv_heads.max(1);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "model: {}\n\
         preset: {} for a {} model; queue: up to {} requests\n\
         kernels: {}, threads: {}\n\
         context: {} tokens, sequences: up to {}, prefill chunk: {} tokens\n\
         batching: on; prefix cache: {}; speculation: {}; cold tier: not in this version\n\
         key/value cache: {}, {} bytes per token, {group} query heads share a key/value head\n\
         attention: {}; workspace: {} bytes tiled, {} bytes two-pass\n\
         key/value memory: {} of {} bytes in use, peak {}\n\
         prefixes: {} lookups, {} tokens found, {} bytes cached, {} evictions\n\
         drafts: {} tokens proposed, {} right, in {} steps\n\
         requests: {} submitted, {} completed, {} cancelled, {} expired, {} failed, {} refused\n\
         prefill: {} tokens, {:.1} per second{}\n\
         decode: {} tokens, {:.1} per second{}\n",
        info.description,
        shared.options.preset,
        SizeClass::of(info.n_parameters).name(),
        shared.options.max_queued,
        machine.kernels.level().name(),
        machine.threads,
        shared.context,
        shared.options.max_running,
        shared.options.prefill_chunk,
        if shared.options.prefix_cache {
            shared.options.prefix_policy
        } else {
            "off"
        },
        shared.options.speculation,
        machine.kv_type.name(),
        machine.kv_token_bytes,
        attention.name(),
        bytes(Form::Tiled).unwrap_or(0),
        bytes(Form::TwoPass).unwrap_or(0),
        stats.kv_bytes_used,
        stats.kv_bytes_budget,
        stats.kv_bytes_peak,
        stats.prefix_lookups,
        stats.prefix_hit_tokens,
        stats.kv_bytes_cached,
        stats.prefix_evictions,
        stats.draft_tokens,
        stats.accepted_tokens,
        stats.speculative_steps,
        stats.requests_submitted,
        stats.requests_completed,
        stats.requests_cancelled,
        stats.requests_expired,
        stats.requests_failed,
        stats.requests_refused,
        stats.prompt_tokens,
        stats.prefill_tokens_per_second(),
        shares(&stats.prefill_components()),
        stats.generated_tokens,
        stats.decode_tokens_per_second(),
        shares(&stats.decode_components()),
    );
    out
}

fn shares(t: &ComponentTimes) -> String {
    let total = t.total();
    if total == 0 {
        return String::new();
    }
    let percent = |part: u64| part as f64 * 100.0 / total as f64;
    format!(
        " (embedding {:.1} %, attention {:.1} %, feed-forward {:.1} %, projection {:.1} %, sampling {:.1} %)",
        percent(t.embedding),
        percent(t.attention),
        percent(t.ffn),
        percent(t.projection),
        percent(t.sampling)
    )
}

/// Prometheus text exposition format 0.0.4.
pub(super) fn metrics(stats: &Stats) -> String {
    let mut out = String::new();
    for ((name, value), (doc, unit, gauge)) in stats.fields().zip(FIELDS) {
        let kind = if *gauge { "gauge" } else { "counter" };
        let base = match unit {
            Unit::Count => format!("infer_{name}"),
            Unit::Nanoseconds => format!("infer_{name}_seconds"),
        };
        let full = if *gauge { base } else { format!("{base}_total") };
        let value = match unit {
            Unit::Count => value.to_string(),
            Unit::Nanoseconds => format!("{}", value as f64 / 1e9),
        };
        let doc = doc.trim();
        let _ = write!(out, "# HELP {full} {doc}\n# TYPE {full} {kind}\n{full} {value}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_help_type_and_value_lines_with_units() {
        let stats = Stats {
            steps: 3,
            decode_time: 1_500_000_000,
            running: 2,
            ..Stats::default()
        };
        let text = metrics(&stats);
        assert!(
            text.contains("# TYPE infer_steps_total counter\ninfer_steps_total 3\n"),
            "{text}"
        );
        assert!(text.contains("infer_decode_time_seconds_total 1.5\n"), "{text}");
        assert!(
            text.contains("# TYPE infer_running gauge\ninfer_running 2\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 3 * stats.fields().count());
    }
}
