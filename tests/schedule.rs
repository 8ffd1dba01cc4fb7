//! Who runs when: preemption, policies, completions that share a prompt, time budgets and full contexts. Output depends
//! on none of it.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::sync::Arc;

use common::{demo_model, generate, greedy, load, read};
use infer::Error;
use infer::engine::{Engine, Event, FinishReason, Poll, Queue, Request};
use infer::kv::BLOCK_TOKENS;
use infer::model::Model;
use infer::options::{EngineOptions, Prompt, RequestOptions};

fn engine(model: &Arc<Model>, options: EngineOptions) -> Engine {
    Engine::new(Arc::clone(model), options).unwrap()
}

/// An engine whose cache has so many blocks.
fn with_blocks(model: &Arc<Model>, blocks: u64, options: EngineOptions) -> Engine {
    let kv_type = options.kv_type;
    let probe = engine(
        model,
        EngineOptions {
            kv_type,
            ..EngineOptions::default()
        },
    );
    generate(&probe, request(&[5], 1, 0));
    let block = probe.stats().kv_bytes_cached;
    engine(
        model,
        EngineOptions {
            kv_budget: blocks * block,
            ..options
        },
    )
}

/// A sampled completion, so that a changed bit in the logits shows.
fn request(prompt: &[u32], n: usize, seed: u64) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(prompt.to_vec()),
        max_tokens: n,
        temperature: 1.0,
        top_p: 1.0,
        seed,
        ignore_end_of_generation: true,
        ..RequestOptions::default()
    }
}

fn text(seed: u32, n: u32) -> Vec<u32> {
    (0..n).map(|i| 3 + (seed * 7919 + i * i * 31 + i) % 500).collect()
}

/// Tags in the order in which requests end.
fn order_of_ends(engine: &Engine, requests: Vec<RequestOptions>) -> Vec<u64> {
    let queue = Arc::new(Queue::default());
    let n = requests.len();
    let tagged = requests.into_iter().enumerate().map(|(i, r)| RequestOptions {
        queue: Some(Arc::clone(&queue)),
        tag: i as u64,
        ..r
    });
    let handles: Vec<Request> = engine.submit_batch(tagged.collect()).unwrap();
    let mut ended = Vec::new();
    while ended.len() < n {
        engine.step().unwrap();
        let mut events = vec![Event::default(); n];
        let found = queue.next(Some(std::time::Duration::ZERO), &mut events).unwrap();
        ended.extend(
            events[..found]
                .iter()
                .filter(|e| e.finish.is_some())
                .map(|e| e.tag),
        );
    }
    drop(handles);
    ended
}

#[test]
fn sequences_that_give_up_their_place_go_on_with_the_same_tokens() {
    let model = load(&demo_model());
    let alone = engine(
        &model,
        EngineOptions {
            prefix_cache: false,
            ..EngineOptions::default()
        },
    );
    for (prefix_cache, policy) in [
        (true, "fcfs"),
        (false, "fcfs"),
        (true, "priority"),
        (true, "cached_prefix"),
    ] {
        let small = with_blocks(
            &model,
            24,
            EngineOptions {
                max_running: 8,
                prefix_cache,
                policy,
                ..EngineOptions::default()
            },
        );
        let requests: Vec<_> = (0..16u32)
            .map(|i| RequestOptions {
                priority: u64::from(i % 3),
                repetition_penalty: if i % 2 == 0 { 1.0 } else { 1.1 },
                ..request(&text(i, 10 + i * 7), 100 + i as usize * 5, u64::from(i))
            })
            .collect();
        let handles = small.submit_batch(requests.clone()).unwrap();
        for (handle, request) in handles.iter().zip(requests) {
            let output = read(handle);
            assert_eq!(output.tokens, generate(&alone, request).tokens, "{policy}");
            assert_eq!(output.finish.reason, FinishReason::Length);
        }
        let stats = small.stats();
        assert!(stats.preemptions > 0, "{policy}: {stats:?}");
        assert_eq!((stats.kv_bytes_used, stats.running, stats.queued), (0, 0, 0));
    }
}

