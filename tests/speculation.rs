//! Speculative decoding through the public interface: the output is that of plain decoding, and copied text is faster.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Output, demo_model, fixtures, generate, greedy, load};
use infer::engine::{Engine, Event, FinishReason, Poll, Request};
use infer::model::Model;
use infer::options::{EngineOptions, Prompt, RequestOptions};

fn engine(model: &Arc<Model>, options: EngineOptions) -> Engine {
    Engine::new(Arc::clone(model), options).unwrap()
}

/// As many proposals as possible, so that much is verified whatever it costs.
fn eager(speculation: &'static str, draft: &Arc<Model>) -> EngineOptions {
    EngineOptions {
        speculation,
        speculation_adaptive: false,
        draft_model: Some(Arc::clone(draft)),
        ..EngineOptions::default()
    }
}

fn ngram() -> EngineOptions {
    EngineOptions {
        speculation: "ngram",
        ..EngineOptions::default()
    }
}

fn off() -> EngineOptions {
    EngineOptions {
        speculation: "off",
        ..EngineOptions::default()
    }
}

/// Ways to choose a token; the first is greedy.
fn ways(prompt: &Prompt, seeds: std::ops::Range<u64>, max_tokens: usize) -> Vec<RequestOptions> {
    let base = |seed| RequestOptions {
        prompt: prompt.clone(),
        max_tokens,
        seed,
        ignore_end_of_generation: true,
        ..RequestOptions::default()
    };
    let mut all = vec![RequestOptions {
        temperature: 0.0,
        ..base(0)
    }];
    for seed in seeds {
        all.extend([
            base(seed),
            RequestOptions {
                temperature: 1.0,
                top_p: 1.0,
                ..base(seed)
            },
            RequestOptions {
                temperature: 0.9,
                repetition_penalty: 1.3,
                repetition_window: 5 + seed as usize % 40,
                ..base(seed)
            },
            RequestOptions {
                temperature: 0.0,
                repetition_penalty: 1.1,
                ..base(seed)
            },
            RequestOptions {
                temperature: 0.3,
                top_k: 30,
                min_p: 0.02,
                ..base(seed)
            },
        ]);
    }
    all
}

/// What a request brought, by completion: text, tokens and how it ended.
type Brought = Vec<(String, Vec<u32>, FinishReason, Option<String>)>;

fn read_all(request: &Request, n: usize) -> Brought {
    let mut choices = vec![(String::new(), Vec::new(), FinishReason::Error, None); n];
    let mut event = Event::default();
    while request.next(None, &mut event).unwrap() == Poll::Event {
        let choice = &mut choices[event.choice as usize];
        choice.0.push_str(&event.text);
        choice.1.extend_from_slice(&event.tokens);
        if let Some(finish) = event.finish.take() {
            assert_eq!(finish.generated_tokens, choice.1.len());
            (choice.2, choice.3) = (finish.reason, finish.stop);
        }
    }
    choices
}

/// Runs all at once.
fn together(engine: &Engine, requests: &[RequestOptions]) -> Vec<Brought> {
    let submitted = engine.submit_batch(requests.to_vec()).unwrap();
    let brought = submitted
        .iter()
        .zip(requests)
        .map(|(r, o)| read_all(r, o.n))
        .collect();
    assert!(engine.drain(None).unwrap());
    engine.resume();
    brought
}

/// Drafts that have to be right for a test to say something: a small model repeats little, but it is a perfect draft of
/// itself.
fn least(speculation: &str) -> u64 {
    if speculation == "draft" { 50 } else { 5 }
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_string())
}

const REPEATING: &str =
    "Prince Andrew looked at her and smiled. Prince Andrew looked at him and smiled. Prince Andrew";

