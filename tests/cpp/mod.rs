//! Compiles C++ programs against `infer.hpp` and both libraries of this build. Needs `mod c` in the crate root.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::c;
use crate::c::Linking;

/// The flags every C++ program of the repository has to pass.
pub const STRICT: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"];

/// The compilers that are there, by name.
pub fn compilers(test: &str) -> Vec<&'static str> {
    let mut all = vec!["g++", "clang++"];
    all.retain(|compiler| c::compiler(compiler, test));
    all
}

/// A compiler command with the strict flags and the header's folder.
pub fn command(compiler: &str, standard: &str) -> Command {
    let mut command = Command::new(compiler);
    command
        .arg(format!("-std={standard}"))
        .args(STRICT)
        .arg("-I")
        .arg(c::root().join("include"));
    command
}

/// Runs a compiler, which must have nothing to say.
pub fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Compiles and links a program with more flags.
pub fn build(compiler: &str, source: &Path, linking: Linking, standard: &str, flags: &[&str]) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test.file_name().unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    let stem = source.file_stem().unwrap().to_string_lossy();
    let program = folder.join(format!(
        "{stem}-{compiler}-{linking:?}-{standard}{}",
        flags.concat().replace('/', "-")
    ));
    let mut command = command(compiler, standard);
    command.arg("-g").args(flags).arg(source).arg("-o").arg(&program);
    let shared = c::shared_library();
    match linking {
        Linking::Shared => command.arg(shared),
        Linking::Static => command
            .arg(shared.with_file_name("libinfer.a"))
            .args(["-ldl", "-lm", "-lrt", "-lutil", "-lgcc_s"]),
        Linking::Opened => &mut command,
    };
    command.arg("-lpthread");
    succeeds(command);
    program
}
