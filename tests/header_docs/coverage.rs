//! `docs/coverage.md`: from where each exported function is reached, found in the sources of tests and bindings.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::header::Header;
use crate::{c, calls, comments};

/// Functions that a language does without, and what it has instead.
const WITHOUT: &[(&str, &[&str], &str)] = &[
    (
        "C++",
        &["infer_request_next_many"],
        "a request holds at most one event for its reader",
    ),
    (
        "C++",
        &["infer_model_metadata_count"],
        "keys are counted by listing them",
    ),
    (
        "Go",
        &[
            "infer_request_next",
            "infer_request_next_many",
            "infer_engine_wait",
        ],
        "one goroutine reads all requests of an engine by infer_queue_next()",
    ),
    (
        "Go",
        &[
            "infer_request_options_set_tag",
            "infer_request_tag",
            "infer_request_id",
        ],
        "the tag given with the queue tells which request an event belongs to",
    ),
    (
        "Go",
        &[
            "infer_request_options_set_max_tokens",
            "infer_request_options_set_temperature",
            "infer_request_options_set_seed",
        ],
        "options are set by key",
    ),
    (
        "Go",
        &["infer_request_options_copy", "infer_request_options_reset"],
        "options are Go values, which are copied by assignment",
    ),
    (
        "Go",
        &[
            "infer_request_options_set_messages",
            "infer_model_apply_chat_template",
        ],
        "messages are given as JSON",
    ),
    (
        "Go",
        &["infer_threads_options_set_hooks"],
        "hooks are for runtimes that have to be told about threads, and cgo needs no telling",
    ),
    (
        "Python",
        &["infer_engine_wait", "infer_request_next_many"],
        "one thread waits in infer_queue_next() for all that are awaited",
    ),
    (
        "Python",
        &["infer_request_options_set_tag", "infer_request_tag"],
        "the tag given with the queue tells which request an event belongs to",
    ),
    (
        "Python",
        &[
            "infer_request_options_set_max_tokens",
            "infer_request_options_set_temperature",
            "infer_request_options_set_seed",
        ],
        "options are keyword arguments, set by key",
    ),
    (
        "Python",
        &["infer_request_options_copy", "infer_request_options_reset"],
        "options are keyword arguments, which a dictionary can hold",
    ),
    (
        "Python",
        &[
            "infer_request_options_set_messages",
            "infer_model_apply_chat_template",
        ],
        "messages are given as JSON",
    ),
];

/// A column of the table: its name, and the functions it holds for.
type Column = (&'static str, BTreeSet<String>);

/// The columns, or nothing where the tests of a language cannot be run.
fn columns(header: &Header) -> Option<Vec<Column>> {
    let documented = header
        .functions()
        .filter(|(item, _)| comments::lacks(item).is_empty())
        .map(|(item, _)| item.name.clone())
        .collect();
    let null = read("tests/c/null_args.c");
    let go: Vec<String> = ["go", "c"]
        .into_iter()
        .flat_map(|kind| sources("bindings/go", kind))
        .filter(|path| !path.ends_with("_test.go"))
        .map(|path| read(&path))
        .collect();
    Some(vec![
        ("documented", documented),
        ("NULL", words(&null)),
        ("C", calls::C.called()?),
        ("C++", calls::CPP.called()?),
        ("Go", words(&go.concat())),
        ("Python", words(&python())),
    ])
}

/// The sources of the Python binding without the table of all functions, and with the names it puts together.
fn python() -> String {
    let mut all = String::new();
    for path in sources("bindings/python/src/libinfer", "py") {
        let text = read(&path);
        let lines = text.lines().filter(|line| !line.starts_with("    \"infer_"));
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        for kind in ["model", "engine", "request", "threads", "kv_cache"] {
            all.push_str(&text.replace("{kind}", kind));
        }
    }
    all
}

/// The files of a folder with an extension.
fn sources(folder: &str, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(c::root().join(folder)).unwrap();
    let paths: Vec<String> = entries
        .map(|entry| format!("{folder}/{}", entry.unwrap().file_name().display()))
        .filter(|path| path.ends_with(&format!(".{extension}")))
        .collect();
    assert!(!paths.is_empty());
    paths
}

/// The text of a source without its comments.
fn read(path: &str) -> String {
    let text = std::fs::read_to_string(c::root().join(path)).unwrap();
    without_comments(&text, if path.ends_with(".py") { "#" } else { "//" })
}

fn without_comments(text: &str, mark: &str) -> String {
    let lines: String = text
        .lines()
        .flat_map(|line| [line.split(mark).next().unwrap(), "\n"])
        .collect();
    let mut out = String::new();
    let mut rest = lines.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        out.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    out + rest
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("infer_"))
        .map(str::to_string)
        .collect()
}

