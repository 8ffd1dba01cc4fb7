//! Models with sliding windows. No family of this version has them, so layers of the demo model are given some.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::kv::{BLOCK_TOKENS, Geometry};
use crate::options::{ModelOptions, Prompt};

type Windows = [Option<usize>; 2];

/// Every kind of model: one full layer and one with a window, two windows, one window for all.
const WINDOWS: [Windows; 4] = [
    [None, Some(64)],
    [Some(100), None],
    [Some(64), Some(100)],
    [Some(70), Some(70)],
];

fn model(windows: Windows) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tolstoy-3m-Q8_0.gguf");
    let mut model = Model::load(&path, &ModelOptions::default(), &mut |_| true).unwrap();
    Arc::get_mut(&mut model).unwrap().set_windows(&windows);
    model
}

fn tokens(seed: u32, n: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        3 + state % 900
    };
    (0..n).map(|_| next()).collect()
}

fn request(prompt: &[u32], max_tokens: usize, seed: u64) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(prompt.to_vec()),
        max_tokens,
        seed,
        temperature: if seed == 0 { 0.0 } else { 1.0 },
        top_p: 1.0,
        ignore_end_of_generation: true,
        logprobs: true,
        ..RequestOptions::default()
    }
}

/// Without a cache of prefixes, one sequence at a time, whole prompts at once.
fn plain() -> EngineOptions {
    EngineOptions {
        threads: 1,
        max_running: 1,
        prefill_chunk: 1024,
        prefix_cache: false,
        kv_type: "f16",
        ..EngineOptions::default()
    }
}

/// Ids and the bits of their log probabilities, by completion; and what was cached of the prompt.
#[derive(Debug, PartialEq, Eq, Clone, Default)]
struct Completion {
    tokens: Vec<u32>,
    logprobs: Vec<u32>,
}

fn read(request: &Request, n: usize) -> (Vec<Completion>, usize) {
    let (mut completions, mut cached) = (vec![Completion::default(); n], 0);
    let mut event = Event::default();
    while request.next(None, &mut event).unwrap() == Poll::Event {
        let completion = &mut completions[event.choice as usize];
        completion.tokens.extend_from_slice(&event.tokens);
        completion
            .logprobs
            .extend(event.logprobs.iter().map(|p| p.to_bits()));
        if let Some(finish) = event.finish.take() {
            assert_eq!(finish.reason, FinishReason::Length, "{:?}", finish.error);
            cached = finish.cached_tokens.max(cached);
        }
    }
    (completions, cached)
}

/// What all requests bring when they are submitted together.
fn run(engine: &Engine, requests: &[RequestOptions]) -> Vec<Vec<Completion>> {
    let running = engine.submit_batch(requests.to_vec()).unwrap();
    let each = running.iter().zip(requests);
    each.map(|(request, options)| read(request, options.n).0)
        .collect()
}

fn engine(model: &Arc<Model>, options: EngineOptions) -> Engine {
    Engine::new(Arc::clone(model), options).unwrap()
}

/// Requests longer than the windows, with prompts that have a beginning in common.
fn requests() -> Vec<RequestOptions> {
    let beginning = tokens(1, 210);
    let mut requests = Vec::new();
    for (i, n) in [90, 1, 33, 200].into_iter().enumerate() {
        let prompt = [&beginning[..], &tokens(50 + i as u32, n)].concat();
        requests.push(request(&prompt, 120, i as u64));
    }
    requests.push(RequestOptions {
        n: 3,
        ..request(&tokens(9, 150), 110, 5)
    });
    requests.push(request(&tokens(10, 20), 150, 6));
    requests
}

