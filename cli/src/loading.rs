//! Loading a model with a progress bar.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use infer::model::Model;
use infer::options::ModelOptions;

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
    Ok((model, started.elapsed()))
}
