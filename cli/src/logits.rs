//! `infer logits`: the logits of every position of a token sequence, as a file of raw numbers.

use std::path::PathBuf;

use infer::engine::evaluate;
use infer::options::{EngineOptions, ModelOptions, Object};
use serde_json::json;

use crate::demo;
use crate::exit::{Failure, OK, Outcome};
use crate::flags::{Flags, Loading, Offer};
use crate::input::Ids;
use crate::loading;
use crate::output::Output;
use crate::progress::Progress;
use crate::target::Target;

/// Write the logits of every position of a token sequence to a file.
///
/// The file holds positions x vocabulary little-endian 32-bit floats, without softmax. It appears under its name
/// when it is complete.
#[derive(clap::Args)]
#[command(after_help = demo::HELP)]
pub struct Args {
    /// GGUF file of the model.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Token ids, fed as they are.
    #[arg(long, value_name = "1,2,3", allow_hyphen_values = true)]
    ids: Ids,
    /// The file to write.
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
    #[command(flatten)]
    computing: Flags<Computing>,
    #[command(flatten)]
    loading: Flags<Loading>,
}

/// Options of the computation. Keys and values are kept in F32: results are for comparing.
pub struct Computing;

impl Offer for Computing {
    const OBJECT: Object = Object::Engine;
    const OPTIONS: &'static [(&'static str, Option<&'static str>)] = &[
        ("kv_type", Some("f32")),
        ("f16_products", None),
        ("flash_attention", None),
        ("exact", None),
        ("threads", None),
        ("cpu_level", None),
    ];
    const HEADING: &'static str = "Computing";
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let path = demo::or_demo(args.model.as_ref())?;
    let engine: EngineOptions = args.computing.options()?;
    let (model, _) = loading::load(&path, &args.loading.options::<ModelOptions>()?)?;

    let ids = &args.ids.0;
    let mut target = Target::create(&args.out, "--out")?;
    let mut progress = Progress::new("computing", ids.len() as u64);
    let mut positions = 0;
    let mut failed = None;
    let result = evaluate::logits(&model, ids, &engine, &mut |position, row| {
        target.row(row).map_err(|e| {
            failed = Some(Failure::io(&format!("write {}", args.out.display()), &e));
            infer::Error::Cancelled("writing logits")
        })?;
        positions += 1;
        progress.set(position as u64 + 1);
        Ok(())
    });
    drop(progress);
    if let Some(failure) = failed {
        return Err(failure);
    }
    result?;
    target.commit(&args.out)?;

    let n_vocab = model.info().n_vocab;
    let mut out = Output::new();
    if json {
        out.json(&json!({
            "positions": positions,
            "n_vocab": n_vocab,
            "out": args.out.to_string_lossy(),
        }))?;
    } else {
        out.text(&format!(
            "{positions} x {n_vocab} logits written to {}\n",
            args.out.display()
        ))?;
    }
    out.flush()?;
    Ok(OK)
}
