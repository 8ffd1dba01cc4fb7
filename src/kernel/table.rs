//! The function table of a CPU level, and its safe methods.

#![allow(
    unsafe_code,
    reason = "calls the entry points of a level after checking lengths and features"
)]

use super::generic::attention::{ChunkJob, Scores, Sums};
use super::generic::job::{JobView, PanelsFn};
use super::{CpuLevel, Precision, RowType};
use crate::quant::TensorType;

/// Input, weight, bias, epsilon, output.
type LayerNormFn = unsafe fn(&[f32], &[f32], Option<&[f32]>, f32, &mut [f32]);
/// Input, output (which may be the input), length.
type MapFn = unsafe fn(*const f32, *mut f32, usize);
/// A (m × k), B (k × n), m, k, n, C (m × n).
type DenseFn<E, C> = unsafe fn(&[E], &[E], usize, usize, usize, &mut [C]);

/// Row, its length, (first column, copies, columns of the panel), whether scales are coarse, panel.
type QuantizeFn = unsafe fn(*const f32, usize, (usize, usize, usize), bool, *mut u8);

/// What [`Kernels::multiply_on_registers`] multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// Bytes, added up in 32 bits.
    Int8,
    /// 16-bit integers, added up in 32 bits.
    Int16,
    /// bfloat16, added up in `f32`.
    Bf16,
    /// `f32`.
    F32,
}

/// Attention by products of pairs of 16-bit integers.
#[derive(Clone, Copy)]
pub(crate) struct PairAttention {
    /// Query, factor, output, from one pair to the next; answers the scale of the query's products.
    pub pack_query: unsafe fn(&[f32], f32, *mut u32, usize) -> f32,
    pub chunk: unsafe fn(&ChunkJob),
}

/// The kernels of one CPU level. There is one static table per level; see [`Kernels::for_level`].
///
/// Every method's result depends on its arguments and the level only. Methods panic when lengths do not fit together,
/// which is a mistake of the calling code, never of a file or a request.
pub struct Kernels {
    pub(crate) level: CpuLevel,
    pub(crate) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) sum: unsafe fn(&[f32]) -> f32,
    pub(crate) max: unsafe fn(&[f32]) -> f32,
    pub(crate) add: unsafe fn(&mut [f32], &[f32]),
    pub(crate) mul: unsafe fn(&mut [f32], &[f32]),
    pub(crate) scale: unsafe fn(&mut [f32], f32),
    pub(crate) silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub(crate) gelu_mul: unsafe fn(&mut [f32], &[f32]),
    pub(crate) exp_minus: unsafe fn(&mut [f32], f32) -> f32,
    pub(crate) softmax: unsafe fn(&mut [f32]),
    pub(crate) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) layer_norm: LayerNormFn,
    pub(crate) rope_interleaved: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(crate) rope_neox: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(crate) store_row: unsafe fn(RowType, &[f32], &mut [u8]),
    pub(crate) store_key: unsafe fn(RowType, &[f32], *mut u8, usize),
    pub(crate) scores: unsafe fn(&Scores),
    pub(crate) weighted_sums: unsafe fn(&Sums),
    /// Where the level has them, for keys and values that are not of 32 bits.
    pub(crate) pair_attention: Option<PairAttention>,
    pub(crate) scale_and_add: unsafe fn(&mut [f32], f32, &[f32], f32),
    pub(crate) softcap: unsafe fn(&mut [f32], f32),
    pub(crate) quantize_row: QuantizeFn,
    pub(crate) panels: fn(TensorType) -> Option<PanelsFn>,
    pub(crate) exact: PanelsFn,
    /// Half-precision weights with activations in bfloat16, where the level has such products.
    pub(crate) bf16: Option<PanelsFn>,
    pub(crate) peak_int8: unsafe fn(usize) -> f32,
    pub(crate) peak_int16: unsafe fn(usize) -> f32,
    pub(crate) peak_bf16: Option<unsafe fn(usize) -> f32>,
    pub(crate) peak_f32: unsafe fn(usize) -> f32,
    /// Values per vector.
    pub(crate) lanes: usize,
    /// Most columns of a panel of activations.
    pub(crate) max_columns: usize,
    pub(crate) dot_kahan: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) matmul_f32: DenseFn<f32, f32>,
    pub(crate) matmul_i8: DenseFn<i8, i32>,
    pub(crate) add_to: unsafe fn(*const f32, *const f32, *mut f32, usize),
    pub(crate) mul_to: unsafe fn(*const f32, *const f32, *mut f32, usize),
    pub(crate) relu: MapFn,
    pub(crate) silu: MapFn,
    pub(crate) gelu: MapFn,
    pub(crate) sigmoid: MapFn,
    pub(crate) rms_norm_to: unsafe fn(*const f32, *const f32, f32, *mut f32, usize),
    pub(crate) layer_norm_to: unsafe fn(*const f32, *const f32, *const f32, f32, *mut f32, usize),
    pub(crate) dequantize: unsafe fn(TensorType, &[u8], &mut [f32]),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.level.name())
    }
}

