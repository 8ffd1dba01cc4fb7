//! An engine that cannot go on uses no CPU. One test, because it measures threads by name.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::time::Duration;

use common::{demo_model, greedy, load, read};
use infer::engine::{Engine, Event, Poll};
use infer::options::{EngineOptions, Prompt, RequestOptions};

fn engine(options: EngineOptions) -> Engine {
    Engine::new(load(&demo_model()), options).unwrap()
}

fn request(n: usize) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(vec![1, 20, 30]),
        ignore_end_of_generation: true,
        ..greedy(n)
    }
}

#[test]
fn an_engine_with_work_it_must_not_do_uses_no_cpu() {
    paused_work_uses_no_cpu();
    draining_a_paused_engine_by_hand_waits_without_using_a_cpu();
}

/// CPU time of the calling thread.
fn thread_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// CPU time of all threads that schedule for an engine.
fn engine_time() -> Duration {
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim() == "infer-engine" {
            let stat = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let spent = stat.split(' ').next().unwrap_or("0");
            sum += Duration::from_nanos(spent.parse().unwrap_or(0));
        }
    }
    sum
}

fn paused_work_uses_no_cpu() {
    let engine = engine(EngineOptions {
        max_running: 1,
        ..EngineOptions::default()
    });
    let requests = engine.submit_batch(vec![request(1500), request(5)]).unwrap();
    let mut event = Event::default();
    assert_eq!(requests[0].next(None, &mut event).unwrap(), Poll::Event);
    engine.pause();
    std::thread::sleep(Duration::from_millis(200));
    let before = engine_time();
    std::thread::sleep(Duration::from_millis(600));
    let spent = engine_time() - before;
    assert!(spent < Duration::from_millis(60), "{spent:?} of 600 ms");
    let steps = engine.stats().steps;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(engine.stats().steps, steps);
    engine.resume();
    drop(requests);
    assert!(engine.drain(Some(Duration::from_secs(30))).unwrap());
}

fn draining_a_paused_engine_by_hand_waits_without_using_a_cpu() {
    let engine = engine(EngineOptions {
        manual_step: true,
        ..EngineOptions::default()
    });
    let held = engine.submit(request(3)).unwrap();
    engine.pause();
    let before = thread_time();
    assert!(!engine.drain(Some(Duration::from_millis(400))).unwrap());
    let spent = thread_time() - before;
    assert!(spent < Duration::from_millis(150), "{spent:?} of 400 ms");
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            engine.resume();
        });
        assert!(engine.drain(Some(Duration::from_secs(30))).unwrap());
    });
    assert_eq!(read(&held).tokens.len(), 3);
}
