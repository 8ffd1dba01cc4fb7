//! `infer bench --serve FILE`: serves the requests of a file, all there at once, as fast as the engine can. Other engines
//! can be given the same file.

use std::path::Path;
use std::sync::Arc;

use infer::engine::Engine;
use infer::kv::BLOCK_TOKENS;
use infer::model::Model;
use infer::options::EngineOptions;
use serde_json::{Value, json};

use super::founding::short;
use super::machine::Memory;
use super::percentile::Sorted;
use super::serve::{Offered, Served, serve};
use super::serving::{self, Serving};
use super::workload::{Request, Workload, request};
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Output, Style, styled};
use crate::progress::Progress;

const REPETITIONS: u32 = 3;
const AT_ONCE: Offered = Offered {
    rate: None,
    limit: None,
};

/// Measures and prints.
pub fn run(args: &Serving, file: &Path, subject: serving::Subject<'_>, json: bool) -> Outcome {
    let model = subject.model;
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::io(&format!("read the requests {}", file.display()), &e))?;
    let load = parse(&text).map_err(|why| Failure::Usage(format!("--serve {}: {why}", file.display())))?;
    let context = model.info().context_length;
    if load.longest() > context {
        return Err(Failure::Usage(format!(
            "--serve {}: its longest sequence takes {} tokens, but the model attends to {context}",
            file.display(),
            load.longest()
        )));
    }
    let options = engine_options(args, model, subject.options, &load)?;
    let engine = || Engine::new(Arc::clone(model), options.clone());
    // Pages of the weights that nobody has touched yet are not measured, and nothing of this is in a measured cache.
    serve(&engine()?, &load.first(1), AT_ONCE)?;

    let repetitions = args.repetitions(subject.repetitions, REPETITIONS);
    let mut progress = Progress::new("serving", u64::from(repetitions));
    let mut results = Vec::new();
    for repetition in 0..repetitions {
        let served = serve(&engine()?, &load, AT_ONCE)?;
        results.push(result(&served));
        progress.set(u64::from(repetition) + 1);
    }
    progress.clear();

    let memory = Memory::now();
    let mut report = subject.about;
    super::join(
        &mut report,
        json!({
            "kind": "serve",
            "requests": load.json(),
            "max_running": options.max_running,
            "kv_budget": options.kv_budget,
            "peak_rss_bytes": memory.peak,
            "rss_anon_bytes": memory.anonymous,
            "results": results,
        }),
    );
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        print(&mut out, &report)?;
    }
    out.flush()?;
    Ok(OK)
}

/// The requests of `[{"ids": [1, 2], "max_tokens": 3}, ...]`.
fn parse(text: &str) -> Result<Workload, String> {
    let list: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let list = list.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or("expected a list of requests")?;
    let requests = list.iter().enumerate().map(|(i, value)| {
        let wrong = |what: &str| format!("request {i}: expected {what}");
        let ids = value["ids"].as_array().filter(|ids| !ids.is_empty());
        let ids = ids.ok_or_else(|| wrong("\"ids\", a list of token ids"))?;
        let ids = ids.iter().map(|id| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| wrong("token ids, whole numbers"))
        });
        let max_tokens = value["max_tokens"].as_u64().filter(|n| *n > 0);
        let max_tokens = max_tokens.and_then(|n| usize::try_from(n).ok());
        Ok(Request {
            max_tokens: max_tokens.ok_or_else(|| wrong("\"max_tokens\", a number above 0"))?,
            // In the order of the list.
            ..request(ids.collect::<Result<_, String>>()?, i as f64)
        })
    });
    Ok(Workload {
        name: "file",
        requests: requests.collect::<Result<_, String>>()?,
    })
}

/// The options with room for the load: every running sequence can have its longest, or as many as half of the memory holds.
fn engine_options(
    args: &Serving,
    model: &Model,
    options: &EngineOptions,
    load: &Workload,
) -> Result<EngineOptions, Failure> {
    let options = model.resolve(options);
    let block = super::block_bytes(model, options.kv_type)?;
    let longest = load.longest();
    let sequence = (longest.div_ceil(BLOCK_TOKENS) as u64 + 1).saturating_mul(block);
    let sequences = args.sequences().unwrap_or(options.max_running);
    // Prefixes of those that ended stay as long again.
    let wanted = sequence.saturating_mul(2 * sequences as u64);
    Ok(EngineOptions {
        manual_step: true,
        context_length: longest,
        max_running: sequences,
        max_queued: load.requests.len(),
        kv_budget: wanted.min(infer::memory::available() / 2).max(sequence),
        ..options
    })
}

fn result(served: &Served) -> Value {
    let generated: usize = served.answers.iter().map(|a| a.tokens.len()).sum();
    json!({
        "seconds": served.seconds,
        "tokens_per_second": served.tokens_per_second(),
        "generated_per_second": generated as f64 / served.seconds.max(1e-9),
        "first_token": Sorted::new(served.first_tokens().collect()).json(),
        "gap": Sorted::new(served.gaps.clone()).json(),
        "mean_sequences": served.mean_sequences,
        "prefix_hit_tokens": served.stats.prefix_hit_tokens,
        "preemptions": served.stats.preemptions,
    })
}

fn print(out: &mut Output, report: &Value) -> Result<(), Failure> {
    let heading = format!(
        "{:>8}  {:>9}  {:>11}  {:>17}  {:>11}  {:>5}  {:>9}",
        "seconds", "tokens/s", "generated/s", "first token p50", "p95", "batch", "in cache"
    );
    out.text(&format!("{}\n", styled(&heading, Style::Heading)))?;
    for r in report["results"].as_array().into_iter().flatten() {
        let number = |v: &Value| v.as_f64().map_or("-".to_string(), short);
        out.text(&format!(
            "{:>8}  {:>9}  {:>11}  {:>15} s  {:>9} s  {:>5}  {:>9}\n",
            number(&r["seconds"]),
            number(&r["tokens_per_second"]),
            number(&r["generated_per_second"]),
            number(&r["first_token"]["p50"]),
            number(&r["first_token"]["p95"]),
            number(&r["mean_sequences"]),
            number(&r["prefix_hit_tokens"]),
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_in_their_order() {
        let load = parse(r#"[{"ids": [1, 2], "max_tokens": 3}, {"ids": [7], "max_tokens": 1, "shared": 0}]"#);
        let load = load.unwrap();
        assert_eq!((load.tokens(), load.longest()), (7, 5));
        assert!(load.requests[0].arrival < load.requests[1].arrival);
        assert_eq!(load.requests[1].ids, [7]);
    }

    #[test]
    fn what_is_no_request_is_refused_by_its_number() {
        for (text, says) in [
            ("{", "EOF"),
            ("{}", "a list of requests"),
            ("[]", "a list of requests"),
            (r#"[{"ids": [], "max_tokens": 3}]"#, "request 0: expected \"ids\""),
            (
                r#"[{"ids": [-1], "max_tokens": 3}]"#,
                "request 0: expected token ids",
            ),
            (r#"[{"ids": [4294967296], "max_tokens": 3}]"#, "token ids"),
            (
                r#"[{"ids": [1], "max_tokens": 1}, {"ids": [1]}]"#,
                "request 1: expected \"max_tokens\"",
            ),
            (r#"[{"ids": [1], "max_tokens": 0}]"#, "\"max_tokens\""),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }
}
