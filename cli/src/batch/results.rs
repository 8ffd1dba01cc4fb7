//! The output of a batch: one line per result, and what an earlier run left of it.
//!
//! A result is written with one call, line end included, so a run that is killed leaves whole lines, and of the last
//! one perhaps a part. That part is cut off when the next run opens the file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::exit::Failure;

/// Results on disk.
pub struct Results {
    file: File,
    name: String,
    /// For each line of the input that has a result: a hash of the id in it.
    lines: HashMap<u64, u64>,
    failed: u64,
}

/// How many there are.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Lines with a result.
    pub lines: u64,
    /// Those whose result is an error.
    pub failed: u64,
}

impl Results {
    /// Opens the output of an input, or creates it. Only one run at a time can have it open.
    pub fn open(path: &Path, input: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let same = |a: &Path, b: &Path| Some(a.canonicalize().ok()? == b.canonicalize().ok()?);
        if same(path, input) == Some(true) {
            return Err(Failure::Usage(format!(
                "{name} is the input: the output needs a file of its own"
            )));
        }
        let failed = |e| Failure::io(&format!("open {name}"), &e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Failed(format!("{name} is being written by another run")));
            }
            // Some file systems have no locks.
            Err(TryLockError::Error(_)) => {}
        }
        let mut this = Self {
            file,
            name,
            lines: HashMap::new(),
            failed: 0,
        };
        if this.file.metadata().is_ok_and(|m| m.is_file()) {
            this.resume()?;
        }
        Ok(this)
    }

    /// Learns what the file has, and cuts off a part of a line at its end.
    fn resume(&mut self) -> Result<(), Failure> {
        let name = self.name.clone();
        let failed = |e| Failure::io(&format!("continue {name}"), &e);
        let mut reader = BufReader::new(&self.file);
        let (mut end, mut number) = (0, 0);
        let mut bytes = Vec::new();
        let mut found = Vec::new();
        loop {
            bytes.clear();
            let n = reader.read_until(b'\n', &mut bytes).map_err(failed)?;
            if n == 0 || !bytes.ends_with(b"\n") {
                break;
            }
            number += 1;
            end += n as u64;
            let result: Option<Value> = serde_json::from_slice(&bytes).ok();
            let line = result.as_ref().and_then(|r| r["line"].as_u64());
            let (Some(result), Some(line)) = (result, line) else {
                return Err(Failure::Failed(format!(
                    "line {number} of {name} is no result of a batch: choose another output"
                )));
            };
            found.push((line, hash(result.get("id")), result.get("error").is_some()));
        }
        for (line, id, is_error) in found {
            self.failed += u64::from(self.lines.insert(line, id).is_none() && is_error);
        }
        self.file.set_len(end).map_err(failed)?;
        self.file.seek(SeekFrom::Start(end)).map_err(failed)?;
        Ok(())
    }

    /// Whether a line of the input has a result.
    ///
    /// # Errors
    /// When the result has another id: it is of another input.
    pub fn has(&self, line: u64, id: Option<&Value>) -> Result<bool, Failure> {
        match self.lines.get(&line) {
            None => Ok(false),
            Some(known) if *known == hash(id) => Ok(true),
            Some(_) => Err(Failure::Failed(format!(
                "{} has a result for line {line} with another id: it belongs to another input",
                self.name
            ))),
        }
    }

    /// Lines with a result.
    pub fn len(&self) -> u64 {
        self.lines.len() as u64
    }

    /// How many lines there are, and how many are errors.
    pub fn counts(&self) -> Counts {
        Counts {
            lines: self.len(),
            failed: self.failed,
        }
    }

    /// Writes the result of a line.
    pub fn write(
        &mut self,
        line: u64,
        id: Option<Value>,
        is_error: bool,
        fields: Vec<(&'static str, Value)>,
    ) -> Result<(), Failure> {
        self.lines.insert(line, hash(id.as_ref()));
        self.failed += u64::from(is_error);
        let mut object = Map::new();
        object.insert("line".to_string(), json!(line));
        if let Some(id) = id {
            object.insert("id".to_string(), id);
        }
        object.extend(fields.into_iter().map(|(key, value)| (key.to_string(), value)));
        let text = format!("{}\n", Value::Object(object));
        self.file
            .write_all(text.as_bytes())
            .map_err(|e| Failure::io(&format!("write to {}", self.name), &e))
    }

    /// Has the system write everything to the disk.
    pub fn close(&self) -> Result<(), Failure> {
        match self.file.sync_all() {
            Err(e) if self.file.metadata().is_ok_and(|m| m.is_file()) => {
                Err(Failure::io(&format!("write {}", self.name), &e))
            }
            // A pipe or a device has no disk.
            _ => Ok(()),
        }
    }
}

fn hash(id: Option<&Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.filter(|id| !id.is_null())
        .map(Value::to_string)
        .hash(&mut hasher);
    hasher.finish()
}
