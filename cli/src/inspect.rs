//! `infer inspect`: what a GGUF file holds, whether or not this version can run it.

use std::fmt::Write;
use std::path::PathBuf;

use infer::gguf::{Array, Gguf, Metadata, Value};
use infer::model::{MemoryEstimate, Model};
use infer::options::{EngineOptions, ModelOptions};
use serde_json::{Map, Value as Json, json};

use crate::exit::{OK, Outcome};
use crate::output::{Lines, Output, Style, bytes, count, printable, styled};

/// Elements of a longer array that are shown without --all.
const SHOWN_ELEMENTS: usize = 8;
/// Characters of a longer text that are shown without --all.
const SHOWN_CHARACTERS: usize = 100;

/// Show metadata, tensors, sizes and a memory estimate of a GGUF file.
///
/// Any well-formed file is shown, also of architectures and tensor types that this version cannot run. Of a split
/// model, name the first file.
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file.
    path: PathBuf,
    /// Print long arrays and texts of the metadata in full.
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let report = Report::of(args)?;
    let mut out = Output::new();
    if json {
        out.json(&report.json())?;
    } else {
        out.text(&report.text())?;
        out.flush()?;
    }
    Ok(OK)
}

/// Everything that is shown.
struct Report<'a> {
    args: &'a Args,
    gguf: Gguf,
    types: Vec<TypeTotal>,
    parameters: u64,
    estimate: infer::Result<MemoryEstimate>,
}

/// The tensors of one type together.
struct TypeTotal {
    name: &'static str,
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

impl<'a> Report<'a> {
    fn of(args: &'a Args) -> infer::Result<Self> {
        let gguf = Gguf::open(&args.path)?;
        let one_sequence = EngineOptions {
            max_running: 1,
            ..EngineOptions::default()
        };
        let estimate = Model::estimate(&args.path, &ModelOptions::default(), &one_sequence);
        let types = totals(&gguf);
        let parameters = types.iter().fold(0, |n: u64, t| n.saturating_add(t.parameters));
        Ok(Self {
            args,
            gguf,
            types,
            parameters,
            estimate,
        })
    }

    fn architecture(&self) -> Option<&str> {
        self.gguf
            .metadata()
            .str("general.architecture")
            .unwrap_or_default()
    }

    /// The context the model was trained for.
    fn context_length(&self) -> Option<u64> {
        let key = format!("{}.context_length", self.architecture()?);
        self.gguf.metadata().u64(&key).unwrap_or_default()
    }

    /// Why this version cannot run the file, or why no estimate was made.
    fn refusal(&self) -> Option<String> {
        if self.gguf.tensors().is_empty() {
            return Some("the file holds a vocabulary without weights".to_string());
        }
        if let Err(e) = &self.estimate {
            return Some(e.to_string());
        }
        let foreign = self.gguf.tensors().iter().find(|t| !t.ty.is_supported())?;
        Some(format!(
            "tensor '{}' has the type {}, which this version cannot compute with",
            foreign.name,
            foreign.ty.name()
        ))
    }

    fn json(&self) -> Json {
        let gguf = &self.gguf;
        let metadata: Map<String, Json> = gguf
            .metadata()
            .iter()
            .map(|(key, value)| (key.to_string(), json_value(value, self.args.all)))
            .collect();
        let tensors: Vec<Json> = gguf
            .tensors()
            .iter()
            .map(|t| {
                json!({
                    "name": t.name,
                    "type": t.ty.name(),
                    "shape": t.dims,
                    "bytes": t.n_bytes,
                    "file": t.shard,
                    "offset": t.offset,
                })
            })
            .collect();
        let types: Vec<Json> = self
            .types
            .iter()
            .map(|t| {
                json!({
                    "type": t.name,
                    "tensors": t.tensors,
                    "parameters": t.parameters,
                    "bytes": t.bytes,
                })
            })
            .collect();
        let refusal = self.refusal();
        let memory = match (&self.estimate, &refusal) {
            (Ok(m), None) => json!({
                "context_length": self.context_length(),
                "weights": m.weights,
                "kv_cache": m.kv_cache,
                "workspace": m.workspace,
                "total": m.total,
            }),
            _ => Json::Null,
        };
        let files: Vec<String> = gguf
            .paths()
            .iter()
            .map(|p| p.to_string_lossy().into_owned())
            .collect();
        json!({
            "path": self.args.path.to_string_lossy(),
            "version": gguf.version(),
            "alignment": gguf.alignment(),
            "files": files,
            "file_bytes": gguf.file_bytes(),
            "architecture": self.architecture(),
            "parameters": self.parameters,
            "tensor_bytes": gguf.data_bytes(),
            "runs": refusal.is_none(),
            "reason": refusal,
            "memory": memory,
            "types": types,
            "metadata": metadata,
            "tensors": tensors,
        })
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.header(&mut out);
        self.metadata(&mut out);
        self.tensors(&mut out);
        self.memory(&mut out);
        out
    }

