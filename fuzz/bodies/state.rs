//! Any bytes are either refused or a state whose tokens are cached, and a request computes either way.

use std::sync::OnceLock;

use infer::engine::{Engine, Event, Poll};
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, Prompt, RequestOptions};

/// The ids that seeds are states of.
pub const IDS: [u32; 37] = [5; 37];

/// An engine for the smallest model of the corpus, at the CPU level that every machine has.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let bytes = include_bytes!("../corpus/model/dense");
        let model = Model::load_from_bytes(bytes, &ModelOptions::default(), &mut |_| true).expect("a model");
        let options = EngineOptions {
            threads: 1,
            cpu_level: "scalar",
            kv_type: "q8",
            manual_step: true,
            ..EngineOptions::default()
        };
        Engine::new(model, options).expect("an engine")
    })
}

/// Computes one token after [`IDS`].
pub fn generate() {
    let options = RequestOptions {
        prompt: Prompt::Ids(IDS.to_vec()),
        max_tokens: 1,
        ..RequestOptions::default()
    };
    let request = engine().submit(options).expect("room for a request");
    while engine().step().expect("a step") {}
    let mut event = Event::default();
    while request.next(None, &mut event).expect("an event") == Poll::Event {}
}

/// Restores `data`, as it is and as a mutation whose checksum is right again.
pub fn run(data: &[u8]) {
    let engine = engine();
    engine.cache_clear(b"").expect("an empty cache");
    let mut forged = data[..data.len().saturating_sub(8)].to_vec();
    let checksum = twox_hash::XxHash3_64::oneshot(&forged);
    forged.extend_from_slice(&checksum.to_le_bytes());
    for bytes in [data, &forged] {
        if let Ok(n) = engine.restore_state(bytes, b"") {
            let again = engine.save_state(&IDS, b"").expect("a cached prefix");
            assert!(n <= bytes.len() / 4 && again.len() > 40);
            generate();
        }
    }
    assert_eq!(engine.stats().kv_bytes_used, 0);
}
