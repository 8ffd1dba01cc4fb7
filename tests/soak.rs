//! A service's day in short: random requests on an engine whose cache is too small for all, readers that give up, and
//! every finished output equal to the one the request has alone. `INFER_SOAK_SECONDS` sets how long, 2 by default.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::time::{Duration, Instant};

use common::{demo_model, generate, load, read};
use infer::engine::{Engine, Event, FinishReason, Request};
use infer::options::{EngineOptions, Prompt, RequestOptions};

/// A small generator for the test's own decisions (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % n
    }
}

fn kinds() -> Vec<RequestOptions> {
    let sentence = "The prince looked at the soldiers who stood in the snow, and said nothing. ";
    (0..24usize)
        .map(|i| RequestOptions {
            prompt: Prompt::Text(sentence.repeat(i % 8 * i % 5 + 1)[i..].to_string()),
            max_tokens: 1 + i * i % 60,
            temperature: [0.0, 0.7, 1.3][i % 3],
            top_k: [0, 40][i % 2],
            repetition_penalty: [1.0, 1.1][i / 2 % 2],
            seed: i as u64,
            stop: if i % 4 == 0 {
                vec!["the".to_string()]
            } else {
                vec![]
            },
            tag: i as u64,
            ..RequestOptions::default()
        })
        .collect()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .unwrap_or("VmRSS: 0");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn random_traffic_leaks_nothing_starves_nobody_and_changes_no_output() {
    let seconds = std::env::var("INFER_SOAK_SECONDS").map_or(2, |s| s.parse().unwrap());
    let model = load(&demo_model());
    let kinds = kinds();
    let alone = Engine::new(model.clone(), EngineOptions::default()).unwrap();
    let expected: Vec<_> = kinds.iter().map(|k| generate(&alone, k.clone())).collect();
    drop(alone);
    // Two layers of two key/value heads of 64 in f16: the pool holds about three of the longer sequences.
    let options = EngineOptions {
        kv_budget: 1 << 20,
        max_running: 6,
        prefill_chunk: 48,
        max_queued: 64,
        context_length: 700,
        ..EngineOptions::default()
    };
    let engine = Engine::new(model, options).unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut open: Vec<(Request, Instant)> = Vec::new();
    let begin = Instant::now();
    let (mut finished, mut abandoned, mut longest) = (0u64, 0u64, Duration::ZERO);
    let mut early = 0;
    while begin.elapsed() < Duration::from_secs(seconds) || !open.is_empty() {
        let closing = begin.elapsed() >= Duration::from_secs(seconds);
        if early == 0 && begin.elapsed() > Duration::from_secs(seconds) / 3 {
            early = resident_kib();
        }
        match random.below(10) {
            0..=4 if !closing => {
                if let Ok(request) = engine.submit(kinds[random.below(24) as usize].clone()) {
                    open.push((request, Instant::now()));
                }
            }
            5 if !open.is_empty() => {
                let i = random.below(open.len() as u64) as usize;
                drop(open.swap_remove(i));
                abandoned += 1;
            }
            6 if !open.is_empty() => {
                let i = random.below(open.len() as u64) as usize;
                let mut event = Event::default();
                open[i].0.cancel();
                while open[i].0.next(Some(Duration::from_secs(30)), &mut event).unwrap()
                    == infer::engine::Poll::Event
                {}
                open.swap_remove(i);
                abandoned += 1;
            }
            _ if !open.is_empty() => {
                let (request, since) = open.remove(0);
                let output = read(&request);
                let expected = &expected[request.tag() as usize];
                assert_eq!(output.tokens, expected.tokens, "kind {}", request.tag());
                assert_eq!(output.text, expected.text, "kind {}", request.tag());
                assert_ne!(output.finish.reason, FinishReason::Error);
                longest = longest.max(since.elapsed());
                finished += 1;
            }
            _ => {}
        }
    }
    let stats = engine.stats();
    assert!(finished > 10, "only {finished} requests finished");
    assert!(longest < Duration::from_secs(20), "a request took {longest:?}");
    assert!(engine.drain(Some(Duration::from_secs(20))).unwrap());
    assert_eq!((engine.stats().kv_bytes_used, engine.stats().running), (0, 0));
    assert!(stats.kv_bytes_peak <= 1 << 20);
    let grown = resident_kib().saturating_sub(early);
    assert!(grown < 16 << 10, "resident memory grew by {grown} KiB");
    eprintln!(
        "{finished} finished, {abandoned} abandoned, longest {longest:?}, {} steps, grown {grown} KiB",
        stats.steps
    );
}