#[test]
fn alone_and_together_the_output_is_that_of_plain_decoding() {
    let model = load(&demo_model());
    let requests = ways(&text(REPEATING), 1..6, 48);
    let plain = engine(&model, off());
    let expected: Vec<_> = requests.iter().map(|r| generate(&plain, r.clone())).collect();
    for speculation in ["ngram", "draft"] {
        for (threads, prefix_cache) in [(1, true), (2, false)] {
            let engine = engine(
                &model,
                EngineOptions {
                    threads,
                    prefix_cache,
                    ..eager(speculation, &model)
                },
            );
            for (request, expected) in requests.iter().zip(&expected) {
                let Output { text, tokens, .. } = generate(&engine, request.clone());
                assert_eq!(
                    (&text, &tokens),
                    (&expected.text, &expected.tokens),
                    "{speculation}"
                );
            }
            for (brought, expected) in together(&engine, &requests).iter().zip(&expected) {
                assert_eq!(brought[0].1, expected.tokens, "{speculation} together");
            }
            let stats = engine.stats();
            assert!(
                stats.accepted_tokens > least(speculation),
                "{speculation} {stats:?}"
            );
            assert!(stats.speculative_steps > 20 && stats.speculative_steps < stats.steps);
        }
    }
}

#[test]
fn adaptive_speculation_brings_the_same_output() {
    let model = load(&demo_model());
    let requests = ways(&text(REPEATING), 1..4, 100);
    let expected = together(&engine(&model, off()), &requests);
    for speculation in ["ngram", "draft"] {
        for speculation_tokens in [1, 3, 16] {
            let engine = engine(
                &model,
                EngineOptions {
                    speculation_tokens,
                    speculation_adaptive: true,
                    ..eager(speculation, &model)
                },
            );
            assert_eq!(together(&engine, &requests), expected, "{speculation}");
        }
    }
}

#[test]
fn completions_end_at_the_same_token() {
    let model = load(&demo_model());
    let plain = engine(&model, off());
    let mut requests = Vec::new();
    for max_tokens in 1..24 {
        requests.push(RequestOptions {
            temperature: 0.0,
            max_tokens,
            prompt: text(REPEATING),
            ..RequestOptions::default()
        });
    }
    // Stop strings and ids out of what it says.
    let said = generate(
        &plain,
        RequestOptions {
            temperature: 0.0,
            max_tokens: 80,
            ignore_end_of_generation: true,
            prompt: text(REPEATING),
            ..RequestOptions::default()
        },
    );
    let base = || RequestOptions {
        temperature: 0.0,
        max_tokens: 80,
        ignore_end_of_generation: true,
        prompt: text(REPEATING),
        ..RequestOptions::default()
    };
    for i in 0..said.tokens.len().min(30) {
        requests.push(RequestOptions {
            stop_ids: vec![said.tokens[i]],
            ..base()
        });
    }
    for (i, _) in said.text.char_indices().take(40) {
        if let Some(stop) = said.text.get(i..i + 5) {
            requests.push(RequestOptions {
                stop: vec![stop.to_string()],
                ..base()
            });
        }
    }
    assert!(requests.len() > 60);
    let expected = together(&plain, &requests);
    let reasons = |reason| expected.iter().filter(|b| b[0].2 == reason).count();
    assert!(reasons(FinishReason::Stop) > 30 && reasons(FinishReason::Length) > 20);
    for speculation in ["ngram", "draft"] {
        let engine = engine(&model, eager(speculation, &model));
        assert_eq!(together(&engine, &requests), expected, "{speculation}");
        assert!(engine.stats().accepted_tokens > least(speculation));
    }
}

#[test]
fn a_full_context_ends_or_shifts_at_the_same_token() {
    let model = load(&demo_model());
    for context_overflow in ["error", "truncate", "shift"] {
        for context_length in [64, 71] {
            let requests: Vec<_> = ways(&text(REPEATING), 1..3, 150)
                .into_iter()
                .map(|r| RequestOptions {
                    context_overflow,
                    ..r
                })
                .collect();
            let options = |o: EngineOptions| EngineOptions { context_length, ..o };
            let expected = together(&engine(&model, options(off())), &requests);
            for speculation in ["ngram", "draft"] {
                let engine = engine(&model, options(eager(speculation, &model)));
                let what = format!("{speculation} {context_overflow} {context_length}");
                assert_eq!(together(&engine, &requests), expected, "{what}");
                assert!(engine.stats().accepted_tokens > least(speculation), "{what}");
            }
        }
    }
}