    fn header(&self, out: &mut String) {
        let gguf = &self.gguf;
        let files = gguf.paths();
        let path = self.args.path.display().to_string();
        heading(out, &printable(&path, Lines::Escape));
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<14}{value}");
        };
        line(
            "format",
            format!("GGUF version {}, alignment {}", gguf.version(), gguf.alignment()),
        );
        line(
            "size",
            match files.len() {
                0 | 1 => bytes(gguf.file_bytes()),
                n => format!("{} in {n} files", bytes(gguf.file_bytes())),
            },
        );
        line(
            "architecture",
            printable(self.architecture().unwrap_or("none given"), Lines::Escape).into_owned(),
        );
        line("parameters", count(self.parameters));
        if let Some(reason) = self.refusal() {
            line("runs", format!("no: {}", printable(&reason, Lines::Escape)));
        } else {
            line("runs", "yes".to_string());
        }
    }

    fn metadata(&self, out: &mut String) {
        let metadata: &Metadata = self.gguf.metadata();
        heading(out, &format!("Metadata ({})", metadata.len()));
        let width = metadata.iter().map(|(key, _)| key.chars().count()).max();
        let width = width.unwrap_or_default().min(50);
        for (key, value) in metadata.iter() {
            let text = text_value(value, self.args.all);
            let text = printable(&text, Lines::Escape);
            let key = printable(key, Lines::Escape);
            let ty = styled(&format!("{:<14}", type_of(value)), Style::Dim);
            let _ = writeln!(out, "  {key:<width$}  {ty}  {text}");
        }
    }

    fn tensors(&self, out: &mut String) {
        let tensors = self.gguf.tensors();
        heading(out, &format!("Tensors ({})", tensors.len()));
        let width = tensors.iter().map(|t| t.name.chars().count()).max().unwrap_or(0);
        for t in tensors {
            let dims: Vec<String> = t.dims.iter().map(u64::to_string).collect();
            let name = printable(&t.name, Lines::Escape);
            let _ = writeln!(
                out,
                "  {name:<width$}  {:<8} {:<20} {:>12}",
                t.ty.name(),
                dims.join(" x "),
                bytes(t.n_bytes)
            );
        }
        if self.types.is_empty() {
            return;
        }
        heading(out, "Types");
        for t in &self.types {
            let _ = writeln!(
                out,
                "  {:<8} {:>6} tensors {:>12} parameters {:>12}",
                t.name,
                t.tensors,
                count(t.parameters),
                bytes(t.bytes)
            );
        }
    }

    fn memory(&self, out: &mut String) {
        let (Ok(m), None) = (&self.estimate, self.refusal()) else {
            return;
        };
        match self.context_length() {
            Some(n) => heading(out, &format!("Memory for one sequence of {n} tokens")),
            None => heading(out, "Memory for one sequence"),
        }
        for (name, n) in [
            ("weights", m.weights),
            ("kv cache", m.kv_cache),
            ("workspace", m.workspace),
            ("total", m.total),
        ] {
            let _ = writeln!(out, "  {name:<10} {:>12}", bytes(n));
        }
    }
}

fn heading(out: &mut String, text: &str) {
    let _ = writeln!(out, "{}", styled(text, Style::Heading));
}

/// Totals by type, the largest first.
fn totals(gguf: &Gguf) -> Vec<TypeTotal> {
    let mut totals: Vec<TypeTotal> = Vec::new();
    for t in gguf.tensors() {
        let name = t.ty.name();
        match totals.iter_mut().find(|total| total.name == name) {
            Some(total) => {
                total.tensors += 1;
                total.parameters = total.parameters.saturating_add(t.n_elements());
                total.bytes = total.bytes.saturating_add(t.n_bytes);
            }
            None => totals.push(TypeTotal {
                name,
                tensors: 1,
                parameters: t.n_elements(),
                bytes: t.n_bytes,
            }),
        }
    }
    totals.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    totals
}

