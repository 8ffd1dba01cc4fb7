//! `infer bench --tier --tier-workload`: what it measures and how it says it. No test looks at how fast anything is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEMO, json, run};
use serde_json::Value;

#[test]
fn a_disk_saves_computing_what_memory_gave_up_and_leaves_nothing_behind() {
    let parent = std::env::temp_dir().join(format!("infer-test-bench-tier-{}", std::process::id()));
    std::fs::create_dir(&parent).unwrap();
    let directory = parent.join("scratch");
    let chart = parent.join("chart.svg");
    for load in ["chats", "scan"] {
        let report = json([
            "--json",
            "bench",
            "--model",
            DEMO,
            "--threads",
            "2",
            "--tier",
            "--tier-workload",
            load,
            "--tier-quick",
            "--tier-dir",
            directory.to_str().unwrap(),
            "--tier-svg",
            chart.to_str().unwrap(),
        ]);
        assert!(!directory.exists(), "something is left");
        assert!(std::fs::read_to_string(&chart).unwrap().contains(load));
        assert_eq!(report["identical"], true, "{report}");
        let rows = report["rows"].as_array().unwrap();
        let row = |way: &str| -> &Value {
            let mut found = rows
                .iter()
                .filter(|r| r["load"] == load && r["way"] == way && r["times"] == 5);
            found.next().unwrap_or_else(|| panic!("{load} {way}: {report}"))
        };
        let count = |way: &str, key: &str| row(way)[key].as_u64().unwrap();
        let (off, ram) = (row("off"), row("ram"));
        assert_eq!(
            (&off["hit_rate_ram"], &off["hit_rate_ssd"]),
            (&0.0.into(), &0.0.into())
        );
        assert_eq!(ram["bytes_written"], 0);
        assert!(count("ram", "evictions") > 0, "{ram}");
        let pool = count("ram", "pool_bytes");
        assert!(
            (5 * pool..6 * pool).contains(&count("ram", "working_set_bytes")),
            "{ram}"
        );
        for way in ["ram+ssd lru", "ram+ssd adaptive"] {
            let tiers = row(way);
            assert!(
                count(way, "recomputed_tokens") < count("ram", "recomputed_tokens"),
                "{tiers} {ram}"
            );
            assert!(tiers["hit_rate_ssd"].as_f64().unwrap() > 0.0, "{tiers}");
            assert!(
                count(way, "spills") > 0 && count(way, "cold_errors") == 0,
                "{tiers}"
            );
        }
        for way in ["off", "ram", "ram+ssd lru", "ram+ssd adaptive"] {
            let first = &row(way)["first_token_seconds"];
            assert_eq!(first["count"], row(way)["requests"]);
            assert!(first["p50"].as_f64().unwrap() > 0.0, "{first}");
        }
    }
    std::fs::remove_dir_all(&parent).unwrap();
}

#[test]
fn flags_of_a_load_are_not_taken_without_one() {
    for arguments in [
        &["--tier-workload", "chats"][..],
        &["--tier", "--tier-quick"],
        &["--tier", "--tier-workload", "none"],
        &["--tier", "--tier-workload", "chats", "--tier-tokens", "64"],
        &["--tier", "--tier-workload", "chats", "--tier-clients", "0"],
    ] {
        let answer = run([&["bench", "--model", DEMO], arguments].concat());
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:?}");
    }
}