#[test]
fn preempted_sequences_go_on_with_the_same_tokens() {
    let model = load(&demo_model());
    let requests = ways(&text(REPEATING), 1..3, 120);
    let expected = together(&engine(&model, off()), &requests);
    let token = block_bytes(&model);
    for speculation in ["ngram", "draft"] {
        for prefix_cache in [true, false] {
            let share = if speculation == "draft" { 2 } else { 1 };
            let engine = engine(
                &model,
                EngineOptions {
                    context_length: 256,
                    kv_budget: 16 * token * share,
                    prefix_cache,
                    ..eager(speculation, &model)
                },
            );
            assert_eq!(
                together(&engine, &requests),
                expected,
                "{speculation} {prefix_cache}"
            );
            let stats = engine.stats();
            assert!(stats.preemptions > 0, "{stats:?}");
            assert!(stats.accepted_tokens > least(speculation), "{stats:?}");
            assert_eq!(stats.kv_bytes_used, 0);
        }
    }
}

/// Bytes of a block of keys and values.
fn block_bytes(model: &Arc<Model>) -> u64 {
    let engine = engine(
        model,
        EngineOptions {
            max_running: 1,
            context_length: 32,
            ..off()
        },
    );
    engine.stats().kv_bytes_budget
}

#[test]
fn several_completions_of_a_prompt_are_the_same() {
    let model = load(&demo_model());
    let request = RequestOptions {
        prompt: text(REPEATING),
        n: 4,
        max_tokens: 60,
        temperature: 0.3,
        ignore_end_of_generation: true,
        ..RequestOptions::default()
    };
    let expected = together(&engine(&model, off()), std::slice::from_ref(&request));
    for speculation in ["ngram", "draft"] {
        let engine = engine(&model, eager(speculation, &model));
        assert_eq!(together(&engine, std::slice::from_ref(&request)), expected);
        assert!(engine.stats().accepted_tokens > least(speculation));
    }
}

#[test]
fn what_was_verified_is_cached_and_what_was_not_is_not() {
    let model = load(&demo_model());
    let plain = engine(&model, off());
    for speculation in ["ngram", "draft"] {
        let engine = engine(&model, eager(speculation, &model));
        for seed in 0..4 {
            let mut chat = model.tokenize(REPEATING, true, true).unwrap();
            for turn in 0..4 {
                let request = RequestOptions {
                    prompt: Prompt::Ids(chat.clone()),
                    max_tokens: 37 + turn,
                    temperature: 0.8,
                    seed,
                    ignore_end_of_generation: true,
                    ..RequestOptions::default()
                };
                let answer = generate(&engine, request.clone());
                assert_eq!(
                    answer.tokens,
                    generate(&plain, request).tokens,
                    "{speculation} {turn}"
                );
                if turn > 0 {
                    // The last token of an answer was never computed.
                    assert_eq!(
                        answer.finish.cached_tokens,
                        chat.len() - 3,
                        "{speculation} {turn}"
                    );
                }
                chat.extend(answer.tokens);
                chat.extend([400, 500]);
            }
        }
    }
}

#[test]
fn a_request_can_do_without() {
    let model = load(&demo_model());
    let engine = engine(&model, eager("ngram", &model));
    let requests: Vec<_> = ways(&text(REPEATING), 1..2, 40)
        .into_iter()
        .map(|r| RequestOptions {
            speculation: false,
            ..r
        })
        .collect();
    together(&engine, &requests);
    assert_eq!(engine.stats().draft_tokens, 0);
}

