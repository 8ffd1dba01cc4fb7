//! Sequences of a key/value cache: writing and reading them.

use std::ffi::c_void;

use super::error::infer_error;
use super::fork;
use super::guard::{self, Answer, Failure, invalid};
use super::handle::{self, Object, magic};
use super::kv_view::{KvViewState, infer_kv_view};
use super::memory;
use super::status::infer_status;
use crate::kernel::RowType;
use crate::kv::store::{Elements, ElementsMut, Sequence};

/// A sequence of tokens of a key/value cache.
///
/// Threads: any number may read at the same time, also while one writes. A second writer is answered with INFER_ERR_BUSY.
pub struct infer_kv_seq {
    _private: [u8; 0],
}

impl Object for infer_kv_seq {
    type State = Sequence;
    const MAGIC: u64 = magic(b"INFkvseq");
    const NAME: &'static str = "infer_kv_seq";
}

/// An element type of keys and values.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_kv_type {
    /// 32-bit floats.
    INFER_KV_F32 = 1,
    /// IEEE half floats.
    INFER_KV_F16 = 2,
    /// The upper halves of 32-bit floats.
    INFER_KV_BF16 = 3,
    /// For each token and head a 32-bit float, the scale, and then signed bytes; nothing is aligned.
    INFER_KV_Q8 = 4,
}

pub(super) fn c_type(row_type: RowType) -> infer_kv_type {
    match row_type {
        RowType::F32 => infer_kv_type::INFER_KV_F32,
        RowType::F16 => infer_kv_type::INFER_KV_F16,
        RowType::BF16 => infer_kv_type::INFER_KV_BF16,
        RowType::Q8 => infer_kv_type::INFER_KV_Q8,
    }
}

/// Whether elements are floats to be converted; otherwise they are those of the cache.
fn as_floats(sequence: &Sequence, element_type: u32) -> Result<bool, Failure> {
    let own = c_type(sequence.shape().row_type) as u32;
    if element_type == infer_kv_type::INFER_KV_F32 as u32 {
        Ok(true)
    } else if element_type == own {
        Ok(false)
    } else {
        Err(invalid(format!(
            "element_type: expected {}, which is INFER_KV_F32, or {own}, which is that of the cache, found {element_type}",
            infer_kv_type::INFER_KV_F32 as u32
        )))
    }
}

/// The size of an array of the caller.
fn size(n: usize, unit: usize, what: &str) -> Result<usize, Failure> {
    n.checked_mul(unit)
        .ok_or_else(|| invalid(format!("{what}: {n} tokens are more than memory can hold")))
}

unsafe fn input<'a>(
    sequence: &Sequence,
    pointer: *const c_void,
    n: usize,
    floats: bool,
    what: &str,
) -> Result<Elements<'a>, Failure> {
    let shape = sequence.shape();
    // SAFETY: the promise of the caller.
    unsafe {
        if floats {
            let n = size(n, shape.token_elements(), what)?;
            Ok(Elements::F32(memory::input(pointer.cast(), n, what)?))
        } else {
            let n = size(n, shape.token_bytes(), what)?;
            Ok(Elements::Stored(memory::input(pointer.cast(), n, what)?))
        }
    }
}

unsafe fn output<'a>(
    sequence: &Sequence,
    pointer: *mut c_void,
    n: usize,
    floats: bool,
    what: &str,
) -> Result<ElementsMut<'a>, Failure> {
    let shape = sequence.shape();
    // SAFETY: the promise of the caller, checked by `output`.
    unsafe {
        if floats {
            let n = size(n, shape.token_elements(), what)?;
            Ok(ElementsMut::F32(memory::output_slice(pointer.cast(), n, what)?))
        } else {
            let n = size(n, shape.token_bytes(), what)?;
            Ok(ElementsMut::Stored(memory::output_slice(
                pointer.cast(),
                n,
                what,
            )?))
        }
    }
}

