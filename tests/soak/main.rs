//! A service's day in short: random requests on three engines that share threads and whose caches are too small for all,
//! readers that give up, deadlines, states that move between engines, memory taken back. Every finished output is the one
//! that the request has alone; nothing leaks, nobody starves.
//!
//! `INFER_SOAK_SECONDS` sets how long the ordinary test takes, 2 by default. The long one is
//! `LIBINFER_SOAK_SECONDS=600 cargo test --release --test soak -- --ignored --nocapture`, 30 by default. Compiled with
//! `--cfg infer_faults`, as `.ci/proofs` does, steps and tasks of the pool panic now and then and memory is refused: then
//! those fail that it hit, with that error, and everything else is as before.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod kinds;
mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Client, Counts, ENGINES};
use common::{demo_model, load};
use faults::Struck;
use infer::engine::Engine;
use infer::kernel::{ThreadPool, ThreadPoolOptions};
use infer::options::EngineOptions;

/// Tokens of prompt and completion.
const CONTEXT: usize = 320;
/// Sequences of an engine at the same time.
const MAX_RUNNING: usize = 6;
/// Rounds; after each of them everything is idle and is measured.
const ROUNDS: u32 = 5;
/// Resident memory may grow by this much between the first round's end and the last one's.
const GROWTH_KIB: u64 = 16 << 10;
/// No request takes longer than so many times the mean of all, or than [`PATIENCE`].
const MEANS: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(2);

fn seconds(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |s| s.parse().unwrap())
}

#[test]
fn random_traffic_leaks_nothing_starves_nobody_and_changes_no_output() {
    soak(seconds("INFER_SOAK_SECONDS", 2));
}

#[test]
#[ignore = "takes as long as it is told"]
fn a_long_day() {
    soak(seconds("LIBINFER_SOAK_SECONDS", 30));
}

fn soak(seconds: u64) {
    let model = load(&demo_model());
    let kinds = kinds::kinds();
    let alone = EngineOptions {
        context_length: CONTEXT,
        prefix_cache: false,
        threads: 2,
        ..EngineOptions::default()
    };
    let alone = Engine::new(model.clone(), alone).unwrap();
    let expected = kinds::alone(&alone, &kinds);
    drop(alone);

    let threads = ThreadPoolOptions {
        threads: Some(2),
        ..ThreadPoolOptions::default()
    };
    let pool = Arc::new(ThreadPool::new(threads).unwrap());
    // Two layers of two key/value heads of 64 in f16: 32 KiB a block, of which the longest sequences need ten.
    let engines: [Engine; ENGINES] = ["fcfs", "priority", "cached_prefix"].map(|policy| {
        let options = EngineOptions {
            kv_budget: 768 << 10,
            max_running: MAX_RUNNING,
            prefill_chunk: 48,
            max_queued: 16,
            max_overtaken: 16,
            context_length: CONTEXT,
            shared_threads: Some(Arc::clone(&pool)),
            policy,
            ..EngineOptions::default()
        };
        Engine::new(model.clone(), options).unwrap()
    });
    assert!(engines.iter().all(|e| e.context_length() == CONTEXT));

    let mut counts = Counts::default();
    let mut first = None;
    let struck_before = faults::struck();
    for round in 0..ROUNDS {
        let end = Instant::now() + Duration::from_millis(seconds * 1000 / u64::from(ROUNDS));
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..2 * ENGINES)
                .map(|i| {
                    let mut client = Client::new(&engines, i % ENGINES, &kinds, &expected, round, i);
                    scope.spawn(move || client.run(end))
                })
                .collect();
            for client in clients {
                counts.add(client.join().expect("a client without a complaint"));
            }
        });
        faults::struck();
        for engine in &engines {
            assert!(engine.drain(Some(Duration::from_secs(20))).unwrap());
            let stats = engine.stats();
            assert_eq!((stats.kv_bytes_used, stats.running, stats.queued), (0, 0, 0));
            assert!(stats.kv_bytes_peak <= 768 << 10);
            engine.resume();
        }
        // The first round has touched what there is to touch.
        let first = *first.get_or_insert_with(process::idle);
        let now = process::settled(first);
        assert_eq!(
            (now.threads, now.files),
            (first.threads, first.files),
            "round {round}"
        );
        let grown = now.resident_kib.saturating_sub(first.resident_kib);
        eprintln!("round {round}: {counts:?}, resident {} KiB", now.resident_kib);
        assert!(grown < GROWTH_KIB, "resident memory grew by {grown} KiB");
    }
    let struck = faults::struck().since(struck_before);
    report(&engines, &counts, struck);
}

fn report(engines: &[Engine], counts: &Counts, struck: Struck) {
    let stats: Vec<_> = engines.iter().map(Engine::stats).collect();
    let sum = |of: &dyn Fn(&infer::engine::Stats) -> u64| stats.iter().map(of).sum::<u64>();
    for s in &stats {
        let ended = s.requests_completed + s.requests_cancelled + s.requests_expired + s.requests_failed;
        assert_eq!(ended, s.requests_submitted);
    }
    let mean = counts.time / counts.finished.max(1) as u32;
    eprintln!(
        "{} completions as expected, {} cut short, {} abandoned, {} failed, {} without memory, {} refused; \
         {struck:?}; {} steps, {} preemptions, \
         {} prefix hits, {} evictions, {} states restored; mean {mean:?}, longest {:?}",
        counts.finished,
        counts.cut_short,
        counts.abandoned,
        counts.failed,
        counts.without_memory,
        counts.refused,
        sum(&|s| s.steps),
        sum(&|s| s.preemptions),
        sum(&|s| s.prefix_hit_tokens),
        sum(&|s| s.prefix_evictions),
        counts.restored,
        counts.longest,
    );
    assert!(counts.finished > 30, "only {} completions ended", counts.finished);
    assert!(sum(&|s| s.preemptions) > 0, "the caches were not too small");
    assert!(sum(&|s| s.prefix_hit_tokens) > 0);
    let bound = PATIENCE.max(mean * MEANS);
    assert!(
        counts.longest <= bound,
        "{:?} is longer than {bound:?}",
        counts.longest
    );
    // Every panic is one of those that were injected, and failed nobody but who had rows in its step.
    assert_eq!(sum(&|s| s.panics), struck.panics);
    assert_eq!(struck.panics > 0, cfg!(infer_faults));
    let most = struck.panics * MAX_RUNNING as u64 + struck.refusals * MAX_RUNNING as u64;
    assert!(counts.failed <= most, "{} failed of {struck:?}", counts.failed);
    assert!(counts.without_memory <= struck.refusals);
}
