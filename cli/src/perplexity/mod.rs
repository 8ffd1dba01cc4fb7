//! `infer perplexity`: how well a model predicts a text, and how far it is from another run.

mod base;
mod measure;

use std::path::PathBuf;
use std::sync::Arc;

use infer::engine::evaluate;
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions};
use serde_json::json;

use crate::demo;
use crate::exit::{Failure, OK, Outcome};
use crate::flags::{Flags, Loading};
use crate::input;
use crate::loading;
use crate::logits::Computing;
use crate::output::Output;
use crate::progress::Progress;
use crate::target::Target;
use base::Saved;
use measure::{Mean, Row};

/// Measure how well a model predicts a text: perplexity, and the distance to a base run.
///
/// The text is cut into chunks of --context tokens, each beginning with the begin token where the model wants one. Positions of the
/// second half of each chunk count, as for llama.cpp's perplexity. --kl-base compares with another run over the same tokens:
/// logits saved with --save-logits (4 bytes x vocabulary per position), or a second model.
#[derive(clap::Args)]
#[command(after_help = demo::HELP)]
pub struct Args {
    /// GGUF file of the model.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The text; - is standard input.
    #[arg(long, short, value_name = "PATH")]
    file: PathBuf,
    /// Tokens of a chunk.
    #[arg(long, short, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    context: u32,
    /// Use at most so many chunks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Compare with saved logits or with another model, a GGUF file.
    #[arg(long, value_name = "PATH")]
    kl_base: Option<PathBuf>,
    /// Write the logits to a file for --kl-base.
    #[arg(long, value_name = "PATH")]
    save_logits: Option<PathBuf>,
    #[command(flatten)]
    computing: Flags<Computing>,
    #[command(flatten)]
    loading: Flags<Loading>,
}

/// What a run is compared with.
enum Base {
    Saved(Saved),
    Model(Arc<Model>),
}

/// What was measured.
#[derive(Default)]
struct Results {
    surprise: Mean,
    divergence: Mean,
    same_top: Mean,
    base_surprise: Mean,
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let path = demo::or_demo(args.model.as_ref())?;
    let engine: EngineOptions = args.computing.options()?;
    let load: ModelOptions = args.loading.options()?;
    let text = input::text(None, Some(&args.file), "--file", 1 << 30)?;
    let (model, _) = loading::load(&path, &load)?;
    let chunks = chunks(&model, &text, args)?;
    let context = args.context as usize;
    let n_vocab = model.info().n_vocab;
    let base = match &args.kl_base {
        None => None,
        Some(path) => Some(match Saved::open(path, n_vocab, context, &chunks)? {
            Some(saved) => Base::Saved(saved),
            None => Base::Model(loading::load(path, &load)?.0),
        }),
    };
    if let Some(Base::Model(base)) = &base
        && base.info().n_vocab != n_vocab
    {
        return Err(Failure::Failed(format!(
            "cannot compare a vocabulary of {n_vocab} tokens with one of {} tokens",
            base.info().n_vocab
        )));
    }
    let mut target = match &args.save_logits {
        None => None,
        Some(path) => {
            let mut target = Target::create(path, "--save-logits")?;
            target
                .bytes(&base::header(n_vocab, context, &chunks))
                .map_err(|e| Failure::io(&format!("write {}", path.display()), &e))?;
            Some((target, path))
        }
    };

    let results = measure(
        &model,
        &chunks,
        &engine,
        base,
        target.as_mut().map(|(t, path)| (t, *path)),
    )?;
    if let Some((target, path)) = target {
        target.commit(path)?;
    }
    report(&results, chunks.len(), context, json)
}

/// The text as chunks of whole length; what is left over at the end is not used.
fn chunks(model: &Model, text: &str, args: &Args) -> Result<Vec<Vec<u32>>, Failure> {
    let context = args.context as usize;
    let mut ids = model.tokenize(text, true, false)?;
    let tokenizer = model.tokenizer()?;
    let begin = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let most = args.chunks.map_or(usize::MAX, |n| n as usize);
    if ids.len() < context {
        return Err(Failure::Failed(format!(
            "the text has {} tokens, which is less than one chunk of {context}: give a longer text or a smaller --context",
            ids.len()
        )));
    }
    if let Some(begin) = begin {
        for first in ids.iter_mut().step_by(context) {
            *first = begin;
        }
    }
    Ok(ids
        .chunks_exact(context)
        .take(most)
        .map(<[u32]>::to_vec)
        .collect())
}