/// Runs a body on a sequence.
///
/// # Safety
/// The conventions of the header hold for both pointers.
unsafe fn on(
    place: &'static str,
    seq: *const infer_kv_seq,
    error: *mut *mut infer_error,
    body: impl FnOnce(&Sequence) -> Answer,
) -> infer_status {
    let body = || {
        // SAFETY: the promise of the caller.
        body(unsafe { handle::get(seq)? })
    };
    // SAFETY: the promise of the caller.
    unsafe { guard::call(place, error, body) }
}

/// Opens a sequence with the same tokens. Nothing is copied: both share every block, and the first to go on in the middle
/// of the last one copies it. Free it with infer_kv_seq_free().
///
/// Errors: INFER_ERR_NO_MEMORY.
/// Threads: any, also while another one writes seq.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_seq_fork(
    seq: *const infer_kv_seq,
    fork: *mut *mut infer_kv_seq,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        memory::check(fork.cast_const(), "fork")?;
        // SAFETY: checked above.
        unsafe { memory::put(fork, handle::create(sequence.fork()?)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_seq_fork", seq, error, body) }
}

/// Forgets all tokens from position length on, those stored and not advanced over included.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when there are not so many tokens, INFER_ERR_BUSY when another thread is writing.
/// Threads: one writer of seq at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_seq_truncate(
    seq: *mut infer_kv_seq,
    length: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        sequence.truncate(length)?;
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_seq_truncate", seq, error, body) }
}

/// Tokens of a sequence that can be read; 0 for NULL and in a forked child.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_seq_length(seq: *const infer_kv_seq) -> usize {
    // Another thread of the parent may have held the lock.
    if fork::is_child() {
        return 0;
    }
    guard::quiet(0, || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(seq) }.map_or(0, Sequence::len)
    })
}

/// Bytes of the keys of one token and layer in an element type, which is INFER_KV_F32 or that of the cache; as many as
/// its values take. 0 for another type and for NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_seq_token_bytes(seq: *const infer_kv_seq, element_type: u32) -> usize {
    guard::quiet(0, || {
        // SAFETY: the conventions of the header.
        let sequence = match unsafe { handle::get(seq) } {
            Ok(sequence) => sequence,
            Err(_) => return 0,
        };
        match as_floats(sequence, element_type) {
            Ok(true) => 4 * sequence.shape().token_elements(),
            Ok(false) => sequence.shape().token_bytes(),
            Err(_) => 0,
        }
    })
}

/// Frees a sequence. What it sealed stays in the cache until its memory is needed. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_seq_free(seq: *mut infer_kv_seq) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(seq) }
}

/// Stores keys and values of one token of a layer: n_kv_heads times head_dim floats each. It is
/// infer_kv_cache_store_batch() of one token of INFER_KV_F32.
///
/// Errors: those of infer_kv_cache_store_batch().
/// Threads: one writer of seq at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_store(
    seq: *mut infer_kv_seq,
    layer: u32,
    position: usize,
    keys: *const f32,
    values: *const f32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        let n = sequence.shape().token_elements();
        // SAFETY: the conventions of the header.
        let (keys, values) = unsafe {
            (
                memory::input(keys, n, "keys")?,
                memory::input(values, n, "values")?,
            )
        };
        sequence.store(layer as usize, position, keys, values)?;
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_cache_store", seq, error, body) }
}

/// Stores keys and values of n tokens of a layer from position on: token by token, in it head by head, each of head_dim
/// elements. element_type is INFER_KV_F32, converted to the type of the cache, or that type itself, taken over bit for
/// bit. The positions of a layer follow on one another without a gap, from the length of the sequence on; those not
/// advanced over yet can be stored again.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for a layer, position or type outside what is accepted, INFER_ERR_NO_MEMORY when
/// every block is in use by sequences, views and pins, INFER_ERR_BUSY when another thread is writing. Tokens before the
/// block that there was no memory for are stored.
/// Threads: one writer of seq at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_store_batch(
    seq: *mut infer_kv_seq,
    layer: u32,
    position: usize,
    n: usize,
    element_type: u32,
    keys: *const c_void,
    values: *const c_void,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        let floats = as_floats(sequence, element_type)?;
        // SAFETY: the conventions of the header.
        let (keys, values) = unsafe {
            (
                input(sequence, keys, n, floats, "keys")?,
                input(sequence, values, n, floats, "values")?,
            )
        };
        sequence.store_batch(layer as usize, position, n, keys, values)?;
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_cache_store_batch", seq, error, body) }
}

