//! The counters in words: a summary for people and Prometheus text for scrapers.

use std::fmt::Write;

use super::Shared;
use super::stats::{ComponentTimes, FIELDS, Stats, Unit};
use crate::histogram::{Histogram, HistogramKind};
use crate::kernel::attention::Form;
use crate::options::preset::SizeClass;

/// What is on, what the model's geometry predicts, and what was measured: a line each, what belongs together side by
/// side.
pub(super) fn summary(shared: &Shared) -> String {
    let stats = shared.counters.snapshot();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = features(&mut out, shared);
    let _ = memory(&mut out, shared, &stats);
    let _ = work(&mut out, &stats);
    let _ = times(&mut out, shared);
    let _ = cold(&mut out, shared);
    let _ = alerts(&mut out, shared, &stats);
    out
}

fn features(out: &mut String, shared: &Shared) -> std::fmt::Result {
    let (info, options) = (shared.model.info(), &shared.options);
    let content = shared.model.content_hash();
    let content = content.map_or(String::new(), |hash| format!("; content {hash}"));
    writeln!(out, "model: {}{content}", info.description)?;
    writeln!(
        out,
        "preset: {} for a {} model; queue: up to {} requests, served {}",
        options.preset,
        SizeClass::of(info.n_parameters).name(),
        options.max_queued,
        options.policy,
    )?;
    writeln!(
        out,
        "kernels: {}, threads: {}",
        shared.machine.kernels.level().name(),
        shared.machine.threads
    )?;
    writeln!(
        out,
        "context: {} tokens, sequences: up to {}, prefill chunk: {} tokens",
        shared.context, options.max_running, options.prefill_chunk,
    )?;
    writeln!(
        out,
        "batching: {}; prefix cache: {}; speculation: {}; cold tier: {}",
        if options.max_running > 1 { "on" } else { "off" },
        if options.prefix_cache {
            options.prefix_policy
        } else {
            "off"
        },
        options.speculation,
        match (&shared.tier, options.kv_cold_test_mode) {
            (None, _) => "off",
            (Some(_), true) => "in memory, for tests",
            (Some(_), false) if options.cold_storage.is_some() => "the host's storage",
            (Some(_), false) => options.kv_cold_dir.as_str(),
        },
    )
}

fn cold(out: &mut String, shared: &Shared) -> std::fmt::Result {
    let Some(tier) = &shared.tier else {
        return Ok(());
    };
    let (t, ms) = (tier.stats(), |h: Histogram, q| h.quantile(q) * 1e-6);
    writeln!(
        out,
        "cold tier: {}{}; {} blocks in {} of {} bytes; {} lookups, {} tokens found, {} of them computed all the same",
        t.state.name(),
        if t.writer == 1 {
            ""
        } else {
            ", another process writes"
        },
        t.blocks,
        t.bytes,
        t.budget,
        t.lookups,
        t.hit_tokens,
        t.recomputed,
    )?;
    writeln!(
        out,
        "cold reading: {} blocks, {} of the prefetched used, {} misses, {} corrupt; p50 {:.2} ms, p99 {:.2} ms",
        t.reads,
        percent(t.useful, t.useful + t.useless),
        t.misses,
        t.corrupt,
        ms(tier.read_times(), 0.5),
        ms(tier.read_times(), 0.99),
    )?;
    writeln!(
        out,
        "cold writing: {} blocks, {} waiting, {} dropped, {} not worth it, {} evicted; {} errors, {} unusable files",
        t.spills, t.queued, t.dropped, t.refusals, t.evictions, t.errors, t.foreign_files,
    )
}