#[test]
fn layers_with_windows_compute_what_the_plain_form_does_over_a_whole_cache() {
    let ids = tokens(4, 340);
    let logits = |model: &Model, flash_attention| {
        let options = EngineOptions {
            flash_attention,
            exact: true,
            kv_type: "f32",
            ..plain()
        };
        let mut all = Vec::new();
        evaluate::logits(model, &ids, &options, &mut |_, row| {
            all.push(row.to_vec());
            Ok(())
        })
        .unwrap();
        all
    };
    let error = |a: &[f32], b: &[f32]| {
        let square = |v: f32| f64::from(v) * f64::from(v);
        let error: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
        error / b.iter().map(|b| square(*b)).sum::<f64>()
    };
    let full = logits(&model([None, None]), true);
    for windows in [WINDOWS[0], WINDOWS[2]] {
        let model = model(windows);
        let (tiled, two_pass) = (logits(&model, true), logits(&model, false));
        let window = windows.iter().flatten().min().copied().unwrap();
        for (position, (a, b)) in tiled.iter().zip(&two_pass).enumerate() {
            assert!(error(a, b) < 1e-9, "{windows:?} {position}: {}", error(a, b));
            // Up to there a window hides nothing.
            assert_eq!(*a == full[position], position < window, "{windows:?} {position}");
        }
        // The engine gives up blocks as it goes on, and its probabilities are the same.
        let scored = |options: EngineOptions| {
            let request = RequestOptions {
                prompt_logprobs: true,
                ..request(&ids, 1, 0)
            };
            let engine = engine(&model, options);
            let request = engine.submit(request).unwrap();
            let (mut event, mut all) = (Event::default(), Vec::new());
            while request.next(None, &mut event).unwrap() == Poll::Event {
                all.extend_from_slice(&event.prompt_logprobs);
                if let Some(finish) = event.finish.take() {
                    assert_eq!(finish.reason, FinishReason::Length, "{:?}", finish.error);
                }
            }
            all
        };
        let one = scored(EngineOptions {
            exact: true,
            kv_type: "f32",
            ..plain()
        });
        assert_eq!(one.len(), ids.len());
        for (position, logits) in two_pass.iter().enumerate().take(ids.len() - 1) {
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
            let expected = f64::from(logits[ids[position + 1] as usize] - max) - sum.ln();
            let found = f64::from(one[position + 1]);
            assert!((found - expected).abs() < 1e-3, "{position}: {found} {expected}");
        }
        for prefill_chunk in [7, 100] {
            let more = scored(EngineOptions {
                prefill_chunk,
                threads: 2,
                exact: true,
                kv_type: "f32",
                ..plain()
            });
            let bits = |all: &[f32]| all.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&more), bits(&one), "{windows:?} {prefill_chunk}");
        }
    }
}

#[test]
fn tokens_are_the_same_bits_in_chunks_batches_caches_and_after_preemption() {
    for windows in [WINDOWS[0], WINDOWS[2], WINDOWS[3]] {
        let model = model(windows);
        let requests = requests();
        let alone = engine(&model, plain());
        let expected: Vec<_> = requests
            .iter()
            .map(|r| run(&alone, std::slice::from_ref(r)).remove(0))
            .collect();
        let geometry = Geometry::new(RowType::F16, model.body().unwrap().layer_shapes()).unwrap();
        // Stepped by hand: what is preempted does not depend on when answers are read.
        let base = || EngineOptions {
            threads: 2,
            kv_type: "f16",
            context_length: 600,
            manual_step: true,
            ..EngineOptions::default()
        };
        let little = |options: EngineOptions, tenths: u64| EngineOptions {
            kv_budget: tenths * geometry.sequence_bytes(600, options.growth()).unwrap() / 10,
            ..options
        };
        let chunks = |prefill_chunk| EngineOptions {
            prefill_chunk,
            ..base()
        };
        let draft = |speculation| EngineOptions {
            speculation,
            speculation_adaptive: false,
            draft_model: Some(Arc::clone(&model)),
            ..base()
        };
        let without = |options: EngineOptions| EngineOptions {
            prefix_cache: false,
            ..options
        };
        let mut preempted = 0;
        for (name, options) in [
            ("batch", base()),
            ("chunks of 7", chunks(7)),
            ("chunks of 100", chunks(100)),
            ("batch, nothing cached", without(chunks(64))),
            ("n-grams", draft("ngram")),
            ("a draft model", draft("draft")),
            ("little memory", little(chunks(20), 22)),
            ("less memory", little(chunks(40), 12)),
            ("less memory, nothing cached", without(little(chunks(40), 12))),
        ] {
            let engine = engine(&model, options);
            for round in 0..2 {
                let running = engine.submit_batch(requests.clone()).unwrap();
                while engine.step().unwrap() {}
                for (i, (request, expected)) in running.iter().zip(&expected).enumerate() {
                    let found = read(request, requests[i].n).0;
                    assert!(&found == expected, "{windows:?} {name} {round}: request {i}");
                }
            }
            preempted += engine.stats().preemptions;
            assert!(engine.drain(None).unwrap());
            assert_eq!(engine.stats().kv_tokens_used, 0, "{name}");
        }
        assert!(preempted > 0, "{windows:?}");
    }
}

