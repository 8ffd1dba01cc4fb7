//! What an operator sees: histograms that add up, alerts, and the text that Prometheus reads.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::prometheus::Metrics;
use common::{demo_model, generate, greedy, load, read, skip};
use infer::engine::{Engine, HistogramKind};
use infer::options::{EngineOptions, LogLevel, LogRecord, Prompt, RequestOptions};

fn engine(options: EngineOptions) -> Engine {
    Engine::new(load(&demo_model()), options).unwrap()
}

fn request(prompt: &str, max_tokens: usize) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Text(prompt.to_string()),
        ignore_end_of_generation: true,
        ..greedy(max_tokens)
    }
}

/// Prompts that have no beginning in common.
const PROMPTS: [&str; 5] = ["Natasha", "War and", "It was", "Prince Andrew", "Kutuzov said"];

#[test]
fn histograms_add_up_with_the_counters() {
    let engine = engine(EngineOptions {
        manual_step: true,
        prefix_cache: false,
        speculation: "off",
        ..EngineOptions::default()
    });
    let requests: Vec<_> = PROMPTS.iter().map(|p| request(p, 20)).collect();
    let requests = engine.submit_batch(requests).unwrap();
    while engine.step().unwrap() {}
    drop(requests);
    let stats = engine.stats();
    let [batch, queue, first, between, step, cold_read, cold_write] =
        HistogramKind::ALL.map(|kind| engine.histogram(kind));
    assert_eq!((cold_read.count(), cold_write.count()), (0, 0));
    assert_eq!((stats.generated_tokens, stats.requests_completed), (100, 5));
    assert_eq!((queue.count(), first.count(), between.count()), (5, 5, 95));
    assert_eq!((batch.count(), step.count()), (stats.steps, stats.steps));
    // Each prompt is read in one step, and every generated token but the last of each request is a row.
    assert_eq!(stats.decode_rows, 95);
    assert_eq!(batch.sum(), stats.decode_rows + 5);
    assert_eq!(batch.max(), stats.max_batch);
    let layers = engine.model().info().n_layers as u64;
    assert_eq!(stats.attention_tiled_calls, stats.steps * layers);
    assert_eq!(stats.attention_two_pass_calls, 0);
    assert_eq!(
        (queue.sum(), queue.max()),
        (stats.queue_time, stats.max_queue_time)
    );
    assert_eq!(
        (first.sum(), first.max()),
        (stats.time_to_first_token, stats.max_time_to_first_token)
    );
    assert_eq!(step.sum(), stats.prefill_time + stats.decode_time);
    // The time between tokens is that of the steps between the first and the last, for each that runs.
    assert!(between.sum() <= 5 * step.sum() && between.max() >= between.sum() / 95);
    assert!(stats.kv_tokens_peak > 0);
    let summary = engine.summary();
    for part in [
        "batch size: mean ",
        ", of 95\n",
        "inter token time: mean ",
        "5 submitted, 0 running, 0 waiting, 5 completed",
        "0 preemptions",
        "measured at the peak",
        "calls: ",
        "alerts: off\n",
    ] {
        assert!(summary.contains(part), "no '{part}' in\n{summary}");
    }
}

#[test]
fn attention_is_counted_by_its_form() {
    let engine = engine(EngineOptions {
        flash_attention: false,
        ..EngineOptions::default()
    });
    generate(&engine, request("War", 4));
    let stats = engine.stats();
    let layers = engine.model().info().n_layers as u64;
    assert_eq!(
        (stats.attention_tiled_calls, stats.attention_two_pass_calls),
        (0, stats.steps * layers)
    );
}

/// The message, the fields and the level of each record.
type Records = Arc<Mutex<Vec<(LogLevel, String, serde_json::Value)>>>;

fn logged(mut options: EngineOptions) -> (Engine, Records) {
    let records: Records = Arc::default();
    let ours = Arc::clone(&records);
    options.log = Some(Arc::new(move |r: &LogRecord<'_>| {
        let fields = serde_json::from_str(r.fields).unwrap();
        ours.lock()
            .unwrap()
            .push((r.level, r.message.to_string(), fields));
    }));
    (engine(options), records)
}

fn warnings(records: &Records) -> Vec<(String, serde_json::Value)> {
    let records = records.lock().unwrap();
    let warnings = records.iter().filter(|r| r.0 == LogLevel::Warn);
    warnings
        .map(|(_, message, fields)| (message.clone(), fields.clone()))
        .collect()
}

