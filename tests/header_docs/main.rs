//! What the header says about itself: every item has its comment, the reference is made from the comments, and a table
//! tells from which languages each function is reached.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "../c/mod.rs"]
mod c;
mod calls;
mod comments;
#[path = "../common/mod.rs"]
mod common;
mod coverage;
#[path = "../common/header.rs"]
mod header;
mod reference;

use std::path::Path;

/// Compares a committed file with what it should be; with `LIBINFER_BLESS` set it is written.
fn is_up_to_date(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("LIBINFER_BLESS").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let different = expected
        .lines()
        .zip(found.lines())
        .position(|(a, b)| a != b)
        .map(|i| i + 1);
    assert!(
        found == expected,
        "{path} is not what the header gives (first at line {different:?}); \
         LIBINFER_BLESS=1 cargo test --test header_docs writes it"
    );
}
