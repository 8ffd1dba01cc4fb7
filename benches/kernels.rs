//! Speed of the matrix kernels beside the limits of the machine.
//!
//! `cargo bench --bench kernels` prints, per CPU level: `stream` (weights from DRAM) with one activation row in bytes per second,
//! beside `limit/dram_read`, and so `attention_decode` (one row at a depth of 8192, keys and values from DRAM); `stream` with more
//! rows, `gemm` (the same weights each time) and `attention_prefill` (256 rows up to there) in multiply-adds per second (printed
//! as elements), beside `limit/products_*`; a few vector operations. `INFER_BENCH_THREADS` sets the number of threads, otherwise all CPUs of the process are used.

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
use infer::kernel::attention::{self, AttentionShape, BLOCK, KeyValues, Run};
use infer::kernel::{
    Activations, CpuLevel, Forms, Kernels, MatmulJob, Packed, Precision, Products, RowType, ThreadPool,
    ThreadPoolOptions, for_each_chunk_mut, matmul,
};
use infer::memory::Region;
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

/// Products with numbers of activation rows, each time with the next one of `copies` matrices.
fn products(c: &mut Criterion, name: &str, copies: impl Fn(usize) -> usize, rows: &[usize]) {
    let pool = pool();
    let mut g = c.benchmark_group(name);
    quick(&mut g);
    for ty in TYPES {
        let bytes = ty.row_bytes(N_IN).unwrap() * N_OUT;
        let copies = copies(bytes);
        let data: Vec<Packed> = weights(ty, copies)
            .chunks(bytes)
            .map(|rows| Packed::new(&pool, ty, N_IN, N_OUT, rows).unwrap())
            .collect();
        for &rows in rows {
            let x: Vec<f32> = (0..N_IN * rows).map(|i| (i as f32).sin()).collect();
            let mut out = vec![0.0f32; N_OUT * rows];
            for k in levels() {
                if k.level() == CpuLevel::Scalar && rows > 4 {
                    continue;
                }
                let mut a = Activations::new(rows, N_IN).unwrap();
                a.set(k, &pool, &x, rows, N_IN, Forms::ALL).unwrap();
                g.throughput(match rows {
                    1 => Throughput::Bytes(bytes as u64),
                    _ => Throughput::Elements((N_IN * N_OUT * rows) as u64),
                });
                let mut at = 0;
                g.bench_function(format!("{ty}/{}/{rows}", k.level().name()), |b| {
                    b.iter(|| {
                        at = (at + 1) % copies;
                        let w = data[at].matrix().unwrap();
                        matmul(k, &pool, &a, &mut [MatmulJob::new(w, black_box(&mut out))]).unwrap();
                    });
                });
            }
        }
    }
}

fn stream(c: &mut Criterion) {
    products(c, "stream", |bytes| STREAM / bytes, &[1, 4, 8, 16, 32]);
}

fn gemm(c: &mut Criterion) {
    products(c, "gemm", |_| 1, &[2, 4, 8, 32, 512]);
}

/// Keys and values of one sequence after another, each in one piece of memory, without meaning.
struct Cache {
    ty: RowType,
    bytes: Region,
    /// Of a block of keys or values.
    block: usize,
}

/// The attention of a model with 1B weights.
const SHAPE: AttentionShape = AttentionShape {
    n_heads: 32,
    n_kv_heads: 8,
    key_dim: 64,
    value_dim: 64,
    scale: 0.125,
    window: None,
    softcap: None,
    precision: Precision::Native,
};
const DEPTH: usize = 8192;

impl Cache {
    fn new(ty: RowType, sequences: usize) -> Self {
        let block = ty.row_bytes(64).unwrap() * BLOCK;
        let len = sequences * DEPTH / BLOCK * 2 * SHAPE.n_kv_heads * block;
        // As the cache of an engine: with huge pages.
        let mut bytes = Region::new(len, "keys and values").unwrap();
        // Every half-precision number of it is small, and every f32 scale.
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = if i % 2 == 0 { (i * 31) as u8 } else { 0x2c };
        }
        Self { ty, bytes, block }
    }

    fn part(&self, sequence: u32, head: usize, index: usize, values: usize) -> &[u8] {
        let block = (sequence as usize * DEPTH / BLOCK + index) * SHAPE.n_kv_heads + head;
        &self.bytes[(2 * block + values) * self.block..][..self.block]
    }
}

impl KeyValues for Cache {
    fn row_type(&self) -> RowType {
        self.ty
    }
    fn keys(&self, sequence: u32, head: usize, index: usize) -> &[u8] {
        self.part(sequence, head, index, 0)
    }
    fn values(&self, sequence: u32, head: usize, index: usize) -> &[u8] {
        self.part(sequence, head, index, 1)
    }
}

fn attention(c: &mut Criterion) {
    let pool = pool();
    for (name, rows, sequences) in [("attention_decode", 1, 8), ("attention_prefill", 256, 1)] {
        let mut g = c.benchmark_group(name);
        quick(&mut g);
        let width = SHAPE.n_heads * SHAPE.key_dim;
        let q: Vec<f32> = (0..rows * width).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut out = vec![0.0f32; q.len()];
        let mut workspace =
            vec![
                0.0;
                attention::workspace_floats(SHAPE.n_heads, SHAPE.n_kv_heads, 64, pool.threads(), DEPTH)
            ];
        for ty in [RowType::F16, RowType::BF16, RowType::Q8] {
            let cache = Cache::new(ty, sequences);
            let read = cache.bytes.len() / sequences;
            let products = rows * width * 2 * (DEPTH - rows / 2);
            g.throughput(match rows {
                1 => Throughput::Bytes(read as u64),
                _ => Throughput::Elements(products as u64),
            });
            for k in levels() {
                let mut turn = 0;
                g.bench_function(format!("{}/{}", ty.name(), k.level().name()), |b| {
                    b.iter(|| {
                        turn = (turn + 1) % sequences as u32;
                        let run = Run {
                            sequence: turn,
                            first: 0,
                            rows,
                            position: DEPTH - rows,
                            shared: 0,
                        };
                        attention::attend(
                            k,
                            &pool,
                            &SHAPE,
                            &cache,
                            &[run],
                            black_box(&q),
                            &mut out,
                            &mut workspace,
                        )
                        .unwrap();
                    });
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
    for (name, products) in [
        ("products_int8", Products::Int8),
        ("products_int16", Products::Int16),
        ("products_bf16", Products::Bf16),
        ("products_f32", Products::F32),
    ] {
        const STEPS: usize = 20_000;
        let done = k.multiply_on_registers(products, STEPS) * parts as u64;
        g.throughput(Throughput::Elements(done));
        g.bench_function(name, |b| {
            b.iter(|| pool.run(parts, &|_, _| _ = k.multiply_on_registers(products, STEPS)))
        });
    }
}

criterion_group!(benches, limits, stream, gemm, attention, ops);
criterion_main!(benches);
