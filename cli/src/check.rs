//! `infer check`: whether a GGUF file is sound, for people and for continuous integration.

use std::path::PathBuf;

use infer::gguf::{Gguf, LoadOptions};
use infer::model::Model;
use infer::model::check::all_finite;
use infer::options::ModelOptions;
use infer::tokenizer::TokenizerError;
use serde_json::json;

use crate::exit::{FAILED, OK, Outcome};
use crate::loading;
use crate::output::{Lines, Output, Style, printable, styled};
use crate::progress::Progress;

/// Check a GGUF file completely: structure, hyper-parameters, vocabulary, tensor shapes and every number.
///
/// Prints `ok`, or each problem as a sentence, and then exits with 1. What is sound but cannot run with this
/// version (its architecture, a tensor type, its tokenizer) is a warning.
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file; of a split model, the first one.
    path: PathBuf,
    /// Count warnings as problems.
    #[arg(long)]
    strict: bool,
}

/// What was found.
#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn add(&mut self, e: &infer::Error) {
        let sentence = e.to_string();
        let unsupported = matches!(
            e,
            infer::Error::Unsupported(_)
                | infer::Error::Tokenizer(
                    TokenizerError::UnsupportedModel(_) | TokenizerError::UnsupportedPreTokenizer(_)
                )
        );
        let list = if unsupported {
            &mut self.warnings
        } else {
            &mut self.problems
        };
        if !list.contains(&sentence) {
            list.push(sentence);
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let mut findings = Findings::default();
    let gguf = match Gguf::open(&args.path) {
        Ok(gguf) => {
            contents(args, &gguf, &mut findings);
            Some(gguf)
        }
        Err(e) => {
            findings.add(&e);
            None
        }
    };
    let ok = findings.problems.is_empty() && (findings.warnings.is_empty() || !args.strict);

    let mut out = Output::new();
    if json {
        let gguf = gguf.as_ref();
        out.json(&json!({
            "path": args.path.to_string_lossy(),
            "ok": ok,
            "problems": findings.problems,
            "warnings": findings.warnings,
            "version": gguf.map(Gguf::version),
            "architecture": gguf.and_then(|g| g.metadata().str("general.architecture").unwrap_or_default()),
            "tensors": gguf.map(|g| g.tensors().len()),
            "file_bytes": gguf.map(Gguf::file_bytes),
        }))?;
    } else {
        let mut line = |word: &str, style, sentence: &str| {
            let sentence = printable(sentence, Lines::Escape);
            out.text(&format!("{} {sentence}\n", styled(word, style)))
        };
        for problem in &findings.problems {
            line("problem:", Style::Error, problem)?;
        }
        for warning in &findings.warnings {
            line("warning:", Style::Warning, warning)?;
        }
        if ok {
            out.text(&format!("{}\n", styled("ok", Style::Good)))?;
        }
    }
    out.flush()?;
    Ok(if ok { OK } else { FAILED })
}

/// Checks what the structure holds, by loading it.
fn contents(args: &Args, gguf: &Gguf, findings: &mut Findings) {
    let vocabulary_only = gguf.tensors().is_empty();
    let options = |vocabulary_only| ModelOptions {
        vocabulary_only,
        check_tensors: true,
        ..ModelOptions::default()
    };
    let loaded = match loading::load(&args.path, &options(vocabulary_only)) {
        Err(e) if !vocabulary_only => {
            findings.add(&e);
            // What loading did not come to has problems of its own, or is sound all the same.
            if let Err(e) = numbers(gguf) {
                findings.add(&e);
            }
            loading::load(&args.path, &options(true))
        }
        loaded => loaded,
    };
    match loaded {
        Ok((model, _)) => vocabulary(&model, findings),
        Err(e) => findings.add(&e),
    }
}

/// Reads every number of a file that does not load as a model.
fn numbers(gguf: &Gguf) -> infer::Result<()> {
    let mut progress = Progress::new("reading", gguf.data_bytes());
    let data = gguf.load(&LoadOptions::default(), &mut |done, _| {
        progress.set(done);
        true
    })?;
    all_finite(gguf, &data)
}

/// A model without a usable tokenizer loads all the same.
fn vocabulary(model: &Model, findings: &mut Findings) {
    let supported = model.tokenizer().and_then(|t| Ok(t.check_supported()?));
    if let Err(e) = supported {
        findings.add(&e);
    }
}
