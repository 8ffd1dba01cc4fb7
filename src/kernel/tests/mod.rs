//! Tests of the kernels at every level this CPU has.

mod arrays;
mod attention;
#[cfg(unix)]
mod guard_pages;
mod ops;
mod products;
mod rows;
mod same_bits;

use super::*;

/// A small generator (SplitMix64), so that tests need no dependency and repeat.
pub(crate) struct Rng(pub u64);
impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in −1…1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub(crate) fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

pub(crate) fn supported() -> impl Iterator<Item = TensorType> {
    TensorType::all().filter(|t| t.is_supported())
}

/// Bytes of a random matrix: random bits, with scales of a size that occurs.
pub(crate) fn random_weights(ty: TensorType, n: usize, rng: &mut Rng) -> Vec<u8> {
    let mut data = vec![0u8; ty.row_bytes(n).unwrap()];
    for b in &mut data {
        *b = rng.next() as u8;
    }
    let put = |data: &mut [u8], at: usize, x: f32| {
        data[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes());
    };
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        let x = 0.01 + 0.01 * rng.unit().abs();
        match ty {
            TensorType::F32 => block.copy_from_slice(&rng.unit().to_le_bytes()),
            TensorType::F16 => put(block, 0, rng.unit()),
            TensorType::BF16 => block.copy_from_slice(&half::bf16::from_f32(rng.unit()).to_le_bytes()),
            TensorType::Q4_1 | TensorType::Q5_1 => {
                put(block, 0, x);
                put(block, 2, -8.0 * x);
            }
            TensorType::Q2_K => {
                put(block, 80, x);
                put(block, 82, 1.5 * x);
            }
            TensorType::Q3_K => put(block, 108, x),
            TensorType::Q4_K | TensorType::Q5_K => {
                put(block, 0, x);
                put(block, 2, 8.0 * x);
            }
            TensorType::Q6_K => put(block, 208, x),
            TensorType::MXFP4 => block[0] = 120 + (rng.next() % 4) as u8,
            _ => put(block, 0, x),
        }
    }
    data
}

pub(crate) fn pool(threads: usize) -> ThreadPool {
    ThreadPool::new(ThreadPoolOptions {
        threads: Some(threads),
        at_once: Some(threads),
        ..Default::default()
    })
    .unwrap()
}

pub(crate) fn levels() -> Vec<&'static Kernels> {
    CpuLevel::available()
        .into_iter()
        .filter_map(Kernels::for_level)
        .collect()
}
