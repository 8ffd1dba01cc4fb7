//! Writes the C header into `OUT_DIR` and sets the link arguments of the shared library.
//!
//! The header comes from the sources in `src/ffi` by cbindgen. What cbindgen cannot know is added here: version
//! macros from `Cargo.toml`, an initializer macro behind each struct that begins with `struct_size`, and a heading
//! where the functions of the next object begin.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Sources in the order in which their functions appear in the header.
const SOURCES: &[&str] = &[
    "abi.rs",
    "status.rs",
    "error.rs",
    "callback.rs",
    "options.rs",
    "model_options.rs",
    "engine_options.rs",
    "request_options.rs",
    "threads_options.rs",
    "kv_cache_options.rs",
    "threads.rs",
    "model.rs",
    "metadata.rs",
    "text.rs",
    "engine.rs",
    "engine_state.rs",
    "request.rs",
    "event.rs",
    "queue.rs",
    "stats.rs",
    "histogram.rs",
    "kernels.rs",
    "kv_cache.rs",
    "kv_seq.rs",
    "kv_view.rs",
];

/// Beginnings of function names and the heading above the first of them; the longest match counts.
const HEADINGS: &[(&str, &str)] = &[
    ("infer_", "Version"),
    ("infer_status_", "Errors"),
    ("infer_error_", "Errors"),
    ("infer_options_", "Options: what there is"),
    ("infer_model_options_", "Options of loading a model"),
    ("infer_engine_options_", "Options of an engine"),
    ("infer_request_options_", "Options of a request"),
    ("infer_threads_options_", "Options of a thread pool"),
    ("infer_threads_", "Thread pools"),
    ("infer_model_", "Models"),
    ("infer_engine_", "Engines"),
    ("infer_request_", "Requests"),
    ("infer_queue_", "Completion queues"),
    ("infer_stats_", "Statistics"),
    ("infer_histogram_", "Statistics"),
    ("infer_kernels_", "Kernels"),
    ("infer_kv_", "Key/value caches"),
    ("infer_kv_cache_options_", "Options of a key/value cache"),
];

fn main() {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let (major, minor) = (
        number("CARGO_PKG_VERSION_MAJOR"),
        number("CARGO_PKG_VERSION_MINOR"),
    );
    // Before 1.0 a minor version may change the ABI, from 1.0 on only a major one.
    let abi = if major == 0 { minor } else { major * 1000 };
    println!("cargo:rustc-env=INFER_ABI_VERSION={abi}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/ffi");
    link_arguments(major, minor);
    let header = Path::new(&var("OUT_DIR")).join("infer.h");
    if let Err(e) = fs::write(&header, header_text(&root, abi)) {
        panic!("cannot write {}: {e}", header.display());
    }
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|e| panic!("cannot read the environment variable {name}: {e}"))
}

fn number(name: &str) -> u32 {
    var(name)
        .parse()
        .unwrap_or_else(|e| panic!("{name} is not a number: {e}"))
}

/// The soname by cargo-c's rule, and `nodelete`: worker threads and thread-locals outlive a `dlclose`.
fn link_arguments(major: u32, minor: u32) {
    let os = var("CARGO_CFG_TARGET_OS");
    if matches!(os.as_str(), "linux" | "android" | "freebsd") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        // cargo-c, which switches the feature on, passes its own soname.
        if env::var_os("CARGO_FEATURE_CAPI").is_none() {
            let version = if major == 0 {
                format!("0.{minor}")
            } else {
                major.to_string()
            };
            let soname = format!("libinfer.so.{version}");
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");
            link_under_soname(&soname);
        }
    }
}

/// A link to the library under its soname beside it, which programs linked in the target folder look for.
fn link_under_soname(soname: &str) {
    // OUT_DIR is PROFILE/build/PACKAGE/out.
    let folder = PathBuf::from(var("OUT_DIR"))
        .ancestors()
        .nth(3)
        .map(Path::to_path_buf);
    #[cfg(unix)]
    if let Some(folder) = folder {
        // It may be there already, and the build does not depend on it.
        let _ = std::os::unix::fs::symlink("libinfer.so", folder.join(soname));
    }
    #[cfg(not(unix))]
    let _ = (soname, folder);
}

fn header_text(root: &Path, abi: u32) -> String {
    let config = root.join("cbindgen.toml");
    let mut config = cbindgen::Config::from_file(&config)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", config.display()));
    config.after_includes = Some(version_macros(abi));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join("src/ffi").join(source));
    }
    let bindings = builder
        .generate()
        .unwrap_or_else(|e| panic!("cannot generate the header: {e}"));
    let mut bytes = Vec::new();
    bindings.write(&mut bytes);
    let text = String::from_utf8(bytes).unwrap_or_else(|e| panic!("the header is not UTF-8: {e}"));
    add_headings(&add_initializers(&short_comments(&plain_enums(&text))))
}

