//! A decode step of running requests allocates nothing: not on the thread that steps, nor on those that help it. A request
//! allocates a few times as a whole.
#![allow(unsafe_code, reason = "a counting global allocator")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::tiny::Tiny;
use common::{demo_model, load};
use infer::engine::{Engine, Event, Poll, Queue};
use infer::kernel::ThreadPool;
use infer::options::{EngineOptions, Prompt, RequestOptions, ThreadsOptions};

struct Counting;
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A pool whose thread has started: until then the system allocates for it.
fn started_threads() -> Arc<ThreadPool> {
    let started = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&started);
    let options = ThreadsOptions {
        threads: 2,
        on_start: Some(Arc::new(move |_| seen.store(1, Ordering::SeqCst))),
        ..ThreadsOptions::default()
    };
    let pool = ThreadPool::from_options(&options).unwrap();
    while started.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    Arc::new(pool)
}

/// One test, because it counts the allocations of the whole process.
#[test]
fn decode_steps_allocate_nothing() {
    let base = || EngineOptions {
        speculation: "off",
        // So few that no request ends while it is watched.
        speculation_tokens: 2,
        ..EngineOptions::default()
    };
    a_dense_model(base());
    a_dense_model(EngineOptions {
        flash_attention: false,
        speculation: "ngram",
        ..base()
    });
    // Everything that can be proposed is, by both kinds of proposers.
    a_dense_model(EngineOptions {
        speculation: "ngram",
        speculation_adaptive: false,
        ..base()
    });
    a_dense_model(EngineOptions {
        speculation: "draft",
        speculation_adaptive: false,
        draft_model: Some(load(&demo_model())),
        ..base()
    });
    experts_without_a_tokenizer();
    whole_requests();
}

/// From submission to the last event: the tokens, the mailbox with its two buffers and its completions, the text in hand,
/// and one to check the options.
const OF_A_REQUEST: usize = 7;
/// Its two lists, and what queues of the engine grow by.
const OF_A_BATCH: usize = 4;

fn whole_requests() {
    const AT_ONCE: usize = 8;
    let engine = Engine::new(
        load(&demo_model()),
        EngineOptions {
            manual_step: true,
            shared_threads: Some(started_threads()),
            ..EngineOptions::default()
        },
    )
    .unwrap();
    let mut events = vec![Event::default(); AT_ONCE];
    let mut serve = || {
        let options = |i| RequestOptions {
            prompt: Prompt::Ids((i..i + 30).collect()),
            cache_prompt: false,
            max_tokens: 40,
            ignore_end_of_generation: true,
            ..RequestOptions::default()
        };
        let batch = (0..AT_ONCE as u32).map(options).collect();
        let before = COUNT.load(Ordering::SeqCst);
        let requests = engine.submit_batch(batch).unwrap();
        while engine.step().unwrap() {
            for (request, event) in requests.iter().zip(&mut events) {
                request.next(Some(Duration::ZERO), event).unwrap();
            }
        }
        drop(requests);
        COUNT.load(Ordering::SeqCst) - before
    };
    // Buffers of the engine and of the reader grow.
    serve();
    let count = serve();
    let most = AT_ONCE * OF_A_REQUEST + OF_A_BATCH;
    assert!(
        count <= most,
        "{count} allocations of {AT_ONCE} requests, expected {most} at most"
    );
}

fn experts_without_a_tokenizer() {
    let mut tiny = Tiny::experts();
    tiny.remove("tokenizer.");
    let engine = Engine::new(
        tiny.load().unwrap(),
        EngineOptions {
            manual_step: true,
            shared_threads: Some(started_threads()),
            ..EngineOptions::default()
        },
    )
    .unwrap();
    let options = |prompt: Vec<u32>| RequestOptions {
        prompt: Prompt::Ids(prompt),
        max_tokens: 100,
        ..RequestOptions::default()
    };
    let requests = engine
        .submit_batch(vec![options(vec![1, 5, 7]), options((3..20).collect())])
        .unwrap();
    for _ in 0..10 {
        assert!(engine.step().unwrap());
    }
    let before = COUNT.load(Ordering::SeqCst);
    for _ in 0..60 {
        assert!(engine.step().unwrap());
    }
    let during = COUNT.load(Ordering::SeqCst) - before;
    assert_eq!(during, 0, "allocations in 60 decode steps of two requests");
    drop(requests);
}

fn a_dense_model(options: EngineOptions) {
    let engine = Engine::new(
        load(&demo_model()),
        EngineOptions {
            manual_step: true,
            // The long prompt is read before the steps that are looked at.
            prefill_budget: 0.0,
            shared_threads: Some(started_threads()),
            ..options.clone()
        },
    )
    .unwrap();
    let queue = Arc::new(Queue::default());
    let base = || RequestOptions {
        prompt: Prompt::Text("Prince Andrew looked at her and".to_string()),
        max_tokens: 600,
        ignore_end_of_generation: true,
        ..RequestOptions::default()
    };
    let long = (0..1200).map(|i| 300 + i % 1000).collect();
    let requests = engine
        .submit_batch(vec![
            RequestOptions {
                temperature: 0.0,
                ..base()
            },
            RequestOptions {
                // The whole history counts as recent.
                prompt: Prompt::Ids(long),
                repetition_penalty: 1.2,
                repetition_window: 1 << 20,
                temperature: 0.0,
                ..base()
            },
            RequestOptions {
                top_k: 40,
                min_p: 0.01,
                logprobs: true,
                top_logprobs: 20,
                prompt_logprobs: true,
                ..base()
            },
            RequestOptions {
                temperature: 1.0,
                top_p: 1.0,
                stop: vec!["the end of the war and of the peace".into(), "\u{1F600}".into()],
                ..base()
            },
            RequestOptions {
                queue: Some(Arc::clone(&queue)),
                seed: 3,
                ..base()
            },
        ])
        .unwrap();
    for _ in 0..20 {
        assert!(engine.step().unwrap());
    }
    let mut events = vec![Event::default(); 4];
    let mut during = 0;
    let speculating = options.speculation != "off" && !options.speculation_adaptive;
    for step in 0..150 {
        let before = COUNT.load(Ordering::SeqCst);
        assert!(engine.step().unwrap());
        during += COUNT.load(Ordering::SeqCst) - before;
        // Readers come and go, some with buffers of their own each time.
        if step % 3 == 0 {
            for request in &requests[..4] {
                let mut event = Event::default();
                assert_eq!(
                    request.next(Some(Duration::ZERO), &mut event).unwrap(),
                    Poll::Event
                );
            }
            queue.next(Some(Duration::ZERO), &mut events).unwrap();
        }
    }
    assert_eq!(engine.stats().running, 5);
    assert_eq!(during, 0, "allocations in 150 decode steps of five requests");
    assert!(!speculating || engine.stats().draft_tokens > 100);
}