#[test]
fn wrong_proposals_of_a_model_with_windows_are_rolled_back() {
    let model = model([None, Some(64)]);
    let requests = requests();
    let expected = run(&engine(&model, plain()), &requests);
    let spoil = |drafts: &mut [u32]| {
        if let Some(draft) = drafts.get_mut(2) {
            *draft = (*draft + 1) % 4096;
        }
    };
    for speculation in ["ngram", "draft"] {
        let engine = engine(
            &model,
            EngineOptions {
                speculation,
                speculation_adaptive: false,
                draft_model: Some(Arc::clone(&model)),
                kv_type: "f16",
                manual_step: true,
                ..EngineOptions::default()
            },
        );
        engine.shared.worker().speculation.as_mut().unwrap().spoil = Some(spoil);
        let running = engine.submit_batch(requests.clone()).unwrap();
        while engine.step().unwrap() {}
        for ((request, options), expected) in running.iter().zip(&requests).zip(&expected) {
            assert_eq!(&read(request, options.n).0, expected, "{speculation}");
        }
        let stats = engine.stats();
        assert!(stats.accepted_tokens < stats.draft_tokens && stats.draft_tokens > 50);
    }
}

#[test]
fn turns_and_branches_of_a_chat_begin_after_what_is_cached() {
    for windows in WINDOWS {
        let model = model(windows);
        let cold = engine(&model, plain());
        let warm = engine(
            &model,
            EngineOptions {
                prefix_cache: true,
                max_running: 16,
                prefill_chunk: 90,
                ..plain()
            },
        );
        let both = |prompt: &[u32], seed| {
            let options = request(prompt, 45, seed);
            let (found, cached) = read(&warm.submit(options.clone()).unwrap(), 1);
            assert_eq!(found, run(&cold, &[options]).remove(0), "{windows:?} {seed}");
            (found[0].tokens.clone(), cached)
        };
        let (mut chat, mut ends) = (Vec::new(), Vec::new());
        for turn in 0..8 {
            chat.extend(tokens(turn, 105 + 7 * turn as usize));
            let (answer, cached) = both(&chat, u64::from(turn));
            // The last token of an answer was never computed.
            assert_eq!(cached, ends.last().map_or(0, |end| end - 1), "{windows:?} {turn}");
            chat.extend(answer);
            ends.push(chat.len());
        }
        for (turn, end) in ends.iter().copied().enumerate() {
            let branch = [&chat[..end], &tokens(100 + turn as u32, 30)].concat();
            let (_, cached) = both(&branch, 3);
            assert!(
                cached + 1 >= end && cached <= end,
                "{windows:?} {turn}: {cached} {end}"
            );
        }
        // Within a block, and the whole prompt once more.
        let (_, cached) = both(&[&chat[..ends[4] + 50], &tokens(300, 30)].concat(), 1);
        assert!(cached >= ends[4] + 50, "{windows:?}: {cached}");
        let (_, cached) = both(&chat[..ends[4]], 2);
        assert_eq!(cached, ends[4] - 1);

        // Others see nothing of it, and who opted out neither takes nor leaves anything.
        let stats = warm.stats();
        for (cache_salt, cache_prompt) in [("other", true), ("", false)] {
            let options = RequestOptions {
                cache_salt: cache_salt.to_string(),
                cache_prompt,
                ..request(&chat, 30, 2)
            };
            let (found, cached) = read(&warm.submit(options.clone()).unwrap(), 1);
            assert_eq!((cached, found), (0, run(&cold, &[options]).remove(0)));
        }
        assert_eq!(warm.stats().prefix_hit_tokens, stats.prefix_hit_tokens);
    }
}