#[test]
fn what_exceeds_a_limit_is_counted_and_logged_with_its_numbers() {
    let (engine, records) = logged(EngineOptions {
        manual_step: true,
        alert_queue_time_ms: 20,
        alert_time_to_first_token_ms: 20,
        alert_inter_token_ms: 20,
        ..EngineOptions::default()
    });
    let mut quick = request("War", 6);
    quick.tag = 5;
    let quick = engine.submit(quick).unwrap();
    while engine.step().unwrap() {}
    assert_eq!(read(&quick).finish.generated_tokens, 6);
    // A machine that others use may be slow as well: what matters is what comes on top, so the rest is logged first.
    std::thread::sleep(Duration::from_millis(1100));
    engine.step().unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let before = engine.stats();
    records.lock().unwrap().clear();

    let mut late = request("Peace", 3);
    late.tag = 77;
    let late = engine.submit(late).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    engine.step().unwrap();
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(30));
        engine.step().unwrap();
    }
    assert_eq!(read(&late).finish.generated_tokens, 3);
    let stats = engine.stats();
    assert_eq!(stats.alerts_queue_time - before.alerts_queue_time, 1);
    assert_eq!(
        stats.alerts_time_to_first_token - before.alerts_time_to_first_token,
        1
    );
    assert_eq!(stats.alerts_inter_token_time - before.alerts_inter_token_time, 2);
    let warnings = warnings(&records);
    for name in ["queue_time", "time_to_first_token", "inter_token_time"] {
        let (message, fields) = warnings.iter().find(|(_, f)| f["alert"] == name).unwrap();
        assert!(fields["value"].as_f64().unwrap() >= 30.0, "{fields}");
        assert_eq!(
            (&fields["threshold"], &fields["unit"]),
            (&20.into(), &"ms".into())
        );
        assert_eq!((&fields["tag"], &fields["count"]), (&77.into(), &1.into()));
        assert!(message.contains("the limit is 20"), "{message}");
    }
    assert!(engine.summary().contains("of queue time above 20 ms"));
}

#[test]
fn memory_and_preemptions_are_alerts_of_their_own() {
    // Many sequences that outgrow the memory together: some have to give up their place.
    let one = {
        let probe = engine(EngineOptions::default());
        generate(&probe, request("War", 150));
        probe.stats().kv_bytes_peak
    };
    let (engine, records) = logged(EngineOptions {
        kv_budget: 2 * one,
        alert_kv_used_percent: 70,
        alert_preemptions_per_minute: 1,
        ..EngineOptions::default()
    });
    let requests = PROMPTS.iter().chain(&PROMPTS).map(|p| request(p, 150)).collect();
    for request in engine.submit_batch(requests).unwrap() {
        assert_eq!(read(&request).finish.generated_tokens, 150);
    }
    assert!(engine.drain(Some(Duration::from_secs(60))).unwrap());
    let stats = engine.stats();
    assert!(stats.alerts_kv_used > 0, "{stats:?}");
    assert_eq!(
        stats.alerts_preemptions,
        u64::from(stats.preemptions > 1),
        "{stats:?}"
    );
    assert!(stats.preemptions > 1, "this test is about preemptions: {stats:?}");
    let warnings = warnings(&records);
    let named: Vec<&str> = warnings.iter().filter_map(|(_, f)| f["alert"].as_str()).collect();
    assert!(
        named.contains(&"kv_used") && named.contains(&"preemptions"),
        "{warnings:?}"
    );
    for (_, fields) in &warnings {
        assert!(
            fields["value"].as_f64() > fields["threshold"].as_f64(),
            "{fields}"
        );
        assert!(fields.get("tag").is_none(), "{fields}");
    }
}

#[test]
fn without_limits_nothing_is_an_alert() {
    let (engine, records) = logged(EngineOptions::default());
    generate(&engine, request("War", 10));
    assert!(warnings(&records).is_empty());
    let stats = engine.stats();
    let alerts = stats.fields().filter(|(name, _)| name.starts_with("alerts_"));
    assert_eq!(alerts.map(|(_, n)| n).collect::<Vec<_>>(), [0; 5]);
}

