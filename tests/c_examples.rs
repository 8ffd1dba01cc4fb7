//! The C examples: they compile without a warning with every compiler, against both libraries, and print exactly what
//! the Rust library generates.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod c;
mod common;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use c::Linking;
use infer::engine::Engine;
use infer::options::{EngineOptions, Prompt, RequestOptions};

const MODEL: &str = "models/tolstoy-3m-Q8_0.gguf";
/// Tokens of a block of keys and values.
const BLOCK: usize = 32;

/// An example and its program for each way this machine can build it.
struct Example {
    name: &'static str,
    programs: OnceLock<Vec<PathBuf>>,
}

static HELLO: Example = Example::new("hello.c");
static BATCH: Example = Example::new("batch.c");
static CHAT: Example = Example::new("chat.c");
static KERNELS: Example = Example::new("kernels.c");
static KV_CACHE: Example = Example::new("kv_cache.c");
static RESTART: Example = Example::new("restart.c");

impl Example {
    const fn new(name: &'static str) -> Self {
        let programs = OnceLock::new();
        Self { name, programs }
    }

    fn programs(&self) -> &[PathBuf] {
        self.programs.get_or_init(|| {
            let source = c::root().join("examples/c").join(self.name);
            ["gcc", "clang"]
                .into_iter()
                .filter(|compiler| c::compiler(compiler, self.name))
                .flat_map(|compiler| [(compiler, Linking::Shared), (compiler, Linking::Static)])
                .map(|(compiler, linking)| c::build(compiler, &source, linking, "c99"))
                .collect()
        })
    }

    fn each(&self, check: impl Fn(&Path)) {
        self.programs().iter().for_each(|program| check(program));
    }
}

/// Runs a program that has to succeed and to leave the standard error empty; answers what it printed.
fn output(program: &Path, args: &[&str], input: &str) -> String {
    let output = c::run(program, args, input);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {}\n{err}", output.status);
    assert_eq!(err, "");
    String::from_utf8(output.stdout).unwrap()
}

/// What the Rust library generates for a prompt.
fn greedy(model: &Path, prompt: Prompt, n: usize) -> common::Output {
    let engine = Engine::new(common::load(model), EngineOptions::default()).unwrap();
    let options = RequestOptions {
        prompt,
        ..common::greedy(n)
    };
    common::generate(&engine, options)
}

#[test]
fn hello_prints_the_text_and_the_ids_of_the_rust_library() {
    let prompt = "The old prince";
    let expected = greedy(&c::root().join(MODEL), Prompt::Text(prompt.into()), 40);
    assert!(expected.text.len() > 40);
    HELLO.each(|hello| {
        let text = output(hello, &[MODEL, prompt, "40", "0"], "");
        assert_eq!(text, format!("{}\n", expected.text));
        let ids = output(hello, &["--ids", MODEL, prompt, "40", "0"], "");
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids, expected.tokens);
    });
}

#[test]
fn hello_without_arguments_uses_the_demo_model() {
    HELLO.each(|hello| assert!(output(hello, &[], "").len() > 20));
}

#[test]
fn hello_gives_the_reference_ids_of_stories260k() {
    let Some(fixtures) = common::fixtures("hello on stories260K") else {
        return;
    };
    let folder = fixtures.join("models/stories260K");
    let model = folder.join("stories260K-F32.gguf");
    let expected = common::read_json(&folder.join("expected-greedy.json"));
    for case in expected["cases"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let reference = common::ids(&case["greedy_ids"]);
        let n = reference.len().to_string();
        HELLO.each(|hello| {
            let ids = output(hello, &["--ids", model.to_str().unwrap(), prompt, &n, "0"], "");
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(ids, reference, "{prompt}");
        });
    }
}