#[test]
fn a_long_sequence_holds_a_window_and_a_chunk() {
    let options = EngineOptions {
        prefill_chunk: 96,
        manual_step: true,
        ..plain()
    };
    for (windows, prefix_cache) in [([Some(64), Some(64)], false), ([None, Some(64)], true)] {
        let model = model(windows);
        let engine = engine(
            &model,
            EngineOptions {
                prefix_cache,
                ..options.clone()
            },
        );
        let running = engine.submit(request(&tokens(1, 900), 500, 0)).unwrap();
        let shape = model.body().unwrap().layer_shapes()[0];
        let layer = Geometry::new(RowType::F16, vec![shape]).unwrap().block_bytes() as u64;
        let mut most = 0;
        while engine.step().unwrap() {
            let worker = engine.shared.worker();
            let all = worker.kv.pool().used() as u64;
            let used = worker.kv.usage().bytes_used / layer;
            // Blocks of one layer with a window.
            most = most.max(match windows[0] {
                None => used - all,
                Some(_) => used / 2,
            });
        }
        assert_eq!(read(&running, 1).0[0].tokens.len(), 500);
        // Between steps: the window, the tokens a draft could be taken back, and a block that is cut.
        assert_eq!(most, (64 + 32) / BLOCK_TOKENS as u64 + 1, "{windows:?}");
        if windows[0].is_some() {
            // In a step a chunk more, and a copy: there was no memory for another block.
            let capacity = engine.shared.worker().kv.pool().capacity();
            assert_eq!(capacity, (64 + 32 + 96) / BLOCK_TOKENS + 2);
        }
    }
}

#[test]
fn a_full_context_goes_on_without_its_oldest_tokens() {
    let model = model([None, Some(64)]);
    let shift = |prefix_cache, n| {
        let engine = engine(
            &model,
            EngineOptions {
                prefix_cache,
                context_length: 256,
                prefill_chunk: 50,
                ..plain()
            },
        );
        let options = RequestOptions {
            context_overflow: "shift",
            context_keep: 10,
            n,
            ..request(&tokens(2, 200), 400, 1)
        };
        read(&engine.submit(options).unwrap(), n).0
    };
    let expected = shift(false, 1);
    assert_eq!(shift(true, 1), expected);
    assert_eq!(shift(true, 2)[0], expected[0]);
}

#[test]
fn states_of_models_with_windows_are_refused() {
    for (windows, refused) in [
        ([None, None], false),
        ([None, Some(64)], true),
        ([Some(9); 2], true),
    ] {
        let engine = engine(
            &model(windows),
            EngineOptions {
                prefix_cache: true,
                ..plain()
            },
        );
        let prompt = tokens(1, 100);
        let _ = run(&engine, &[request(&prompt, 5, 0)]);
        let refusals = [
            engine.save_state(&prompt, b"").err(),
            engine.state_size(&prompt, b"").err(),
        ];
        for e in &refusals {
            assert_eq!(matches!(e, Some(Error::Unsupported(_))), refused, "{e:?}");
            assert_eq!(e.is_some(), refused);
        }
        if let Some(e) = &refusals[0] {
            assert!(e.to_string().contains("sliding windows"), "{e}");
            assert!(matches!(
                engine.restore_state(b"", b""),
                Err(Error::Unsupported(_))
            ));
        }
    }
}
