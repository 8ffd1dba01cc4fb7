//! Wrong proposals change nothing but the number of steps.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use std::sync::Arc;

use crate::engine::{Engine, Event, Poll, Stats};
use crate::model::Model;
use crate::options::{EngineOptions, ModelOptions, Prompt, RequestOptions};

fn demo_model() -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tolstoy-3m-Q8_0.gguf");
    Model::load(&path, &ModelOptions::default(), &mut |_| true).unwrap()
}

/// Requests that differ in all that matters to the choice of a token, with n-grams to be found.
fn requests() -> Vec<RequestOptions> {
    let base = |seed| RequestOptions {
        prompt: Prompt::Text(
            "Prince Andrew looked at her. Prince Andrew looked at him. Prince Andrew".to_string(),
        ),
        max_tokens: 60,
        ignore_end_of_generation: true,
        seed,
        ..RequestOptions::default()
    };
    vec![
        RequestOptions {
            temperature: 0.0,
            ..base(0)
        },
        base(1),
        RequestOptions {
            temperature: 1.0,
            top_p: 1.0,
            repetition_penalty: 1.3,
            repetition_window: 7,
            ..base(2)
        },
        RequestOptions {
            n: 3,
            top_k: 20,
            ..base(3)
        },
    ]
}

/// What all requests bring, by request and completion, when proposals are replaced.
fn run(options: EngineOptions, spoil: Option<fn(&mut [u32])>) -> (Vec<Vec<u32>>, Stats) {
    let options = EngineOptions {
        manual_step: true,
        ..options
    };
    let engine = Engine::new(demo_model(), options).unwrap();
    if let Some(speculation) = engine.shared.worker().speculation.as_mut() {
        speculation.spoil = spoil;
    }
    let requests = engine.submit_batch(requests()).unwrap();
    while engine.step().unwrap() {}
    let mut outputs = Vec::new();
    for request in &requests {
        let (mut choices, mut event) = (vec![Vec::new(); 3], Event::default());
        while request.next(None, &mut event).unwrap() == Poll::Event {
            choices[event.choice as usize].extend_from_slice(&event.tokens);
        }
        outputs.extend(choices);
    }
    (outputs, engine.stats())
}

fn eager(speculation: &'static str) -> EngineOptions {
    EngineOptions {
        speculation,
        speculation_adaptive: false,
        draft_model: Some(demo_model()),
        ..EngineOptions::default()
    }
}

/// Far from what was proposed.
fn nonsense(drafts: &mut [u32]) {
    for (i, draft) in drafts.iter_mut().enumerate() {
        *draft = (*draft * 7 + 13 + i as u32) % 4096;
    }
}

/// Right at first, then wrong: rows after a wrong one must not count even where they agree again.
fn wrong_in_the_middle(drafts: &mut [u32]) {
    if let Some(draft) = drafts.get_mut(2) {
        *draft = (*draft + 1) % 4096;
    }
}

#[test]
fn whatever_is_proposed_the_tokens_are_those_of_plain_decoding() {
    let (plain, stats) = run(eager("off"), None);
    assert_eq!((stats.draft_tokens, stats.speculative_steps), (0, 0));
    for speculation in ["ngram", "draft"] {
        let (same, stats) = run(eager(speculation), None);
        assert_eq!(same, plain, "{speculation}");
        assert!(stats.accepted_tokens > 20, "{speculation}: {stats:?}");
        for spoil in [nonsense, wrong_in_the_middle] as [fn(&mut [u32]); 2] {
            let (same, spoiled) = run(eager(speculation), Some(spoil));
            assert_eq!(same, plain, "{speculation}");
            assert!(spoiled.draft_tokens > 50, "{speculation}: {spoiled:?}");
            assert!(
                spoiled.accepted_tokens * stats.draft_tokens < stats.accepted_tokens * spoiled.draft_tokens,
                "{speculation}: {spoiled:?}, unspoiled {stats:?}"
            );
        }
    }
}

#[test]
fn a_model_is_a_perfect_draft_of_itself() {
    let (_, stats) = run(eager("draft"), None);
    assert_eq!(stats.accepted_tokens, stats.draft_tokens, "{stats:?}");
    assert!(stats.steps < 20, "{stats:?}");
}
