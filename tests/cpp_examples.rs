//! The C++ examples: they compile without a warning and print exactly what the C examples print.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod c;
mod common;
mod cpp;

use std::path::PathBuf;

use c::Linking;

const MODEL: &str = "models/tolstoy-3m-Q8_0.gguf";

/// An example in C, and its counterpart in C++ for each way this machine can build it.
fn pair(name: &str) -> Option<(PathBuf, Vec<PathBuf>)> {
    if !c::compiler("gcc", name) {
        return None;
    }
    let in_c = c::root().join(format!("examples/c/{name}.c"));
    let in_c = c::build("gcc", &in_c, Linking::Shared, "c99");
    let in_cpp = c::root().join(format!("examples/cpp/{name}.cpp"));
    let programs = cpp::compilers(name)
        .into_iter()
        .zip([(Linking::Shared, "c++17"), (Linking::Static, "c++20")])
        .map(|(compiler, (linking, standard))| cpp::build(compiler, &in_cpp, linking, standard, &[]))
        .collect();
    Some((in_c, programs))
}

/// What a program prints and how it ends.
fn outcome(program: &std::path::Path, args: &[&str], input: &str) -> (Option<i32>, String, String) {
    let output = c::run(program, args, input);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn hello_prints_what_it_prints_in_c() {
    let Some((in_c, programs)) = pair("hello") else {
        return;
    };
    for program in programs {
        for args in [
            &[MODEL, "The old prince", "40", "0"][..],
            &["--ids", MODEL, "The old prince", "40", "0"],
            &["no/such/model.gguf"],
            &["Cargo.toml"],
        ] {
            let expected = outcome(&in_c, args, "");
            assert!(expected.1.len() > 40 || expected.0 == Some(1));
            assert_eq!(outcome(&program, args, ""), expected, "{args:?}");
        }
        assert!(outcome(&program, &[], "").1.len() > 20);
    }
}

#[test]
fn batch_completes_what_it_completes_in_c() {
    let Some((in_c, programs)) = pair("batch") else {
        return;
    };
    // They end in any order.
    let lines = |(code, out, err): (Option<i32>, String, String)| {
        let mut completions: Vec<String> = out
            .trim_end()
            .split("\n[")
            .map(|t| t.trim_start_matches('[').to_string())
            .collect();
        completions.sort();
        (code, completions, err)
    };
    for program in programs {
        for args in [
            &[MODEL, "24", "The old prince", "Natasha", "In the morning"][..],
            &[MODEL, "many", "The old prince"],
            &["no/such/model.gguf", "4", "Natasha"],
            &[MODEL],
        ] {
            assert_eq!(
                lines(outcome(&program, args, "")),
                lines(outcome(&in_c, args, "")),
                "{args:?}"
            );
        }
    }
}

#[test]
fn chat_answers_what_it_answers_in_c() {
    let Some((in_c, programs)) = pair("chat") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = common::chat::demo_model(folder.path());
    let args = [model.to_str().unwrap(), "16", "0"];
    let input = "Who is the prince?\nAnd Natasha?\n";
    let expected = outcome(&in_c, &args, input);
    assert_eq!(expected.0, Some(0));
    assert!(expected.1.len() > 20);
    for program in programs {
        assert_eq!(outcome(&program, &args, input), expected);
        for args in [&[MODEL][..], &[]] {
            assert_eq!(
                outcome(&program, args, "hello\n"),
                outcome(&in_c, args, "hello\n")
            );
        }
    }
}
