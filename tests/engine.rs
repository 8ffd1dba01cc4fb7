//! The engine through its public interface: results, ends, limits and shutdown.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{demo_model, fixtures, generate, greedy, ids, load, read, read_json};
use infer::Error;
use infer::engine::{Engine, Event, EventKind, FinishReason, Poll, Queue};
use infer::gguf::{Gguf, GgufWriter, LoadOptions, Value};
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, OptionSet, Prompt, RequestOptions, ThreadsOptions};

fn demo() -> Arc<Model> {
    load(&demo_model())
}

fn engine(options: EngineOptions) -> Engine {
    Engine::new(demo(), options).unwrap()
}

fn text(prompt: &str, options: RequestOptions) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Text(prompt.to_string()),
        ..options
    }
}

const PROMPTS: [&str; 6] = [
    "Prince Andrew looked at her and",
    "The",
    "It was a cold morning. The soldiers of the regiment stood in the snow before the village, and nobody spoke. An adjutant rode up",
    "Natasha",
    "Kutuzov said to the Emperor that the army could not",
    "War",
];

#[test]
fn trained_models_generate_their_reference_tokens() {
    let Some(root) = fixtures("greedy tokens of the trained models") else {
        return;
    };
    let models = root.join("models");
    for (model, expected) in [
        (
            "stories260K/stories260K-F32.gguf",
            "stories260K/expected-greedy.json",
        ),
        (
            "gguf-v1/stories260K-v1-F32.gguf",
            "stories260K/expected-greedy.json",
        ),
        ("tolstoy/tolstoy-3m-F16.gguf", "tolstoy/expected-greedy-3m.json"),
        ("tolstoy/tolstoy-21m-F16.gguf", "tolstoy/expected-greedy-21m.json"),
        ("llama2xs/llama2xs-F16.gguf", "llama2xs/expected-greedy.json"),
        (
            "babyllama/babyllama-tok361-F16.gguf",
            "babyllama/expected-greedy.json",
        ),
    ] {
        let options = EngineOptions {
            kv_type: "f32",
            ..EngineOptions::default()
        };
        let engine = Engine::new(load(&models.join(model)), options).unwrap();
        for case in read_json(&models.join(expected))["cases"].as_array().unwrap() {
            let expected = ids(&case["greedy_ids"]);
            let prompt = case["prompt"].as_str().unwrap();
            let request = RequestOptions {
                ignore_end_of_generation: true,
                ..greedy(expected.len())
            };
            let tokens = engine.model().tokenize(prompt, true, true).unwrap();
            assert_eq!(tokens, ids(&case["prompt_ids"]), "{model}: prompt ids");
            assert_eq!(
                generate(&engine, text(prompt, request)).tokens,
                expected,
                "{model}: {prompt}"
            );
        }
    }
}

#[test]
fn a_request_alone_equals_the_same_request_among_others() {
    let alone: Vec<_> = PROMPTS
        .iter()
        .map(|p| {
            generate(
                &engine(EngineOptions::default()),
                text(
                    p,
                    RequestOptions {
                        max_tokens: 40,
                        ..Default::default()
                    },
                ),
            )
        })
        .collect();
    for (threads, prefill_chunk, max_running) in [(1, 256, 32), (2, 5, 3), (4, 1, 32), (3, 17, 1)] {
        let engine = engine(EngineOptions {
            threads,
            prefill_chunk,
            max_running,
            ..EngineOptions::default()
        });
        let options = PROMPTS
            .iter()
            .map(|p| {
                text(
                    p,
                    RequestOptions {
                        max_tokens: 40,
                        ..Default::default()
                    },
                )
            })
            .collect();
        let requests = engine.submit_batch(options).unwrap();
        for (request, alone) in requests.iter().zip(&alone) {
            let together = read(request);
            assert_eq!(
                together.tokens, alone.tokens,
                "{threads} threads, chunks of {prefill_chunk}"
            );
            assert_eq!(together.text, alone.text);
        }
    }
}

