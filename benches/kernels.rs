//! Speed of the matrix kernels beside the limits of the machine.
//!
//! `cargo bench --bench kernels` prints, per CPU level: `gemv` (one activation row, weights from DRAM) in bytes per second,
//! beside `limit/dram_read`; `gemm` in multiply-adds per second (printed as elements), beside `limit/vpdpbusd`; a few vector
//! operations. `INFER_BENCH_THREADS` sets the number of threads, otherwise all CPUs of the process are used.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark stops at the first error"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use infer::kernel::{
    Activations, CpuLevel, Forms, Kernels, MatmulJob, Packed, ThreadPool, ThreadPoolOptions,
    for_each_chunk_mut, matmul,
};
use infer::quant::TensorType;

const N_IN: usize = 2048;
const N_OUT: usize = 8192;
/// Larger than the last cache, so that every pass comes from memory.
const STREAM: usize = 256 << 20;

fn pool() -> ThreadPool {
    let threads = std::env::var("INFER_BENCH_THREADS")
        .ok()
        .and_then(|t| t.parse().ok());
    ThreadPool::new(ThreadPoolOptions {
        threads,
        ..Default::default()
    })
    .unwrap()
}

fn levels() -> Vec<&'static Kernels> {
    let mut levels: Vec<_> = CpuLevel::available()
        .into_iter()
        .filter_map(Kernels::for_level)
        .collect();
    levels.reverse();
    levels
}

/// Bytes without meaning but with harmless scales: no float in them is infinite or NaN.
fn weights(ty: TensorType, copies: usize) -> Vec<u8> {
    let bytes = ty.row_bytes(N_IN).unwrap() * N_OUT * copies;
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3b
    };
    (0..bytes).map(|_| next()).collect()
}

fn quick(g: &mut BenchmarkGroup<WallTime>) {
    g.sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
}

const TYPES: [TensorType; 8] = [
    TensorType::Q4_0,
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::IQ4_NL,
    TensorType::F16,
    TensorType::F32,
];

fn gemv(c: &mut Criterion) {
    let pool = pool();
    let x: Vec<f32> = (0..N_IN).map(|i| (i as f32).sin()).collect();
    let mut out = vec![0.0f32; N_OUT];
    let mut g = c.benchmark_group("gemv");
    quick(&mut g);
    for ty in TYPES {
        let bytes = ty.row_bytes(N_IN).unwrap() * N_OUT;
        let copies = STREAM / bytes;
        let data: Vec<Packed> = weights(ty, copies)
            .chunks(bytes)
            .map(|rows| Packed::new(&pool, ty, N_IN, N_OUT, rows).unwrap())
            .collect();
        for k in levels() {
            let mut a = Activations::new(1, N_IN).unwrap();
            a.set(k, &pool, &x, 1, N_IN, Forms::ALL).unwrap();
            g.throughput(Throughput::Bytes(bytes as u64));
            let mut at = 0;
            g.bench_function(format!("{ty}/{}", k.level().name()), |b| {
                b.iter(|| {
                    at = (at + 1) % copies;
                    let w = data[at].matrix().unwrap();
                    matmul(k, &pool, &a, &mut [MatmulJob::new(w, black_box(&mut out))]).unwrap();
                });
            });
        }
    }
}

fn gemm(c: &mut Criterion) {
    let pool = pool();
    let mut g = c.benchmark_group("gemm");
    quick(&mut g);
    for ty in TYPES {
        let w = Packed::new(&pool, ty, N_IN, N_OUT, &weights(ty, 1)).unwrap();
        let w = w.matrix().unwrap();
        for rows in [2, 4, 8, 32, 512] {
            let x: Vec<f32> = (0..N_IN * rows).map(|i| (i as f32).sin()).collect();
            let mut out = vec![0.0f32; N_OUT * rows];
            for k in levels() {
                if k.level() == CpuLevel::Scalar && rows > 4 {
                    continue;
                }
                let mut a = Activations::new(rows, N_IN).unwrap();
                a.set(k, &pool, &x, rows, N_IN, Forms::ALL).unwrap();
                g.throughput(Throughput::Elements((N_IN * N_OUT * rows) as u64));
                g.bench_function(format!("{ty}/{}/{rows}", k.level().name()), |b| {
                    b.iter(|| matmul(k, &pool, &a, &mut [MatmulJob::new(w, black_box(&mut out))]).unwrap());
                });
            }
        }
    }
}