/// Runs the model over all chunks.
fn measure(
    model: &Model,
    chunks: &[Vec<u32>],
    engine: &EngineOptions,
    mut base: Option<Base>,
    mut target: Option<(&mut Target, &PathBuf)>,
) -> Result<Results, Failure> {
    let context = chunks.first().map_or(0, Vec::len);
    let counts = measure::first(context)..context.saturating_sub(1);
    let n_vocab = model.info().n_vocab;
    let mut results = Results::default();
    let passes = 1 + u64::from(matches!(base, Some(Base::Model(_))));
    let mut progress = Progress::new("computing", passes * (chunks.len() * context) as u64);
    let mut done = 0;
    let mut base_rows = Vec::new();
    let mut row = infer::memory::filled(0.0f32, n_vocab, "a row of logits").map_err(infer::Error::from)?;
    for chunk in chunks {
        if let Some(Base::Model(base)) = &base {
            base_rows.clear();
            let bytes = counts.len().saturating_mul(n_vocab);
            infer::memory::reserve(&mut base_rows, bytes, "the base's logits").map_err(infer::Error::from)?;
            evaluate::logits(base, chunk, engine, &mut |position, logits| {
                if counts.contains(&position) {
                    base_rows.extend_from_slice(logits);
                }
                done += 1;
                progress.set(done);
                Ok(())
            })?;
        }
        evaluate::logits(model, chunk, engine, &mut |position, logits| {
            done += 1;
            progress.set(done);
            let Some(&next) = chunk.get(position + 1).filter(|_| counts.contains(&position)) else {
                return Ok(());
            };
            if let Some((target, path)) = &mut target {
                target.row(logits).map_err(|source| infer::Error::Io {
                    action: "write".to_string(),
                    path: path.to_path_buf(),
                    source,
                })?;
            }
            let here = Row::new(logits);
            results.surprise.add(here.surprise(next));
            let there = match &mut base {
                None => return Ok(()),
                Some(Base::Saved(saved)) => {
                    saved.row(&mut row)?;
                    Row::new(&row)
                }
                Some(Base::Model(_)) => {
                    let at = (position - counts.start) * n_vocab;
                    Row::new(base_rows.get(at..at + n_vocab).unwrap_or_default())
                }
            };
            results.base_surprise.add(there.surprise(next));
            results.divergence.add(there.divergence(&here));
            results.same_top.add(f64::from(u8::from(there.top == here.top)));
            Ok(())
        })?;
    }
    Ok(results)
}

fn report(results: &Results, chunks: usize, context: usize, json: bool) -> Outcome {
    // The error of a mean of logarithms, as one of their exponential.
    let perplexity = |mean: &Mean| (mean.mean().exp(), mean.mean().exp() * mean.standard_error());
    let (value, error) = perplexity(&results.surprise);
    let compared = (results.divergence.count() > 0).then_some(results);
    let mut out = Output::new();
    if json {
        out.json(&json!({
            "perplexity": value,
            "perplexity_error": error,
            "positions": results.surprise.count(),
            "chunks": chunks,
            "context": context,
            "base_perplexity": compared.map(|r| perplexity(&r.base_surprise).0),
            "kl_divergence": compared.map(|r| r.divergence.mean()),
            "kl_divergence_error": compared.map(|r| r.divergence.standard_error()),
            "same_top": compared.map(|r| r.same_top.mean()),
        }))?;
    } else {
        out.text(&format!(
            "perplexity {value:.4} ± {error:.4} over {} positions of {chunks} chunks of {context} tokens\n",
            results.surprise.count()
        ))?;
        if let Some(r) = compared {
            out.text(&format!(
                "base perplexity {:.4}, KL divergence {:.6} ± {:.6}, same most probable token {:.2} %\n",
                perplexity(&r.base_surprise).0,
                r.divergence.mean(),
                r.divergence.standard_error(),
                100.0 * r.same_top.mean()
            ))?;
        }
    }
    out.flush()?;
    Ok(OK)
}
