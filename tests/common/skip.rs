//! Tests that cannot run say so, past the harness that hides what passing tests print; with `LIBINFER_SKIP_NOTHING`
//! set they fail instead.

use std::io::Write;
use std::path::PathBuf;

/// Reports that `what` is not tested.
///
/// # Panics
/// With `LIBINFER_SKIP_NOTHING` set.
#[allow(dead_code, reason = "each test binary uses a part")]
pub fn skip(what: &str, why: &str) {
    assert!(
        std::env::var_os("LIBINFER_SKIP_NOTHING").is_none(),
        "{what} was to be tested, but {why}"
    );
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}: {why}");
}

/// The folder of reference models and outputs, or `None` after a line that says what is skipped.
#[allow(dead_code, reason = "each test binary uses a part")]
pub fn fixtures(what: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("LIBINFER_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        skip(what, "LIBINFER_FIXTURES names no folder of reference files");
    }
    folder
}