#[test]
fn hello_says_why_a_model_does_not_load() {
    HELLO.each(|hello| {
        let missing = c::run(hello, &["no/such/model.gguf"], "");
        assert_eq!(missing.status.code(), Some(1));
        let err = String::from_utf8(missing.stderr).unwrap();
        assert!(
            err.contains("no/such/model.gguf") && err.lines().count() == 1,
            "{err}"
        );
        let wrong = c::run(hello, &["Cargo.toml"], "");
        assert_eq!(wrong.status.code(), Some(1));
        assert!(wrong.stdout.is_empty());
        assert!(String::from_utf8(wrong.stderr).unwrap().contains("GGUF"));
    });
}

#[test]
fn batch_completes_each_prompt_as_if_it_were_alone() {
    let prompts = ["The old prince", "Natasha", "In the morning", "Moscow"];
    let model = c::root().join(MODEL);
    let mut expected: Vec<String> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            format!(
                "[{i}] {}",
                greedy(&model, Prompt::Text((*prompt).into()), 24).text
            )
        })
        .collect();
    expected.sort();
    BATCH.each(|batch| {
        let args: Vec<&str> = [MODEL, "24"].into_iter().chain(prompts).collect();
        // They end in any order.
        let text = output(batch, &args, "");
        let mut found: Vec<String> = text
            .trim_end_matches('\n')
            .split("\n[")
            .map(|t| format!("[{}", t.trim_start_matches('[')))
            .collect();
        found.sort();
        assert_eq!(found, expected);
    });
}

#[test]
fn chat_carries_the_conversation_on() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::chat::demo_model(folder.path());
    let message = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let mut conversation = vec![message("user", "Who is the prince?")];
    let first = greedy(&model, Prompt::Messages(conversation.clone().into()), 16).text;
    conversation.push(message("assistant", &first));
    conversation.push(message("user", "And Natasha?"));
    let second = greedy(&model, Prompt::Messages(conversation.into()), 16).text;
    CHAT.each(|chat| {
        let args = [model.to_str().unwrap(), "16", "0"];
        let text = output(chat, &args, "Who is the prince?\nAnd Natasha?\n");
        assert_eq!(text, format!("{first}\n{second}\n"));
        let refused = c::run(chat, &[MODEL], "hello\n");
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            String::from_utf8(refused.stderr)
                .unwrap()
                .contains("no chat template")
        );
    });
}

#[test]
fn kernels_prints_a_line_for_every_function_and_level() {
    use infer::kernel::CpuLevel;
    // All that take a handle, free and level aside; rope has two lines.
    let header = std::fs::read_to_string(c::root().join("include/infer.h")).unwrap();
    let functions = header.matches("infer_status infer_kernels_").count() - 1;
    let levels: Vec<&str> = CpuLevel::available().into_iter().map(CpuLevel::name).collect();
    KERNELS.each(|kernels| {
        let text = output(kernels, &["0.1"], "");
        let lines: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), (functions + 1) * levels.len(), "{text}");
        for (i, line) in lines.iter().enumerate() {
            let [.., level, time, ratio, difference] = line[..] else {
                panic!("{text}");
            };
            assert_eq!(level, levels[i % levels.len()]);
            let number = |text: &str| text.parse::<f64>().unwrap();
            assert!(number(time) > 0.0 && number(ratio) > 0.0, "{text}");
            // Levels differ by rounding; what is exact is the same.
            let exact = ["matmul_i8", "add", "mul", "relu", "dequantize", "quantize"].contains(&line[0]);
            assert!(number(difference) <= if exact { 0.0 } else { 1e-3 }, "{text}");
        }
    });
}

#[test]
fn a_second_process_finds_keys_and_values_of_the_first() {
    KV_CACHE.each(|kv_cache| {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let run = |n: &str| output(kv_cache, &[cache.to_str().unwrap(), n], "");
        assert_eq!(
            run("1000"),
            "1000 tokens: 0 found, 0 of them identical, 1000 computed\n"
        );
        assert_eq!(
            run("1000"),
            "1000 tokens: 992 found, 992 of them identical, 8 computed\n"
        );
        // The directory knows whole blocks.
        assert_eq!(
            run("500"),
            "500 tokens: 480 found, 480 of them identical, 20 computed\n"
        );
    });
}

