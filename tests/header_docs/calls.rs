//! Which functions the C and C++ tests call, as the dynamic linker tells: it binds a function when it is first called.
//! (One whose address is taken is bound before, and so is every one where the compiler does not link lazily.)

use std::collections::BTreeSet;
use std::path::Path;

use crate::c::{self, Linking};
use crate::common;

/// A language's programs; all get the demo model, and one with a chat template as the second argument where they want it.
pub struct Programs {
    compiler: &'static str,
    standard: &'static str,
    sources: &'static [(&'static str, bool)],
}

pub const C: Programs = Programs {
    compiler: "gcc",
    standard: "c99",
    sources: &[
        ("tests/c/model.c", false),
        ("tests/c/lifecycle.c", false),
        ("tests/c/queue.c", false),
        ("tests/c/kernels.c", false),
        ("tests/c/kv_cache.c", false),
        ("tests/c/prompts.c", true),
    ],
};

pub const CPP: Programs = Programs {
    compiler: "g++",
    standard: "c++17",
    sources: &[
        ("tests/cpp/exceptions.cpp", false),
        ("tests/cpp/prompts.cpp", true),
    ],
};

impl Programs {
    /// Runs them; the functions of libinfer that they called, or nothing where there is no compiler.
    pub fn called(&self) -> Option<BTreeSet<String>> {
        if !c::compiler(self.compiler, "functions that tests call") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let chat = common::chat::demo_model(folder.path());
        let mut called = BTreeSet::new();
        for (source, wants_chat) in self.sources {
            let program = c::build(
                self.compiler,
                &c::root().join(source),
                Linking::Shared,
                self.standard,
            );
            let log = folder.path().join("bindings");
            let log_to = format!("LD_DEBUG_OUTPUT={}", log.display());
            let mut args = vec!["-u", "LD_BIND_NOW", "LD_DEBUG=bindings", &log_to];
            args.extend([program.to_str().unwrap(), "models/tolstoy-3m-Q8_0.gguf"]);
            args.extend(wants_chat.then(|| chat.to_str().unwrap()));
            let output = c::run(Path::new("env"), &args, "");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{source}: {said}");
            called.extend(bound(folder.path(), &program));
        }
        Some(called)
    }
}

/// The functions of libinfer that a program was bound to, from the linker's files.
fn bound(folder: &Path, program: &Path) -> BTreeSet<String> {
    let from = format!("binding file {} ", program.display());
    let mut bound = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|stem| stem == "bindings") {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter(|line| line.contains(&from));
            let symbols = lines.filter_map(|line| line.split_once("symbol `")?.1.split('\'').next());
            bound.extend(symbols.filter(|s| s.starts_with("infer_")).map(str::to_string));
        }
    }
    bound
}
