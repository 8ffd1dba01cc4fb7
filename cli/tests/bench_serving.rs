//! `infer bench --compare`, `--latency` and `--serve`: what they measure and how they say it. No test looks at how fast anything is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEMO, json, run};
use serde_json::Value;

/// Arguments that measure on the demo model, and more.
fn bench<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", "--model", DEMO, "--threads", "2"][..], more].concat()
}

/// A comparison that takes little time.
fn compare<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let brief = [
        "--compare",
        "--requests",
        "6",
        "--scale",
        "0.25",
        "--repetitions",
        "1",
    ];
    bench(&[&brief[..], more].concat())
}

/// The configurations of a comparison by name.
fn configuration<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["configurations"].as_array().unwrap();
    let found = all.iter().find(|c| c["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn a_comparison_has_every_feature_alone_and_left_out_with_all_its_figures() {
    let report = json(compare(&[
        "--json",
        "--memory-gb",
        "1",
        "--cost-per-hour",
        "0.5",
        "--workload",
        "agents",
        "--scale",
        "0.1",
        "--requests",
        "3",
    ]));
    assert_eq!(report["kind"], "compare");
    assert_eq!(report["workload"]["name"], "agents");
    assert_eq!(report["workload"]["asked"]["requests"], 3);
    let off = configuration(&report, "everything off");
    assert_eq!(off["options"]["cpu_level"], "scalar");
    assert_eq!(off["speedup"], 1.0);
    assert_eq!(off["batch_utilization"], 1.0);
    assert_eq!(report["identical"], true);
    for (name, expected) in [
        ("everything off", Value::Null),
        ("threads 2", true.into()),
        ("prefill_chunk 256", true.into()),
        ("flash_attention", Value::Null),
        ("everything on", Value::Null),
        ("all but threads", true.into()),
        ("all but prefill_budget", true.into()),
    ] {
        assert_eq!(
            configuration(&report, name)["identical"],
            expected,
            "{name}: {report}"
        );
    }
    let mut busy = false;
    for name in [
        "threads 2",
        "batching",
        "prefix_cache",
        "flash_attention",
        "kv_type f16",
        "everything on",
        "all but threads",
        "all but batching",
        "all but prefix_cache",
    ] {
        let c = configuration(&report, name);
        for key in [
            "tokens_per_second",
            "requests_per_second",
            "speedup",
            "mean_sequences",
            "batch_utilization",
            "kv_token_bytes",
            "kv_bytes_per_context_token",
            "kv_bytes_peak",
            "attention_workspace_bytes",
            "sequences_that_fit",
            "dollars_per_million_tokens",
        ] {
            assert!(c[key].as_f64().unwrap() > 0.0, "{name} {key}: {c}");
        }
        if cfg!(target_os = "linux") {
            let cores = c["core_utilization"].as_f64().unwrap();
            // The system counts the time of threads that run at its ticks: a short run may have none.
            assert!((0.0..1.5).contains(&cores), "{name}: {cores}");
            busy |= cores > 0.0;
        }
        for (times, percentiles) in [
            ("first_token_seconds", &["p50", "p95", "p99"][..]),
            ("inter_token_seconds", &["p50", "p99"]),
        ] {
            let of = |p: &&str| c[times][*p].as_f64().unwrap();
            let values: Vec<f64> = percentiles.iter().map(of).collect();
            assert!(
                values[0] > 0.0 && values.is_sorted(),
                "{name} {times}: {values:?}"
            );
        }
        let runs = c["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0]["first_token_seconds"].as_array().unwrap().len(), 3);
    }
    assert!(busy || cfg!(not(target_os = "linux")));
    // Figures that no clock decides.
    assert_eq!(configuration(&report, "kv_type f16")["kv_saved"], 0.5);
    let hits = |name: &str| {
        configuration(&report, name)["runs"][0]["prefix_hit_tokens"]
            .as_u64()
            .unwrap()
    };
    assert!(hits("prefix_cache") > 0 && hits("everything on") > 0);
    assert_eq!((hits("everything off"), hits("all but prefix_cache")), (0, 0));
    assert!(
        configuration(&report, "batching")["mean_sequences"]
            .as_f64()
            .unwrap()
            > 0.5
    );
    let founding = &report["founding"];
    assert_eq!(founding["throughput"]["promised"], 24.0);
    let speedup = configuration(&report, "everything on")["speedup"]
        .as_f64()
        .unwrap();
    assert_eq!(founding["throughput"]["measured"].as_f64().unwrap(), speedup);
}

#[test]
fn batching_prefixes_threads_and_chunks_change_no_result() {
    let features = "threads,batching,prefill_chunk,prefix_cache,prefill_budget,policy";
    for workload in ["chat-service", "documents", "sweep"] {
        let report = json(compare(&[
            "--json",
            "--workload",
            workload,
            "--features",
            features,
        ]));
        assert_eq!(report["identical"], true, "{report}");
        let names = features
            .split(',')
            .map(|f| configuration(&report, &format!("all but {f}")));
        let alone = [
            "threads 2",
            "batching",
            "prefill_chunk 256",
            "prefix_cache",
            "everything on",
        ];
        for c in alone.iter().map(|name| configuration(&report, name)).chain(names) {
            assert_eq!(c["identical"], true, "{workload}: {c}");
            assert_eq!(c["requests_as_with_everything_off"], 1.0, "{workload}: {c}");
        }
        // Alone, and nothing to compare it with.
        assert_eq!(configuration(&report, "everything off")["identical"], Value::Null);
    }
}

#[test]
fn the_seed_decides_the_load() {
    let load = |seed: &str| {
        let report = json(compare(&["--json", "--features", "batching", "--seed", seed]));
        report["workload"]["measured"].clone()
    };
    assert_eq!(load("5"), load("5"));
    assert_ne!(load("5"), load("6"));
}

#[test]
fn a_load_too_long_for_everything_off_is_cut_for_all_and_said_to_be() {
    let long = ["--compare", "--repetitions", "1", "--max-seconds", "0.5"];
    let features = ["--features", "cpu_level,batching"];
    let report = json(bench(&[&long[..], &features, &["--json"]].concat()));
    let workload = &report["workload"];
    let count = |of: &str| workload[of]["requests"].as_u64().unwrap();
    let scale = |of: &str| workload[of].as_f64().unwrap();
    let shortened = scale("scale") < scale("scale_asked");
    assert!(count("measured") < count("asked") || shortened, "{workload}");
    assert!((1..=count("asked")).contains(&count("measured")), "{workload}");
    for c in report["configurations"].as_array().unwrap() {
        let first_tokens = c["runs"][0]["first_token_seconds"].as_array().unwrap();
        assert_eq!(first_tokens.len() as u64, count("measured"));
    }
    let answer = run(bench(&[&long[..], &features].concat()));
    for part in [
        "which everything off completes in 0.5 s",
        "of a load that was cut",
    ] {
        assert!(answer.stdout.contains(part), "{part}: {answer:?}");
    }
}

#[test]
fn a_comparison_for_people_ends_with_what_was_promised() {
    let answer = run(compare(&["--features", "prefix_cache,kv_type"]));
    assert_eq!(answer.code, Some(0), "{answer:?}");
    for part in [
        "chat-service, seed 1: 6 requests",
        "first token p50/95/99",
        "kv/token",
        "identical",
    ] {
        assert!(answer.stdout.contains(part), "{part}: {answer:?}");
    }
    let last: Vec<&str> = answer.stdout.lines().rev().take(3).collect();
    assert!(
        last[2].contains("the founding reports promised 24.0 x"),
        "{last:?}"
    );
    assert!(
        last[1].contains("the founding reports promised 83.5 %"),
        "{last:?}"
    );
    assert!(last[0].starts_with("memory: "), "{last:?}");
}

#[test]
fn the_chart_is_well_formed_and_has_a_bar_for_every_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chart.svg");
    let report = json(compare(&[
        "--json",
        "--features",
        "batching,kv_type",
        "--svg",
        path.to_str().unwrap(),
    ]));
    let svg = std::fs::read_to_string(&path).unwrap();
    check_xml(&svg).unwrap_or_else(|e| panic!("{e}: {svg}"));
    assert!(svg.contains("prefers-color-scheme: dark") && !svg.contains("<script"));
    for c in report["configurations"].as_array().unwrap() {
        let label = format!(">{}</text>", c["name"].as_str().unwrap());
        assert_eq!(svg.matches(&label).count(), 2, "{label}: {svg}");
    }

    let nowhere = folder.path().join("no/such/folder.svg");
    let answer = run(compare(&[
        "--features",
        "batching",
        "--svg",
        nowhere.to_str().unwrap(),
    ]));
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("folder.svg"), "{answer:?}");
}

