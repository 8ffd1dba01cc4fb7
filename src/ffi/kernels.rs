//! The kernel table at a chosen CPU level, for callers with arrays of their own.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments are those of the C header, where brackets are indices"
)]

use std::ffi::{CStr, c_char};

use super::error::infer_error;
use super::guard::{self, Failure, invalid};
use super::handle::{self, Object, magic};
use super::memory;
use super::status::infer_status;
use super::string;
use crate::error::Error;
use crate::kernel::{CpuLevel, Kernels, RowType};
use crate::quant::TensorType;

/// Vector and matrix operations of one CPU level, on arrays of yours: to compare levels, and for programs that compute
/// with the weights themselves. They do not change. Every call computes on the thread that makes it, starts no other and
/// allocates no memory.
///
/// What holds for every infer_kernels_ function that computes:
///   Results depend on the inputs and the level only. Levels differ in the last bits, because they add in another order
///   and only some round once for a product and a sum.
///   Arrays need the alignment of their type and no more: an address that is not a multiple of 4 for float and int32_t
///   is INFER_ERR_INVALID_ARGUMENT; bytes may lie anywhere. Multiples of 64 are fastest. No padding is read or written.
///   Lengths are in elements. 0 is allowed, and the array may then be NULL. A length or a product of lengths that no
///   memory can hold is INFER_ERR_INVALID_ARGUMENT.
///   An output may be the very array of an input where the function says so. Any other overlap of an output with an
///   input is INFER_ERR_INVALID_ARGUMENT.
///   NaN and infinities are values like any other and pass through as IEEE 754 says. The floating-point environment is
///   that of the calling thread: a program that flushes subnormal numbers to zero gets them flushed here as well.
///   Errors are those named here, besides INFER_ERR_INVALID_HANDLE and those of every call; outputs are then untouched.
///
/// Threads: any number at the same time.
pub struct infer_kernels {
    _private: [u8; 0],
}

pub(crate) struct KernelsState {
    kernels: &'static Kernels,
}

impl Object for infer_kernels {
    type State = KernelsState;
    const MAGIC: u64 = magic(b"INFkerne");
    const NAME: &'static str = "infer_kernels";
}

/// Which values of a head infer_kernels_rope() turns together.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_rope_pairs {
    /// Neighbours: the values 2i and 2i + 1, as models of the llama architecture have it in GGUF files.
    INFER_ROPE_ADJACENT = 1,
    /// Halves: the values i and i + n_pairs, known as NeoX.
    INFER_ROPE_NEOX = 2,
}

/// A level's name for C.
pub(super) fn c_name(level: CpuLevel) -> &'static CStr {
    match level {
        CpuLevel::Scalar => c"scalar",
        CpuLevel::Sse41 => c"sse41",
        CpuLevel::Avx2 => c"avx2",
        CpuLevel::AvxVnni => c"avx_vnni",
        CpuLevel::Avx512 => c"avx512",
        CpuLevel::Avx512Bf16 => c"avx512_bf16",
        CpuLevel::Neon => c"neon",
        CpuLevel::NeonDotprod => c"neon_dotprod",
        CpuLevel::I8mm => c"i8mm",
    }
}

/// The kernels of a level by its word.
fn of_level(word: &str) -> Result<&'static Kernels, Failure> {
    let level = match CpuLevel::from_name(word)? {
        Some(level) => level,
        None => CpuLevel::selected()?,
    };
    Kernels::for_level(level).ok_or_else(|| {
        let available: Vec<&str> = CpuLevel::available().into_iter().map(CpuLevel::name).collect();
        Failure::Library(Error::Unsupported(format!(
            "cannot use the kernels of level {}: this build on this CPU has {}",
            level.name(),
            available.join(", ")
        )))
    })
}

