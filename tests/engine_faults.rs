//! The engine at its edges: observed while it steps, options nobody checked, hosts whose callbacks fail, requests
//! that are freed or end while they wait.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{demo_model, generate, greedy, load, read};
use infer::Error;
use infer::engine::{Engine, Event, FinishReason, Poll, Queue};
use infer::options::{EngineOptions, Prompt, RequestOptions};

fn engine(options: EngineOptions) -> Engine {
    Engine::new(load(&demo_model()), options).unwrap()
}

fn manual() -> EngineOptions {
    EngineOptions {
        manual_step: true,
        ..EngineOptions::default()
    }
}

fn request(n: usize) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(vec![1, 20, 30]),
        ignore_end_of_generation: true,
        ..greedy(n)
    }
}

#[test]
fn watching_an_engine_does_not_disturb_the_thread_that_steps_it() {
    let engine = engine(manual());
    let requests = engine.submit_batch(vec![request(100), request(100)]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        for kind in 0..2 {
            let (engine, done) = (&engine, &done);
            s.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    if kind == 0 {
                        assert!(engine.summary().contains("kernels"));
                    } else {
                        engine.trim(1);
                    }
                }
            });
        }
        let mut failed = None;
        loop {
            match engine.step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
    assert!(requests.iter().all(|r| read(r).tokens.len() == 100));
}

#[test]
fn options_set_past_their_checks_are_refused_where_they_are_used() {
    let model = load(&demo_model());
    for (name, options) in [
        (
            "max_running",
            EngineOptions {
                max_running: 5000,
                ..EngineOptions::default()
            },
        ),
        (
            "prefill_chunk",
            EngineOptions {
                prefill_chunk: 1 << 20,
                ..EngineOptions::default()
            },
        ),
        (
            "kv_type",
            EngineOptions {
                kv_type: "f64",
                ..EngineOptions::default()
            },
        ),
    ] {
        let e = Engine::new(model.clone(), options).err().expect(name).to_string();
        assert!(e.contains(name), "{e}");
    }
    let engine = engine(manual());
    for (name, options) in [
        ("max_tokens", request(usize::MAX)),
        (
            "temperature",
            RequestOptions {
                temperature: f32::NAN,
                ..request(1)
            },
        ),
        (
            "top_p",
            RequestOptions {
                top_p: 0.0,
                ..request(1)
            },
        ),
        (
            "repetition_penalty",
            RequestOptions {
                repetition_penalty: -1.0,
                ..request(1)
            },
        ),
    ] {
        let e = engine.submit(options).err().expect(name).to_string();
        assert!(e.contains(name), "{e}");
    }
}

#[test]
fn a_queue_whose_wake_panics_harms_no_request() {
    // Unwinds as a panic does, without its message in the output of the tests.
    let queue = || {
        let wake = |_| std::panic::resume_unwind(Box::new("the host's wake panics"));
        Arc::new(Queue::new(Some(Box::new(wake))))
    };
    let with = |queue: &Arc<Queue>, n| RequestOptions {
        queue: Some(Arc::clone(queue)),
        ..request(n)
    };
    let engine = engine(EngineOptions::default());
    // One request ends in the very step in which the other's first event panics.
    let reporting = queue();
    let requests = engine
        .submit_batch(vec![request(1), with(&reporting, 5)])
        .unwrap();
    assert_eq!(read(&requests[0]).tokens.len(), 1);
    assert!(engine.drain(Some(Duration::from_secs(20))).unwrap());
    engine.resume();
    // A waiting request is ended outside a step.
    engine.pause();
    let other = engine.submit(request(4)).unwrap();
    let reporting = queue();
    engine.submit(with(&reporting, 5)).unwrap().cancel();
    std::thread::sleep(Duration::from_millis(100));
    engine.resume();
    let mut event = Event::default();
    let patience = Some(Duration::from_secs(20));
    assert_eq!(other.next(patience, &mut event).unwrap(), Poll::Event);
    assert_eq!(generate(&engine, request(2)).tokens.len(), 2);
    assert_eq!(engine.stats().panics, 0);
}

#[test]
fn a_freed_request_is_not_announced_and_keeps_no_output() {
    let engine = engine(manual());
    let freed = engine.submit(request(10)).unwrap();
    let kept = engine.submit(request(10)).unwrap();
    engine.step().unwrap();
    engine.step().unwrap();
    drop(freed);
    let mut ids = Vec::new();
    engine.wait(Some(Duration::ZERO), 10, &mut |id| ids.push(id));
    assert_eq!(ids, [kept.id()]);
    while engine.step().unwrap() {}
    let mut ids = Vec::new();
    engine.wait(Some(Duration::ZERO), 10, &mut |id| ids.push(id));
    assert_eq!(ids, [kept.id()]);
}

#[test]
fn cancelling_every_other_waiting_request_keeps_the_order_of_the_rest() {
    let engine = engine(EngineOptions {
        max_running: 1,
        ..manual()
    });
    let requests = engine.submit_batch(vec![request(1); 100]).unwrap();
    for request in requests.iter().step_by(2) {
        request.cancel();
    }
    engine.step().unwrap();
    let stats = engine.stats();
    assert_eq!((stats.requests_cancelled, stats.queued), (50, 49));
    for (i, request) in requests.iter().enumerate() {
        if i % 2 == 0 {
            assert_eq!(read(request).finish.reason, FinishReason::Cancelled);
            continue;
        }
        let mut ready = Vec::new();
        engine.wait(Some(Duration::ZERO), 100, &mut |id| ready.push(id));
        assert!(ready.contains(&request.id()));
        assert_eq!(read(request).tokens.len(), 1);
        engine.step().unwrap();
    }
}