#[test]
fn the_checker_of_charts_finds_what_is_wrong() {
    assert!(check_xml("<a b=\"c\"><d/>&lt;x</a>\n").is_ok());
    for wrong in [
        "",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<a b=c/>",
        "<a b=\"c/>",
        "<a>&nbsp;</a>",
        "<a>x & y</a>",
        "<a/>x",
        "<a b=\"1\" b=\"2\"/>",
    ] {
        assert!(check_xml(wrong).is_err(), "{wrong}");
    }
}

/// Whether a text is one XML element with properly nested others, without comments and the like.
fn check_xml(text: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let (mut roots, mut rest) = (0, text);
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at], open.is_empty())?;
        let end = at + rest[at..].find('>').ok_or("a tag without end")?;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
            continue;
        }
        let (body, empty) = match tag.strip_suffix('/') {
            Some(body) => (body, true),
            None => (tag, false),
        };
        let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
        check_attributes(attributes)?;
        roots += usize::from(open.is_empty());
        if !empty {
            open.push(name);
        }
    }
    check_text(rest, true)?;
    match (roots, open.last()) {
        (1, None) => Ok(()),
        (_, Some(name)) => Err(format!("<{name}> is not closed")),
        (n, None) => Err(format!("{n} roots")),
    }
}

fn check_text(text: &str, outside: bool) -> Result<(), String> {
    if outside && !text.trim().is_empty() {
        return Err(format!("text outside of everything: {text}"));
    }
    for part in text.split('&').skip(1) {
        if !["amp;", "lt;", "gt;", "quot;"]
            .iter()
            .any(|e| part.starts_with(e))
        {
            return Err(format!("an unknown entity: &{part}"));
        }
    }
    Ok(())
}

