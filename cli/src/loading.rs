//! Loading a model with a progress bar.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::model::Model;
use infer::options::{LogLevel, ModelOptions};
use serde_json::json;

use crate::log;
use crate::progress::Progress;

/// Loads a model; answers it with the time it took.
pub fn load(path: &Path, options: &ModelOptions) -> infer::Result<(Arc<Model>, Duration)> {
    const STEPS: f32 = 1000.0;
    let started = Instant::now();
    let mut progress = Progress::new("loading", STEPS as u64);
    let model = Model::load(path, options, &mut |fraction| {
        progress.set((fraction * STEPS) as u64);
        true
    })?;
    progress.clear();
    let elapsed = started.elapsed();
    let fields = json!({ "path": path.to_string_lossy(), "seconds": elapsed.as_secs_f64() });
    let message = format!("loaded {}", model.info().description);
    log::record(LogLevel::Info, "model", &message, fields);
    Ok((model, elapsed))
}
