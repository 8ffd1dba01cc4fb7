//! The committed header: up to date, valid in every dialect, and equal to what the library exports.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod c;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn committed() -> String {
    std::fs::read_to_string(c::root().join("include/infer.h")).unwrap()
}

fn without_comments(header: &str) -> String {
    let mut out = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        out.push_str(before);
        rest = after.split_once("*/").unwrap().1;
    }
    out + rest
}

/// Words of a text that look like names.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

/// Names that are followed by an opening parenthesis.
fn called(text: &str) -> BTreeSet<String> {
    text.match_indices('(')
        .filter_map(|(at, _)| words(&text[..at]).last())
        .filter(|name| name.starts_with("infer_"))
        .map(str::to_string)
        .collect()
}

fn functions() -> BTreeSet<String> {
    called(&without_comments(&committed()))
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let generated = std::fs::read_to_string(concat!(env!("OUT_DIR"), "/infer.h")).unwrap();
    if std::env::var_os("LIBINFER_BLESS").is_some() {
        std::fs::write(c::root().join("include/infer.h"), &generated).unwrap();
    }
    let committed = committed();
    let different = generated
        .lines()
        .zip(committed.lines())
        .position(|(a, b)| a != b)
        .map(|i| i + 1);
    assert!(
        generated == committed,
        "include/infer.h is not what the sources give (first at line {different:?}); \
         LIBINFER_BLESS=1 cargo test --test header writes it"
    );
}

#[test]
fn the_header_compiles_alone_in_every_dialect() {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("alone-{}.c", std::process::id()));
    // Every initializer macro is used, so that one that misses a field is a warning and so an error.
    let mut text = String::from("#include \"infer.h\"\nint main(void) {\n");
    let header = committed();
    let mut inits = 0;
    for name in words(&header)
        .filter(|w| w.ends_with("_INIT"))
        .collect::<BTreeSet<_>>()
    {
        if header.contains(&format!("#define {name} ")) {
            let of = name.trim_end_matches("_INIT").to_lowercase();
            text.push_str(&format!("  {of} x{inits} = {name}; (void)x{inits};\n"));
            inits += 1;
        }
    }
    assert!(inits >= 6, "{text}");
    text.push_str("  return INFER_OK;\n}\n");
    std::fs::write(&source, text).unwrap();
    let dialects = |compilers: [&'static str; 2], language, standards: &[&'static str]| {
        for compiler in compilers {
            if !c::compiler(compiler, "the header compiles alone") {
                continue;
            }
            for standard in standards {
                let output = Command::new(compiler)
                    .args(["-x", language, &format!("-std={standard}"), "-fsyntax-only", "-I"])
                    .arg(c::root().join("include"))
                    .args(c::STRICT)
                    .arg(&source)
                    .output()
                    .unwrap();
                assert!(
                    output.status.success(),
                    "{compiler} {standard}:\n{}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    };
    dialects(["gcc", "clang"], "c", &["c99", "c11", "c17", "c2x"]);
    dialects(["g++", "clang++"], "c++", &["c++17", "c++20"]);
    let _ = std::fs::remove_file(source);
}

#[test]
fn the_library_exports_the_functions_of_the_header_and_nothing_else() {
    if !c::compiler("nm", "exported symbols") {
        return;
    }
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(c::shared_library())
        .output()
        .unwrap();
    assert!(output.status.success());
    let exported: BTreeSet<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .map(str::to_string)
        .collect();
    let functions = functions();
    assert!(functions.len() > 70, "{functions:?}");
    assert_eq!(exported, functions);
}

#[test]
fn comments_speak_of_functions_that_exist() {
    let header = committed();
    let functions = functions();
    let unknown: Vec<_> = called(&header).difference(&functions).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_header_has_no_inline_functions_and_no_lower_case_macros() {
    let header = committed();
    assert!(!without_comments(&header).contains("inline"));
    for line in header.lines().filter_map(|l| l.strip_prefix("#define ")) {
        let name = words(line).next().unwrap();
        assert_eq!(name, name.to_uppercase());
        assert!(name.starts_with("INFER_"), "{name}");
    }
}

#[test]
fn every_function_is_called_with_bad_arguments_by_the_null_test() {
    let source = std::fs::read_to_string(c::root().join("tests/c/null_args.c")).unwrap();
    let missing: Vec<_> = functions().difference(&called(&source)).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_shared_library_has_its_soname_and_stays_loaded() {
    if !c::compiler("readelf", "soname and nodelete") {
        return;
    }
    let output = Command::new("readelf")
        .arg("-d")
        .arg(c::shared_library())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("soname: [libinfer.so.0.1]"), "{text}");
    assert!(text.contains("NODELETE"), "{text}");
}

macro_rules! layout {
    ($out:ident, $($name:ident { $($field:ident),* $(,)? })*) => {$(
        $out.push_str(&format!(
            "_Static_assert(sizeof({0}) == {1}, \"{0}\");\n",
            stringify!($name), size_of::<infer::ffi::$name>()
        ));
        $($out.push_str(&format!(
            "_Static_assert(offsetof({0}, {1}) == {2}, \"{0}.{1}\");\n",
            stringify!($name), stringify!($field), std::mem::offset_of!(infer::ffi::$name, $field)
        ));)*
    )*};
}

#[test]
fn c_and_rust_agree_on_the_layout_of_structs() {
    if !c::compiler("gcc", "struct layouts") {
        return;
    }
    let mut text = String::from("#include \"infer.h\"\n");
    layout! { text,
        infer_event {
            struct_size, kind, tag, choice, channel, text, text_len, tokens, n_tokens, finish_reason, reserved, stop,
            stop_len, error, prompt_tokens, cached_tokens, generated_tokens, queue_time_ns, time_to_first_token_ns,
            total_time_ns, decode_tokens_per_second,
        }
        infer_option_info { struct_size, reserved, object, name, type_name, default_value, range, doc }
        infer_log_record { struct_size, level, target, message, fields_json }
        infer_model_info {
            struct_size, n_vocab, n_embd, n_layers, n_heads, n_kv_heads, context_length, has_chat_template,
            n_parameters, weight_bytes, architecture, name, description,
        }
        infer_memory_estimate { struct_size, reserved, weights, kv_cache, workspace, total }
        infer_stats {
            struct_size, reserved, requests_submitted, running, max_batch, queue_time_ns, decode_time_ns,
            prefill_ffn_time_ns, kv_bytes_used, panics, decode_tokens_per_second, decode_sampling_share,
        }
    }
    // Every status has the number that Rust gives it.
    for (name, number) in [
        ("INFER_OK", infer::ffi::infer_status::INFER_OK as i32),
        ("INFER_END", infer::ffi::infer_status::INFER_END as i32),
        (
            "INFER_ERR_NOT_FOUND",
            infer::ffi::infer_status::INFER_ERR_NOT_FOUND as i32,
        ),
    ] {
        text.push_str(&format!("_Static_assert({name} == {number}, \"{name}\");\n"));
    }
    text.push_str("int main(void) { return 0; }\n");
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("layout-{}.c", std::process::id()));
    std::fs::write(&source, text).unwrap();
    let output = Command::new("gcc")
        .args(["-std=c11", "-fsyntax-only", "-I"])
        .arg(c::root().join("include"))
        .args(c::STRICT)
        .arg(&source)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = std::fs::remove_file(source);
}