/// Writes enums as a type of fixed size and constants, which is the same in every version of C and C++.
fn plain_enums(header: &str) -> String {
    let mut out = String::new();
    let mut lines = header.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("enum ") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let mut number = "int32_t";
        for line in lines.by_ref() {
            if let Some(found) = line.trim().strip_prefix(": ") {
                number = found;
            }
            if line.trim() == "{" {
                break;
            }
        }
        let _ = writeln!(out, "typedef {number} {name};\nenum {{");
        for line in lines.by_ref() {
            out.push_str(line);
            out.push('\n');
            if line == "};" {
                break;
            }
        }
        if lines.peek() == Some(&"#ifndef __cplusplus") {
            lines.by_ref().find(|line| *line == "#endif // __cplusplus");
        }
    }
    out
}

/// Puts a comment of one line on one line, and indents the lines of a longer one.
fn short_comments(header: &str) -> String {
    let lines: Vec<&str> = header.lines().collect();
    let mut out = String::new();
    let mut i = 0;
    let mut inside = false;
    while i < lines.len() {
        let line = lines[i];
        let indent = &line[..line.len() - line.trim_start().len()];
        if line.trim() == "/*" && lines.get(i + 2).is_some_and(|l| l.trim() == "*/") {
            let _ = writeln!(out, "{indent}/* {} */", lines[i + 1].trim());
            i += 3;
            continue;
        }
        // The introduction already has its stars.
        if inside && !line.trim_start().starts_with("* ") && line.trim() != "*" && line.trim() != "*/" {
            let text = line.strip_prefix(indent).unwrap_or(line);
            let indent = indent.strip_suffix(' ').unwrap_or(indent);
            let _ = writeln!(out, "{}", format!("{indent} * {text}").trim_end());
        } else {
            out.push_str(line);
            out.push('\n');
        }
        inside = (inside || line.trim() == "/*") && line.trim() != "*/";
        i += 1;
    }
    out
}

fn version_macros(abi: u32) -> String {
    let part = |name: &str| number(&format!("CARGO_PKG_VERSION_{name}"));
    format!(
        "\n/* The version of this header. infer_version() tells the version of the library. */\n\
         #define INFER_VERSION_MAJOR {}\n\
         #define INFER_VERSION_MINOR {}\n\
         #define INFER_VERSION_PATCH {}\n\
         #define INFER_VERSION \"{}\"\n\n\
         /* The binary interface this header describes; see infer_abi_check(). */\n\
         #define INFER_ABI_VERSION {abi}\n\n\
         /* Given as the length of a text: it is NUL-terminated. */\n\
         #define INFER_NTS SIZE_MAX\n",
        part("MAJOR"),
        part("MINOR"),
        part("PATCH"),
        var("CARGO_PKG_VERSION"),
    )
}

/// Adds behind each struct with a `struct_size` a macro that initializes every field.
fn add_initializers(header: &str) -> String {
    let mut out = String::new();
    let mut fields: Option<Vec<&str>> = None;
    let mut comment = false;
    for line in header.lines() {
        out.push_str(line);
        out.push('\n');
        let code = line.trim();
        comment = (comment || code.starts_with("/*")) && !code.ends_with("*/");
        if comment || code.ends_with("*/") {
            continue;
        }
        if code.starts_with("typedef struct") && code.ends_with('{') {
            fields = Some(Vec::new());
        } else if let (Some(found), Some(name)) =
            (&fields, code.strip_prefix("} ").and_then(|c| c.strip_suffix(';')))
        {
            if found.first() == Some(&"uint32_t struct_size;") {
                let values: String = found[1..]
                    .iter()
                    .map(|f| match f {
                        f if f.contains('*') => ", NULL",
                        f if f.contains('[') => ", { 0 }",
                        _ => ", 0",
                    })
                    .collect();
                let _ = write!(
                    out,
                    "\n/* Initializes an {name}: its size, and zero in every other field. */\n#define {}_INIT {{ sizeof({name}){values} }}\n",
                    name.to_uppercase()
                );
            }
            fields = None;
        } else if let Some(found) = &mut fields
            && code.ends_with(';')
        {
            found.push(code);
        }
    }
    out
}

/// Puts a heading before the first function of each object.
fn add_headings(header: &str) -> String {
    let mut out = String::new();
    let mut last = "";
    for block in header.split("\n\n") {
        let code = block.rsplit_once("*/").map_or(block, |(_, code)| code);
        let name = code
            .split_once('(')
            .filter(|_| code.trim_end().ends_with(");") && !code.contains("typedef") && !code.contains('#'))
            .and_then(|(before, _)| before.rsplit([' ', '*', '\n']).next());
        if let Some(name) = name {
            let heading = HEADINGS
                .iter()
                .filter(|(prefix, _)| name.starts_with(prefix))
                .max_by_key(|(prefix, _)| prefix.len())
                .map_or("", |(_, heading)| heading);
            if heading != last {
                let _ = write!(out, "/* ---- {heading} ---- */\n\n");
                last = heading;
            }
        }
        out.push_str(block.trim_start_matches('\n'));
        out.push_str("\n\n");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}