/// Defines a level's entry points and its `TABLE`: `$S` implements `Simd`, `$attr` enables its features, `$quantize` those
/// for quantizing (with AVX-512 the compiler turns those loops into gathers, three times slower than AVX2).
macro_rules! define_level {
    ($S:ty, $level:expr $(, #[$attr:meta] ; quantize #[$quantize:meta])?) => {
        use $crate::kernel::RowType;
        use $crate::kernel::generic::attention::{Scores, Sums};
        use $crate::kernel::generic::float::{Bf16, F16, F32, rows_exact, rows_float};
        use $crate::kernel::generic::job::{JobView, PanelsFn};
        use $crate::kernel::generic::matmul::panels;
        use $crate::kernel::generic::{attention, dense, elementwise, formats, ops, peak, quantize, reduce, rows};
        use $crate::kernel::simd::Simd;
        use $crate::quant::TensorType;

        type S = $S;

        $crate::kernel::table::entries! { [$(#[$attr])?]
            fn dot(a: &[f32], b: &[f32]) -> f32 = ops::dot::<S>;
            fn sum(x: &[f32]) -> f32 = ops::sum::<S>;
            fn max(x: &[f32]) -> f32 = ops::max::<S>;
            fn add(x: &mut [f32], y: &[f32]) -> () = ops::add::<S>;
            fn mul(x: &mut [f32], y: &[f32]) -> () = ops::mul::<S>;
            fn scale(x: &mut [f32], s: f32) -> () = ops::scale::<S>;
            fn silu_mul(gate: &mut [f32], up: &[f32]) -> () = ops::silu_mul::<S>;
            fn gelu_mul(gate: &mut [f32], up: &[f32]) -> () = ops::gelu_mul::<S>;
            fn exp_minus(x: &mut [f32], m: f32) -> f32 = ops::exp_minus::<S>;
            fn softmax(x: &mut [f32]) -> () = ops::softmax::<S>;
            fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> () = ops::rms_norm::<S>;
            fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) -> () = ops::layer_norm::<S>;
            fn rope_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) -> () = ops::rope_interleaved::<S>;
            fn rope_neox(x: &mut [f32], cos: &[f32], sin: &[f32]) -> () = ops::rope_neox::<S>;
            fn store_row(ty: RowType, x: &[f32], out: &mut [u8]) -> () = rows::store::<S>;
            fn store_key(ty: RowType, x: &[f32], keys: *mut u8, slot: usize) -> () = attention::store_key::<S>;
            fn scores(job: &Scores) -> () = attention::scores::<S>;
            fn weighted_sums(job: &Sums) -> () = attention::weighted_sums::<S>;
            fn peak_int8(steps: usize) -> f32 = peak::int8::<S>;
            fn peak_int16(steps: usize) -> f32 = peak::int16::<S>;
            fn peak_f32(steps: usize) -> f32 = peak::float::<S>;
            fn scale_and_add(out: &mut [f32], keep: f32, x: &[f32], add: f32) -> () = ops::scale_and_add::<S>;
            fn softcap(x: &mut [f32], cap: f32) -> () = ops::softcap::<S>;
            fn dot_kahan(a: &[f32], b: &[f32]) -> f32 = reduce::dot_kahan::<S>;
            fn matmul_f32(a: &[f32], b: &[f32], m: usize, k: usize, n: usize, c: &mut [f32]) -> () = dense::matmul::<S, f32>;
            fn matmul_i8(a: &[i8], b: &[i8], m: usize, k: usize, n: usize, c: &mut [i32]) -> () = dense::matmul::<S, i8>;
            fn add_to(a: *const f32, b: *const f32, out: *mut f32, n: usize) -> () = elementwise::add::<S>;
            fn mul_to(a: *const f32, b: *const f32, out: *mut f32, n: usize) -> () = elementwise::mul::<S>;
            fn relu(x: *const f32, out: *mut f32, n: usize) -> () = elementwise::relu::<S>;
            fn silu(x: *const f32, out: *mut f32, n: usize) -> () = elementwise::silu_to::<S>;
            fn gelu(x: *const f32, out: *mut f32, n: usize) -> () = elementwise::gelu_to::<S>;
            fn sigmoid(x: *const f32, out: *mut f32, n: usize) -> () = elementwise::sigmoid::<S>;
            fn rms_norm_to(x: *const f32, weight: *const f32, eps: f32, out: *mut f32, n: usize) -> () = elementwise::rms_norm::<S>;
            fn layer_norm_to(x: *const f32, weight: *const f32, bias: *const f32, eps: f32, out: *mut f32, n: usize) -> () = elementwise::layer_norm::<S>;
        }

        $(#[$quantize])?
        unsafe fn quantize_row(x: *const f32, n: usize, columns: (usize, usize, usize), coarse: bool, out: *mut u8) {
            // SAFETY: passes the caller's promise on.
            unsafe { quantize::quantize_row::<S>(x, n, columns, coarse, out) }
        }

        $(#[$quantize])?
        unsafe fn dequantize(ty: TensorType, src: &[u8], out: &mut [f32]) {
            $crate::quant::expand(ty, src, out);
        }

        $crate::kernel::table::matrices! { [$(#[$attr])?] S;
            Q4_0 q4_0 formats::Q4_0,
            Q4_1 q4_1 formats::Q4_1,
            Q5_0 q5_0 formats::Q5_0,
            Q5_1 q5_1 formats::Q5_1,
            Q8_0 q8_0 formats::Q8_0,
            Q2_K q2_k formats::Q2K,
            Q3_K q3_k formats::Q3K,
            Q4_K q4_k formats::Q4K,
            Q5_K q5_k formats::Q5K,
            Q6_K q6_k formats::Q6K,
            IQ4_NL iq4_nl formats::Iq4Nl,
            IQ4_XS iq4_xs formats::Iq4Xs,
            MXFP4 mxfp4 formats::Mxfp4,
        }

        pub(crate) static TABLE: $crate::kernel::Kernels = $crate::kernel::Kernels {
            level: $level,
            dot,
            sum,
            max,
            add,
            mul,
            scale,
            silu_mul,
            gelu_mul,
            exp_minus,
            softmax,
            rms_norm,
            layer_norm,
            rope_interleaved,
            rope_neox,
            store_row,
            store_key,
            scores,
            weighted_sums,
            pair_attention: None,
            scale_and_add,
            softcap,
            quantize_row,
            panels: by_type,
            exact,
            bf16: None,
            peak_int8,
            peak_int16,
            peak_bf16: None,
            peak_f32,
            lanes: <S as Simd>::LANES,
            max_columns: <S as Simd>::MAX_COLUMNS,
            dot_kahan,
            matmul_f32,
            matmul_i8,
            add_to,
            mul_to,
            relu,
            silu,
            gelu,
            sigmoid,
            rms_norm_to,
            layer_norm_to,
            dequantize,
        };
    };
}
pub(crate) use define_level;

/// Entry points that call a generic function with the level's features enabled.
macro_rules! entries {
    ([$(#[$attr:meta])*]) => {};
    ([$(#[$attr:meta])*] fn $name:ident($($a:ident: $t:ty),*) -> $r:ty = $f:expr; $($rest:tt)*) => {
        $(#[$attr])*
        unsafe fn $name($($a: $t),*) -> $r {
            // SAFETY: the caller has the level's features and checked the lengths.
            unsafe { $f($($a),*) }
        }
        $crate::kernel::table::entries! { [$(#[$attr])*] $($rest)* }
    };
}
pub(crate) use entries;

/// Matrix entry points per weight type.
macro_rules! matrices {
    ([$(#[$attr:meta])*] $S:ty; $($ty:ident $name:ident $format:ty,)*) => {
        $crate::kernel::table::matrices! { @entry [$(#[$attr])*]
            f32 rows_float::<$S, F32>, f16 rows_float::<$S, F16>, bf16 rows_float::<$S, Bf16>, exact rows_exact::<$S>,
        }
        mod int8 {
            use super::*;
            $crate::kernel::table::matrices! { @panels [$(#[$attr])*] $S; $($name $format,)* }
        }
        fn by_type(ty: TensorType) -> Option<PanelsFn> {
            match ty {
                TensorType::F32 => Some(f32 as PanelsFn),
                TensorType::F16 => Some(f16 as PanelsFn),
                TensorType::BF16 => Some(bf16 as PanelsFn),
                $(TensorType::$ty => Some(int8::$name as PanelsFn),)*
                _ => None,
            }
        }
    };
    (@entry [$(#[$attr:meta])*]) => {};
    (@entry [$(#[$attr:meta])*] $name:ident $f:expr, $($rest:tt)*) => {
        $(#[$attr])*
        unsafe fn $name(job: &JobView, from: usize, to: usize, scratch: &mut [u8]) {
            // SAFETY: passes the caller's promise on.
            unsafe { $f(job, from, to, scratch) }
        }
        $crate::kernel::table::matrices! { @entry [$(#[$attr])*] $($rest)* }
    };
    (@panels [$(#[$attr:meta])*] $S:ty;) => {};
    (@panels [$(#[$attr:meta])*] $S:ty; $name:ident $format:ty, $($rest:tt)*) => {
        $(#[$attr])*
        pub(super) unsafe fn $name(job: &JobView, from: usize, to: usize, scratch: &mut [u8]) {
            // SAFETY: passes the caller's promise on.
            unsafe { panels::<$S, $format>(job, from, to, scratch) }
        }
        $crate::kernel::table::matrices! { @panels [$(#[$attr])*] $S; $($rest)* }
    };
}
pub(crate) use matrices;

impl Kernels {
    /// The table of `level`; `None` where this CPU cannot run it or it has no kernels.
    pub fn for_level(level: CpuLevel) -> Option<&'static Self> {
        if !CpuLevel::available().contains(&level) {
            return None;
        }
        match level {
            CpuLevel::Scalar => Some(&super::generic::scalar::table::TABLE),
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Sse41 => Some(&super::x86_64::sse41::table::TABLE),
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Avx2 => Some(&super::x86_64::avx2::table::TABLE),
            #[cfg(target_arch = "x86_64")]
            CpuLevel::AvxVnni => Some(&super::x86_64::avx_vnni::table::TABLE),
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Avx512 => Some(&super::x86_64::avx512::TABLE),
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Avx512Bf16 => Some(&super::x86_64::avx512_bf16::TABLE),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            CpuLevel::Neon => Some(&super::aarch64::neon::table::TABLE),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            CpuLevel::NeonDotprod => Some(&super::aarch64::neon_dotprod::table::TABLE),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            CpuLevel::I8mm => Some(&super::aarch64::i8mm::table::TABLE),
            _ => None,
        }
    }

    /// The level these kernels belong to.
    pub fn level(&self) -> CpuLevel {
        self.level
    }

    /// Multiplies on registers only, in `steps` rounds of independent instructions, and answers the number of multiply-adds:
    /// the rate is what the units of one core allow, to measure kernels against. Where the level has no products of
    /// bfloat16 they are those of `f32`.
    pub fn multiply_on_registers(&self, products: Products, steps: usize) -> u64 {
        let f32 = (self.peak_f32, self.lanes);
        let (run, per_instruction) = match products {
            Products::Int8 => (self.peak_int8, 4 * self.lanes),
            Products::Int16 => (self.peak_int16, 2 * self.lanes),
            Products::Bf16 => self.peak_bf16.map_or(f32, |f| (f, 2 * self.lanes)),
            Products::F32 => f32,
        };
        // SAFETY: a table exists only where its features do.
        std::hint::black_box(unsafe { run(steps) });
        (steps * super::generic::peak::SUMS * per_instruction) as u64
    }

    /// Σ aᵢ·bᵢ.
    pub fn dot_f32(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        // SAFETY: lengths are equal; a table exists only where its features do.
        unsafe { (self.dot)(a, b) }
    }

    /// Σ xᵢ.
    pub fn sum(&self, x: &[f32]) -> f32 {
        // SAFETY: a table exists only where its features do.
        unsafe { (self.sum)(x) }
    }

    /// Largest value, −∞ for none; NaNs are ignored.
    pub fn max(&self, x: &[f32]) -> f32 {
        // SAFETY: as above.
        unsafe { (self.max)(x) }
    }

    /// x ← x + y.
    pub fn add_in_place(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: lengths are equal; a table exists only where its features do.
        unsafe { (self.add)(x, y) }
    }

    /// x ← x · y, element by element.
    pub fn mul_in_place(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: as above.
        unsafe { (self.mul)(x, y) }
    }

    /// x ← x · s.
    pub fn scale_in_place(&self, x: &mut [f32], s: f32) {
        // SAFETY: a table exists only where its features do.
        unsafe { (self.scale)(x, s) }
    }

    /// gate ← gate · σ(gate) · up.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len());
        // SAFETY: lengths are equal; a table exists only where its features do.
        unsafe { (self.silu_mul)(gate, up) }
    }

    /// gate ← gelu(gate) · up, with the tanh form of gelu.
    pub fn gelu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len());
        // SAFETY: as above.
        unsafe { (self.gelu_mul)(gate, up) }
    }

    /// out ← out · keep + x · add.
    pub(crate) fn scale_and_add(&self, out: &mut [f32], keep: f32, x: &[f32], add: f32) {
        assert_eq!(out.len(), x.len());
        // SAFETY: lengths are equal; a table exists only where its features do.
        unsafe { (self.scale_and_add)(out, keep, x, add) }
    }

    /// x ← cap · tanh(x / cap).
    pub(crate) fn softcap_in_place(&self, x: &mut [f32], cap: f32) {
        // SAFETY: a table exists only where its features do.
        unsafe { (self.softcap)(x, cap) }
    }

    /// x ← exp(x − m), and answers the sum. A value of −∞ becomes 0.
    pub fn exp_minus_in_place(&self, x: &mut [f32], m: f32) -> f32 {
        // SAFETY: a table exists only where its features do.
        unsafe { (self.exp_minus)(x, m) }
    }

    /// x ← exp(x − max x) / Σ exp(x − max x). A value of −∞ becomes 0.
    pub fn softmax_in_place(&self, x: &mut [f32]) {
        // SAFETY: a table exists only where its features do.
        unsafe { (self.softmax)(x) }
    }

    /// out ← x / √(mean(x²) + eps) · weight.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        // SAFETY: lengths are equal; a table exists only where its features do.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// out ← (x − mean x) / √(var x + eps) · weight + bias.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len() && bias.is_none_or(|b| b.len() == x.len()));
        // SAFETY: as above.
        unsafe { (self.layer_norm)(x, weight, bias, eps, out) }
    }

    /// Rotates the pairs (2i, 2i + 1) of one head; `2 · cos.len()` values, the rest of `x` stays.
    pub fn rope_interleaved(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(cos.len() == sin.len() && 2 * cos.len() <= x.len());
        // SAFETY: as above.
        unsafe { (self.rope_interleaved)(x, cos, sin) }
    }

    /// Rotates the pairs (i, i + n/2) of one head, n = `2 · cos.len()`; the rest of `x` stays.
    pub fn rope_neox(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(cos.len() == sin.len() && 2 * cos.len() <= x.len());
        // SAFETY: as above.
        unsafe { (self.rope_neox)(x, cos, sin) }
    }

    /// Writes `x` as a row of type `ty`: `out` has `ty.row_bytes(x.len())` bytes.
    pub fn store_row(&self, ty: RowType, x: &[f32], out: &mut [u8]) {
        assert_eq!(Some(out.len()), ty.row_bytes(x.len()));
        // SAFETY: lengths fit; a table exists only where its features do.
        unsafe { (self.store_row)(ty, x, out) }
    }

    /// Computes panels `from..to`, 16 rows each, of a checked job.
    ///
    /// # Safety
    /// As for [`super::generic::matmul::panels`].
    pub(crate) unsafe fn panels(&self, job: &JobView, from: usize, to: usize, scratch: &mut [u8]) {
        let f = match (job.ty, job.precision) {
            (ty, Precision::Exact) if ty.is_quantized() => Some(self.exact),
            (TensorType::BF16, Precision::Native | Precision::Half) | (TensorType::F16, Precision::Half) => {
                self.bf16.or((self.panels)(job.ty))
            }
            _ => (self.panels)(job.ty),
        };
        if let Some(f) = f {
            // SAFETY: a table exists only where its features do; the rest is the caller's promise.
            unsafe { f(job, from, to, scratch) }
        }
    }

    /// Quantizes a row of activations as the columns `at..at + copies` of a panel of `width`; `coarse` is a scale per 256
    /// values, not 32.
    ///
    /// # Safety
    /// The panel has [`super::generic::columns::x_panel_bytes`] bytes, and no one else has these columns.
    pub(crate) unsafe fn quantize_row(
        &self,
        x: &[f32],
        (at, copies, width): (usize, usize, usize),
        coarse: bool,
        panel: *mut u8,
    ) {
        let group = if coarse {
            super::generic::quantize::LONG_BLOCK
        } else {
            32
        };
        assert!(x.len().is_multiple_of(group) && at + copies <= width);
        // SAFETY: lengths as asserted, the panel by the caller's promise; a table exists only where its features do.
        unsafe { (self.quantize_row)(x.as_ptr(), x.len(), (at, copies, width), coarse, panel) }
    }
}