/// Runs a computation.
///
/// The floating-point environment stays that of the caller: looking at it waits for the arithmetic of the call before,
/// which takes as long as a short dot product.
///
/// # Safety
/// The conventions of the header hold for both pointers.
unsafe fn compute(
    place: &'static str,
    kernels: *const infer_kernels,
    error: *mut *mut infer_error,
    body: impl FnOnce(&'static Kernels) -> Result<(), Failure>,
) -> infer_status {
    let body = || {
        // SAFETY: the promise of the caller.
        let kernels = unsafe { handle::get(kernels)? }.kernels;
        body(kernels)?;
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the promise of the caller.
    unsafe { guard::call(place, error, body) }
}

/// An array of the caller that was checked: its address and its length in bytes.
#[derive(Clone, Copy)]
struct Area {
    address: usize,
    bytes: usize,
    what: &'static str,
}

/// Checks the pointer to an array and its length.
#[inline]
fn area<T>(pointer: *const T, n: usize, what: &'static str) -> Result<Area, Failure> {
    let bytes = match n.checked_mul(size_of::<T>()) {
        Some(bytes) if bytes <= isize::MAX as usize => bytes,
        _ => {
            return Err(invalid(format!(
                "{what}: {n} elements of {} bytes are more than memory can hold",
                size_of::<T>()
            )));
        }
    };
    if n > 0 {
        memory::check(pointer, what)?;
    }
    Ok(Area {
        address: pointer.addr(),
        bytes,
        what,
    })
}

impl Area {
    fn overlaps(self, other: Area) -> bool {
        self.bytes > 0
            && other.bytes > 0
            && self.address < other.address.saturating_add(other.bytes)
            && other.address < self.address.saturating_add(self.bytes)
    }

    /// An output that may not touch an input.
    fn apart_from(self, input: Area) -> Result<(), Failure> {
        if self.overlaps(input) {
            return Err(invalid(format!(
                "{}: it overlaps {}, which this function does not allow",
                self.what, input.what
            )));
        }
        Ok(())
    }

    /// An output that may be the input, and may not touch it otherwise.
    fn in_place_or_apart_from(self, input: Area) -> Result<(), Failure> {
        if self.address != input.address && self.overlaps(input) {
            return Err(invalid(format!(
                "{}: it overlaps {}; it may only be the very same array or another one",
                self.what, input.what
            )));
        }
        Ok(())
    }
}

/// A checked array as a slice.
///
/// # Safety
/// `pointer` passed [`area`] with `n` and is readable; nothing writes there while the answer is used.
unsafe fn slice<'a, T>(pointer: *const T, n: usize) -> &'a [T] {
    if n == 0 {
        return &[];
    }
    // SAFETY: not NULL, aligned, of a possible size, and readable by the promise of the caller.
    unsafe { std::slice::from_raw_parts(pointer, n) }
}

/// A checked array as a slice to write to.
///
/// # Safety
/// `pointer` passed [`area`] with `n` and is writable; nothing else reads or writes there while the answer is used.
unsafe fn slice_mut<'a, T>(pointer: *mut T, n: usize) -> &'a mut [T] {
    if n == 0 {
        return &mut [];
    }
    // SAFETY: not NULL, aligned, of a possible size, and writable by the promise of the caller.
    unsafe { std::slice::from_raw_parts_mut(pointer, n) }
}

/// The product of two lengths.
fn product(a: usize, b: usize, what: &'static str) -> Result<usize, Failure> {
    a.checked_mul(b).ok_or_else(|| {
        invalid(format!(
            "{what}: {a} times {b} elements are more than memory can hold"
        ))
    })
}

/// Creates the kernels of a level: "scalar"; "sse41", "avx2", "avx_vnni", "avx512", "avx512_bf16" on x86-64; "neon",
/// "neon_dotprod", "i8mm" on aarch64; or "auto" for the best this CPU has, lowered by the environment variable
/// INFER_CPU_LEVEL if that is set. level is NUL-terminated; NULL is "auto". Free it with infer_kernels_free().
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for another word, INFER_ERR_UNSUPPORTED for a level that this CPU or this build
/// does not have, naming those it has.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_create(
    level: *const c_char,
    kernels: *mut *mut infer_kernels,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(kernels.cast_const(), "kernels")?;
        let word = if level.is_null() {
            "auto"
        } else {
            // SAFETY: the conventions of the header.
            unsafe { string::input(level, string::NTS, "level")? }
        };
        let state = KernelsState {
            kernels: of_level(word)?,
        };
        // SAFETY: checked above.
        unsafe { memory::put(kernels, handle::create(state)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_kernels_create", error, body) }
}

/// Frees kernels. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_free(kernels: *mut infer_kernels) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(kernels) }
}

/// The level of kernels, one of the words of infer_kernels_create(), never "auto"; "" for NULL. The text lives forever.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_level(kernels: *const infer_kernels) -> *const c_char {
    guard::quiet(c"".as_ptr(), || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(kernels) }
            .map_or(c"", |state| c_name(state.kernels.level()))
            .as_ptr()
    })
}

