//! The C++ wrapper: it compiles without a warning in every dialect, with and without exceptions, and behaves as it
//! says.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod c;
mod common;
mod cpp;

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
        for (standard, flags) in [
            ("c++17", &[][..]),
            ("c++17", &["-fno-exceptions", "-fno-rtti"]),
            ("c++20", &[]),
            ("c++20", &["-fno-exceptions"]),
            ("c++20", &["-DINFER_NO_EXCEPTIONS"]),
        ] {
            let mut command = cpp::command(compiler, standard);
            command.arg("-fsyntax-only").args(flags).arg(&source);
            cpp::succeeds(command);
        }
    }
    // A wrapper without its guard is a defect that every dialect sees.
    let wrapper = std::fs::read_to_string(c::root().join("include/infer.hpp")).unwrap();
    let planted = wrapper.replacen("#define INFER_HPP\n", "", 1);
    assert!(planted != wrapper);
    std::fs::write(folder.join("infer.hpp"), planted).unwrap();
    for compiler in cpp::compilers("a planted defect of the C++ header") {
        for standard in ["c++17", "c++20"] {
            let mut command = cpp::command(compiler, standard);
            command.arg("-fsyntax-only").arg(&source);
            assert!(!command.output().unwrap().status.success());
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
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
fn prompts_are_the_same_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let chat = common::chat::demo_model(folder.path());
    let source = c::root().join("tests/cpp/prompts.cpp");
    for compiler in cpp::compilers("prompts by the C++ wrapper") {
        let program = cpp::build(compiler, &source, Linking::Shared, "c++17", &[]);
        let output = c::run(&program, &[MODEL, chat.to_str().unwrap()], "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn a_later_engine_finds_what_the_first_left_in_a_directory() {
    let source = c::root().join("tests/cpp/cold_tier.cpp");
    for compiler in cpp::compilers("the cold tier by the C++ wrapper") {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("cold");
        let program = cpp::build(compiler, &source, Linking::Shared, "c++17", &[]);
        let output = c::run(&program, &[MODEL, directory.to_str().unwrap()], "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
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
        "results.cpp",
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
        let program = cpp::build(
            compiler,
            &main,
            Linking::Shared,
            "c++17",
            &[results.to_str().unwrap()],
        );
        assert_eq!(c::run(&program, &[], "").status.code(), Some(0));
    }
    std::fs::remove_dir_all(folder).unwrap();
}
