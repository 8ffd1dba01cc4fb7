//! The committed header: up to date, valid in every dialect, and equal to what the library exports.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod c;
#[path = "common/header.rs"]
mod header;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use header::{Header, Kind};

fn committed() -> String {
    std::fs::read_to_string(c::root().join("include/infer.h")).unwrap()
}

/// Names that are followed by an opening parenthesis.
fn called(text: &str) -> BTreeSet<String> {
    text.match_indices('(')
        .filter_map(|(at, _)| {
            text[..at]
                .rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .next()
        })
        .filter(|name| name.starts_with("infer_"))
        .map(str::to_string)
        .collect()
}

fn functions() -> BTreeSet<String> {
    Header::generated()
        .functions()
        .map(|(item, _)| item.name.clone())
        .collect()
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let generated = header::GENERATED;
    if std::env::var_os("LIBINFER_BLESS").is_some() {
        std::fs::write(c::root().join("include/infer.h"), generated).unwrap();
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

/// Compilers, a language and the dialects of it that the header has to be valid in.
const DIALECTS: [([&str; 2], &str, &[&str]); 2] = [
    (["gcc", "clang"], "c", &["c99", "c11", "c17", "c2x"]),
    (["g++", "clang++"], "c++", &["c++17", "c++20"]),
];

/// Compiles a program that includes the header twice and uses every initializer macro, in every dialect. What the
/// compilers said against it comes with the dialect.
fn complaints(header: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("infer.h"), header).unwrap();
    // An initializer that misses a field is a warning and so an error.
    let mut program = String::from("#include \"infer.h\"\n#include \"infer.h\"\nint main(void) {\n");
    let mut initializers = 0;
    for (i, (name, of)) in Header::parse(header).initializers().enumerate() {
        program.push_str(&format!("  {of} x{i} = {name}; (void)x{i};\n"));
        initializers += 1;
    }
    assert!(initializers >= 6, "{program}");
    program.push_str("  return INFER_OK;\n}\n");
    let source = folder.path().join("alone.c");
    std::fs::write(&source, program).unwrap();
    let mut complaints = Vec::new();
    for (compilers, language, standards) in DIALECTS {
        for compiler in compilers {
            if !c::compiler(compiler, "the header compiles alone") {
                continue;
            }
            for standard in standards {
                let output = Command::new(compiler)
                    .args(["-x", language, &format!("-std={standard}"), "-fsyntax-only"])
                    .args(c::STRICT)
                    .args(["-Wconversion", "-I"])
                    .arg(folder.path())
                    .arg(&source)
                    .output()
                    .unwrap();
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr);
                    complaints.push(format!("{compiler} {standard}: {said}"));
                }
            }
        }
    }
    complaints
}