/// The levels that this CPU and this build have, one for each index from 0 on, lowest first; NULL behind the last. The
/// text lives forever.
///
/// Threads: any, also in a forked child and inside a callback.
#[unsafe(no_mangle)]
pub extern "C" fn infer_kernels_level_at(index: usize) -> *const c_char {
    guard::quiet(std::ptr::null(), || {
        CpuLevel::available()
            .get(index)
            .map_or(std::ptr::null(), |level| c_name(*level).as_ptr())
    })
}

/// A kernel that makes one number of two arrays.
unsafe fn reduce(
    place: &'static str,
    kernels: *const infer_kernels,
    (a, b, n): (*const f32, *const f32, usize),
    out: *mut f32,
    error: *mut *mut infer_error,
    of: impl FnOnce(&Kernels, &[f32], &[f32]) -> f32,
) -> infer_status {
    let body = |k: &Kernels| {
        area(a, n, "a")?;
        area(b, n, "b")?;
        memory::check(out.cast_const(), "out")?;
        // SAFETY: checked above; the number is written when the slices are no longer used.
        unsafe { memory::put(out, of(k, slice(a, n), slice(b, n))) };
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute(place, kernels, error, body) }
}

/// Dot product: *out = the sum of a[i] * b[i] for n elements. The error can grow with n.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_dot(
    kernels: *const infer_kernels,
    a: *const f32,
    b: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    unsafe {
        reduce(
            "infer_kernels_dot",
            kernels,
            (a, b, n),
            out,
            error,
            Kernels::dot_f32,
        )
    }
}

/// Dot product with compensated summation (Kahan): as infer_kernels_dot(), but the error stays within a few units in the
/// last place of the sum of |a[i] * b[i]|, whatever n is. Takes a few times as long.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_dot_kahan(
    kernels: *const infer_kernels,
    a: *const f32,
    b: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    unsafe {
        reduce(
            "infer_kernels_dot_kahan",
            kernels,
            (a, b, n),
            out,
            error,
            Kernels::dot_kahan,
        )
    }
}

/// Sum: *out = the sum of x[i] for n elements; 0 for none. The error can grow with n.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_sum(
    kernels: *const infer_kernels,
    x: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |k: &Kernels| {
        area(x, n, "x")?;
        memory::check(out.cast_const(), "out")?;
        // SAFETY: checked above; the number is written when the slice is no longer used.
        unsafe { memory::put(out, k.sum(slice(x, n))) };
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_sum", kernels, error, body) }
}

/// The shape of a matrix product and the arrays it works on.
struct Matrices<E, C> {
    shape: (usize, usize, usize),
    a: *const E,
    b: *const E,
    c: *mut C,
}

impl<E, C> Matrices<E, C> {
    /// Checks the arrays and answers them.
    ///
    /// # Safety
    /// The conventions of the header.
    #[allow(clippy::type_complexity, reason = "three slices")]
    unsafe fn slices<'a>(&self) -> Result<(&'a [E], &'a [E], &'a mut [C]), Failure> {
        let (m, k, n) = self.shape;
        let (of_a, of_b, of_c) = (product(m, k, "a")?, product(k, n, "b")?, product(m, n, "c")?);
        let (a, b) = (area(self.a, of_a, "a")?, area(self.b, of_b, "b")?);
        let c = area(self.c.cast_const(), of_c, "c")?;
        c.apart_from(a)?;
        c.apart_from(b)?;
        // SAFETY: checked above; C is apart from A and B.
        Ok(unsafe { (slice(self.a, of_a), slice(self.b, of_b), slice_mut(self.c, of_c)) })
    }
}

/// Matrix product: c = a * b, where a has m rows of k values, b has k rows of n, and c gets m rows of n, all without
/// gaps. Each value of c is one sum over k in ascending order. c may not overlap a or b.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_matmul(
    kernels: *const infer_kernels,
    a: *const f32,
    b: *const f32,
    m: usize,
    k: usize,
    n: usize,
    c: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    let shape = (m, k, n);
    let body = |kernels: &Kernels| {
        // SAFETY: the conventions of the header.
        let (a, b, c) = unsafe { Matrices { shape, a, b, c }.slices()? };
        Ok(kernels.matmul_f32(shape, a, b, c)?)
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_matmul", kernels, error, body) }
}

