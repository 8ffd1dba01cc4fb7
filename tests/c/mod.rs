//! Compiles C programs against the header and both libraries of this build, and runs them.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

#[allow(
    clippy::duplicate_mod,
    reason = "some test binaries have it in common as well"
)]
#[path = "../common/skip.rs"]
mod skip;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The flags every C program of the repository has to pass.
pub const STRICT: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// Which library a program is linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linking {
    Shared,
    Static,
    /// With none: the program opens the shared library itself.
    Opened,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A compiler that is there; for one that is not, a line says what is skipped.
pub fn compiler(name: &str, test: &str) -> bool {
    let there = Command::new(name)
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success());
    if !there {
        skip::skip(test, &format!("there is no {name} on this machine"));
    }
    there
}

/// The folder where Cargo put the libraries of this very build: that of the test binary.
fn libraries() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let folder = exe.parent().unwrap();
    for name in ["libinfer.so", "libinfer.a"] {
        assert!(folder.join(name).is_file(), "no {name} in {}", folder.display());
    }
    folder.to_path_buf()
}

pub fn shared_library() -> PathBuf {
    libraries().join("libinfer.so")
}

/// A folder that holds the shared library under its soname.
fn library_path() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let name = std::env::current_exe().unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.file_name().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        let link = folder.join("libinfer.so.0.1");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(shared_library(), &link).unwrap();
        folder
    })
}

/// Compiles and links a program; a failure is a failed test that shows what the compiler said.
pub fn build(compiler: &str, source: &Path, linking: Linking, standard: &str) -> PathBuf {
    let stem = source.file_stem().unwrap().to_string_lossy();
    let program = library_path().join(format!("{stem}-{compiler}-{linking:?}-{standard}"));
    let mut command = Command::new(compiler);
    command
        .arg(format!("-std={standard}"))
        .args(STRICT)
        .args(["-g", "-D_DEFAULT_SOURCE", "-I"])
        .arg(root().join("include"))
        .arg(source)
        .arg("-o")
        .arg(&program);
    match linking {
        Linking::Shared => command.arg(shared_library()),
        Linking::Static => command
            .arg(libraries().join("libinfer.a"))
            .args(["-ldl", "-lm", "-lrt", "-lutil", "-lgcc_s"]),
        Linking::Opened => command.arg("-ldl"),
    };
    command.args(["-lpthread", "-lm"]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{compiler} {}:\n{}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    program
}

/// Runs a program with its shared library; the standard input is `input`.
pub fn run(program: &Path, args: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(args)
        .env("LD_LIBRARY_PATH", library_path())
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that reads nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Builds a C program of `tests/c` and runs it on the demo model. It has to succeed and to print nothing at all:
/// neither it nor the library has anything to say.
pub fn passes_silently(name: &str) {
    passes_silently_with(name, Linking::Shared, &[]);
}

/// The same with more arguments, and linked as the program wants it.
pub fn passes_silently_with(name: &str, linking: Linking, args: &[&str]) {
    if let Some(output) = output("gcc", &format!("{name}.c"), "c99", linking, args) {
        succeeded(name, &output, "", "");
    }
}

/// The same for a C++ program.
pub fn passes_silently_in_cpp(name: &str) {
    let file = format!("{name}.cpp");
    if let Some(output) = output("g++", &file, "c++17", Linking::Shared, &[]) {
        succeeded(name, &output, "", "");
    }
}

/// Checks that a program succeeded and what it left on both outputs.
pub fn succeeded(name: &str, output: &Output, out: &str, err: &str) {
    let (found_out, found_err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{name}: {}\n{found_out}{found_err}",
        output.status
    );
    assert_eq!(
        (found_out.as_ref(), found_err.as_ref()),
        (out, err),
        "{name} printed something else"
    );
}

/// Builds a program of `tests/c` and runs it on the demo model and what else it wants; `None` without the compiler.
pub fn output(compiler: &str, file: &str, standard: &str, linking: Linking, args: &[&str]) -> Option<Output> {
    if !self::compiler(compiler, file) {
        return None;
    }
    let source = root().join("tests/c").join(file);
    let program = build(compiler, &source, linking, standard);
    let args: Vec<&str> = ["models/tolstoy-3m-Q8_0.gguf"]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
    Some(run(&program, &args, ""))
}