/// `u32`, or `string[32000]` for an array.
fn type_of(value: &Value) -> String {
    match value {
        Value::Array(a) => {
            let name = value.type_name();
            format!("{}[{}]", name.strip_prefix("array of ").unwrap_or(name), a.len())
        }
        _ => value.type_name().to_string(),
    }
}

/// A metadata value as JSON. A long array becomes `{"array": type, "length": n, "first": [...]}`, a long text
/// ends with an ellipsis, unless `all`. What JSON has no number for (NaN, infinities) becomes a string.
fn json_value(value: &Value, all: bool) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => float(f64::from(*v), &v.to_string()),
        Value::Bool(v) => json!(v),
        Value::String(v) => Json::String(shortened(v, all)),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => float(*v, &v.to_string()),
        Value::Array(a) if all || a.len() <= SHOWN_ELEMENTS => Json::Array(elements(a, a.len(), all)),
        Value::Array(a) => json!({
            "array": value.type_name().strip_prefix("array of ").unwrap_or_default(),
            "length": a.len(),
            "first": elements(a, SHOWN_ELEMENTS, all),
        }),
    }
}

/// The number whose shortest text is `text`, so that an f32 keeps the digits its author wrote.
fn float(v: f64, text: &str) -> Json {
    match text.parse::<f64>() {
        Ok(v) if v.is_finite() => json!(v),
        _ => Json::String(v.to_string()),
    }
}

fn elements(array: &Array, n: usize, all: bool) -> Vec<Json> {
    macro_rules! each {
        ($values:expr, $variant:ident) => {
            $values
                .iter()
                .take(n)
                .map(|v| json_value(&Value::$variant(v.clone()), all))
                .collect()
        };
    }
    match array {
        Array::U8(v) => each!(v, U8),
        Array::I8(v) => each!(v, I8),
        Array::U16(v) => each!(v, U16),
        Array::I16(v) => each!(v, I16),
        Array::U32(v) => each!(v, U32),
        Array::I32(v) => each!(v, I32),
        Array::F32(v) => each!(v, F32),
        Array::Bool(v) => each!(v, Bool),
        Array::String(v) => each!(v, String),
        Array::U64(v) => each!(v, U64),
        Array::I64(v) => each!(v, I64),
        Array::F64(v) => each!(v, F64),
    }
}

fn shortened(text: &str, all: bool) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) if !all => format!("{}…", text.get(..end).unwrap_or_default()),
        _ => text.to_string(),
    }
}

/// A metadata value for people.
fn text_value(value: &Value, all: bool) -> String {
    let shown = |v: &Json| match v {
        Json::String(s) => s.clone(),
        v => v.to_string(),
    };
    match value {
        Value::Array(a) => {
            let n = if all { a.len() } else { a.len().min(SHOWN_ELEMENTS) };
            let mut parts: Vec<String> = elements(a, n, all).iter().map(Json::to_string).collect();
            if n < a.len() {
                parts.push("…".to_string());
            }
            format!("[{}]", parts.join(", "))
        }
        value => shown(&json_value(value, all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arrays_and_texts_are_abbreviated_unless_all_is_asked_for() {
        let array = Value::Array(Array::U32((0..20).collect()));
        assert_eq!(
            json_value(&array, false),
            json!({ "array": "u32", "length": 20, "first": [0, 1, 2, 3, 4, 5, 6, 7] })
        );
        assert_eq!(json_value(&array, true), json!((0..20).collect::<Vec<u32>>()));
        assert_eq!(text_value(&array, false), "[0, 1, 2, 3, 4, 5, 6, 7, …]");
        let text = Value::String("ä".repeat(150));
        assert_eq!(text_value(&text, false), "ä".repeat(100) + "…");
        assert_eq!(text_value(&text, true), "ä".repeat(150));
    }

    #[test]
    fn floats_keep_their_digits_and_non_numbers_become_strings() {
        assert_eq!(json_value(&Value::F32(1e-5), false), json!(1e-5));
        assert_eq!(json_value(&Value::F32(f32::NAN), false), json!("NaN"));
        assert_eq!(json_value(&Value::F64(f64::INFINITY), false), json!("inf"));
    }
}
