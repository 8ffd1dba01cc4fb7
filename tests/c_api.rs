//! C programs that use the whole interface: each runs on the demo model, checks what it finds and prints nothing.
#![cfg(target_os = "linux")]

mod c;

#[test]
fn null_and_garbage_arguments_are_errors() {
    c::passes_silently("null_args");
}

#[test]
fn models_tell_what_they_are_and_respect_the_callers_buffers() {
    c::passes_silently("model");
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
fn a_forked_child_is_refused_and_its_parent_goes_on() {
    c::passes_silently("fork");
}

#[test]
fn cpp_programs_own_handles_by_smart_pointers() {
    c::passes_silently_in_cpp("owned");
}
