//! The binary interface against its baseline in `abi/`: additions are free, and what changes or goes has to be accepted.
//!
//! Two things are compared, for each sees what the other does not: the declarations as text, with the values of
//! constants, and by `abidiff` the debugging information of a C object that uses all of them. `.ci/abi` runs this, and
//! `.ci/abi --accept "why"` takes what there is as the new baseline.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod c;
#[path = "common/header.rs"]
mod header;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use header::{GENERATED, Header, Kind, Signature};

/// The declarations of the header, one per line, without what may change: names of parameters, the version, and the
/// initializers, which grow with their structs.
fn declarations(header: &Header) -> Vec<String> {
    let signature = |name: &str, signature: &Signature| {
        let parameters: Vec<&str> = signature.parameters.iter().map(|p| p.of.as_str()).collect();
        format!("{} {name}({})", signature.result, parameters.join(", "))
    };
    let mut lines = Vec::new();
    for item in &header.items {
        let name = &item.name;
        match &item.kind {
            Kind::Macro(_) if name.starts_with("INFER_VERSION") || name.ends_with("_INIT") => {}
            Kind::Macro(value) => lines.push(format!("macro {name} {value}")),
            Kind::Enum(constants) => {
                lines.push(item.code.clone());
                lines.extend(
                    constants
                        .iter()
                        .map(|c| format!("constant {} = {}", c.name, c.of)),
                );
            }
            Kind::Handle => lines.push(item.code.clone()),
            Kind::Struct(fields) => {
                let numbered = fields.iter().enumerate();
                lines.extend(numbered.map(|(i, f)| format!("field {i} of {name}: {} {}", f.of, f.name)));
            }
            Kind::Callback(of) => lines.push(format!("callback {}", signature(name, of))),
            Kind::Function(of) => lines.push(format!("function {}", signature(name, of))),
        }
    }
    lines
}

/// A C program that uses every type and takes the address of every function.
fn program(header: &Header) -> String {
    let mut text = String::from("#include \"infer.h\"\n");
    for item in &header.items {
        let name = &item.name;
        let _ = match item.kind {
            Kind::Macro(_) => Ok(()),
            Kind::Enum(_) | Kind::Callback(_) => writeln!(text, "{name} a_{name};"),
            Kind::Handle | Kind::Struct(_) => writeln!(text, "{name} *a_{name};"),
            Kind::Function(_) => writeln!(text, "__typeof__(&{name}) a_{name} = {name};"),
        };
    }
    text
}