fn check_attributes(mut text: &str) -> Result<(), String> {
    let mut names = Vec::new();
    while !text.trim().is_empty() {
        let (name, rest) = text.split_once("=\"").ok_or(format!("no attribute: {text}"))?;
        let (value, rest) = rest.split_once('"').ok_or(format!("no end: {rest}"))?;
        check_text(value, false)?;
        if names.contains(&name.trim()) {
            return Err(format!("{name} comes twice"));
        }
        names.push(name.trim());
        text = rest;
    }
    Ok(())
}

#[test]
fn answers_are_measured_alone_and_beside_prompts() {
    let report = json(bench(&[
        "--latency",
        "--json",
        "--sequences",
        "3",
        "--scale",
        "0.25",
        "--repetitions",
        "2",
        "--max-seconds",
        "1",
    ]));
    assert_eq!(report["kind"], "latency");
    let phases = report["phases"].as_array().unwrap();
    let budgets: Vec<Option<f64>> = phases.iter().map(|p| p["prefill_budget"].as_f64()).collect();
    assert_eq!(budgets, [None, Some(2.0), Some(0.0)]);
    for phase in phases {
        let gaps = &phase["inter_token_seconds"];
        assert!(gaps["count"].as_u64().unwrap() >= 6, "{phase}");
        let values: Vec<f64> = ["p50", "p99", "p99_9", "max"]
            .iter()
            .map(|p| gaps[*p].as_f64().unwrap())
            .collect();
        assert!(values[0] > 0.0 && values.is_sorted(), "{values:?}");
        assert!(phase["generated_tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(phase["p99_over_alone"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(phases[0]["prompt_tokens_per_second"], 0.0);
    assert_eq!(phases[0]["p99_over_alone"], 1.0);
    for phase in &phases[1..] {
        assert!(
            phase["prompt_tokens_per_second"].as_f64().unwrap() > 0.0,
            "{phase}"
        );
    }

    let answer = run(bench(&[
        "--latency",
        "--quick",
        "--max-seconds",
        "0.2",
        "--sequences",
        "2",
    ]));
    assert_eq!(answer.code, Some(0), "{answer:?}");
    for part in [
        "between two tokens",
        "alone",
        "prefill_budget 2",
        "prefill_budget 0",
        "prompts t/s",
    ] {
        assert!(answer.stdout.contains(part), "{part}: {answer:?}");
    }
}

#[test]
fn the_requests_of_a_file_are_served_at_most_so_many_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("requests.json");
    let beginning: Vec<u32> = (10..42).collect();
    let requests: Vec<Value> = (0..6u32)
        .map(|i| {
            let ids = [&beginning[..], &[i; 20]].concat();
            serde_json::json!({ "ids": ids, "max_tokens": 8 + i })
        })
        .collect();
    std::fs::write(&file, Value::from(requests).to_string()).unwrap();
    let path = file.to_str().unwrap();
    let serve = ["--serve", path, "--sequences", "2", "--repetitions", "2"];
    let report = json(bench(&[&["--json"], &serve[..]].concat()));
    assert_eq!(report["kind"], "serve");
    assert_eq!(report["requests"]["prompt_tokens"], 6 * 52);
    assert_eq!(report["requests"]["generated_tokens"], 6 * 8 + 15);
    assert_eq!(report["max_running"], 2);
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        let total = result["tokens_per_second"].as_f64().unwrap() * result["seconds"].as_f64().unwrap();
        assert!((total - (6 * 52 + 63) as f64).abs() < 1e-6, "{result}");
        let first = &result["first_token"];
        assert_eq!(first["count"], 6);
        assert!(first["p50"].as_f64() <= first["p95"].as_f64(), "{result}");
        // Of a cache that is empty at first: what the first request had is there for the last ones.
        let found = result["prefix_hit_tokens"].as_u64().unwrap();
        assert!((32..=5 * 32).contains(&found), "{result}");
        let batch = result["mean_sequences"].as_f64().unwrap();
        assert!(batch > 1.0 && batch <= 2.0, "{result}");
    }
    let answer = run(bench(&serve));
    assert!(answer.stdout.contains("first token p50"), "{answer:?}");

    std::fs::write(&file, r#"[{"ids": [1], "max_tokens": 4}, {"ids": []}]"#).unwrap();
    let answer = run(bench(&serve));
    assert_eq!(answer.code, Some(2), "{answer:?}");
    assert!(
        answer.stderr.contains("request 1: expected \"ids\""),
        "{answer:?}"
    );
    std::fs::write(&file, r#"[{"ids": [1], "max_tokens": 4000}]"#).unwrap();
    let answer = run(bench(&serve));
    assert!(answer.stderr.contains("takes 4001 tokens"), "{answer:?}");
}

#[test]
fn what_cannot_be_served_is_refused() {
    for (arguments, sentence) in [
        (&["--workload", "sweep"][..], "--compare"),
        (&["--compare", "--workload", "chess"], "chat-service"),
        (&["--compare", "--latency"], "cannot be used with"),
        (&["--compare", "--batch", "2"], "cannot be used with"),
        (&["--founding", "--latency"], "cannot be used with"),
        (
            &["--compare", "--features", "magic"],
            "expected names from cpu_level",
        ),
        (&["--compare", "--scale", "0"], "expected a number above 0"),
        (&["--latency", "--svg", "x.svg"], "cannot be used with"),
        (&["--quick"], "--compare|--latency"),
        (&["--serve", "x", "--seed", "2"], "cannot be used with"),
    ] {
        let answer = run(bench(arguments));
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:?}");
        assert!(answer.stderr.contains(sentence), "{arguments:?}: {answer:?}");
    }
}
