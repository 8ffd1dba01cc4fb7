//! The steady path of matrix products and jobs allocates nothing, on any thread.

#![allow(unsafe_code, reason = "a counting global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use infer::kernel::{
    Activations, CpuLevel, Forms, Kernels, MatmulJob, Packed, Precision, ThreadPool, ThreadPoolOptions,
    matmul,
};
use infer::quant::TensorType;

struct Counting;
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn products_allocate_nothing_after_the_first() {
    let pool = ThreadPool::new(ThreadPoolOptions {
        threads: Some(3),
        at_once: Some(3),
        ..Default::default()
    })
    .unwrap();
    for level in CpuLevel::available() {
        let k = Kernels::for_level(level).unwrap();
        let (n_in, n_out) = (512, 300);
        let types = [TensorType::Q4_K, TensorType::Q8_0, TensorType::F16];
        let data: Vec<Packed> = types
            .iter()
            .map(|&ty| {
                let rows = vec![1; ty.row_bytes(n_in).unwrap() * n_out];
                Packed::new(&pool, ty, n_in, n_out, &rows).unwrap()
            })
            .collect();
        let x = vec![0.5f32; 9 * n_in];
        let mut out = vec![vec![0.0f32; 9 * n_out]; 3];
        let mut a = Activations::new(9, n_in).unwrap();
        let mut pass = |rows: usize, precision| {
            a.set(k, &pool, &x[..rows * n_in], rows, n_in, Forms::ALL)
                .unwrap();
            let [y0, y1, y2] = &mut out[..] else {
                unreachable!()
            };
            let w = |i: usize| data[i].matrix().unwrap();
            let mut jobs = [
                MatmulJob::new(w(0), &mut y0[..rows * n_out]).precision(precision),
                MatmulJob::new(w(1), &mut y1[..rows * n_out]).precision(precision),
                MatmulJob::new(w(2), &mut y2[..rows * n_out]).precision(precision),
            ];
            matmul(k, &pool, &a, &mut jobs).unwrap();
        };
        for precision in [Precision::Native, Precision::Exact] {
            pass(9, precision);
            pass(1, precision);
            let before = COUNT.load(Ordering::SeqCst);
            for _ in 0..20 {
                pass(9, precision);
                pass(1, precision);
            }
            assert_eq!(COUNT.load(Ordering::SeqCst), before, "{level:?} {precision:?}");
        }
    }
}