fn memory(out: &mut String, shared: &Shared, stats: &Stats) -> std::fmt::Result {
    let (info, machine) = (shared.model.info(), &shared.machine);
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
    writeln!(
        out,
        "attention: {}; workspace: {} bytes tiled, {} bytes two-pass; calls: {} tiled, {} two-pass",
        shared.options.attention().name(),
        bytes(Form::Tiled).unwrap_or(0),
        bytes(Form::TwoPass).unwrap_or(0),
        stats.attention_tiled_calls,
        stats.attention_two_pass_calls,
    )?;
    writeln!(
        out,
        "key/value cache: {}; {} query heads share a key/value head; {} bytes per token predicted, {} at the peak",
        machine.kv_type.name(),
        info.n_heads / info.n_kv_heads.max(1),
        machine.kv_token_bytes,
        match stats.kv_tokens_peak {
            0 => "none measured".to_string(),
            n => format!("{:.1} measured", stats.kv_bytes_peak as f64 / n as f64),
        },
    )?;
    writeln!(
        out,
        "key/value memory: {} of {} bytes in use, peak {}; {}",
        stats.kv_bytes_used,
        stats.kv_bytes_budget,
        stats.kv_bytes_peak,
        match stats.kv_slots_used {
            0 => "no slots in use".to_string(),
            n => format!(
                "tokens in {} of the slots in use",
                percent(stats.kv_tokens_used, n)
            ),
        },
    )?;
    writeln!(
        out,
        "prefixes: {} lookups, {} tokens found, {} of all prompt tokens; {} bytes cached, {} evictions",
        stats.prefix_lookups,
        stats.prefix_hit_tokens,
        percent(
            stats.prefix_hit_tokens,
            stats.prefix_hit_tokens + stats.prompt_tokens
        ),
        stats.kv_bytes_cached,
        stats.prefix_evictions,
    )
}

fn work(out: &mut String, stats: &Stats) -> std::fmt::Result {
    writeln!(
        out,
        "drafts: {} tokens proposed, {} of them right, in {} steps",
        stats.draft_tokens,
        percent(stats.accepted_tokens, stats.draft_tokens),
        stats.speculative_steps,
    )?;
    writeln!(
        out,
        "requests: {} submitted, {} running, {} waiting, {} completed, {} cancelled, {} expired, {} failed, {} refused; \
         {} preemptions",
        stats.requests_submitted,
        stats.running,
        stats.queued,
        stats.requests_completed,
        stats.requests_cancelled,
        stats.requests_expired,
        stats.requests_failed,
        stats.requests_refused,
        stats.preemptions,
    )?;
    writeln!(
        out,
        "prefill: {} tokens, {:.1} per second{}",
        stats.prompt_tokens,
        stats.prefill_tokens_per_second(),
        shares(&stats.prefill_components()),
    )?;
    writeln!(
        out,
        "decode: {} tokens, {:.1} per second{}",
        stats.generated_tokens,
        stats.decode_tokens_per_second(),
        shares(&stats.decode_components()),
    )?;
    if stats.draft_tokens == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "drafts: {} steps, {} tokens proposed, {} of them right ({})",
        stats.speculative_steps,
        stats.draft_tokens,
        stats.accepted_tokens,
        percent(stats.accepted_tokens, stats.draft_tokens),
    )
}

/// A line for each histogram.
fn times(out: &mut String, shared: &Shared) -> std::fmt::Result {
    for kind in HistogramKind::ALL {
        let h = shared.counters.histograms.of(kind).read();
        let (scale, unit) = match kind.is_time() {
            true => (1e-6, " ms"),
            false => (1.0, ""),
        };
        write!(out, "{}: ", kind.name().replace('_', " "))?;
        if h.count() == 0 {
            writeln!(out, "none yet")?;
            continue;
        }
        let show = |value: f64| format!("{:.2}{unit}", value * scale);
        writeln!(
            out,
            "mean {}, p50 {}, p90 {}, p99 {}, p99.9 {}, max {}, of {}",
            show(h.mean()),
            show(h.quantile(0.5)),
            show(h.quantile(0.9)),
            show(h.quantile(0.99)),
            show(h.quantile(0.999)),
            show(h.max() as f64),
            h.count(),
        )?;
    }
    Ok(())
}