/// What the example of the cold tier printed.
#[derive(Debug)]
struct Restart {
    text: String,
    prompt_tokens: usize,
    cached_tokens: usize,
    held_blocks: usize,
    read_blocks: usize,
    damaged_blocks: usize,
}

fn restart(program: &Path, directory: &Path) -> Restart {
    let printed = output(program, &[directory.to_str().unwrap(), MODEL], "");
    let (text, counts) = printed.rsplit_once("\nprompt: ").unwrap();
    assert!(
        counts.contains("\ncold tier: works, written by this process\n"),
        "{counts}"
    );
    let words = counts.split_whitespace();
    let numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
    // Those left out: megabytes the directory may take, tokens found.
    let [
        prompt_tokens,
        cached_tokens,
        held_blocks,
        _,
        _,
        1,
        read_blocks,
        damaged_blocks,
    ] = numbers[..]
    else {
        panic!("{counts}");
    };
    Restart {
        text: text.to_string(),
        prompt_tokens,
        cached_tokens,
        held_blocks,
        read_blocks,
        damaged_blocks,
    }
}

fn slabs(directory: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory).unwrap();
    let files = files.map(|file| file.unwrap().path());
    files
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("slab-"))
        .collect()
}

/// Flips the byte in the middle of those that are not zero: a slab has room for more than it holds.
fn damage(slab: &Path) {
    let mut bytes = std::fs::read(slab).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    bytes[used[used.len() / 2]] ^= 1;
    std::fs::write(slab, bytes).unwrap();
}

#[test]
fn a_second_process_reads_what_the_first_computed() {
    RESTART.each(|program| {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("cold");
        let first = restart(program, &directory);
        assert!(first.text.len() > 20 && first.prompt_tokens > 200, "{first:?}");
        assert_eq!((first.cached_tokens, first.held_blocks), (0, 0));

        let second = restart(program, &directory);
        assert_eq!(second.text, first.text);
        // Whole blocks; the last token of a prompt is computed in any case.
        let blocks = (first.prompt_tokens - 1) / BLOCK;
        assert_eq!(
            (second.cached_tokens, second.read_blocks, second.damaged_blocks),
            (blocks * BLOCK, blocks, 0)
        );
        assert!(second.held_blocks >= blocks, "{second:?}");

        // What is damaged is computed again.
        let slabs = slabs(&directory);
        assert!(!slabs.is_empty());
        slabs.iter().for_each(|slab| damage(slab));
        let third = restart(program, &directory);
        assert_eq!(third.text, first.text);
        assert_eq!(third.damaged_blocks, 1, "{third:?}");
        assert!(third.cached_tokens < second.cached_tokens, "{third:?}");

        // Nothing lies elsewhere.
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    });
}

/// The program of the README, written to a temporary file.
fn readme_program(folder: &Path) -> PathBuf {
    let readme = std::fs::read_to_string(c::root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```c\n").unwrap();
    let (program, _) = rest.split_once("```\n").unwrap();
    let path = folder.join("readme.c");
    std::fs::write(&path, program).unwrap();
    path
}

#[test]
fn the_program_of_the_readme_compiles_and_generates() {
    let folder = tempfile::tempdir().unwrap();
    let source = readme_program(folder.path());
    for compiler in ["gcc", "clang"] {
        if c::compiler(compiler, "the program of the README") {
            let program = c::build(compiler, &source, Linking::Shared, "c99");
            assert!(output(&program, &[], "").len() > 20);
        }
    }
}

#[test]
fn the_library_is_found_under_its_soname_where_cargo_puts_it() {
    // The test binary is in PROFILE/deps.
    let exe = std::env::current_exe().unwrap();
    let link = exe.ancestors().nth(2).unwrap().join("libinfer.so.0.1");
    assert_eq!(std::fs::read_link(link).unwrap(), Path::new("libinfer.so"));
}