/// Matrix product of signed bytes, exact: c = a * b with the shapes of infer_kernels_matmul(). k is at most 131071, so
/// that no sum leaves int32_t. c may not overlap a or b.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_matmul_i8(
    kernels: *const infer_kernels,
    a: *const i8,
    b: *const i8,
    m: usize,
    k: usize,
    n: usize,
    c: *mut i32,
    error: *mut *mut infer_error,
) -> infer_status {
    let shape = (m, k, n);
    let body = |kernels: &Kernels| {
        if k > Kernels::MAX_K_I8 {
            return Err(invalid(format!(
                "k: expected at most {}, found {k}: a sum of products could leave int32_t",
                Kernels::MAX_K_I8
            )));
        }
        // SAFETY: the conventions of the header.
        let (a, b, c) = unsafe { Matrices { shape, a, b, c }.slices()? };
        Ok(kernels.matmul_i8(shape, a, b, c)?)
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_matmul_i8", kernels, error, body) }
}

/// A kernel that makes an array of two, each element of those at its place.
unsafe fn zip(
    place: &'static str,
    kernels: *const infer_kernels,
    (a, b, n): (*const f32, *const f32, usize),
    out: *mut f32,
    error: *mut *mut infer_error,
    entry: impl FnOnce(&Kernels) -> unsafe fn(*const f32, *const f32, *mut f32, usize),
) -> infer_status {
    let body = |k: &Kernels| {
        let to = area(out.cast_const(), n, "out")?;
        to.in_place_or_apart_from(area(a, n, "a")?)?;
        to.in_place_or_apart_from(area(b, n, "b")?)?;
        // SAFETY: the arrays have n elements; `out` is one of the inputs or apart from them.
        unsafe { entry(k)(a, b, out, n) };
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute(place, kernels, error, body) }
}

/// Sums: out[i] = a[i] + b[i] for n elements. out may be a or b.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_add(
    kernels: *const infer_kernels,
    a: *const f32,
    b: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    unsafe { zip("infer_kernels_add", kernels, (a, b, n), out, error, |k| k.add_to) }
}

/// Products: out[i] = a[i] * b[i] for n elements. out may be a or b.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_mul(
    kernels: *const infer_kernels,
    a: *const f32,
    b: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    unsafe { zip("infer_kernels_mul", kernels, (a, b, n), out, error, |k| k.mul_to) }
}

/// A kernel that makes an array of one, each element of that at its place.
unsafe fn map(
    place: &'static str,
    kernels: *const infer_kernels,
    (x, n): (*const f32, usize),
    out: *mut f32,
    error: *mut *mut infer_error,
    entry: impl FnOnce(&Kernels) -> unsafe fn(*const f32, *mut f32, usize),
) -> infer_status {
    let body = |k: &Kernels| {
        area(out.cast_const(), n, "out")?.in_place_or_apart_from(area(x, n, "x")?)?;
        // SAFETY: both arrays have n elements; `out` is `x` or apart from it.
        unsafe { entry(k)(x, out, n) };
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute(place, kernels, error, body) }
}

/// Rectifier: out[i] = max(x[i], 0) for n elements; NaN stays. out may be x.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_relu(
    kernels: *const infer_kernels,
    x: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    unsafe { map("infer_kernels_relu", kernels, (x, n), out, error, |k| k.relu) }
}

/// Sigmoid-weighted unit, also called swish: out[i] = x[i] / (1 + exp(-x[i])) for n elements. out may be x.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_silu(
    kernels: *const infer_kernels,
    x: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    unsafe { map("infer_kernels_silu", kernels, (x, n), out, error, |k| k.silu) }
}

/// Gaussian error unit in its tanh form, the one that language models use:
/// out[i] = x[i] / 2 * (1 + tanh(sqrt(2 / pi) * (x[i] + 0.044715 * x[i]^3))) for n elements. out may be x.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_gelu(
    kernels: *const infer_kernels,
    x: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    unsafe { map("infer_kernels_gelu", kernels, (x, n), out, error, |k| k.gelu) }
}

