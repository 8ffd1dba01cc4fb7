//! Any bytes are either refused or a model that tokenizes and computes, within a budget of memory.

use infer::engine::evaluate;
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions};

/// Loads `data` as a model and uses what loads.
pub fn run(data: &[u8]) {
    let options = ModelOptions {
        memory_budget: 1 << 20,
        ..ModelOptions::default()
    };
    let Ok(model) = Model::load_from_bytes(data, &options, &mut |_| true) else {
        return;
    };
    for text in [
        "",
        "ab",
        " hello world",
        "é字\u{2581}\n<s>",
        "<0x41>aaaaaaaaaaaaaaaa",
    ] {
        for special in [false, true] {
            let Ok(ids) = model.tokenize(text, special, special) else {
                continue;
            };
            let n = model.info().n_vocab;
            assert!(ids.iter().all(|id| (*id as usize) < n), "ids below {n}");
            model.detokenize(&ids, special).expect("ids of the vocabulary");
        }
    }
    let messages = serde_json::json!([{"role": "user", "content": "a"}]);
    if data.len() < 8192 {
        // Only the templates of small files: the fuel of a rendering is a second.
        let _ = model.apply_chat_template(&messages, true);
    }
    let options = EngineOptions {
        threads: 1,
        kv_type: "q8",
        ..EngineOptions::default()
    };
    let n = model.info().n_vocab;
    let ids = [0, n as u32 - 1];
    let widths = model.body().expect("a model with weights").widths();
    // Wide networks are the business of tests with a limit on memory.
    if widths.n_embd.max(widths.n_ff).max(widths.n_vocab) > 1 << 14 {
        return;
    }
    evaluate::logits(&model, &ids, &options, &mut |_, row| {
        assert_eq!(row.len(), n);
        Ok(())
    })
    .expect("ids of the vocabulary and memory enough");
}
