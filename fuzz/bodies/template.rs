//! Any chat template is refused, or renders or fails within its bounds.

use infer::tokenizer::{ChatInput, ChatTemplate};

/// Compiles and renders `data`.
pub fn run(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else {
        return;
    };
    // Doubling a string in a loop is the one thing the engine has no bound for.
    if source.contains('~') || source.contains('+') {
        return;
    }
    let Ok(mut template) = ChatTemplate::new(source, "<s>", "</s>") else {
        return;
    };
    template.set_clock(|format| format.to_string());
    let messages = serde_json::json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "é"}, {"type": "image"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"id": 1, "f": {"name": "f", "arguments": {"a": 1.5, "items": [true]}}}]},
    ]);
    let _ = template.render(&ChatInput::new(&messages));
}
