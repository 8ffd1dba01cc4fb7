//! The prefix cache of an engine: what its blocks depend on.

use super::worker::Machine;
use crate::error::{Error, Result};
use crate::kv::Geometry;
use crate::kv::prefix::{Fingerprint, Namer, PolicyKind, PrefixIndex, Secret};
use crate::model::Model;
use crate::options::EngineOptions;

/// An empty index for what this engine computes.
pub(super) fn prefix_index(
    model: &Model,
    options: &EngineOptions,
    machine: &Machine,
    geometry: &Geometry,
) -> Result<PrefixIndex> {
    let content = model
        .content_hash()
        .map_or(String::new(), |hash| hash.to_string());
    let fingerprint = Fingerprint::new(
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
    );
    let policy = PolicyKind::from_name(options.prefix_policy).ok_or_else(|| Error::Internal {
        place: "engine options".to_string(),
        message: options.prefix_policy.to_string(),
    })?;
    Ok(PrefixIndex::new(
        Namer::new(Secret::random(), 0, fingerprint),
        policy,
    ))
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