#[test]
fn a_preempted_sequence_can_be_cancelled() {
    let model = load(&demo_model());
    let small = with_blocks(
        &model,
        8,
        EngineOptions {
            max_running: 4,
            manual_step: true,
            prefix_cache: false,
            ..EngineOptions::default()
        },
    );
    let requests = small
        .submit_batch((0..3).map(|i| request(&text(i, 40), 150, 0)).collect())
        .unwrap();
    while small.stats().preemptions == 0 {
        assert!(small.step().unwrap());
    }
    requests[2].cancel();
    small.step().unwrap();
    let output = read(&requests[2]);
    assert_eq!(output.finish.reason, FinishReason::Cancelled);
    assert!(!output.tokens.is_empty());
    while small.step().unwrap() {}
    assert_eq!(read(&requests[0]).tokens.len(), 150);
    assert_eq!(small.stats().kv_bytes_used, 0);
}

#[test]
fn first_come_is_first_served_and_priority_goes_before_it() {
    let model = load(&demo_model());
    let requests = || {
        (0..6u32)
            .map(|i| RequestOptions {
                priority: [1, 5, 3, 5, 1, 9][i as usize],
                ..request(&text(i, 20), 12, 0)
            })
            .collect::<Vec<_>>()
    };
    let one_at_a_time = |policy| {
        engine(
            &model,
            EngineOptions {
                policy,
                batching: false,
                manual_step: true,
                ..EngineOptions::default()
            },
        )
    };
    assert_eq!(
        order_of_ends(&one_at_a_time("fcfs"), requests()),
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!(
        order_of_ends(&one_at_a_time("priority"), requests()),
        [5, 1, 3, 2, 0, 4]
    );
}

#[test]
fn a_higher_priority_takes_the_place_of_a_lower_one() {
    let model = load(&demo_model());
    let busy = engine(
        &model,
        EngineOptions {
            policy: "priority",
            max_running: 2,
            manual_step: true,
            prefill_budget: 0.0,
            ..EngineOptions::default()
        },
    );
    let low = busy
        .submit_batch((0..2).map(|i| request(&text(i, 30), 60, 9)).collect())
        .unwrap();
    for _ in 0..10 {
        busy.step().unwrap();
    }
    let urgent = RequestOptions {
        priority: 900,
        ..request(&text(7, 30), 5, 9)
    };
    let high = busy.submit(urgent).unwrap();
    let mut event = Event::default();
    let mut steps = 0;
    while event.finish.is_none() {
        busy.step().unwrap();
        steps += 1;
        let _ = high.next(Some(std::time::Duration::ZERO), &mut event).unwrap();
    }
    assert!(steps <= 6, "{steps} steps for five tokens");
    assert_eq!(busy.stats().preemptions, 1);
    while busy.step().unwrap() {}
    let plain = engine(&model, EngineOptions::default());
    for (i, handle) in low.iter().enumerate() {
        let alone = generate(&plain, request(&text(i as u32, 30), 60, 9));
        assert_eq!(read(handle).tokens, alone.tokens);
    }
}

#[test]
fn nobody_is_overtaken_more_often_than_allowed() {
    let model = load(&demo_model());
    for policy in ["priority", "cached_prefix"] {
        let engine = engine(
            &model,
            EngineOptions {
                policy,
                max_overtaken: 5,
                batching: false,
                manual_step: true,
                ..EngineOptions::default()
            },
        );
        let favourite = |seed| RequestOptions {
            priority: 900,
            ..request(&text(1, 70), 2, seed)
        };
        // What the favourites share is cached from the first on.
        let first = engine.submit(favourite(0)).unwrap();
        while engine.step().unwrap() {}
        drop(first);
        let patient = RequestOptions {
            priority: 0,
            ..request(&text(2, 20), 3, 0)
        };
        let handle = engine.submit(patient).unwrap();
        let mut favourites = Vec::new();
        let mut event = Event::default();
        for served in 0.. {
            // There is always a later one that the policy prefers.
            favourites.push(engine.submit(favourite(served)).unwrap());
            engine.step().unwrap();
            if handle.next(Some(std::time::Duration::ZERO), &mut event).unwrap() == Poll::Event
                && event.finish.is_some()
            {
                break;
            }
            assert!(served < 60, "{policy}: the patient one starves");
        }
        let before = favourites
            .iter()
            .filter(|f| f.next(Some(std::time::Duration::ZERO), &mut event).unwrap() == Poll::Event)
            .count();
        assert!((5..=8).contains(&before), "{policy}: {before}");
    }
}

#[test]
fn what_is_cached_is_served_first() {
    let model = load(&demo_model());
    let engine = engine(
        &model,
        EngineOptions {
            policy: "cached_prefix",
            batching: false,
            manual_step: true,
            ..EngineOptions::default()
        },
    );
    let long = text(1, 200);
    order_of_ends(&engine, vec![request(&long, 1, 0)]);
    let requests = vec![
        request(&text(2, 50), 2, 0),
        request(&long[..64], 2, 0),
        request(&long, 2, 0),
        request(&text(3, 50), 2, 0),
    ];
    assert_eq!(order_of_ends(&engine, requests), [2, 1, 0, 3]);
}

/// Tokens of each completion of a request.
fn completions(request: &Request, n: usize) -> Vec<Vec<u32>> {
    let mut tokens = vec![Vec::new(); n];
    let mut ends = vec![0; n];
    let mut event = Event::default();
    while request.next(None, &mut event).unwrap() == Poll::Event {
        tokens[event.choice as usize].extend_from_slice(&event.tokens);
        ends[event.choice as usize] += usize::from(event.finish.is_some());
    }
    assert!(ends.iter().all(|e| *e == 1), "{ends:?}");
    tokens
}

#[test]
fn completions_share_the_prompt_and_differ_in_their_noise() {
    let model = load(&demo_model());
    let prompt = text(4, 100);
    let several = |n| RequestOptions {
        n,
        ..request(&prompt, 20, 5)
    };
    let reference = completions(
        &engine(&model, EngineOptions::default())
            .submit(several(5))
            .unwrap(),
        5,
    );
    assert!((1..5).all(|i| reference[i] != reference[0]));
    for (prefix_cache, max_running, blocks) in [
        (true, 8, 100),
        (false, 8, 100),
        (true, 2, 100),
        (false, 1, 100),
        (true, 8, 7),
    ] {
        let engine = with_blocks(
            &model,
            blocks,
            EngineOptions {
                prefix_cache,
                max_running,
                prefill_chunk: 33,
                ..EngineOptions::default()
            },
        );
        assert_eq!(completions(&engine.submit(several(5)).unwrap(), 5), reference);
        assert_eq!(
            completions(&engine.submit(several(1)).unwrap(), 1)[0],
            reference[0]
        );
        let stats = engine.stats();
        if max_running == 8 && blocks == 100 {
            let again = if prefix_cache { 1 } else { 100 };
            assert_eq!(stats.prompt_tokens, 100 + 4 + again, "the prompt is read once");
        }
        assert_eq!(stats.kv_bytes_used, 0);
    }
}

#[test]
fn freeing_a_request_ends_all_its_completions() {
    let model = load(&demo_model());
    let engine = engine(
        &model,
        EngineOptions {
            manual_step: true,
            ..EngineOptions::default()
        },
    );
    let handle = engine
        .submit(RequestOptions {
            n: 3,
            ..request(&text(4, 100), 200, 5)
        })
        .unwrap();
    for _ in 0..5 {
        engine.step().unwrap();
    }
    assert_eq!(engine.stats().running, 3);
    drop(handle);
    assert!(!engine.step().unwrap());
    assert_eq!(
        (engine.stats().running, engine.stats().requests_cancelled),
        (0, 3)
    );
}

#[test]
fn a_long_prompt_gets_small_pieces_while_others_generate() {
    let model = load(&demo_model());
    for prefill_budget in [2.0, 0.0] {
        let engine = engine(
            &model,
            EngineOptions {
                manual_step: true,
                prefill_budget,
                prefill_chunk: 256,
                ..EngineOptions::default()
            },
        );
        let talking = engine.submit(request(&text(1, 10), 1900, 0)).unwrap();
        for _ in 0..20 {
            engine.step().unwrap();
        }
        let reading = engine.submit(request(&text(2, 1000), 5, 0)).unwrap();
        let (mut largest, mut steps, mut before) = (0, 0, engine.stats());
        loop {
            engine.step().unwrap();
            let after = engine.stats();
            // No step leaves out the one that generates.
            assert!(after.generated_tokens > before.generated_tokens);
            largest = largest.max(after.prompt_tokens - before.prompt_tokens);
            steps += 1;
            before = after;
            if after.prompt_tokens >= 1010 {
                break;
            }
        }
        match prefill_budget {
            0.0 => assert_eq!((largest, steps), (256, 4)),
            // How small the pieces are depends on the time steps take; the first one is always small.
            _ => assert!(steps > 4, "{steps} steps, {largest} tokens in the largest"),
        }
        drop((talking, reading));
    }
}

#[test]
fn a_prompt_that_can_never_fit_is_refused_with_the_numbers() {
    let model = load(&demo_model());
    let small = with_blocks(&model, 3, EngineOptions::default());
    let Err(Error::ContextOverflow(message)) = small.submit(request(&text(1, 97), 1, 0)) else {
        panic!("97 tokens in three blocks of {BLOCK_TOKENS}");
    };
    for number in ["97 tokens", "holds 96", "bytes per token", "kv_budget"] {
        assert!(message.contains(number), "{message}");
    }
}

#[test]
fn a_long_prompt_loses_its_oldest_tokens_if_it_may() {
    let model = load(&demo_model());
    let small = engine(
        &model,
        EngineOptions {
            context_length: 128,
            ..EngineOptions::default()
        },
    );
    let long = text(1, 300);
    let truncated = RequestOptions {
        context_overflow: "truncate",
        context_keep: 10,
        ..request(&long, 28, 3)
    };
    let output = generate(&small, truncated.clone());
    assert_eq!((output.finish.prompt_tokens, output.tokens.len()), (100, 28));
    let kept = [&long[..10], &long[210..]].concat();
    assert_eq!(output.tokens, generate(&small, request(&kept, 28, 3)).tokens);
    // A short one keeps everything.
    let short = RequestOptions {
        prompt: Prompt::Ids(long[..50].to_vec()),
        ..truncated
    };
    assert_eq!(generate(&small, short).finish.prompt_tokens, 50);
}

#[test]
fn a_completion_can_outgrow_its_context() {
    let model = load(&demo_model());
    let prompt = text(1, 40);
    for (prefix_cache, batching) in [(true, true), (false, false)] {
        let small = engine(
            &model,
            EngineOptions {
                context_length: 96,
                prefix_cache,
                batching,
                ..EngineOptions::default()
            },
        );
        let shift = RequestOptions {
            context_overflow: "shift",
            context_keep: 6,
            temperature: 0.0,
            ..request(&prompt, 200, 0)
        };
        let output = generate(&small, shift);
        assert_eq!(output.finish.reason, FinishReason::Length);
        assert_eq!(output.tokens.len(), 200);
        // After the shift it is the completion of what was left: 6 tokens and the later half of the others.
        let whole = [&prompt[..], &output.tokens].concat();
        let left = [&whole[..6], &whole[51..96]].concat();
        let fresh = RequestOptions {
            prompt: Prompt::Ids(left),
            ignore_end_of_generation: true,
            ..greedy(45)
        };
        assert_eq!(generate(&small, fresh).tokens, whole[96..141]);
        assert_eq!(small.stats().kv_bytes_used, 0);
    }
}

#[test]
fn the_memory_in_use_is_full_of_tokens() {
    let model = load(&demo_model());
    let engine = engine(
        &model,
        EngineOptions {
            manual_step: true,
            max_running: 32,
            prefill_chunk: 4096,
            prefill_budget: 0.0,
            ..EngineOptions::default()
        },
    );
    // Uniform lengths from 64 to about 2000.
    let lengths = (0..32u32).map(|i| 64 + i * 607 % 1931);
    let requests = lengths.clone().map(|n| request(&text(n, n), 40, 0)).collect();
    let handles = engine.submit_batch(requests).unwrap();
    let total: u64 = lengths.map(u64::from).sum();
    while engine.stats().prompt_tokens < total {
        engine.step().unwrap();
    }
    let stats = engine.stats();
    assert_eq!(stats.running, 32);
    let used = stats.kv_tokens_used as f64 / stats.kv_slots_used as f64;
    assert!(used >= 0.95, "{used}");
    drop(handles);
}

#[test]
fn more_completions_than_can_ever_wait_are_no_matter_of_patience() {
    let model = load(&demo_model());
    let engine = engine(
        &model,
        EngineOptions {
            max_queued: 4,
            ..EngineOptions::default()
        },
    );
    let several = |n| RequestOptions {
        n,
        ..request(&text(1, 10), 2, 0)
    };
    let Err(Error::InvalidArgument(message)) = engine.submit(several(5)) else {
        panic!("five completions in a queue of four");
    };
    assert!(
        message.contains("n is 5") && message.contains("max_queued"),
        "{message}"
    );
    assert_eq!(completions(&engine.submit(several(4)).unwrap(), 4).len(), 4);
}
