//! A decode step of running requests allocates nothing: not on the thread that steps, nor on those that help it.
#![allow(unsafe_code, reason = "a counting global allocator")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{demo_model, load};
use infer::engine::{Engine, Event, Poll, Queue};
use infer::options::{EngineOptions, Prompt, RequestOptions};

struct Counting;
static COUNT: AtomicUsize = AtomicUsize::new(0);
static TRAP: AtomicBool = AtomicBool::new(false);

// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        if TRAP.swap(false, Ordering::SeqCst) {
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
        }
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

#[test]
fn decode_steps_allocate_nothing() {
    let engine = Engine::new(
        load(&demo_model()),
        EngineOptions {
            manual_step: true,
            threads: 2,
            ..EngineOptions::default()
        },
    )
    .unwrap();
    let queue = Arc::new(Queue::default());
    let base = || RequestOptions {
        prompt: Prompt::Text("Prince Andrew looked at her and".to_string()),
        max_tokens: 400,
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
    for step in 0..150 {
        let before = COUNT.load(Ordering::SeqCst);
        TRAP.store(
            std::env::var_os("INFER_SHOW_ALLOCATION").is_some(),
            Ordering::SeqCst,
        );
        assert!(engine.step().unwrap());
        TRAP.store(false, Ordering::SeqCst);
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
}