#[test]
fn the_header_compiles_alone_and_twice_in_every_dialect() {
    let complaints = complaints(&committed());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn a_defect_of_the_header_is_seen_in_every_dialect_that_it_breaks() {
    if !["gcc", "g++", "clang", "clang++"]
        .iter()
        .all(|compiler| c::compiler(compiler, "planted defects of the header"))
    {
        return;
    }
    let header = committed();
    // What is replaced, by what, and in how many of the twelve ways to compile it is wrong.
    for (from, to, expected) in [
        ("#define INFER_H\n", "", 12),
        ("#include <stdint.h>\n", "", 12),
        (
            "INFER_MEMORY_ESTIMATE_INIT { sizeof(infer_memory_estimate), 0, ",
            "INFER_MEMORY_ESTIMATE_INIT { sizeof(infer_memory_estimate), ",
            12,
        ),
        (
            "INFER_OPTION_INFO_INIT { sizeof(infer_option_info), 0, NULL",
            "INFER_OPTION_INFO_INIT { sizeof(infer_option_info), 0.5, NULL",
            12,
        ),
        // What only C has, and what only C++ has.
        ("uint32_t n_vocab;", "uint32_t class;", 4),
        (
            "typedef uint32_t infer_channel;",
            "typedef uint32_t &infer_channel;",
            8,
        ),
    ] {
        let planted = header.replacen(from, to, 1);
        assert_ne!(planted, header, "{from}");
        let complaints = complaints(&planted);
        assert_eq!(complaints.len(), expected, "{from}: {complaints:#?}");
    }
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
    let header = Header::generated();
    assert!(header.items.iter().all(|item| !item.code.contains("inline")));
    let mut macros = 0;
    for item in &header.items {
        if let Kind::Macro(_) = item.kind {
            assert_eq!(item.name, item.name.to_uppercase());
            assert!(item.name.starts_with("INFER_"), "{}", item.name);
            macros += 1;
        }
    }
    assert_eq!(
        macros,
        committed().matches("\n#define ").count() - 1,
        "the guard is one more"
    );
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
    ($out:ident, $listed:ident, $($name:ident { $($field:ident),* $(,)? })*) => {$(
        $out.push_str(&format!(
            "_Static_assert(sizeof({0}) == {1}, \"{0}\");\n",
            stringify!($name), size_of::<infer::ffi::$name>()
        ));
        $($out.push_str(&format!(
            "_Static_assert(offsetof({0}, {1}) == {2}, \"{0}.{1}\");\n",
            stringify!($name), stringify!($field), std::mem::offset_of!(infer::ffi::$name, $field)
        ));)*
        $listed.push((stringify!($name), vec![$(stringify!($field)),*]));
    )*};
}

#[test]
fn c_and_rust_agree_on_the_layout_of_structs() {
    if !c::compiler("gcc", "struct layouts") {
        return;
    }
    let mut text = String::from("#include \"infer.h\"\n");
    let mut listed: Vec<(&str, Vec<&str>)> = Vec::new();
    layout! { text, listed,
        infer_option_info { struct_size, reserved, object, name, type_name, default_value, range, doc }
        infer_log_record { struct_size, level, target, message, fields_json }
        infer_model_info {
            struct_size, n_vocab, n_embd, n_layers, n_heads, n_kv_heads, context_length, has_chat_template,
            n_parameters, weight_bytes, architecture, name, description,
        }
        infer_memory_estimate { struct_size, reserved, weights, kv_cache, workspace, total }
        infer_stats {
            struct_size, reserved, requests_submitted, requests_refused, requests_completed, requests_cancelled,
            requests_expired, requests_failed, running, queued, steps, max_batch, prompt_tokens, generated_tokens,
            queue_time_ns, max_queue_time_ns, time_to_first_token_ns, max_time_to_first_token_ns, prefill_time_ns,
            decode_time_ns, prefill_embedding_time_ns, prefill_attention_time_ns, prefill_ffn_time_ns,
            prefill_projection_time_ns, prefill_sampling_time_ns, decode_embedding_time_ns, decode_attention_time_ns,
            decode_ffn_time_ns, decode_projection_time_ns, decode_sampling_time_ns, kv_bytes_used, kv_bytes_peak,
            kv_bytes_budget, kv_tokens_used, panics, decode_tokens_per_second, prefill_tokens_per_second,
            prefill_embedding_share, prefill_attention_share, prefill_ffn_share, prefill_projection_share,
            prefill_sampling_share, decode_embedding_share, decode_attention_share, decode_ffn_share,
            decode_projection_share, decode_sampling_share, prefix_lookups, prefix_hit_tokens, prefix_evictions,
            kv_bytes_cached, kv_slots_used, kv_utilization, prefix_hit_share,
            preemptions, decode_rows, attention_tiled_calls, attention_two_pass_calls, alerts_queue_time,
            alerts_time_to_first_token, alerts_inter_token_time, alerts_kv_used, alerts_preemptions, kv_tokens_peak,
            speculative_steps, draft_tokens, accepted_tokens, draft_acceptance,
            kv_cold_state, kv_cold_blocks, kv_cold_bytes, kv_cold_bytes_budget, kv_cold_lookups, kv_cold_hit_tokens, kv_cold_recomputed_tokens, kv_cold_reads, kv_cold_misses, kv_cold_corrupt, kv_cold_spills, kv_cold_evictions, kv_cold_refusals, kv_cold_dropped, kv_cold_queued, kv_cold_bytes_written, kv_cold_bytes_read, kv_cold_prefetch_useful, kv_cold_prefetch_useless, kv_cold_errors, kv_cold_foreign_files, kv_cold_writer,
        }
        infer_histogram { struct_size, kind, n_buckets, bounds, count, sum, max, counts }
        infer_event {
            struct_size, kind, tag, choice, channel, text, text_len, tokens, n_tokens, finish_reason, reserved, stop,
            stop_len, error, prompt_tokens, cached_tokens, generated_tokens, queue_time_ns, time_to_first_token_ns,
            total_time_ns, decode_tokens_per_second, logprobs, top_tokens, top_logprobs, n_top_logprobs,
            prompt_logprobs, n_prompt_logprobs, embedding, n_embedding,
        }
        infer_kv_stats {
            struct_size, reserved, block_bytes, hot_blocks, hot_blocks_used, hot_blocks_cached, hot_bytes, hot_tokens,
            utilization, tokens_stored, tokens_sealed, lookups, lookup_tokens, hit_tokens, misses, evictions, copies,
            fetches, tokens_fetched, cold_active, cold_blocks, cold_bytes, cold_budget, cold_hit_tokens, cold_reads,
            spills, spills_refused, cold_queue_bytes,
        }
        infer_kv_block { struct_size, element_type, position, n_tokens, keys, values, token_stride, head_stride }
    }
    let header = Header::generated();
    let declared: Vec<(&str, Vec<&str>)> = header
        .structs()
        .map(|(item, fields)| {
            (
                item.name.as_str(),
                fields.iter().map(|f| f.name.as_str()).collect(),
            )
        })
        .collect();
    assert_eq!(listed, declared, "every field is compared");
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

#[test]
fn every_status_has_the_number_that_the_library_gives_it() {
    if !c::compiler("gcc", "numbers of statuses") {
        return;
    }
    let header = Header::generated();
    let status = header.items.iter().find(|item| item.name == "infer_status");
    let Kind::Enum(constants) = &status.unwrap().kind else {
        panic!("infer_status has no constants");
    };
    assert!(constants.len() > 20);
    let mut text = String::from("#include <string.h>\n#include \"infer.h\"\nint main(void) {\n");
    for (i, constant) in constants.iter().enumerate() {
        let name = &constant.name;
        text.push_str(&format!(
            "  if (strcmp(infer_status_name({name}), \"{name}\") != 0) return {};\n",
            i + 1
        ));
    }
    text.push_str("  return 0;\n}\n");
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("statuses.c");
    std::fs::write(&source, text).unwrap();
    let program = c::build("gcc", &source, c::Linking::Shared, "c99");
    let code = c::run(&program, &[], "").status.code();
    assert_eq!(code, Some(0), "the number of the first wrong constant");
}