/// Sigmoid: out[i] = 1 / (1 + exp(-x[i])) for n elements. out may be x.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_sigmoid(
    kernels: *const infer_kernels,
    x: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    unsafe {
        map("infer_kernels_sigmoid", kernels, (x, n), out, error, |k| {
            k.sigmoid
        })
    }
}

/// Softmax: out[i] = exp(x[i] - max) / the sum of exp(x[j] - max) for n elements, max being the largest. An element of
/// -INFINITY gets 0; a NaN, an infinity, or nothing but -INFINITY makes all NaN. out may be x.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_softmax(
    kernels: *const infer_kernels,
    x: *const f32,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |k: &Kernels| {
        area(out.cast_const(), n, "out")?.in_place_or_apart_from(area(x, n, "x")?)?;
        // SAFETY: both arrays have n elements; `x` is not read after it was copied.
        unsafe {
            if !std::ptr::addr_eq(x, out) && n > 0 {
                std::ptr::copy_nonoverlapping(x, out, n);
            }
            k.softmax_in_place(slice_mut(out, n));
        }
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_softmax", kernels, error, body) }
}

/// Root-mean-square norm: out[i] = x[i] / sqrt(mean of x[j]^2 + eps) * weight[i] for n elements. out may be x, and may
/// not overlap weight.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_rms_norm(
    kernels: *const infer_kernels,
    x: *const f32,
    weight: *const f32,
    n: usize,
    eps: f32,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |k: &Kernels| {
        let to = area(out.cast_const(), n, "out")?;
        to.in_place_or_apart_from(area(x, n, "x")?)?;
        to.apart_from(area(weight, n, "weight")?)?;
        if n > 0 {
            // SAFETY: the arrays have n elements; `out` is `x` or apart from it, and apart from `weight`.
            unsafe { (k.rms_norm_to)(x, weight, eps, out, n) };
        }
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_rms_norm", kernels, error, body) }
}

/// Layer norm: out[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i] for n elements, the variance being the
/// mean of (x[j] - mean)^2. bias may be NULL for none. out may be x, and may not overlap weight or bias.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_layer_norm(
    kernels: *const infer_kernels,
    x: *const f32,
    weight: *const f32,
    bias: *const f32,
    n: usize,
    eps: f32,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |k: &Kernels| {
        let to = area(out.cast_const(), n, "out")?;
        to.in_place_or_apart_from(area(x, n, "x")?)?;
        to.apart_from(area(weight, n, "weight")?)?;
        if !bias.is_null() {
            to.apart_from(area(bias, n, "bias")?)?;
        }
        if n > 0 {
            // SAFETY: the arrays have n elements; `out` is `x` or apart from it, and apart from the others.
            unsafe { (k.layer_norm_to)(x, weight, bias, eps, out, n) };
        }
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_layer_norm", kernels, error, body) }
}

/// Rotary position embedding, in place: x has n_heads rows of head_dim values, all at the same position. In each row the
/// first 2 * n_pairs values are turned pair by pair, (a, b) to (a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]) for
/// pair i; the others stay. cos and sin have n_pairs values, those of the angles: position times frequency i. pairs is an
/// infer_rope_pairs. x may not overlap cos or sin.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT, also when 2 * n_pairs is more than head_dim.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_rope(
    kernels: *const infer_kernels,
    x: *mut f32,
    n_heads: usize,
    head_dim: usize,
    cos: *const f32,
    sin: *const f32,
    n_pairs: usize,
    pairs: u32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |k: &Kernels| {
        let turn = if pairs == infer_rope_pairs::INFER_ROPE_ADJACENT as u32 {
            Kernels::rope_interleaved
        } else if pairs == infer_rope_pairs::INFER_ROPE_NEOX as u32 {
            Kernels::rope_neox
        } else {
            return Err(invalid(format!(
                "pairs: expected INFER_ROPE_ADJACENT or INFER_ROPE_NEOX, found {pairs}"
            )));
        };
        if n_pairs > head_dim / 2 {
            return Err(invalid(format!(
                "n_pairs: expected at most {}, half of head_dim, found {n_pairs}",
                head_dim / 2
            )));
        }
        let n = product(n_heads, head_dim, "x")?;
        let to = area(x.cast_const(), n, "x")?;
        to.apart_from(area(cos, n_pairs, "cos")?)?;
        to.apart_from(area(sin, n_pairs, "sin")?)?;
        // SAFETY: checked above; `x` is apart from `cos` and `sin`.
        let (x, cos, sin) = unsafe { (slice_mut(x, n), slice(cos, n_pairs), slice(sin, n_pairs)) };
        // Without values there are no rows to turn.
        for row in x.chunks_exact_mut(head_dim.max(1)) {
            turn(k, row, cos, sin);
        }
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_rope", kernels, error, body) }
}