/// Why a language does without a function, if it does.
fn reason(language: &str, function: &str) -> Option<&'static str> {
    WITHOUT
        .iter()
        .find(|(of, functions, _)| *of == language && functions.contains(&function))
        .map(|(_, _, reason)| *reason)
}

fn table(header: &Header, columns: &[Column]) -> String {
    let mut page = String::from(
        "# From where each function is reached\n\n\
         <!-- Made by tests/header_docs from the header, the tests and the bindings. -->\n\n\
         - **documented**: its comment in `infer.h` says what it does, its errors, who may call it, and how long lives \
         what it gives.\n\
         - **NULL**: `tests/c/null_args.c` calls it with NULL and garbage.\n\
         - **C**, **C++**: a program of `tests/c` or, by `infer.hpp`, of `tests/cpp` called it when it ran.\n\
         - **Go**, **Python**: `bindings/go` or `bindings/python` calls it; `.ci/go` and `.ci/python` find that their \
         tests do.\n\nA number stands for what a language has instead.\n\n| function |",
    );
    for (name, _) in columns {
        let _ = write!(page, " {name} |");
    }
    page.push_str("\n|---|");
    page.push_str(&"---|".repeat(columns.len()));
    let mut notes: Vec<(&str, &str)> = Vec::new();
    for (item, _) in header.functions() {
        let _ = write!(page, "\n| `{}` |", item.name);
        for (name, functions) in columns {
            let cell = if functions.contains(&item.name) {
                "yes".to_string()
            } else if let Some(reason) = reason(name, &item.name) {
                let note = (*name, reason);
                let at = notes.iter().position(|n| *n == note).unwrap_or_else(|| {
                    notes.push(note);
                    notes.len() - 1
                });
                format!("{}", at + 1)
            } else {
                "**no**".to_string()
            };
            let _ = write!(page, " {cell} |");
        }
    }
    page.push_str("\n\n");
    for (i, (language, reason)) in notes.iter().enumerate() {
        let _ = writeln!(page, "{}. {language}: {reason}.", i + 1);
    }
    page
}

/// Functions that a column does not hold for, without a reason.
fn missing(header: &Header, columns: &[Column]) -> Vec<String> {
    let mut missing = Vec::new();
    for (item, _) in header.functions() {
        for (name, functions) in columns {
            if !functions.contains(&item.name) && reason(name, &item.name).is_none() {
                missing.push(format!("{}: {name}", item.name));
            }
        }
    }
    missing
}

#[test]
fn every_function_is_documented_tested_and_reached_from_every_language() {
    let header = Header::generated();
    assert!(header.functions().count() > 70);
    let Some(columns) = columns(&header) else {
        return;
    };
    let missing = missing(&header, &columns);
    assert!(missing.is_empty(), "not reached:\n{}", missing.join("\n"));
    // A language does without nothing that it reaches.
    for (language, functions, _) in WITHOUT {
        let (_, reached) = columns.iter().find(|(name, _)| name == language).unwrap();
        for function in *functions {
            assert!(
                header.functions().any(|(item, _)| item.name == *function),
                "{function}"
            );
            assert!(!reached.contains(*function), "{language} does call {function}");
        }
    }
    crate::is_up_to_date("docs/coverage.md", &table(&header, &columns));

    // What nothing calls is found.
    let header = Header::parse("/*\n * A header.\n */\n\nvoid infer_planted(void);\n");
    let missing = self::missing(&header, &columns);
    assert_eq!(
        missing,
        ["documented", "NULL", "C", "C++", "Go", "Python"].map(|name| format!("infer_planted: {name}"))
    );
}

#[test]
fn comments_and_longer_names_call_nothing() {
    let text = "infer_one_too(); // infer_one()\n/* infer_one() */ x(infer_other);";
    let called = words(&without_comments(text, "//"));
    assert_eq!(
        called,
        BTreeSet::from(["infer_one_too".into(), "infer_other".into()])
    );
}