#[test]
fn options_say_where_drafts_come_from() {
    let model = load(&demo_model());
    let of = |options| engine(&model, options).options().speculation;
    assert_eq!(of(EngineOptions::default()), "off");
    let draft = || EngineOptions {
        draft_model: Some(Arc::clone(&model)),
        ..EngineOptions::default()
    };
    assert_eq!(of(draft()), "draft");
    let options = EngineOptions {
        speculation: "draft",
        ..EngineOptions::default()
    };
    let e = Engine::new(Arc::clone(&model), options).err().unwrap();
    assert!(e.to_string().contains("needs a draft model"), "{e}");
    let both = engine(&model, draft()).stats().kv_bytes_budget;
    let one = engine(&model, off()).stats().kv_bytes_budget;
    assert_eq!(both, 2 * one, "the memory of the draft counts");
}

/// Pairs of a model and a smaller one with the same tokens.
fn pairs(folder: &Path) -> Vec<(Arc<Model>, Arc<Model>)> {
    [
        ("stories260K/stories260K-F32", "llama2xs/llama2xs-F16"),
        ("llama2xs/llama2xs-F16", "stories260K/stories260K-Q8_0"),
        (
            "babyllama/babyllama-tok361-F16",
            "babyllama/babyllama-tok105-padded361-F16",
        ),
        ("tolstoy/tolstoy-21m-Q4_K_M", "tolstoy/tolstoy-3m-Q8_0"),
    ]
    .map(|(a, b)| {
        let model = |name| load(&folder.join(format!("models/{name}.gguf")));
        (model(a), model(b))
    })
    .into()
}

#[test]
fn pairs_of_models_bring_the_output_of_the_larger() {
    let Some(folder) = fixtures("speculation with pairs of models") else {
        return;
    };
    for (model, draft) in pairs(&folder) {
        let name = &model.info().description;
        let requests = ways(&text("Once upon a time there was a little"), 1..4, 40);
        let expected = together(&engine(&model, off()), &requests);
        for speculation in ["ngram", "draft"] {
            let engine = engine(&model, eager(speculation, &draft));
            assert_eq!(together(&engine, &requests), expected, "{name} {speculation}");
            let stats = engine.stats();
            assert!(stats.draft_tokens > 0, "{name} {speculation} {stats:?}");
            assert!(
                speculation == "ngram" || stats.accepted_tokens > 0,
                "{name} {speculation} {stats:?}"
            );
        }
    }
}

#[test]
fn a_draft_with_other_tokens_is_refused_by_the_first_that_differs() {
    let Some(folder) = fixtures("speculation with other tokens") else {
        return;
    };
    let refused = |a: &str, b: &str| {
        let model = |name: &str| load(&folder.join(format!("models/{name}.gguf")));
        let options = EngineOptions {
            draft_model: Some(model(b)),
            ..EngineOptions::default()
        };
        Engine::new(model(a), options).err().unwrap().to_string()
    };
    let e = refused("stories260K/stories260K-F32", "tolstoy/tolstoy-3m-Q8_0");
    assert!(e.contains("512 tokens, the draft's has 4096"), "{e}");
}

