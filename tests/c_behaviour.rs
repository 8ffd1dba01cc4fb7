//! What the library promises to its host, proven by C programs: misuse is an error, any order of freeing is fine, many
//! threads may use an engine, and memory limits, floating-point settings, small stacks, signals and both outputs are
//! treated as the documentation says.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod c;
mod common;

use c::Linking;

/// Whether the environment asks for the full durations.
fn long() -> bool {
    std::env::var("INFER_STRESS_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse::<u64>().ok())
        .is_some_and(|seconds| seconds >= 60)
}

#[test]
fn garbage_beside_whole_objects_is_an_error() {
    c::passes_silently("arguments");
}

#[test]
fn a_key_value_cache_gives_back_what_was_stored() {
    c::passes_silently("kv_cache");
}

#[test]
fn seven_objects_are_freed_in_every_order() {
    // 5040 orders take a while; every seventh frees each pair of objects both ways as well.
    let share = if long() { "1" } else { "7" };
    c::passes_silently_with("orders", Linking::Shared, &[share]);
}

#[test]
fn sixty_four_threads_submit_read_cancel_and_free() {
    c::passes_silently("stress");
}

#[test]
fn flushed_subnormals_and_rounding_of_the_host_change_no_token() {
    c::passes_silently("float_env");
}

#[test]
fn signals_of_the_host_change_nothing_and_threads_block_them() {
    c::passes_silently("signals");
}

#[test]
fn a_stack_of_64_kib_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let chat = common::chat::demo_model(folder.path());
    c::passes_silently_with("small_stack", Linking::Shared, &[chat.to_str().unwrap()]);
}

#[test]
fn both_outputs_carry_the_lines_of_the_host_alone() {
    let lines = "loading\nrunning\ndone\n";
    if let Some(output) = c::output("gcc", "output.c", "c99", Linking::Shared, &[]) {
        c::succeeded("output", &output, lines, lines);
    }
}

#[test]
fn two_hundred_loads_add_no_memory() {
    c::passes_silently("process/growth");
    // And the program would notice.
    if let Some(output) = c::output("gcc", "process/growth.c", "c99", Linking::Shared, &["leak"]) {
        assert_eq!(output.status.code(), Some(3));
    }
}

#[test]
fn the_library_can_be_opened_closed_and_opened_again() {
    let library = c::shared_library();
    c::passes_silently_with("process/reopen", Linking::Opened, &[library.to_str().unwrap()]);
}

#[test]
fn whatever_address_space_there_is_the_answer_is_success_or_no_memory() {
    // KiB from one attempt to the next.
    let step = if long() { "32" } else { "256" };
    c::passes_silently_with("process/memory_limit", Linking::Shared, &[step]);
}
