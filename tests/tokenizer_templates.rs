//! Published chat templates, against what Python's jinja2 renders.
//!
//! Needs the shared fixtures: set LIBINFER_FIXTURES to the folder that holds `fixtures/`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; skipped ones say so"
)]

#[path = "common/skip.rs"]
mod skip;

use infer::tokenizer::{ChatInput, ChatTemplate, TemplateError};
use serde_json::Value;

fn render(source: &str, context: &Value) -> Result<String, TemplateError> {
    let mut extra = context.as_object().unwrap().clone();
    let bos = extra.shift_remove("bos_token").unwrap();
    let eos = extra.shift_remove("eos_token").unwrap();
    let messages = extra.shift_remove("messages").unwrap();
    let tools = extra.shift_remove("tools");
    let mut template = ChatTemplate::new(source, bos.as_str().unwrap(), eos.as_str().unwrap())?;
    template.set_clock(|_| "DATE".to_string());
    template.render(&ChatInput {
        messages: &messages,
        tools: tools.as_ref(),
        add_generation_prompt: extra.shift_remove("add_generation_prompt") == Some(Value::Bool(true)),
        extra,
    })
}

#[test]
fn published_templates_render_as_in_python_or_fail_as_there() {
    let Some(root) = skip::fixtures("chat templates of published models") else {
        return;
    };
    let folder = root.join("fixtures/templates");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let contexts: Value = serde_json::from_str(&read("contexts.json")).unwrap();
    let expected: Value = serde_json::from_str(&read("expected.json")).unwrap();
    let (mut passed, mut failed) = (0, 0);
    for (name, cases) in expected.as_object().unwrap() {
        let source = read(&format!("{name}.jinja"));
        for (context, case) in cases.as_object().unwrap() {
            let result = render(&source, &contexts[context]);
            let ok = match (&result, case["ok"].as_str()) {
                (Ok(text), Some(expected)) => text == expected,
                (Err(_), None) => true,
                _ => false,
            };
            if ok {
                passed += 1;
            } else {
                failed += 1;
                println!("{name}, {context}:\n  got {result:?}\n  not {case}");
            }
        }
    }
    println!("{passed} of {} renderings equal the reference", passed + failed);
    assert_eq!(failed, 0);
}
