//! What C sees of injected faults. Only in a build with `--cfg infer_faults`, which `.ci/proofs` makes.
#![cfg(all(target_os = "linux", infer_faults))]

mod c;

#[test]
fn panics_become_errors_and_the_process_goes_on() {
    c::passes_silently("faults/panics");
}

#[test]
fn every_refusal_of_memory_is_reported() {
    c::passes_silently("faults/memory");
}