/// Makes n more tokens of a sequence readable. Every layer has to have them.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when a layer does not have them, naming it, INFER_ERR_BUSY when another thread is
/// writing.
/// Threads: one writer of seq at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_advance(
    seq: *mut infer_kv_seq,
    n: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        sequence.advance(n)?;
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_cache_advance", seq, error, body) }
}

/// How many tokens to give to a call of infer_kv_cache_store_batch(): the largest power of two up to 64 with which a
/// token takes at most 3 % longer than with the best. Measured on this machine with rows of this cache when it is first
/// asked for, which takes about 15 milliseconds and 8 MiB of memory; the cache keeps the answer.
///
/// Errors: INFER_ERR_NO_MEMORY.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_optimal_batch(
    seq: *const infer_kv_seq,
    n: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        memory::check(n.cast_const(), "n")?;
        // SAFETY: checked above.
        unsafe { memory::put(n, sequence.optimal_batch()?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_cache_optimal_batch", seq, error, body) }
}

/// Copies keys and values of n tokens of a layer from position on: token by token, in it head by head. element_type is
/// INFER_KV_F32, converted from the type of the cache, or that type itself. keys and values may not overlap.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for a layer or type outside what is accepted, or positions that cannot be read.
/// Threads: any, also while another one writes seq.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_fetch(
    seq: *const infer_kv_seq,
    layer: u32,
    position: usize,
    n: usize,
    element_type: u32,
    keys: *mut c_void,
    values: *mut c_void,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        let floats = as_floats(sequence, element_type)?;
        let shape = sequence.shape();
        let unit = if floats {
            4 * shape.token_elements()
        } else {
            shape.token_bytes()
        };
        if keys.addr().abs_diff(values.addr()) < size(n, unit, "keys")? {
            return Err(invalid(
                "keys and values: they overlap, which this function does not allow",
            ));
        }
        // SAFETY: the conventions of the header; they do not overlap.
        let (keys, values) = unsafe {
            (
                output(sequence, keys, n, floats, "keys")?,
                output(sequence, values, n, floats, "values")?,
            )
        };
        sequence.fetch(layer as usize, position, n, keys, values)?;
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_cache_fetch", seq, error, body) }
}

/// Gives keys and values of n tokens of a layer from position on as they lie in memory, for infer_kv_view_block(). They
/// stay as they are until the view is freed by infer_kv_view_free(), whatever becomes of the sequence. Tokens of a block
/// that is not full yet are copied.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for a layer outside the range or positions that cannot be read,
/// INFER_ERR_NO_MEMORY.
/// Threads: any, also while another one writes seq.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_view(
    seq: *const infer_kv_seq,
    layer: u32,
    position: usize,
    n: usize,
    view: *mut *mut infer_kv_view,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        memory::check(view.cast_const(), "view")?;
        let state = KvViewState {
            view: sequence.view(layer as usize, position, n)?,
        };
        // SAFETY: checked above.
        unsafe { memory::put(view, handle::create(state)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_cache_view", seq, error, body) }
}

/// Says which tokens a sequence holds from its beginning. Its full blocks of 32 tokens are found by them from now on,
/// by infer_kv_cache_lookup() with the salt of the sequence. What was sealed before is not looked at again. Where the
/// same bytes are known already, the sequence shares them and gives its own memory back.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when there are more tokens than the sequence has, INFER_ERR_BUSY when another
/// thread is writing.
/// Threads: one writer of seq at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_seal(
    seq: *mut infer_kv_seq,
    tokens: *const u32,
    n_tokens: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = |sequence: &Sequence| {
        // SAFETY: the conventions of the header.
        sequence.seal(unsafe { memory::input(tokens, n_tokens, "tokens")? })?;
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { on("infer_kv_cache_seal", seq, error, body) }
}
