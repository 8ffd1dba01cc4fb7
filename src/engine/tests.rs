//! Faults inside a step: what fails, and what goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::kv::LayerShape;
use crate::model::{Architecture, Step, Widths};
use crate::options::{ModelOptions, Prompt};

/// A forward pass with a fault at one call.
#[derive(Debug)]
struct Faulty {
    inner: Box<dyn Architecture>,
    calls: AtomicUsize,
    at: usize,
    fault: Fault,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Panic,
    PanicInPool,
    Error,
    Nan,
}

impl Architecture for Faulty {
    fn widths(&self) -> Widths {
        self.inner.widths()
    }

    fn layer_shapes(&self) -> Vec<LayerShape> {
        self.inner.layer_shapes()
    }

    fn forward(&self, step: &mut Step<'_>) -> Result<()> {
        let now = self.calls.fetch_add(1, Relaxed) == self.at;
        match self.fault {
            Fault::Panic if now => panic!("an injected fault"),
            Fault::PanicInPool if now => {
                step.compute
                    .pool
                    .run(8, &|task, _| assert!(task != 5, "an injected fault"));
            }
            Fault::Error if now => return Err(Error::InvalidModel("an injected error".to_string())),
            _ => {}
        }
        self.inner.forward(step)?;
        if now && matches!(self.fault, Fault::Nan) {
            let (logits, width) = step.workspace.logits();
            logits[..width].fill(f32::NAN);
        }
        Ok(())
    }
}

fn engine(at: usize, fault: Fault) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tolstoy-3m-Q8_0.gguf");
    let mut model = Model::load(&path, &ModelOptions::default(), &mut |_| true).unwrap();
    Arc::get_mut(&mut model).unwrap().replace_body(|inner| {
        Box::new(Faulty {
            inner,
            calls: AtomicUsize::new(0),
            at,
            fault,
        })
    });
    Engine::new(
        model,
        EngineOptions {
            threads: 2,
            ..EngineOptions::default()
        },
    )
    .unwrap()
}

fn request() -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Text("The prince".to_string()),
        max_tokens: 6,
        temperature: 0.0,
        ..RequestOptions::default()
    }
}

fn finish(request: &Request) -> Finish {
    let mut event = Event::default();
    while request.next(None, &mut event).unwrap() == Poll::Event {
        if let Some(finish) = event.finish.take() {
            return finish;
        }
    }
    unreachable!("a request ended without a last event")
}

#[test]
fn a_fault_in_a_step_fails_its_requests_and_the_engine_goes_on() {
    for fault in [Fault::Panic, Fault::PanicInPool, Fault::Error] {
        let engine = engine(3, fault);
        let requests = engine.submit_batch(vec![request(), request()]).unwrap();
        for request in &requests {
            let finish = finish(request);
            assert_eq!(finish.reason, FinishReason::Error, "{fault:?}");
            let error = finish.error.unwrap().to_string();
            assert!(error.contains("an injected"), "{error}");
        }
        assert_eq!(engine.stats().kv_bytes_used, 0);
        let again = engine.submit(request()).unwrap();
        assert_eq!(finish(&again).reason, FinishReason::Length, "{fault:?}");
        let panics = u64::from(!matches!(fault, Fault::Error));
        assert_eq!(
            (engine.stats().panics, engine.stats().requests_failed),
            (panics, 2)
        );
    }
}

#[test]
fn logits_that_are_no_numbers_fail_the_request_alone() {
    let engine = engine(2, Fault::Nan);
    let requests = engine.submit_batch(vec![request(), request()]).unwrap();
    let reasons: Vec<_> = requests.iter().map(|r| finish(r).reason).collect();
    assert_eq!(reasons, [FinishReason::Error, FinishReason::Length]);
}

/// With overflow checks a wrong count panics outside a step, which is what this test needs.
#[cfg(debug_assertions)]
#[test]
fn a_fault_outside_a_step_ends_the_engine_and_leaves_nobody_waiting() {
    let engine = engine(usize::MAX, Fault::Error);
    engine.pause();
    let requests = engine.submit_batch(vec![request(), request()]).unwrap();
    engine.shared.lock().outstanding = 0;
    requests[0].cancel();
    assert_eq!(finish(&requests[0]).reason, FinishReason::Cancelled);
    let ended = finish(&requests[1]);
    assert_eq!(ended.reason, FinishReason::Error);
    let error = ended.error.unwrap().to_string();
    assert!(error.contains("the engine's thread"), "{error}");
    assert!(matches!(engine.submit(request()), Err(Error::Closed(_))));
    assert_eq!(engine.trim(1), 0);
    assert!(engine.drain(Some(Duration::from_secs(20))).unwrap());
    assert_eq!(engine.stats().panics, 1);
}
