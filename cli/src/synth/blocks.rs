//! Random rows of any tensor type without quantizing: random levels, with scales that give the spread wanted.

#[cfg(test)]
use infer::quant::dequantize_row;
use infer::quant::{TensorType, quantize_row};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// Stream number `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut this = Self(seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
        this.0 = this.next();
        this
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// About normal with standard deviation 1: the sum of eight bytes.
    pub fn normal(&mut self) -> f32 {
        // The variance of a uniform byte is (256² − 1) / 12.
        const DEVIATION: f32 = 209.02;
        let sum: u32 = self.next().to_le_bytes().iter().map(|&b| u32::from(b)).sum();
        (sum as f32 - 8.0 * 127.5) / DEVIATION
    }
}

/// Fills `out`, whole blocks of `ty`, with random values of standard deviation `deviation`, or within a factor of √2 of it
/// for MXFP4, whose scales are powers of two.
pub fn fill(ty: TensorType, deviation: f32, random: &mut Random, out: &mut [u8]) {
    use TensorType::*;
    if matches!(ty, F32 | F16 | BF16) {
        for value in out.chunks_mut(ty.block_bytes()) {
            // One value of a finite number to bytes of its length: that cannot fail.
            let _ = quantize_row(ty, &[deviation * random.normal()], value);
        }
        return;
    }
    random.fill(out);
    let scale = deviation / unit(ty);
    let f16 = |x: f32| {
        let mut bytes = [0; 2];
        let _ = quantize_row(F16, &[x], &mut bytes);
        bytes
    };
    let (plus, minus) = (f16(scale), f16(-scale));
    let (min, exponent) = (
        f16(minimum(ty) * scale),
        (128.5 + scale.log2()).clamp(0.0, 254.0) as u8,
    );
    for block in out.chunks_exact_mut(ty.block_bytes()) {
        // Levels that are not symmetric around zero are so on average, with either sign of the scale.
        let either = if block[2] & 1 == 0 { plus } else { minus };
        match ty {
            Q4_0 | Q5_0 | Q8_0 | IQ4_NL | IQ4_XS => block[..2].copy_from_slice(&either),
            Q4_1 | Q5_1 => {
                block[..2].copy_from_slice(&plus);
                block[2..4].copy_from_slice(&min);
            }
            Q3_K => block[108..].copy_from_slice(&plus),
            Q6_K => block[208..].copy_from_slice(&plus),
            MXFP4 => block[0] = exponent,
            Q2_K => {
                for sub in &mut block[..16] {
                    // The same scale and minimum.
                    *sub = (*sub & 15) * 0x11;
                }
                block[80..82].copy_from_slice(&plus);
                block[82..].copy_from_slice(&min);
            }
            Q4_K | Q5_K => {
                // The same 6-bit number, 32 to 63, for all scales and minima.
                let sub = block[4] & 31 | 32;
                block[..2].copy_from_slice(&plus);
                block[2..4].copy_from_slice(&min);
                block[4..12].fill(sub | (sub >> 4) << 6);
                block[12..16].fill((sub & 15) * 0x11);
            }
            _ => {}
        }
    }
}

/// What a minimum has to be, in scales, for levels to lie evenly around zero; formats that add it need it negative.
fn minimum(ty: TensorType) -> f32 {
    match ty {
        TensorType::Q4_1 => -7.5,
        TensorType::Q5_1 => -15.5,
        TensorType::Q2_K => 1.5,
        TensorType::Q4_K => 7.5,
        TensorType::Q5_K => 15.5,
        _ => 0.0,
    }
}

/// Standard deviation of random values for a scale of 1.
fn unit(ty: TensorType) -> f32 {
    use TensorType::*;
    // Of whole numbers 0 to n − 1, and the root mean square of −n / 2 to n / 2 − 1.
    let even = |n: f32| ((n * n - 1.0) / 12.0).sqrt();
    let signed = |n: f32| ((n * n - 1.0) / 12.0 + 0.25).sqrt();
    let book = |book: [i8; 16]| (book.map(|b| f32::from(b) * f32::from(b)).iter().sum::<f32>() / 16.0).sqrt();
    match ty {
        Q4_0 => signed(16.0),
        Q4_1 => even(16.0),
        Q5_0 => signed(32.0),
        Q5_1 => even(32.0),
        Q8_0 => signed(256.0),
        // Times the root mean square of the sub-scales.
        Q2_K => even(4.0) * 8.803,
        Q3_K => signed(8.0) * signed(64.0),
        Q4_K => even(16.0) * 48.385,
        Q5_K => even(32.0) * 48.385,
        Q6_K => signed(64.0) * signed(256.0),
        IQ4_NL => book(infer::quant::iq4_nl::CODEBOOK),
        IQ4_XS => book(infer::quant::iq4_nl::CODEBOOK) * signed(64.0),
        // The codebook's values are doubled, and the exponent's bias is 127.
        MXFP4 => book(infer::quant::mxfp4::CODEBOOK),
        _ => 1.0,
    }
}

/// Standard deviation and mean of the values of `bytes`.
#[cfg(test)]
fn spread(ty: TensorType, bytes: &[u8]) -> (f64, f64) {
    let n = bytes.len() / ty.block_bytes() * ty.block_len();
    let mut x = vec![0.0; n];
    dequantize_row(ty, bytes, &mut x).unwrap();
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
    let square = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
    (square.sqrt(), mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_rows_have_the_spread_asked_for() {
        for ty in TensorType::all().filter(|t| t.is_supported()) {
            for deviation in [0.01f32, 1.0 / 8192f32.sqrt()] {
                let mut bytes = vec![0; ty.row_bytes(1 << 16).unwrap()];
                fill(ty, deviation, &mut Random::new(1, 2), &mut bytes);
                let (found, mean) = spread(ty, &bytes);
                let ratio = found / f64::from(deviation);
                let within = if ty == TensorType::MXFP4 { 1.42 } else { 1.03 };
                assert!(
                    ratio < within && ratio > 1.0 / within,
                    "{ty}: {found} for {deviation}"
                );
                assert!(mean.abs() < 0.03 * found, "{ty}: mean {mean}");
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_rows_and_another_seed_others() {
        let row = |seed| {
            let mut bytes = vec![0; 1440];
            fill(TensorType::Q4_K, 0.01, &mut Random::new(seed, 0), &mut bytes);
            bytes
        };
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
    }
}