#[test]
fn deadlines_of_waiting_requests_pass_without_a_cancel() {
    let engine = engine(EngineOptions {
        max_running: 1,
        ..manual()
    });
    let first = engine.submit(request(50)).unwrap();
    let late = engine
        .submit(RequestOptions {
            deadline_ms: 1,
            ..request(5)
        })
        .unwrap();
    let later = engine
        .submit(RequestOptions {
            deadline_ms: 3_600_000,
            ..request(5)
        })
        .unwrap();
    std::thread::sleep(Duration::from_millis(5));
    engine.step().unwrap();
    assert_eq!(read(&late).finish.reason, FinishReason::Deadline);
    while engine.step().unwrap() {}
    assert_eq!((read(&first).tokens.len(), read(&later).tokens.len()), (50, 5));
}

#[test]
fn stop_strings_are_bounded_together() {
    let engine = engine(manual());
    let stop = vec!["a".repeat(4096); 100];
    let refused = engine
        .submit(RequestOptions { stop, ..request(1) })
        .err()
        .unwrap();
    assert!(matches!(refused, Error::InvalidArgument(_)), "{refused}");
    assert!(refused.to_string().contains("409600"), "{refused}");
}

#[test]
fn controls_from_many_threads_lose_no_request() {
    let engine = engine(EngineOptions {
        max_running: 3,
        max_queued: 20,
        ..EngineOptions::default()
    });
    let over = AtomicBool::new(false);
    let (engine, over) = (&engine, &over);
    std::thread::scope(|s| {
        for control in 0..4 {
            s.spawn(move || {
                for i in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    match control {
                        0 if i % 2 == 0 => engine.pause(),
                        0 | 1 => engine.resume(),
                        2 => drop(engine.drain(Some(Duration::from_micros(i % 500))).unwrap()),
                        _ => drop((engine.trim(i), engine.summary(), engine.stats())),
                    }
                    std::thread::sleep(Duration::from_micros(i * 37 % 900));
                }
            });
        }
        let readers: Vec<_> = (0..6u64)
            .map(|t| {
                s.spawn(move || {
                    for i in 0..60u64 {
                        let options = RequestOptions {
                            deadline_ms: if i % 5 == 0 { 1 + i % 7 } else { 0 },
                            ..request(1 + (i % 9) as usize)
                        };
                        let request = loop {
                            match engine.submit(options.clone()) {
                                Ok(request) => break request,
                                Err(Error::Busy(_) | Error::Closed(_)) => std::thread::yield_now(),
                                Err(e) => panic!("{e}"),
                            }
                        };
                        if (t + i) % 4 == 0 {
                            request.cancel();
                        }
                        if (t + i) % 6 != 0 {
                            read(&request);
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    engine.resume();
    assert!(engine.drain(Some(Duration::from_secs(30))).unwrap());
    let stats = engine.stats();
    let ended = stats.requests_completed + stats.requests_cancelled + stats.requests_expired;
    assert_eq!((stats.requests_submitted, ended), (360, 360));
    assert_eq!(
        (stats.running, stats.queued, stats.kv_bytes_used, stats.panics),
        (0, 0, 0, 0)
    );
}

#[test]
fn stop_strings_that_can_never_be_found_are_refused() {
    let mut tiny = common::tiny::Tiny::spm();
    tiny.remove("tokenizer.");
    let engine = Engine::new(tiny.load().unwrap(), manual()).unwrap();
    let stop = vec!["a".to_string()];
    let refused = engine
        .submit(RequestOptions { stop, ..request(1) })
        .err()
        .unwrap();
    assert!(matches!(refused, Error::Unsupported(_)), "{refused}");
    assert!(engine.submit(request(1)).is_ok());
}

#[test]
fn text_held_for_a_stop_string_is_shown_when_the_request_is_cancelled() {
    let engine = engine(manual());
    let whole = {
        let request = engine.submit(request(24)).unwrap();
        while engine.step().unwrap() {}
        read(&request).text
    };
    // Each begins like a part of the text and goes on otherwise, so that text is held at every step.
    let stop: Vec<String> = whole
        .char_indices()
        .map(|(i, _)| format!("{}\u{1}", &whole[i..]))
        .collect();
    let mut held = false;
    for steps in 1..24 {
        let plain = engine.submit(request(24)).unwrap();
        let holding = engine
            .submit(RequestOptions {
                stop: stop.clone(),
                ..request(24)
            })
            .unwrap();
        for _ in 0..steps {
            engine.step().unwrap();
        }
        let mut event = Event::default();
        assert_eq!(
            holding.next(Some(Duration::ZERO), &mut event).unwrap(),
            Poll::Event
        );
        assert_eq!(event.tokens.len(), steps);
        let mut text = event.text.clone();
        plain.cancel();
        holding.cancel();
        engine.step().unwrap();
        let (plain, rest) = (read(&plain), read(&holding));
        held |= text != plain.text;
        text.push_str(&rest.text);
        assert_eq!(text, plain.text, "after {steps} steps");
        assert_eq!(rest.finish.reason, FinishReason::Cancelled);
    }
    assert!(held, "the stop strings held nothing back");
}