#[test]
fn the_same_seed_repeats_and_another_differs() {
    let engine = engine(EngineOptions::default());
    let with = |seed| {
        generate(
            &engine,
            text(
                "The",
                RequestOptions {
                    seed,
                    temperature: 1.0,
                    max_tokens: 30,
                    ..Default::default()
                },
            ),
        )
        .tokens
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn every_end_is_reported_with_its_reason_and_counts() {
    let engine = engine(EngineOptions::default());
    let whole = generate(&engine, text("Prince Andrew", greedy(40)));
    assert_eq!(whole.finish.reason, FinishReason::Length);
    assert_eq!((whole.finish.generated_tokens, whole.tokens.len()), (40, 40));
    assert_eq!(
        whole.finish.prompt_tokens,
        engine
            .model()
            .tokenize("Prince Andrew", true, true)
            .unwrap()
            .len()
    );
    assert!(whole.finish.total_time >= whole.finish.time_to_first_token);
    assert!(whole.finish.decode_tokens_per_second > 0.0);

    let middle = &whole.text[whole.text.len() / 2..];
    let stop: String = middle.chars().skip(1).take(7).collect();
    let stopped = generate(
        &engine,
        text(
            "Prince Andrew",
            RequestOptions {
                stop: vec![stop.clone()],
                ..greedy(40)
            },
        ),
    );
    assert_eq!(
        (stopped.finish.reason, stopped.finish.stop.as_ref()),
        (FinishReason::Stop, Some(&stop))
    );
    assert_eq!(stopped.text, whole.text[..whole.text.find(&stop).unwrap()]);

    let id = whole.tokens[5];
    let first = whole.tokens.iter().position(|t| *t == id).unwrap();
    let stopped = generate(
        &engine,
        text(
            "Prince Andrew",
            RequestOptions {
                stop_ids: vec![id],
                ..greedy(40)
            },
        ),
    );
    assert_eq!(
        (stopped.finish.reason, stopped.finish.stop),
        (FinishReason::Stop, Some(id.to_string()))
    );
    assert_eq!(stopped.tokens, whole.tokens[..=first]);
}

/// The demo model with another end token.
fn demo_ending_with(id: u32) -> Arc<Model> {
    let bytes = std::fs::read(demo_model()).unwrap();
    let gguf = Gguf::from_bytes(&bytes).unwrap();
    let data = gguf.load(&LoadOptions::default(), &mut |_, _| true).unwrap();
    let tensors: Vec<_> = gguf
        .tensors()
        .iter()
        .map(|t| (t, data.get(&t.name).unwrap()))
        .collect();
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata().iter() {
        let end = key == "tokenizer.ggml.eos_token_id";
        writer
            .insert(key, if end { Value::U32(id) } else { value.clone() })
            .unwrap();
    }
    for (tensor, data) in &tensors {
        writer
            .tensor(&tensor.name, &tensor.dims, tensor.ty, &data[..])
            .unwrap();
    }
    let mut changed = Vec::new();
    writer.write_to(&mut changed).unwrap();
    Model::load_from_bytes(&changed, &ModelOptions::default(), &mut |_| true).unwrap()
}

#[test]
fn an_end_token_ends_the_completion_and_is_not_part_of_the_text() {
    let whole = generate(
        &engine(EngineOptions::default()),
        text("Prince Andrew", greedy(30)),
    );
    let end = whole.tokens[12];
    let first = whole.tokens.iter().position(|t| *t == end).unwrap();
    let engine = Engine::new(demo_ending_with(end), EngineOptions::default()).unwrap();
    let ended = generate(&engine, text("Prince Andrew", greedy(30)));
    assert_eq!(ended.finish.reason, FinishReason::EndOfGeneration);
    assert_eq!(ended.tokens, whole.tokens[..=first]);
    assert_eq!(
        ended.text,
        engine.model().detokenize(&whole.tokens[..first], false).unwrap()
    );
    let ignoring = RequestOptions {
        ignore_end_of_generation: true,
        ..greedy(30)
    };
    assert_eq!(
        generate(&engine, text("Prince Andrew", ignoring)).tokens,
        whole.tokens
    );
}

#[test]
fn a_full_context_ends_a_completion() {
    let engine = engine(EngineOptions {
        context_length: 20,
        ..EngineOptions::default()
    });
    let output = generate(&engine, text("Prince Andrew", greedy(1000)));
    assert_eq!(output.finish.reason, FinishReason::Length);
    assert_eq!(output.finish.prompt_tokens + output.tokens.len(), 20);
    let error = engine.submit(text(PROMPTS[2], greedy(1))).err().unwrap();
    assert!(matches!(error, Error::ContextOverflow(_)), "{error}");
}

#[test]
fn bad_requests_are_refused_with_a_reason() {
    let engine = engine(EngineOptions {
        max_prompt_bytes: 100,
        ..EngineOptions::default()
    });
    let refused = |options: RequestOptions| engine.submit(options).err().unwrap().to_string();
    assert!(refused(RequestOptions::default()).contains("no prompt"));
    assert!(
        refused(RequestOptions {
            prompt: Prompt::Ids(vec![]),
            ..Default::default()
        })
        .contains("no tokens")
    );
    let e = refused(RequestOptions {
        prompt: Prompt::Ids(vec![1, 4096]),
        ..Default::default()
    });
    assert!(e.contains("4096"), "{e}");
    assert!(refused(text(&"a".repeat(101), greedy(1))).contains("max_prompt_bytes"));
    assert!(
        refused(text(
            "a",
            RequestOptions {
                stop: vec![String::new()],
                ..greedy(1)
            }
        ))
        .contains("stop")
    );
    let many = vec!["x".to_string(); 2000];
    assert!(
        refused(text(
            "a",
            RequestOptions {
                stop: many,
                ..greedy(1)
            }
        ))
        .contains("2000")
    );
    let messages = Prompt::Messages(serde_json::json!([{"role": "user", "content": "hi"}]));
    assert!(
        refused(RequestOptions {
            prompt: messages,
            ..greedy(1)
        })
        .contains("chat template")
    );
}

#[test]
fn a_full_queue_refuses_whole_batches_and_keeps_working() {
    let engine = engine(EngineOptions {
        max_queued: 3,
        manual_step: true,
        ..EngineOptions::default()
    });
    let batch = |n: usize| vec![text("The", greedy(3)); n];
    assert!(matches!(engine.submit_batch(batch(4)), Err(Error::Busy(_))));
    let requests = engine.submit_batch(batch(3)).unwrap();
    assert!(matches!(
        engine.submit(text("The", greedy(3))),
        Err(Error::Busy(_))
    ));
    while engine.step().unwrap() {}
    let first = read(&requests[0]);
    assert!(requests[1..].iter().all(|r| read(r).tokens == first.tokens));
    assert_eq!(engine.stats().requests_refused, 5);
    assert!(engine.submit(text("The", greedy(3))).is_ok());
}

#[test]
fn cancelling_ends_running_and_waiting_requests_and_frees_their_blocks() {
    let engine = engine(EngineOptions {
        max_running: 1,
        ..EngineOptions::default()
    });
    let running = engine
        .submit(text(
            "The",
            RequestOptions {
                ignore_end_of_generation: true,
                ..greedy(2000)
            },
        ))
        .unwrap();
    let waiting = engine.submit(text("The", greedy(2000))).unwrap();
    let mut event = Event::default();
    assert_eq!(running.next(None, &mut event).unwrap(), Poll::Event);
    waiting.cancel();
    waiting.cancel();
    assert_eq!(read(&waiting).finish.reason, FinishReason::Cancelled);
    running.cancel();
    assert_eq!(read(&running).finish.reason, FinishReason::Cancelled);
    assert_eq!(engine.stats().kv_bytes_used, 0);
    assert_eq!(running.next(None, &mut event).unwrap(), Poll::End);
    running.cancel();
    assert_eq!(engine.stats().requests_cancelled, 2);
}

#[test]
fn a_deadline_ends_running_and_waiting_requests() {
    let engine = engine(EngineOptions {
        max_running: 1,
        ..EngineOptions::default()
    });
    let options = RequestOptions {
        deadline_ms: 30,
        ignore_end_of_generation: true,
        ..greedy(2000)
    };
    let requests = engine
        .submit_batch(vec![text("The", options.clone()), text("The", options)])
        .unwrap();
    for request in &requests {
        assert_eq!(read(request).finish.reason, FinishReason::Deadline);
    }
}

#[test]
fn dropping_the_engine_wakes_its_readers() {
    let engine = engine(EngineOptions::default());
    let request = engine
        .submit(text(
            "The",
            RequestOptions {
                ignore_end_of_generation: true,
                ..greedy(2000)
            },
        ))
        .unwrap();
    let reader = std::thread::spawn(move || read(&request).finish.reason);
    std::thread::sleep(Duration::from_millis(20));
    drop(engine);
    assert_eq!(reader.join().unwrap(), FinishReason::Cancelled);
}

#[test]
fn a_paused_engine_computes_nothing_but_cancels() {
    let engine = engine(EngineOptions::default());
    engine.pause();
    let request = engine.submit(text("The", greedy(3))).unwrap();
    let other = engine.submit(text("The", greedy(3))).unwrap();
    let mut event = Event::default();
    assert_eq!(
        request.next(Some(Duration::from_millis(50)), &mut event).unwrap(),
        Poll::Timeout
    );
    other.cancel();
    assert_eq!(read(&other).finish.reason, FinishReason::Cancelled);
    engine.resume();
    assert_eq!(read(&request).tokens.len(), 3);
}

#[test]
fn draining_refuses_newcomers_and_finishes_the_rest() {
    let engine = engine(EngineOptions::default());
    let requests = engine.submit_batch(vec![text("The", greedy(20)); 5]).unwrap();
    assert!(engine.drain(Some(Duration::from_secs(60))).unwrap());
    assert!(matches!(
        engine.submit(text("The", greedy(1))),
        Err(Error::Closed(_))
    ));
    assert!(
        requests
            .iter()
            .all(|r| read(r).finish.reason == FinishReason::Length)
    );
    engine.resume();
    assert_eq!(generate(&engine, text("The", greedy(2))).tokens.len(), 2);
    let long = engine
        .submit(text(
            "The",
            RequestOptions {
                ignore_end_of_generation: true,
                ..greedy(2000)
            },
        ))
        .unwrap();
    assert!(!engine.drain(Some(Duration::from_millis(1))).unwrap());
    drop(long);
    assert!(engine.drain(None).unwrap());
}

#[test]
fn trimming_gives_back_memory_of_finished_requests() {
    for manual_step in [false, true] {
        let engine = engine(EngineOptions {
            manual_step,
            ..EngineOptions::default()
        });
        let request = engine.submit(text("The", greedy(2))).unwrap();
        assert!(engine.drain(None).unwrap());
        assert_eq!(read(&request).tokens.len(), 2);
        assert!(engine.trim(u64::MAX) > 0);
        assert_eq!(engine.trim(u64::MAX), 0);
    }
}

#[test]
fn a_queue_carries_many_requests_with_their_tags() {
    let engine = engine(EngineOptions::default());
    let queue = Arc::new(Queue::default());
    let options = (0..20u64)
        .map(|tag| {
            let base = greedy(5 + tag as usize);
            text(
                PROMPTS[tag as usize % 6],
                RequestOptions {
                    tag,
                    queue: Some(Arc::clone(&queue)),
                    ..base
                },
            )
        })
        .collect();
    let requests = engine.submit_batch(options).unwrap();
    let mut event = Event::default();
    assert!(requests[0].next(Some(Duration::ZERO), &mut event).is_err());
    let mut tokens = vec![0; 20];
    let mut open = 20;
    let mut events = vec![Event::default(); 7];
    while open > 0 {
        let n = queue.next(Some(Duration::from_secs(60)), &mut events).unwrap();
        assert!(n > 0, "nothing came for a minute");
        for event in &events[..n] {
            tokens[event.tag as usize] += event.tokens.len();
            open -= usize::from(event.kind == EventKind::Finished);
        }
    }
    assert_eq!(tokens, (5..25).collect::<Vec<_>>());
    assert_eq!(
        queue.next(Some(Duration::from_millis(5)), &mut events).unwrap(),
        0
    );
}

#[test]
fn a_reader_of_a_queue_is_woken_once_a_step_at_most() {
    let engine = engine(EngineOptions::default());
    let queue = Arc::new(Queue::default());
    let options = (0..12usize)
        .map(|i| {
            let queue = Some(Arc::clone(&queue));
            let options = RequestOptions {
                queue,
                ignore_end_of_generation: true,
                ..greedy(20 + i)
            };
            text(PROMPTS[i % 6], options)
        })
        .collect();
    let requests = engine.submit_batch(options).unwrap();
    let mut events = vec![Event::default(); 64];
    let (mut calls, mut open) = (0, requests.len());
    while open > 0 {
        let n = queue.next(Some(Duration::from_secs(60)), &mut events).unwrap();
        assert!(n > 0, "nothing came for a minute");
        calls += 1;
        open -= events[..n]
            .iter()
            .filter(|e| e.kind == EventKind::Finished)
            .count();
    }
    assert!(engine.drain(None).unwrap());
    let steps = engine.stats().steps;
    assert!(calls <= steps, "{calls} calls in {steps} steps");
}

#[test]
fn waiting_for_many_names_the_requests_that_can_be_read() {
    let engine = engine(EngineOptions {
        manual_step: true,
        ..EngineOptions::default()
    });
    let requests = engine.submit_batch(vec![text("The", greedy(2)); 3]).unwrap();
    assert_eq!(engine.wait(Some(Duration::ZERO), 10, &mut |_| {}), 0);
    while engine.step().unwrap() {}
    let ready = |max| {
        let mut ids = Vec::new();
        engine.wait(Some(Duration::ZERO), max, &mut |id| ids.push(id));
        ids
    };
    assert_eq!(ready(10), requests.iter().map(|r| r.id()).collect::<Vec<_>>());
    assert_eq!(ready(2).len(), 2);
    read(&requests[1]);
    assert_eq!(ready(10), [requests[0].id(), requests[2].id()]);
}

#[test]
fn two_readers_of_one_request_are_refused() {
    let engine = engine(EngineOptions {
        manual_step: true,
        ..EngineOptions::default()
    });
    let request = Arc::new(engine.submit(text("The", greedy(2))).unwrap());
    let other = Arc::clone(&request);
    let reader = std::thread::spawn(move || {
        let mut event = Event::default();
        // While the first reader looks, this one is refused.
        loop {
            match other.next(Some(Duration::from_secs(60)), &mut event) {
                Err(Error::Reentrant(_)) => std::thread::yield_now(),
                poll => break poll.unwrap(),
            }
        }
    });
    let mut event = Event::default();
    let begin = Instant::now();
    let refused = loop {
        match request.next(Some(Duration::ZERO), &mut event) {
            // The other thread has not begun to read yet.
            Ok(Poll::Timeout) => assert!(begin.elapsed() < Duration::from_secs(60), "never refused"),
            poll => break poll,
        }
        std::thread::yield_now();
    };
    assert!(matches!(refused, Err(Error::Reentrant(_))));
    while engine.step().unwrap() {}
    assert_eq!(reader.join().unwrap(), Poll::Event);
}

#[test]
fn manual_steps_do_what_the_thread_does() {
    let threaded = generate(&engine(EngineOptions::default()), text(PROMPTS[2], greedy(12)));
    let engine = engine(EngineOptions {
        manual_step: true,
        prefill_chunk: 7,
        ..EngineOptions::default()
    });
    let request = engine.submit(text(PROMPTS[2], greedy(12))).unwrap();
    let mut steps = 1;
    while engine.step().unwrap() {
        steps += 1;
    }
    let prompt = engine.model().tokenize(PROMPTS[2], true, true).unwrap().len();
    assert_eq!(steps, prompt.div_ceil(7) + 11);
    assert_eq!(read(&request).tokens, threaded.tokens);
    assert!(!engine.step().unwrap());
}

#[test]
fn many_threads_submit_read_cancel_and_drop() {
    let engine = Arc::new(engine(EngineOptions {
        max_queued: 40,
        max_running: 8,
        ..EngineOptions::default()
    }));
    let expected = generate(&engine, text("Natasha", greedy(10))).tokens;
    let finished = Arc::new(AtomicUsize::new(0));
    let milliseconds =
        std::env::var("INFER_STRESS_SECONDS").map_or(1500, |s| 1000 * s.parse::<u64>().unwrap());
    let threads: Vec<_> = (0..64)
        .map(|t| {
            let (engine, finished, expected) = (Arc::clone(&engine), Arc::clone(&finished), expected.clone());
            std::thread::spawn(move || {
                let begin = Instant::now();
                for i in 0.. {
                    if begin.elapsed() > Duration::from_millis(milliseconds) {
                        return;
                    }
                    let request = match engine.submit(text("Natasha", greedy(10))) {
                        Ok(request) => request,
                        Err(Error::Busy(_)) => continue,
                        Err(e) => panic!("{e}"),
                    };
                    match (t + i) % 4 {
                        0 => drop(request),
                        1 => {
                            request.cancel();
                            let output = read(&request);
                            assert!(expected.starts_with(&output.tokens));
                        }
                        _ => {
                            assert_eq!(read(&request).tokens, expected);
                            finished.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(engine.drain(Some(Duration::from_secs(60))).unwrap());
    let stats = engine.stats();
    assert!(finished.load(Ordering::Relaxed) > 0);
    assert_eq!((stats.kv_bytes_used, stats.running, stats.queued), (0, 0, 0));
    assert_eq!(
        stats.requests_submitted,
        stats.requests_completed + stats.requests_cancelled
    );
}

#[test]
fn engines_take_turns_on_shared_threads() {
    let pool = infer::kernel::ThreadPool::from_options(&ThreadsOptions {
        threads: 2,
        ..Default::default()
    })
    .unwrap();
    let pool = Some(Arc::new(pool));
    let options = || EngineOptions {
        shared_threads: pool.clone(),
        ..EngineOptions::default()
    };
    let (a, b) = (engine(options()), engine(options()));
    let expected = generate(&engine(EngineOptions::default()), text("War", greedy(60))).tokens;
    let (x, y) = (
        a.submit(text("War", greedy(60))).unwrap(),
        b.submit(text("War", greedy(60))).unwrap(),
    );
    assert_eq!(read(&x).tokens, expected);
    drop(a);
    assert_eq!(read(&y).tokens, expected);
}

#[test]
fn statistics_add_up() {
    let engine = engine(EngineOptions::default());
    for prompt in PROMPTS {
        generate(
            &engine,
            text(
                prompt,
                RequestOptions {
                    ignore_end_of_generation: true,
                    ..greedy(20)
                },
            ),
        );
    }
    let stats = engine.stats();
    let prompts: usize = PROMPTS
        .iter()
        .map(|p| engine.model().tokenize(p, true, true).unwrap().len())
        .sum();
    assert_eq!((stats.requests_completed, stats.generated_tokens), (6, 120));
    // What two prompts have in common is computed once.
    assert_eq!(stats.prompt_tokens + stats.prefix_hit_tokens, prompts as u64);
    assert_eq!(stats.prefix_lookups, 6);
    assert!(stats.time_to_first_token >= stats.queue_time);
    for (components, total) in [
        (stats.prefill_components(), stats.prefill_time),
        (stats.decode_components(), stats.decode_time),
    ] {
        assert!(components.attention > 0 && components.ffn > 0 && components.projection > 0);
        assert!(
            components.total() <= total,
            "{components:?} are more than {total}"
        );
    }
    assert!(stats.decode_components().sampling > 0 && stats.decode_components().embedding > 0);
    let summary = engine.summary();
    assert!(summary.contains("120 tokens"), "{summary}");
    assert!(summary.contains("preset: auto for a small model"), "{summary}");
    assert!(summary.contains("attention: tiled; workspace: "), "{summary}");
    assert!(
        engine
            .metrics_text()
            .contains("infer_generated_tokens_total 120\n")
    );
}

#[test]
fn attention_in_two_passes_gives_the_same_tokens_with_any_threads_and_chunks() {
    let tokens = |kv_type: &'static str, flash_attention: bool, threads: usize, prefill_chunk: usize| {
        let engine = engine(EngineOptions {
            kv_type,
            flash_attention,
            threads,
            prefill_chunk,
            ..EngineOptions::default()
        });
        let form = if flash_attention { "tiled" } else { "two-pass" };
        let summary = engine.summary();
        assert!(summary.contains(&format!("attention: {form}; ")), "{summary}");
        let requests = PROMPTS.map(|p| text(p, greedy(24))).to_vec();
        let requests = engine.submit_batch(requests).unwrap();
        requests.iter().map(|r| read(r).tokens).collect::<Vec<_>>()
    };
    for kv_type in ["f32", "q8"] {
        let off = tokens(kv_type, false, 1, 256);
        assert_eq!(tokens(kv_type, false, 2, 5), off, "{kv_type}");
        assert_eq!(tokens(kv_type, false, 2, 1), off, "{kv_type}");
        if kv_type == "f32" {
            assert_eq!(tokens(kv_type, true, 2, 256), off);
        }
    }
}

#[test]
fn a_preset_decides_what_is_left_open_and_the_engine_tells_what_that_is() {
    let with = |set: &[(&str, &str)]| {
        let mut options = EngineOptions::default();
        for (name, value) in set {
            options.set(name, value).unwrap();
        }
        engine(options)
    };
    let edge = with(&[("max_queued", "3"), ("preset", "edge")]);
    let options = edge.options();
    assert_eq!((options.preset, options.kv_type), ("edge", "q8"));
    assert_eq!(
        (options.max_running, options.max_queued, options.prefill_chunk),
        (2, 3, 64)
    );
    let trained = edge.model().info().context_length;
    assert_eq!(edge.context_length(), trained.min(4096));
    let summary = edge.summary();
    for part in [
        "preset: edge for a small model",
        "up to 3 requests",
        "up to 2",
        "cache: q8",
    ] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    // Presets that store the same and differ in how they compute give the same tokens.
    let tokens = |preset: &str, more: &[(&str, &str)]| {
        let engine = with(&[&[("preset", preset)], more].concat());
        generate(&engine, text(PROMPTS[2], greedy(24))).tokens
    };
    let auto = tokens("auto", &[]);
    assert_eq!(tokens("desktop", &[]), auto);
    assert_eq!(tokens("server", &[]), auto);
    assert_eq!(tokens("edge", &[("kv_type", "f16")]), auto);
}
