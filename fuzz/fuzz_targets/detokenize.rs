//! Streams of byte tokens.
#![no_main]

#[path = "../bodies/detokenize.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
