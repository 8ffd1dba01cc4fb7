//! The C++ wrapper: it compiles without a warning in every dialect, with and without exceptions, and behaves as it
//! says.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod c;
mod cpp;

use std::collections::BTreeSet;
use std::path::Path;

use c::Linking;

const MODEL: &str = "models/tolstoy-3m-Q8_0.gguf";

/// Builds a program of `tests/cpp` with a compiler and runs it; it has to succeed and to print nothing.
fn passes(name: &str, compiler: &str, standard: &str, flags: &[&str]) {
    let source = c::root().join("tests/cpp").join(name);
    let program = cpp::build(compiler, &source, Linking::Shared, standard, flags);
    let output = c::run(&program, &[MODEL], "");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(output.status.success() && printed.is_empty(), "{name}: {printed}");
}

#[test]
fn the_header_compiles_alone_in_every_dialect() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("infer-hpp-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("twice.cpp");
    std::fs::write(
        &source,
        "#include \"infer.hpp\"\n#include \"infer.hpp\"\nint main() {}\n",
    )
    .unwrap();
    for compiler in cpp::compilers("the C++ header in every dialect") {
        for standard in ["c++17", "c++20"] {
            for flags in [
                &[][..],
                &["-fno-exceptions"],
                &["-fno-exceptions", "-fno-rtti"],
                &["-DINFER_NO_EXCEPTIONS"],
            ] {
                let mut command = cpp::command(compiler, standard);
                command.arg("-fsyntax-only").args(flags).arg(&source);
                cpp::succeeds(command);
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_function_of_the_c_header_is_wrapped() {
    let read = |name: &str| std::fs::read_to_string(c::root().join("include").join(name)).unwrap();
    let names = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("infer_"))
            .map(str::to_string)
            .collect()
    };
    let wrapped = names(&read("infer.hpp"));
    let header = read("infer.h");
    let declared: BTreeSet<&str> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '*', '/']))
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("infer_"))
        .collect();
    assert!(declared.len() > 60, "{declared:?}");
    // A request holds at most one event for its reader, and keys are counted by listing them.
    let others = ["infer_request_next_many", "infer_model_metadata_count"];
    let missing: Vec<&str> = declared
        .into_iter()
        .filter(|name| !wrapped.contains(*name) && !others.contains(name))
        .collect();
    assert!(missing.is_empty(), "infer.hpp does not use {missing:?}");
}

#[test]
fn with_exceptions_it_holds() {
    for compiler in cpp::compilers("the C++ wrapper with exceptions") {
        // The later standard adds std::span and the concepts of iterators.
        let standard = if compiler == "g++" { "c++17" } else { "c++20" };
        passes("exceptions.cpp", compiler, standard, &[]);
    }
}

#[test]
fn without_exceptions_it_holds() {
    for compiler in cpp::compilers("the C++ wrapper without exceptions") {
        passes(
            "results.cpp",
            compiler,
            "c++17",
            &["-fno-exceptions", "-fno-rtti"],
        );
    }
}

#[test]
fn memory_is_clean_under_the_address_sanitizer() {
    let sanitize = "-fsanitize=address,undefined";
    if c::compiler("clang++", "the C++ wrapper under the address sanitizer") {
        passes("exceptions.cpp", "clang++", "c++17", &[sanitize]);
        passes("results.cpp", "clang++", "c++17", &["-fno-exceptions", sanitize]);
    }
}

#[test]
fn both_kinds_of_translation_units_link_into_one_program() {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("infer-hpp-both-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let results = source(
        "results.hpp",
        "#define INFER_NO_EXCEPTIONS\n#include \"infer.hpp\"\n\
         bool results() { return !infer::model::load(\"no/such/file\"); }\n",
    );
    let main = source(
        "main.cpp",
        "#include \"infer.hpp\"\nbool results();\nint main() {\n\
         try { infer::model::load(\"no/such/file\"); } catch (const infer::exception &) { return results() ? 0 : 2; }\n\
         return 1;\n}\n",
    );
    for compiler in cpp::compilers("C++ with and without exceptions in one program") {
        let flags = ["-x", "c++", results.to_str().unwrap()];
        let program = cpp::build(compiler, &main, Linking::Shared, "c++17", &flags);
        assert_eq!(c::run(&program, &[], "").status.code(), Some(0));
    }
    std::fs::remove_dir_all(folder).unwrap();
}