/// Compiles that program with debugging information, in a folder.
fn compile(header: &str, folder: &Path, flags: &[&str]) -> Result<PathBuf, String> {
    std::fs::write(folder.join("infer.h"), header).unwrap();
    std::fs::write(folder.join("abi.c"), program(&Header::parse(header))).unwrap();
    let output = Command::new("gcc")
        .current_dir(folder)
        .args([
            "-std=gnu11",
            "-Wall",
            "-Werror",
            "-g",
            "-I.",
            "-c",
            "abi.c",
            "-o",
            "abi.o",
        ])
        .args(flags)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(folder.join("abi.o"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Writes what `abidw` finds in the object of that program.
fn binary(header: &str, folder: &Path) -> PathBuf {
    let object = compile(header, folder, &[]).unwrap();
    let found = folder.join("infer.abi");
    let output = Command::new("abidw")
        .args(["--no-corpus-path", "--no-show-locs", "--no-comp-dir-path"])
        .args(["--type-id-style", "hash", "--out-file"])
        .args([&found, &object])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    found
}

/// Structs that have more fields than they had, and may: their first one is their size.
fn grown(old: &[String], new: &[String]) -> Vec<String> {
    let fields = |lines: &[String], name: &str| {
        let of = format!(" of {name}: ");
        lines.iter().filter(|line| line.contains(&of)).count()
    };
    old.iter()
        .filter_map(|line| {
            let name = line
                .strip_prefix("field 0 of ")?
                .strip_suffix(": uint32_t struct_size")?;
            (fields(new, name) > fields(old, name)).then(|| name.to_string())
        })
        .collect()
}

/// What `abidiff` says against `new`; nothing when it only has more than `old`. Of structs that grew it says nothing at
/// all: their fields are compared as text.
fn changes_of_binary(old: &Path, new: &Path, grown: &[String]) -> String {
    let mut growing = String::new();
    for name in grown {
        let _ = writeln!(
            growing,
            "[suppress_type]\n  type_kind = struct\n  name = {name}\n  has_data_member_inserted_at = end\n"
        );
    }
    let suppressions = new.with_extension("suppressions");
    std::fs::write(&suppressions, growing).unwrap();
    let output = Command::new("abidiff")
        .args(["--no-added-syms", "--suppressions"])
        .args([&suppressions, old, new])
        .output()
        .unwrap();
    // Bit 4 is set for every difference that was not suppressed.
    match output.status.code() {
        Some(0) => String::new(),
        Some(code) if code & 3 == 0 => String::from_utf8(output.stdout).unwrap(),
        _ => panic!("abidiff: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// The lines of `old` that `new` does not have.
fn lost<'a>(old: &'a [String], new: &[String]) -> Vec<&'a str> {
    let lost = old.iter().filter(|line| !new.contains(line));
    lost.map(String::as_str).collect()
}

fn tools(what: &str) -> bool {
    ["gcc", "abidw", "abidiff"]
        .iter()
        .all(|tool| c::compiler(tool, what))
}

#[test]
fn nothing_changed_that_was_not_accepted() {
    if !tools("the binary interface against its baseline") {
        return;
    }
    let new = declarations(&Header::generated());
    let folder = tempfile::tempdir().unwrap();
    let binary = binary(GENERATED, folder.path());

    let baseline = c::root().join("abi");
    let (text, dump) = (baseline.join("declarations.txt"), baseline.join("infer.abi"));
    let old: Vec<String> = std::fs::read_to_string(&text)
        .unwrap()
        .lines()
        .map(str::to_string)
        .collect();
    let lost = lost(&old, &new);
    let changes = changes_of_binary(&dump, &binary, &grown(&old, &new));

    let accepted = std::env::var("LIBINFER_ACCEPT_ABI").ok();
    let same = lost.is_empty() && changes.is_empty();
    if let Some(why) = &accepted {
        assert!(!same, "nothing changed, so there is nothing to accept");
        let path = baseline.join("accepted.md");
        let mut record = std::fs::read_to_string(&path).unwrap();
        let _ = writeln!(record, "- {why}");
        for line in &lost {
            let _ = writeln!(record, "  - was `{line}`");
        }
        std::fs::write(path, record).unwrap();
    }
    if accepted.is_some() || (same && std::env::var_os("LIBINFER_BLESS").is_some()) {
        std::fs::write(&text, new.join("\n") + "\n").unwrap();
        std::fs::copy(&binary, &dump).unwrap();
        return;
    }
    assert!(
        same,
        "the binary interface changed; no program that exists may break, unless `.ci/abi --accept \"why\"` records it.\n\
         Gone or changed: {lost:#?}\n{changes}"
    );
    assert!(
        self::lost(&new, &old).is_empty(),
        "additions are free, but the baseline has to know them: LIBINFER_BLESS=1 cargo test --test abi\n{:#?}",
        self::lost(&new, &old)
    );
}

/// What both comparisons find when a text of the header is replaced.
fn planted(from: &str, to: &str) -> (Vec<String>, String) {
    let header = GENERATED;
    let changed = header.replacen(from, to, 1);
    assert!(changed != header, "the header does not have {from}");
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (of_old, of_new) = (
        declarations(&Header::parse(header)),
        declarations(&Header::parse(&changed)),
    );
    let changes = changes_of_binary(
        &binary(header, old.path()),
        &binary(&changed, new.path()),
        &grown(&of_old, &of_new),
    );
    let lost = lost(&of_old, &of_new).into_iter().map(str::to_string).collect();
    (lost, changes)
}

#[test]
fn structs_have_no_gaps_that_a_later_field_could_come_to_lie_in() {
    if !c::compiler("gcc", "gaps in structs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let header = GENERATED;
    compile(header, folder.path(), &["-Wpadded"]).unwrap();
    let gap = header.replacen("uint64_t total;\n", "uint64_t total;\n  uint32_t more;\n", 1);
    assert!(gap != header && compile(&gap, folder.path(), &["-Wpadded"]).is_err());
}

#[test]
fn planted_changes_are_found() {
    if !tools("planted changes of the binary interface") {
        return;
    }
    // What is replaced, by what, and whether abidiff has to see it.
    for (from, to, seen) in [
        // A field of another type, of the same size and of another; renamed, removed, inserted, exchanged.
        ("uint32_t choice;", "float choice;", true),
        ("uint64_t weights;", "uint32_t weights[2];", true),
        (
            "size_t n_embedding;\n} infer_event;",
            "uint32_t n_embedding;\n} infer_event;",
            true,
        ),
        ("uint64_t steps;", "uint64_t scheduler_steps;", false),
        ("  uint64_t total;\n", "", true),
        ("uint64_t kv_cache;", "uint64_t kv_cache;\n  uint64_t more;", true),
        ("uint32_t kind;\n", "uint32_t choices;\n  uint32_t kinds;\n", true),
        // A struct that grows and changes at once.
        (
            "uint64_t workspace;\n  /* The sum. */\n  uint64_t total;\n",
            "double workspace;\n  /* The sum. */\n  uint64_t total;\n  uint64_t more;\n",
            false,
        ),
        // A function removed, with another parameter, another result, another handle, without a const.
        (
            "uint32_t infer_threads_count(const infer_threads *threads);\n",
            "",
            true,
        ),
        (
            "size_t infer_model_metadata_count(const infer_model *model);",
            "size_t infer_model_metadata_count(const infer_model *model, int how);",
            true,
        ),
        ("uint64_t infer_request_id(", "uint32_t infer_request_id(", true),
        (
            "uint64_t infer_request_tag(const infer_request *",
            "uint64_t infer_request_tag(const infer_engine *",
            true,
        ),
        (
            "uint64_t infer_request_tag(const infer_request *",
            "uint64_t infer_request_tag(infer_request *",
            false,
        ),
        // Callbacks and types.
        (
            "(float fraction, void *user_data)",
            "(double fraction, void *user_data)",
            true,
        ),
        (
            "typedef uint32_t infer_channel;",
            "typedef uint64_t infer_channel;",
            true,
        ),
        // Constants are no part of the debugging information.
        ("INFER_ERR_BUSY = -11,", "INFER_ERR_BUSY = -111,", false),
        ("  INFER_FINISH_STOP = 2,\n", "", false),
        ("#define INFER_NTS SIZE_MAX", "#define INFER_NTS 0", false),
    ] {
        let (lost, changes) = planted(from, to);
        assert!(!lost.is_empty(), "not seen in the text: {from} -> {to}");
        assert!(
            !seen || !changes.is_empty(),
            "not seen by abidiff: {from} -> {to}"
        );
    }
}

#[test]
fn planted_additions_are_free() {
    if !tools("planted additions to the binary interface") {
        return;
    }
    for (from, to) in [
        (
            "const char *infer_version(void);",
            "const char *infer_version(void);\n\nvoid infer_planted(void);",
        ),
        (
            "typedef struct infer_model infer_model;",
            "typedef struct infer_model infer_model;\n\ntypedef struct infer_planted infer_planted;",
        ),
        ("  INFER_OK = 0,", "  INFER_PLANTED = 99,\n  INFER_OK = 0,"),
        ("#define INFER_NTS", "#define INFER_PLANTED 1\n#define INFER_NTS"),
        // The struct that is filled grows; programs that know less say so in struct_size.
        (
            "  uint64_t total;\n",
            "  uint64_t total;\n  uint64_t more;\n  double even_more;\n",
        ),
        (
            "  uint64_t kv_cold_writer;\n",
            "  uint64_t kv_cold_writer;\n  double more;\n",
        ),
        // Names of parameters and comments are nothing that programs see.
        (
            "infer_model_metadata_count(const infer_model *model)",
            "infer_model_metadata_count(const infer_model *m)",
        ),
        ("/* It worked. */", "/* It did work. */"),
    ] {
        let (lost, changes) = planted(from, to);
        assert!(
            lost.is_empty() && changes.is_empty(),
            "{from} -> {to}: {lost:?}\n{changes}"
        );
    }
}
