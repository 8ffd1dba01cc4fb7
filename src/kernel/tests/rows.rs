//! Rows of keys and values as they are stored.

use super::super::*;
use super::{Rng, levels};

pub(super) const TYPES: [RowType; 4] = [RowType::F32, RowType::F16, RowType::BF16, RowType::Q8];
const WIDTHS: [usize; 9] = [1, 5, 8, 16, 20, 64, 96, 128, 259];

/// What a stored row stands for, read independently of the kernels.
pub(super) fn values(ty: RowType, row: &[u8]) -> Vec<f64> {
    let pair = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match ty {
        RowType::F32 => row
            .chunks(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect(),
        RowType::F16 => row
            .chunks(2)
            .map(|b| half::f16::from_bits(pair(b)).to_f64_const())
            .collect(),
        RowType::BF16 => row
            .chunks(2)
            .map(|b| half::bf16::from_bits(pair(b)).to_f64_const())
            .collect(),
        RowType::Q8 => {
            let scale = f64::from(f32::from_le_bytes(row[..4].try_into().unwrap()));
            row[4..].iter().map(|&b| scale * f64::from(b as i8)).collect()
        }
    }
}

pub(super) fn stored(k: &Kernels, ty: RowType, x: &[f32], width: usize) -> Vec<u8> {
    let bytes = ty.row_bytes(width).unwrap();
    let mut rows = vec![0xee; bytes * (x.len() / width)];
    for (x, row) in x.chunks(width).zip(rows.chunks_mut(bytes)) {
        k.store_row(ty, x, row);
    }
    rows
}

#[test]
fn a_stored_row_is_within_its_types_precision_and_the_same_at_every_level() {
    let scalar = Kernels::for_level(CpuLevel::Scalar).unwrap();
    for ty in TYPES {
        for width in WIDTHS {
            let x = Rng(width as u64).vec(width);
            let expected = stored(scalar, ty, &x, width);
            let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (v, x) in values(ty, &expected).iter().zip(&x) {
                let tolerance = match ty {
                    RowType::F32 => 0.0,
                    RowType::F16 => x.abs() / 2048.0 + 3e-8,
                    RowType::BF16 => x.abs() / 256.0,
                    RowType::Q8 => largest / 253.9,
                };
                assert!(
                    (v - f64::from(*x)).abs() <= f64::from(tolerance),
                    "{ty:?}: {v} against {x}"
                );
            }
            for k in levels() {
                assert_eq!(stored(k, ty, &x, width), expected, "{k:?} {ty:?} {width}");
            }
        }
    }
}

#[test]
fn halves_round_and_overflow_as_the_half_crate_does_at_every_level() {
    let mut x: Vec<f32> = (0..4096u32)
        .map(|i| f32::from_bits(i.wrapping_mul(0x0010_3a57)))
        .collect();
    x.extend([
        65519.9,
        65520.0,
        1e30,
        -1e30,
        6e-8,
        2.9e-8,
        f32::INFINITY,
        0.0,
        -0.0,
    ]);
    x.retain(|v| !v.is_nan());
    for k in levels() {
        let row = stored(k, RowType::F16, &x, x.len());
        for (b, x) in row.chunks(2).zip(&x) {
            assert_eq!(
                u16::from_le_bytes([b[0], b[1]]),
                half::f16::from_f32_const(*x).to_bits(),
                "{k:?} {x}"
            );
        }
    }
}

#[test]
fn every_half_and_bfloat16_is_read_as_the_half_crate_reads_it_at_every_level() {
    let row: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let mut block = row.clone();
    block.resize(attention::BLOCK * row.len(), 0);
    for k in levels() {
        for ty in [RowType::F16, RowType::BF16] {
            let mut sum = vec![0.0; 1 << 16];
            k.weighted_sums(ty, (&block, &[]), (0, 1), (&[1.0], 0, 1), &mut sum, 1 << 16);
            for (y, v) in sum.iter().zip(values(ty, &row)) {
                let y = f64::from(*y);
                assert!(y == v || (y.is_nan() && v.is_nan()), "{k:?} {ty:?}: {y} for {v}");
            }
        }
    }
}