fn alerts(out: &mut String, shared: &Shared, stats: &Stats) -> std::fmt::Result {
    let options = &shared.options;
    let shown: Vec<String> = [
        (
            "queue time",
            options.alert_queue_time_ms,
            " ms",
            stats.alerts_queue_time,
        ),
        (
            "first token",
            options.alert_time_to_first_token_ms,
            " ms",
            stats.alerts_time_to_first_token,
        ),
        (
            "inter token",
            options.alert_inter_token_ms,
            " ms",
            stats.alerts_inter_token_time,
        ),
        (
            "key/value memory",
            options.alert_kv_used_percent,
            " %",
            stats.alerts_kv_used,
        ),
        (
            "preemptions",
            options.alert_preemptions_per_minute,
            " a minute",
            stats.alerts_preemptions,
        ),
    ]
    .into_iter()
    .filter(|(_, limit, ..)| *limit > 0)
    .map(|(name, limit, unit, n)| format!("{n} of {name} above {limit}{unit}"))
    .collect();
    match shown.is_empty() {
        true => writeln!(out, "alerts: off"),
        false => writeln!(out, "alerts: {}", shown.join(", ")),
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "none".to_string(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
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

/// Prometheus text exposition format 0.0.4. Units are those of its conventions: seconds and bytes, at the end of a name.
pub(super) fn metrics(stats: &Stats, histograms: &[Histogram]) -> String {
    let mut out = String::new();
    for ((name, value), (doc, unit, gauge)) in stats.fields().zip(FIELDS) {
        // The sum of a histogram, which is written below.
        if histograms.iter().any(|h| h.kind().name() == name) {
            continue;
        }
        let base = match unit {
            Unit::Count => format!("infer_{name}"),
            Unit::Bytes => format!("infer_{}_bytes", name.replace("_bytes", "")),
            Unit::Nanoseconds => format!("infer_{name}_seconds"),
        };
        let (full, kind) = match gauge {
            true => (base, "gauge"),
            false => (format!("{base}_total"), "counter"),
        };
        let value = match unit {
            Unit::Count | Unit::Bytes => value.to_string(),
            Unit::Nanoseconds => seconds(value),
        };
        let doc = doc.trim();
        let _ = write!(out, "# HELP {full} {doc}\n# TYPE {full} {kind}\n{full} {value}\n");
    }
    for histogram in histograms {
        // Writing to a string cannot fail.
        let _ = metrics_of(&mut out, histogram);
    }
    out
}

/// A histogram: its buckets add up, each holds all that the ones before it hold.
fn metrics_of(out: &mut String, histogram: &Histogram) -> std::fmt::Result {
    let kind = histogram.kind();
    let (name, shown): (_, fn(u64) -> String) = match kind.is_time() {
        true => (format!("infer_{}_seconds", kind.name()), seconds),
        false => (format!("infer_{}", kind.name()), |n| n.to_string()),
    };
    write!(out, "# HELP {name} {}\n# TYPE {name} histogram\n", kind.doc())?;
    let mut sum = 0u64;
    for (&n, &bound) in histogram.counts().iter().zip(kind.bounds()) {
        sum = sum.saturating_add(n);
        let bound = match bound {
            u64::MAX => "+Inf".to_string(),
            bound => shown(bound),
        };
        writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {sum}")?;
    }
    writeln!(out, "{name}_sum {}\n{name}_count {sum}", shown(histogram.sum()))
}

fn seconds(nanoseconds: u64) -> String {
    format!("{}", nanoseconds as f64 / 1e9)
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
        let mut batches = Histogram::new(HistogramKind::BatchSize);
        let mut steps = Histogram::new(HistogramKind::StepTime);
        [1, 3, 3, 5000].into_iter().for_each(|n| batches.record(n));
        steps.record(1_400_000);
        let text = metrics(&stats, &[batches, steps]);
        assert!(
            text.contains("# TYPE infer_steps_total counter\ninfer_steps_total 3\n"),
            "{text}"
        );
        assert!(text.contains("infer_decode_time_seconds_total 1.5\n"), "{text}");
        assert!(
            text.contains("# TYPE infer_running gauge\ninfer_running 2\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE infer_kv_used_bytes gauge\ninfer_kv_used_bytes 0\n"),
            "{text}"
        );
        for line in [
            "# TYPE infer_batch_size histogram\ninfer_batch_size_bucket{le=\"1\"} 1\n",
            "infer_batch_size_bucket{le=\"2\"} 1\ninfer_batch_size_bucket{le=\"4\"} 3\n",
            "infer_batch_size_bucket{le=\"4096\"} 3\ninfer_batch_size_bucket{le=\"+Inf\"} 4\n",
            "infer_batch_size_sum 5007\ninfer_batch_size_count 4\n",
            "infer_step_time_seconds_bucket{le=\"0.001\"} 0\ninfer_step_time_seconds_bucket{le=\"0.0015\"} 1\n",
            "infer_step_time_seconds_sum 0.0014\ninfer_step_time_seconds_count 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        let buckets = batches.counts().len() + steps.counts().len();
        assert_eq!(text.lines().count(), 3 * stats.fields().count() + buckets + 2 * 4);
    }
}
