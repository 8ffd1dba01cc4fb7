//! The key/value store of `infer_kv_cache`: stores of one and of several tokens, fetches, views and lookups, beside `memcpy`
//! of the same bytes. 32 layers of 8 heads of 128, 256 tokens, so that a run is short; `infer bench --kv` measures the
//! founding configuration.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use infer::kv::BLOCK_TOKENS;
use infer::kv::store::{Elements, ElementsMut, KvStore, Sequence};
use infer::memory::Region;
use infer::options::KvCacheOptions;

const LAYERS: usize = 32;
const TOKENS: usize = 256;

fn store(kv_type: &'static str) -> KvStore {
    KvStore::new(&KvCacheOptions {
        n_layers: LAYERS,
        n_kv_heads: 8,
        head_dim: 128,
        kv_type,
        hot_tokens: TOKENS,
        ..KvCacheOptions::default()
    })
    .unwrap()
}

fn fill(sequence: &Sequence, batch: usize, rows: &[f32]) {
    sequence.truncate(0).unwrap();
    let rows = Elements::F32(&rows[..batch * sequence.shape().token_elements()]);
    for position in (0..TOKENS).step_by(batch) {
        for layer in 0..LAYERS {
            sequence.store_batch(layer, position, batch, rows, rows).unwrap();
        }
        sequence.advance(batch).unwrap();
    }
}

fn of_type(c: &mut Criterion, kv_type: &'static str) {
    let store = store(kv_type);
    let shape = *store.shape();
    let rows: Vec<f32> = (0..64 * shape.token_elements())
        .map(|i| (i % 997) as f32 / 997.0)
        .collect();
    let sequence = store.open("").unwrap();
    let mut group = c.benchmark_group(format!("kv_store/{kv_type}"));
    group.sample_size(20);
    group.throughput(Throughput::Elements(TOKENS as u64));
    for batch in [1, 2, 4, 8, 16, 32, 64] {
        group.bench_function(BenchmarkId::new("store", batch), |b| {
            b.iter(|| fill(&sequence, batch, &rows));
        });
    }
    let mut memory = Region::new(TOKENS / BLOCK_TOKENS * shape.block_bytes(), "a benchmark").unwrap();
    let source = vec![7u8; BLOCK_TOKENS * shape.token_bytes()];
    group.bench_function("memcpy/32", |b| {
        b.iter(|| {
            for half in memory.chunks_exact_mut(source.len()) {
                half.copy_from_slice(&source);
            }
            black_box(&memory[0]);
        });
    });
    let mut floats = [(); 2].map(|()| vec![0.0f32; TOKENS * shape.token_elements()]);
    group.bench_function("fetch", |b| {
        b.iter(|| {
            let [keys, values] = &mut floats;
            for layer in 0..LAYERS {
                let (keys, values) = (ElementsMut::F32(keys), ElementsMut::F32(values));
                sequence.fetch(layer, 0, TOKENS, keys, values).unwrap();
            }
        });
    });
    group.bench_function("view", |b| {
        b.iter(|| black_box(sequence.view(3, 0, TOKENS).unwrap()))
    });
    let tokens: Vec<u32> = (0..TOKENS as u32).collect();
    sequence.seal(&tokens).unwrap();
    group.bench_function("lookup", |b| {
        b.iter(|| black_box(store.lookup("", &tokens).unwrap()))
    });
    group.finish();
}

fn kv_store(c: &mut Criterion) {
    for kv_type in ["f32", "f16", "bf16", "q8"] {
        of_type(c, kv_type);
    }
}

criterion_group!(benches, kv_store);
criterion_main!(benches);
