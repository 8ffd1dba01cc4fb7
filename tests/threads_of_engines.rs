//! Threads as engines use them: the same tokens from any number, the barriers of a step, and two engines on one pool.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{demo_model, greedy, load, read};
use infer::engine::Engine;
use infer::kernel::{ThreadPool, ThreadPoolOptions};
use infer::model::Model;
use infer::options::{EngineOptions, Prompt, RequestOptions};

/// All of whose threads take part, also where there are fewer CPUs.
fn pool(threads: usize) -> Arc<ThreadPool> {
    let options = ThreadPoolOptions {
        threads: Some(threads),
        at_once: Some(threads),
        ..ThreadPoolOptions::default()
    };
    Arc::new(ThreadPool::new(options).unwrap())
}

/// An engine that its owner steps.
fn engine(model: &Arc<Model>, pool: &Arc<ThreadPool>) -> Engine {
    let options = EngineOptions {
        shared_threads: Some(Arc::clone(pool)),
        manual_step: true,
        ..EngineOptions::default()
    };
    Engine::new(Arc::clone(model), options).unwrap()
}

fn request(n: usize) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids((0..70).map(|i| 300 + i * 7).collect()),
        ignore_end_of_generation: true,
        ..greedy(n)
    }
}

#[test]
fn any_number_of_threads_gives_the_same_tokens() {
    let model = load(&demo_model());
    let tokens = |pool: Arc<ThreadPool>| {
        let engine = engine(&model, &pool);
        let request = engine.submit(request(30)).unwrap();
        while engine.step().unwrap() {}
        read(&request).tokens
    };
    let one = tokens(pool(1));
    assert_eq!(one.len(), 30);
    for threads in [2, 4, 16, 64] {
        assert_eq!(tokens(pool(threads)), one, "{threads} threads at once");
    }
    // As a pool is that nobody asked to use more threads than there are CPUs.
    let fitting = ThreadPoolOptions {
        threads: Some(64),
        ..ThreadPoolOptions::default()
    };
    assert_eq!(tokens(Arc::new(ThreadPool::new(fitting).unwrap())), one);
}

#[test]
fn a_layer_has_five_barriers_in_a_decode_step() {
    let model = load(&demo_model());
    let pool = pool(2);
    let engine = engine(&model, &pool);
    let request = engine.submit(request(20)).unwrap();
    engine.step().unwrap();
    let layers = model.info().n_layers as u64;
    for _ in 0..10 {
        let before = pool.jobs();
        engine.step().unwrap();
        // Query, key and value together; attention; its output; gate and up together; down. And the logits.
        assert_eq!(pool.jobs() - before, 5 * layers + 1);
    }
    drop(request);
}

#[test]
fn of_two_engines_on_one_pool_neither_starves() {
    let model = load(&demo_model());
    let pool = pool(2);
    let (busy, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let engines = [engine(&model, &pool), engine(&model, &pool)];
    let long = engines[0].submit(request(1500)).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            // Without an end, whatever the speed of the other.
            let mut long = Some(long);
            while !stop.load(Ordering::SeqCst) {
                if !engines[0].step().unwrap() {
                    long = Some(engines[0].submit(request(1500)).unwrap());
                }
                busy.fetch_add(1, Ordering::SeqCst);
            }
            drop(long);
        });
        let wait = |least: usize| {
            while busy.load(Ordering::SeqCst) < least {
                std::thread::yield_now();
            }
        };
        wait(1);
        let begin = busy.load(Ordering::SeqCst);
        let short = engines[1].submit(request(40)).unwrap();
        while engines[1].step().unwrap() {}
        assert_eq!(read(&short).tokens.len(), 40);
        // Nor does the first, although the second may have been faster.
        wait(begin + 5);
        stop.store(true, Ordering::SeqCst);
    });
}