/// How much faster an engine generates `n` tokens with speculation than without, by the fastest of `rounds` rounds taken
/// by turns; the sum over a few seeds.
fn ratio(model: &Arc<Model>, with: EngineOptions, request: &RequestOptions, rounds: usize) -> f64 {
    let threads = std::env::var("INFER_MEASURED_THREADS").map_or(0, |n| n.parse().unwrap());
    let engines = [off(), with].map(|options| engine(model, EngineOptions { threads, ..options }));
    let seeds = if request.temperature == 0.0 { 1 } else { 4 };
    let mut seconds = [0.0, 0.0];
    for seed in 0..seeds {
        let mut fastest = [f64::INFINITY; 2];
        for _ in 0..rounds {
            let mut tokens = Vec::new();
            for (engine, fastest) in engines.iter().zip(&mut fastest) {
                let options = RequestOptions {
                    seed,
                    ignore_end_of_generation: true,
                    ..request.clone()
                };
                let output = generate(engine, options);
                let taken = output.finish.total_time - output.finish.time_to_first_token;
                *fastest = fastest.min(taken.as_secs_f64());
                tokens.push(output.tokens);
            }
            assert_eq!(tokens[0], tokens[1]);
        }
        (0..2).for_each(|i| seconds[i] += fastest[i]);
    }
    let stats = engines[1].stats();
    let n = request.max_tokens * seeds as usize;
    eprint!(
        "{} of {} drafts right, {:.2} tokens per step; {:.1} and {:.1} tokens/s: ",
        stats.accepted_tokens,
        stats.draft_tokens,
        (n * rounds) as f64 / stats.steps as f64,
        n as f64 / seconds[0],
        n as f64 / seconds[1],
    );
    seconds[0] / seconds[1]
}

/// A file of the environment variable, or of the fixtures.
fn measured_model() -> Option<Arc<Model>> {
    if let Some(path) = std::env::var_os("INFER_MEASURED_MODEL") {
        return Some(load(Path::new(&path)));
    }
    fixtures("the speed of speculation").map(|f| load(&f.join("models/tolstoy/tolstoy-21m-Q4_K_M.gguf")))
}

#[test]
#[ignore = "measures: cargo test --release --test speculation -- --ignored --nocapture --test-threads 1"]
fn text_that_repeats_is_faster() {
    let Some(model) = measured_model() else { return };
    // A model of this size does not copy a passage, but it goes on with what was said often enough.
    let request = RequestOptions {
        prompt: text(&"I am not a man, but I am not afraid of it. ".repeat(12)),
        ..greedy(200)
    };
    let r = ratio(&model, ngram(), &request, 6);
    eprintln!("repeating is {r:.2} times as fast");
    assert!(r > 1.5, "{r}");
}

#[test]
#[ignore = "measures: see above"]
fn ordinary_text_costs_little() {
    let Some(model) = measured_model() else { return };
    for (temperature, top_p) in [(0.7, 0.9), (1.0, 1.0)] {
        let request = RequestOptions {
            prompt: text(PASSAGE),
            temperature,
            top_p,
            ..greedy(200)
        };
        let r = ratio(&model, ngram(), &request, 6);
        eprintln!("ordinary text at temperature {temperature} is {r:.3} times as fast");
        assert!(r > 0.97, "{r}");
    }
}

#[test]
#[ignore = "measures: see above"]
fn a_draft_model_costs_little_where_it_does_not_pay() {
    let Some(folder) = fixtures("the speed of a draft model") else {
        return;
    };
    for name in ["tolstoy-21m-Q4_K_M", "tolstoy-21m-F16"] {
        let model = load(&folder.join(format!("models/tolstoy/{name}.gguf")));
        let draft = EngineOptions {
            draft_model: Some(load(&demo_model())),
            ..EngineOptions::default()
        };
        let request = RequestOptions {
            prompt: text(PASSAGE),
            temperature: 0.7,
            ..greedy(200)
        };
        let r = ratio(&model, draft, &request, 6);
        eprintln!("{name} with a draft is {r:.3} times as fast");
        assert!(r > 0.95, "{r}");
    }
}

/// The first lines of War and Peace in the translation of Louise and Aylmer Maude, which is in the public domain.
const PASSAGE: &str = "Well, Prince, so Genoa and Lucca are now just family estates of the Buonapartes. But I warn \
you, if you don't tell me that this means war, if you still try to defend the infamies and horrors perpetrated by that \
Antichrist, I really believe he is Antichrist, I will have nothing more to do with you and you are no longer my friend, \
no longer my faithful slave, as you call yourself! But how do you do? I see I have frightened you, sit down and tell me \
all the news.";