fn ops(c: &mut Criterion) {
    let pool = pool();
    let mut g = c.benchmark_group("ops");
    quick(&mut g);
    let a: Vec<f32> = (0..2048).map(|i| (i as f32).sin()).collect();
    let mut out = a.clone();
    for k in levels() {
        let level = k.level().name();
        g.throughput(Throughput::Elements(1024));
        g.bench_function(format!("dot_1024/{level}"), |b| {
            b.iter(|| k.dot_f32(black_box(&a[..1024]), &a[1024..]))
        });
        g.throughput(Throughput::Elements(2048));
        g.bench_function(format!("rms_norm_2048/{level}"), |b| {
            b.iter(|| k.rms_norm(black_box(&a), &a, 1e-5, &mut out))
        });
        g.bench_function(format!("silu_mul_2048/{level}"), |b| {
            b.iter(|| {
                out.copy_from_slice(&a);
                k.silu_mul(black_box(&mut out), &a);
            });
        });
        g.bench_function(format!("softmax_2048/{level}"), |b| {
            b.iter(|| {
                out.copy_from_slice(&a);
                k.softmax_in_place(black_box(&mut out));
            });
        });
        let mut acts = Activations::new(1, 2048).unwrap();
        g.bench_function(format!("quantize_2048/{level}"), |b| {
            b.iter(|| acts.set(k, &pool, black_box(&a), 1, 2048, Forms::ALL).unwrap());
        });
    }
    g.throughput(Throughput::Elements(1));
    g.bench_function("empty_job", |b| b.iter(|| pool.run(16, &|i, _| _ = black_box(i))));
}

/// The two ceilings: reading memory, and the int8 dot-product instruction on registers.
fn limits(c: &mut Criterion) {
    let pool = pool();
    let mut g = c.benchmark_group("limit");
    quick(&mut g);
    let data = vec![1.0f32; STREAM / 4];
    let parts = 16 * pool.threads();
    let part = data.len() / parts;
    let mut sums = vec![0.0f32; parts];
    let k = levels()[0];
    g.throughput(Throughput::Bytes((part * parts * 4) as u64));
    g.bench_function("dram_read", |b| {
        b.iter(|| {
            for_each_chunk_mut(&pool, black_box(&mut sums), 1, |i, s| {
                s[0] = k.sum(&data[i * part..(i + 1) * part])
            });
        });
    });
    #[cfg(target_arch = "x86_64")]
    if matches!(k.level(), CpuLevel::Avx512 | CpuLevel::Avx512Bf16) {
        const STEPS: usize = 20_000;
        g.throughput(Throughput::Elements((STEPS * peak::MACS_PER_STEP * parts) as u64));
        g.bench_function("vpdpbusd", |b| {
            b.iter(|| pool.run(parts, &|_, _| _ = black_box(peak::run(STEPS))))
        });
    }
}

#[cfg(target_arch = "x86_64")]
mod peak {
    #![allow(unsafe_code, reason = "vector intrinsics of a microbenchmark")]
    use std::arch::x86_64::*;

    /// Sixteen instructions of 64 multiply-adds.
    pub const MACS_PER_STEP: usize = 16 * 64;

    /// Independent dot-product instructions on registers; needs AVX-512 with VNNI.
    pub fn run(steps: usize) -> i32 {
        // SAFETY: the caller has checked the level.
        unsafe { registers(steps) }
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn registers(steps: usize) -> i32 {
        let x = std::hint::black_box(_mm512_set1_epi8(1));
        let mut acc = [_mm512_setzero_si512(); 16];
        for _ in 0..steps {
            for a in &mut acc {
                *a = _mm512_dpbusd_epi32(*a, x, x);
            }
        }
        acc.iter()
            .map(|a| _mm512_reduce_add_epi32(*a))
            .fold(0, i32::wrapping_add)
    }
}

criterion_group!(benches, limits, gemv, gemm, ops);
criterion_main!(benches);