/// The type of a name.
///
/// # Safety
/// The conventions of the header.
unsafe fn tensor_type(name: *const c_char) -> Result<TensorType, Failure> {
    // SAFETY: the promise of the caller.
    let name = unsafe { string::input(name, string::NTS, "type_name")? };
    TensorType::all().find(|ty| ty.name() == name).ok_or_else(|| {
        let name: String = name.chars().take(64).collect();
        invalid(format!(
            "type_name: expected the name of a tensor type like Q4_K, found \"{name}\""
        ))
    })
}

/// Checks that n values of a type take that many bytes.
fn check_bytes(ty: TensorType, n: usize, bytes: usize, what: &str) -> Result<(), Failure> {
    match ty.row_bytes(n) {
        Some(needed) if needed == bytes => Ok(()),
        Some(needed) => Err(invalid(format!(
            "{what}: expected {needed} bytes for {n} values of type {ty}, found {bytes}"
        ))),
        None => Err(invalid(format!(
            "n: expected a multiple of {}, the values in a block of {ty}, in a size that memory can hold, found {n}",
            ty.block_len()
        ))),
    }
}

/// Expands a row of a GGUF tensor: out gets the n values of the blocks in src. type_name is NUL-terminated, one of
/// F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4; n is a multiple of its block (32,
/// 256 for the names with _K and for IQ4_XS, 1 for floats) and src_bytes the size of these blocks. All levels give the
/// same bits. out may not overlap src.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT, INFER_ERR_UNSUPPORTED for another type of the file format.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_dequantize(
    kernels: *const infer_kernels,
    type_name: *const c_char,
    src: *const u8,
    src_bytes: usize,
    n: usize,
    out: *mut f32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |k: &Kernels| {
        // SAFETY: the conventions of the header.
        let ty = unsafe { tensor_type(type_name)? };
        if !ty.is_supported() {
            return Err(Failure::Library(Error::Unsupported(format!(
                "cannot dequantize {ty}: this version does not support the tensor type"
            ))));
        }
        check_bytes(ty, n, src_bytes, "src_bytes")?;
        area(out.cast_const(), n, "out")?.apart_from(area(src, src_bytes, "src")?)?;
        // SAFETY: checked above; `out` is apart from `src`.
        let (src, out) = unsafe { (slice(src, src_bytes), slice_mut(out, n)) };
        k.dequantize(ty, src, out).map_err(Error::from)?;
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_dequantize", kernels, error, body) }
}

/// Writes n values as a row of a GGUF tensor; type_name is "F32", "F16" or "BF16". Values are rounded to nearest even.
/// out_bytes is the size of the row: 4 or 2 bytes per value. All levels give the same bits. out may not overlap x.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT, INFER_ERR_UNSUPPORTED for another type of the file format.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kernels_quantize(
    kernels: *const infer_kernels,
    type_name: *const c_char,
    x: *const f32,
    n: usize,
    out: *mut u8,
    out_bytes: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |k: &Kernels| {
        // SAFETY: the conventions of the header.
        let ty = unsafe { tensor_type(type_name)? };
        let row = match ty {
            TensorType::F32 => RowType::F32,
            TensorType::F16 => RowType::F16,
            TensorType::BF16 => RowType::BF16,
            _ => {
                return Err(Failure::Library(Error::Unsupported(format!(
                    "cannot quantize to {ty}: this version writes F32, F16 and BF16"
                ))));
            }
        };
        check_bytes(ty, n, out_bytes, "out_bytes")?;
        area(out.cast_const(), out_bytes, "out")?.apart_from(area(x, n, "x")?)?;
        // SAFETY: checked above; `out` is apart from `x`.
        unsafe { k.store_row(row, slice(x, n), slice_mut(out, out_bytes)) };
        Ok(())
    };
    // SAFETY: the conventions of the header.
    unsafe { compute("infer_kernels_quantize", kernels, error, body) }
}
