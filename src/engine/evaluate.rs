//! Logits of every position of a token sequence, without an engine's queue.

use super::worker::Machine;
use crate::error::{Error, Result};
use crate::kv::{Geometry, KvCache};
use crate::model::{ComponentTimes, Compute, Model, Row, Step, Wants, Workspace};
use crate::options::EngineOptions;

/// Positions computed at once.
const CHUNK: usize = 64;

/// Computes the logits after each of `ids`, fed as they are, and hands them to `sink` in order: the position and one
/// number per vocabulary entry. Of the options `cpu_level`, `threads`, `shared_threads`, `kv_type`, `f16_products`,
/// `flash_attention` and `exact` apply.
///
/// # Errors
/// No ids, an id outside the vocabulary, memory or threads that cannot be had, or what `sink` answers.
pub fn logits(
    model: &Model,
    ids: &[u32],
    options: &EngineOptions,
    sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let body = model.body()?;
    let n_vocab = model.info().n_vocab;
    if ids.is_empty() {
        return Err(Error::InvalidArgument(
            "computing logits needs at least one token id".to_string(),
        ));
    }
    if let Some((i, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= n_vocab) {
        return Err(Error::InvalidArgument(format!(
            "id {i} is {id}, but the vocabulary has {n_vocab} tokens"
        )));
    }
    let machine = Machine::new(&model.resolve(options))?;
    let geometry = Geometry::new(machine.kv_type, body.layer_shapes())?;
    let budget = geometry.sequence_bytes(ids.len(), ids.len())?;
    let mut kv = KvCache::new(geometry, 1, ids.len(), budget)?;
    let Some(sequence) = kv.open() else {
        return Err(Error::Internal {
            place: "logits".to_string(),
            message: "no sequence".to_string(),
        });
    };
    let rows = CHUNK.min(ids.len());
    let mut workspace = Workspace::new(
        &body.widths(),
        rows,
        rows,
        machine.pool.threads(),
        ids.len(),
        options.attention(),
    )?;
    for (chunk, ids) in ids.chunks(CHUNK).enumerate() {
        let first = chunk * CHUNK;
        let rows: Vec<Row> = ids
            .iter()
            .enumerate()
            .map(|(i, &token)| Row {
                token,
                position: (first + i) as u32,
                sequence,
                wants: Wants::Logits,
            })
            .collect();
        kv.reserve(sequence, rows.len())
            .map_err(|full| crate::memory::MemoryError::Exhausted {
                what: format!("the key/value cache ({full})"),
                bytes: budget as usize,
            })?;
        body.forward(&mut Step {
            compute: Compute {
                kernels: machine.kernels,
                pool: &machine.pool,
                precision: options.precision(),
                attention: options.attention(),
            },
            rows: &rows,
            kv: &mut kv,
            workspace: &mut workspace,
            times: &mut ComponentTimes::default(),
            cancelled: &|| false,
        })?;
        kv.advance(sequence, rows.len());
        let (logits, width) = workspace.logits();
        for (i, logits) in logits.chunks_exact(width).enumerate() {
            sink(first + i, logits)?;
        }
    }
    Ok(())
}