#[test]
fn every_text_that_is_scraped_while_others_generate_is_whole() {
    let engine = Arc::new(engine(EngineOptions::default()));
    let requests = PROMPTS.iter().map(|p| request(p, 120)).collect();
    let requests = engine.submit_batch(requests).unwrap();
    let scraper = {
        let engine = Arc::clone(&engine);
        std::thread::spawn(move || {
            let (mut texts, mut last) = (0, 0.0);
            loop {
                let text = engine.metrics_text();
                let metrics = Metrics::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
                let tokens = metrics.values["infer_inter_token_time_seconds_count"];
                assert!(tokens >= last, "counts never fall");
                (texts, last) = (texts + 1, tokens);
                if metrics.values["infer_requests_completed_total"] == 5.0 {
                    return texts;
                }
            }
        })
    };
    for request in &requests {
        read(request);
    }
    assert!(scraper.join().unwrap() > 1);
    let metrics = Metrics::parse(&engine.metrics_text()).unwrap();
    let value = |name: &str| metrics.values[name];
    assert_eq!(value("infer_generated_tokens_total"), 600.0);
    assert_eq!(value("infer_time_to_first_token_seconds_count"), 5.0);
    assert_eq!(value("infer_inter_token_time_seconds_bucket{le=\"+Inf\"}"), 595.0);
    assert_eq!(value("infer_batch_size_count"), value("infer_steps_total"));
    assert!(value("infer_kv_peak_bytes") > 0.0 && value("infer_decode_time_seconds_total") > 0.0);
    // A family for each number, a histogram for each kind; a sum has no counter of its own beside its histogram.
    let families = engine.stats().fields().count() + HistogramKind::ALL.len() - 2;
    assert_eq!(metrics.types.len(), families);
    let histograms = metrics.types.values().filter(|kind| *kind == "histogram");
    assert_eq!(histograms.count(), HistogramKind::ALL.len());
}

#[test]
fn the_reader_of_the_format_finds_what_is_wrong() {
    let good = "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n# HELP h H.\n# TYPE h histogram\n\
                h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";
    assert_eq!(Metrics::parse(good).unwrap().values["h_count"], 2.0);
    let labelled = "# HELP g G.\n# TYPE g gauge\ng{a=\"x\\\"y\\\\\",b=\"\\n\"} 1\ng{a=\"z\"} 1\n";
    assert_eq!(Metrics::parse(labelled).unwrap().values.len(), 2);
    for (from, to) in [
        ("h_count 2\n", "h_count 2"),
        ("h_count 2", "h_count 3"),
        ("h_sum 3\n", ""),
        ("h_bucket{le=\"+Inf\"} 2\n", ""),
        ("{le=\"1\"} 1", "{le=\"1\"} 3"),
        ("{le=\"1\"} 1", "{le=\"one\"} 1"),
        ("{le=\"1\"} 1", "{le=1} 1"),
        ("{le=\"1\"} 1", "{le=\"1\\x\"} 1"),
        ("{le=\"1\"} 1", "{le=\"1\",} 1"),
        ("{le=\"1\"} 1", "{le=\"+Inf\"} 2"),
        ("# HELP h H.\n", ""),
        ("# TYPE h histogram\n", ""),
        ("# HELP h H.", "# HELP h "),
        ("a_total", "a"),
        ("a_total", "a_ns_total"),
        ("a_total 1\n", "a_total 1\na_total 1\n"),
        ("a_total 1\n", ""),
        ("a_total 1\n", "a_total one\n"),
        ("a_total 1\n", "b_total 1\n"),
        (
            "# HELP h H.\n# TYPE h histogram",
            "# HELP a_total A.\n# TYPE a_total counter",
        ),
    ] {
        let bad = good.replace(from, to);
        assert!(bad != good && Metrics::parse(&bad).is_err(), "{bad}");
    }
}

/// `a_{x,y}_b` as `a_x_b` and `a_y_b`.
fn expanded(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else {
        return vec![name.to_string()];
    };
    let (words, after) = rest.split_once('}').unwrap();
    let each = words.split(',').map(|word| format!("{before}{word}{after}"));
    each.flat_map(|name| expanded(&name)).collect()
}

#[test]
fn the_page_for_operators_tells_every_metric_and_alert_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = page.lines().filter(|line| line.starts_with("| `"));
    let told = table.flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    let told: BTreeSet<String> = told.flat_map(expanded).collect();
    let metrics = Metrics::parse(&engine(EngineOptions::default()).metrics_text()).unwrap();
    let alerts = infer::options::of(infer::options::Object::Engine).map(|o| o.name.to_string());
    let alerts = alerts.filter(|name| name.starts_with("alert_"));
    let there: BTreeSet<String> = metrics.types.into_keys().chain(alerts).collect();
    assert_eq!(told, there);
}

/// Prometheus' own checker has nothing to say about what an engine that ran writes.
#[test]
fn promtool_has_no_complaint() {
    if Command::new("promtool").arg("--version").output().is_err() {
        skip("the metrics by promtool", "there is no promtool on this machine");
        return;
    }
    let engine = engine(EngineOptions::default());
    generate(&engine, request("War", 30));
    let check = |text: &str| {
        let mut child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    assert_eq!(check(&engine.metrics_text()), (true, String::new()));
    let (good, said) = check("# HELP a A.\n# TYPE a counter\na 1\n");
    assert!(!good && said.contains("_total"), "{said}");
}
