//! Quantization: how much is lost, against what the reference loses on the same values, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use infer::quant::{QuantizeError, TensorType, dequantize_row, quantize_row};

const ROW: usize = 512;
const ROWS: usize = 64;

/// How the values of a test are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spread {
    /// About normal, as most weights are.
    Normal,
    /// Mostly small with rare values ten times as large.
    HeavyTails,
}

/// Seeded values, made with additions, multiplications and one division each, so that they are the same everywhere.
fn values(spread: Spread) -> Vec<f32> {
    let mut state = 7u64;
    let mut uniform = || {
        // SplitMix64, in 0…1.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    };
    (0..ROWS * ROW)
        .map(|_| {
            let normal = uniform() + uniform() + uniform() + uniform() - 2.0;
            let tail = uniform();
            match spread {
                Spread::Normal => 0.05 * normal,
                Spread::HeavyTails => 0.01 * normal / (tail + 0.02),
            }
        })
        .collect()
}

/// Root mean square error relative to that of the values.
fn error(ty: TensorType, x: &[f32]) -> f64 {
    let mut bytes = vec![0xaa; ty.row_bytes(ROW).unwrap()];
    let mut back = vec![0.0; ROW];
    let (mut lost, mut all) = (0.0, 0.0);
    for row in x.chunks(ROW) {
        quantize_row(ty, row, &mut bytes).unwrap();
        dequantize_row(ty, &bytes, &mut back).unwrap();
        for (x, y) in row.iter().zip(&back) {
            lost += f64::from(x - y).powi(2);
            all += f64::from(*x).powi(2);
        }
    }
    (lost / all).sqrt()
}

/// Relative root mean square errors of llama.cpp's `ggml_quantize_chunk` (ggml 0.25.3, no importance matrix) on
/// [`values`], measured with the `gguf` Python package's dequantization: normal, heavy tails.
const REFERENCE: [(TensorType, f64, f64); 15] = [
    (TensorType::F16, 2.06986e-04, 2.00625e-04),
    (TensorType::BF16, 1.66424e-03, 1.64214e-03),
    (TensorType::Q4_0, 8.22327e-02, 1.38572e-01),
    (TensorType::Q4_1, 7.62195e-02, 1.14867e-01),
    (TensorType::Q5_0, 4.07694e-02, 7.83155e-02),
    (TensorType::Q5_1, 3.69339e-02, 5.56818e-02),
    (TensorType::Q8_0, 5.09116e-03, 1.02270e-02),
    (TensorType::Q2_K, 2.91127e-01, 3.60748e-01),
    (TensorType::Q3_K, 1.46615e-01, 1.77633e-01),
    (TensorType::Q4_K, 6.90900e-02, 1.04821e-01),
    (TensorType::Q5_K, 3.50294e-02, 5.43589e-02),
    (TensorType::Q6_K, 1.70869e-02, 3.02472e-02),
    (TensorType::IQ4_NL, 7.38588e-02, 1.12020e-01),
    (TensorType::IQ4_XS, 7.44473e-02, 1.13205e-01),
    (TensorType::MXFP4, 1.16677e-01, 1.58347e-01),
];

#[test]
fn errors_are_within_two_percent_of_the_reference() {
    for (spread, pick) in [(Spread::Normal, 0), (Spread::HeavyTails, 1)] {
        let x = values(spread);
        for (ty, normal, heavy) in REFERENCE {
            let reference = [normal, heavy][pick];
            let found = error(ty, &x);
            assert!(
                found <= 1.02 * reference && found >= 0.5 * reference,
                "{ty}, {spread:?}: error {found:e}, reference {reference:e}"
            );
        }
    }
}

#[test]
fn formats_of_32_values_lose_what_the_reference_loses() {
    use TensorType::*;
    for (ty, normal, heavy) in REFERENCE {
        if !matches!(ty, F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | MXFP4) {
            continue;
        }
        for (spread, reference) in [(Spread::Normal, normal), (Spread::HeavyTails, heavy)] {
            let found = error(ty, &values(spread));
            assert!(
                (found / reference - 1.0).abs() < 1e-4,
                "{ty}, {spread:?}: {found:e} for {reference:e}"
            );
        }
    }
}

#[test]
fn every_supported_type_can_be_quantized_to() {
    for ty in TensorType::all() {
        let n = ty.block_len();
        let mut bytes = vec![0; ty.block_bytes()];
        let result = quantize_row(ty, &vec![0.5; n], &mut bytes);
        if ty.is_supported() {
            result.unwrap();
            let mut back = vec![0.0; n];
            dequantize_row(ty, &bytes, &mut back).unwrap();
            for y in back {
                assert!((y - 0.5).abs() < 0.01, "{ty}: {y}");
            }
        } else {
            assert_eq!(result, Err(QuantizeError::Unsupported { ty }));
        }
    }
}

#[test]
fn a_value_that_is_not_finite_is_refused_with_its_position() {
    for ty in TensorType::all().filter(|t| t.is_supported()) {
        let mut bytes = vec![0; ty.row_bytes(ROW).unwrap()];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.25; ROW];
            x[300] = bad;
            let e = quantize_row(ty, &x, &mut bytes).unwrap_err();
            assert!(
                matches!(e, QuantizeError::Value { position: 300, .. }),
                "{ty}: {e}"
            );
            assert!(e.to_string().contains("value 300"), "{e}");
        }
    }
}

#[test]
fn what_comes_back_is_finite_for_extreme_values() {
    let small = f32::from_bits(1);
    for ty in TensorType::all().filter(|t| t.is_supported()) {
        let mut bytes = vec![0; ty.row_bytes(ROW).unwrap()];
        let mut back = vec![0.0; ROW];
        for scale in [0.0, small, 1e-40, 1e-20, 1e-8, 1.0, 65504.0, 3e38, f32::MAX] {
            for signs in [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [1.0, 0.0], [-1.0, 1e-3]] {
                let x: Vec<f32> = (0..ROW).map(|i| scale * signs[i % 2]).collect();
                match quantize_row(ty, &x, &mut bytes) {
                    Ok(()) => {
                        dequantize_row(ty, &bytes, &mut back).unwrap();
                        assert!(back.iter().all(|y| y.is_finite()), "{ty}: {scale:e}");
                        let bound = 1.25 * scale + 1e-4;
                        assert!(back.iter().all(|y| y.abs() <= bound), "{ty}: {scale:e}");
                    }
                    Err(e) => assert!(scale > 65504.0, "{ty}: {e}"),
                }
            }
        }
    }
}

#[test]
fn values_that_do_not_fill_blocks_or_bytes_are_refused() {
    let e = quantize_row(TensorType::Q4_K, &[0.0; 128], &mut [0; 72]).unwrap_err();
    assert!(
        e.to_string().contains("Q4_K: 128 values do not fit 72 bytes"),
        "{e}"
    );
    assert!(quantize_row(TensorType::Q8_0, &[0.0; 32], &mut [0; 33]).is_err());
}
