//! The prefix cache of an engine: what its blocks depend on, and where they go when memory is short.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::worker::Machine;
use crate::error::{Error, Result};
use crate::kv::Geometry;
use crate::kv::prefix::{Fingerprint, Namer, PolicyKind, PrefixIndex, Secret};
use crate::kv::tier::{Open, StorageOptions, Tier, TierOptions};
use crate::model::Model;
use crate::options::EngineOptions;

/// An empty index for what an engine computes, and the second tier, if it is to have one.
pub(super) struct PrefixCache {
    pub(super) index: PrefixIndex,
    pub(super) tier: Option<Arc<Tier>>,
}

impl PrefixCache {
    /// Opens the tier.
    ///
    /// # Errors
    /// When the tier's directory is none, or its threads cannot be started.
    pub(super) fn new(
        model: &Model,
        options: &EngineOptions,
        machine: &Machine,
        geometry: &Geometry,
    ) -> Result<Self> {
        let fingerprint = fingerprint(model, options, machine, geometry);
        let tier = tier(options, &fingerprint, geometry.block_bytes())?;
        let secret = tier.as_ref().map_or_else(Secret::random, Tier::secret);
        let namer = Namer::new(secret, 0, fingerprint);
        Ok(Self {
            index: PrefixIndex::new(namer, policy(options.prefix_policy)?),
            tier: tier.map(Arc::new),
        })
    }
}

/// What the blocks of an engine depend on beside their tokens.
fn fingerprint(
    model: &Model,
    options: &EngineOptions,
    machine: &Machine,
    geometry: &Geometry,
) -> Fingerprint {
    let content = model
        .content_hash()
        .map_or(String::new(), |hash| hash.to_string());
    Fingerprint::new(
        geometry,
        &[
            ("cpu_level", &machine.kernels.level().name()),
            ("f16_products", &options.f16_products),
            ("exact", &options.exact),
            ("flash_attention", &options.flash_attention),
            ("elementary_functions", &elementary_functions()),
            ("settings", &blake3::hash(model.settings().as_bytes()).to_hex()),
            ("content", &content),
        ],
    )
}

fn policy(name: &'static str) -> Result<PolicyKind> {
    PolicyKind::from_name(name).ok_or_else(|| Error::Internal {
        place: "engine options".to_string(),
        message: name.to_string(),
    })
}

/// The second tier that the options ask for.
fn tier(options: &EngineOptions, fingerprint: &Fingerprint, block_bytes: usize) -> Result<Option<Tier>> {
    let storage = StorageOptions {
        budget: options.kv_cold_bytes,
        policy: policy(options.kv_cold_policy)?,
        fingerprint: fingerprint.clone(),
        block_bytes,
    };
    let open = match &options.cold_storage {
        Some(open) => {
            let open = Arc::clone(open);
            Box::new(move || open(&storage)) as Open
        }
        None if options.kv_cold_test_mode => storage.in_memory(),
        None if options.kv_cold_dir.is_empty() => return Ok(None),
        None => storage.in_directory(PathBuf::from(&options.kv_cold_dir)),
    };
    Tier::new(TierOptions {
        open,
        block_bytes,
        queue_bytes: options.kv_cold_queue_bytes,
        persist: options.kv_cold_persist,
        patience: Duration::from_millis(options.kv_cold_patience_ms),
        log: options.log.clone(),
    })
    .map(Some)
}

/// Hash of some values of the functions that the platform's mathematical library provides: two machines of one CPU level
/// may round them differently, and then their keys and values differ.
fn elementary_functions() -> String {
    let mut bits = Vec::new();
    for i in 1..=1000u32 {
        let x = f64::from(i) * 0.739;
        let (sin, cos) = x.sin_cos();
        let power = 10_000f64.powf(-x / 739.0);
        let exp = (-0.037 * i as f32).exp();
        for value in [sin, cos, power, x.ln(), f64::from(exp)] {
            bits.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(&bits))
}
