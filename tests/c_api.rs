//! C programs that use the whole interface: each runs on the demo model, checks what it finds and prints nothing.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod c;
mod common;

#[test]
fn null_and_garbage_arguments_are_errors() {
    c::passes_silently("null_args");
}

#[test]
fn models_tell_what_they_are_and_respect_the_callers_buffers() {
    c::passes_silently("model");
}

#[test]
fn events_carry_log_probabilities_and_embeddings() {
    c::passes_silently("outputs");
}

#[test]
fn prompts_are_the_same_in_every_form() {
    c::passes_silently("prompts");
    // Messages need a model with a chat template, which the demo model has not.
    if c::compiler("gcc", "messages as arrays and as JSON") {
        let folder = tempfile::tempdir().unwrap();
        let chat = common::chat::demo_model(folder.path());
        let source = c::root().join("tests/c/prompts.c");
        let program = c::build("gcc", &source, c::Linking::Static, "c99");
        let output = c::run(
            &program,
            &["models/tolstoy-3m-Q8_0.gguf", chat.to_str().unwrap()],
            "",
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn handles_are_freed_in_any_order_and_callbacks_may_free() {
    c::passes_silently("lifecycle");
}

#[test]
fn one_reader_gets_the_events_of_many_requests_from_a_queue() {
    c::passes_silently("queue");
}

#[test]
fn kernels_compute_what_plain_c_loops_compute() {
    c::passes_silently("kernels");
}

#[test]
fn a_forked_child_is_refused_and_its_parent_goes_on() {
    c::passes_silently("fork");
}

#[test]
fn cpp_programs_own_handles_by_smart_pointers() {
    c::passes_silently_in_cpp("owned");
}
