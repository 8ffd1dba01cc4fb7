//! Blocks of a key/value cache as they lie in memory.

use std::ffi::c_void;

use super::error::infer_error;
use super::guard;
use super::handle::{self, Object, magic};
use super::kv_seq::c_type;
use super::memory::{self, AbiStruct};
use super::status::infer_status;
use crate::kv::store::View;

/// Keys and values of a range of positions of one layer as they lie in memory.
///
/// Threads: any number at the same time.
pub struct infer_kv_view {
    _private: [u8; 0],
}

pub(crate) struct KvViewState {
    pub(super) view: View,
}

impl Object for infer_kv_view {
    type State = KvViewState;
    const MAGIC: u64 = magic(b"INFkview");
    const NAME: &'static str = "infer_kv_view";
}

/// The tokens of a view that lie in one block. Element e of head h of the token position + t is at keys + t *
/// token_stride + h * head_stride, as values are; heads of INFER_KV_Q8 begin with their scale. The
/// memory lives until the view is freed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_kv_block {
    /// Set by INFER_KV_BLOCK_INIT.
    pub struct_size: u32,
    /// The type of the cache, an infer_kv_type.
    pub element_type: u32,
    /// Position of the first token.
    pub position: usize,
    /// Tokens.
    pub n_tokens: usize,
    /// Their keys.
    pub keys: *const c_void,
    /// Their values.
    pub values: *const c_void,
    /// Bytes from one token to the next.
    pub token_stride: usize,
    /// Bytes from one head to the next.
    pub head_stride: usize,
}

// SAFETY: repr(C), struct_size first, fields of the size of a pointer after two u32 leave no padding, zero is a value.
unsafe impl AbiStruct for infer_kv_block {
    const NAME: &'static str = "infer_kv_block";
    const MIN: usize = size_of::<infer_kv_block>();
}

/// Describes the part of a view in its block number index, counted from 0. The memory stays until the view is freed and
/// must not be written to.
///
/// Answers INFER_END past the last block.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when block is NULL or too small.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_view_block(
    view: *const infer_kv_view,
    index: usize,
    block: *mut infer_kv_block,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let view = &unsafe { handle::get(view)? }.view;
        // SAFETY: the conventions of the header.
        let size = unsafe { memory::struct_size(block.cast_const(), "block")? };
        let Some(part) = view.part(index) else {
            return Ok(infer_status::INFER_END);
        };
        let ours = infer_kv_block {
            struct_size: 0,
            element_type: c_type(view.shape().row_type) as u32,
            position: part.position,
            n_tokens: part.n,
            keys: part.keys.as_ptr().cast(),
            values: part.values.as_ptr().cast(),
            token_stride: view.shape().token_bytes(),
            head_stride: view.shape().head_bytes(),
        };
        // SAFETY: `block` passed the check.
        unsafe { memory::write_struct(&ours, block, size) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_kv_view_block", error, body) }
}

/// Frees a view. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle or what it points to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_view_free(view: *mut infer_kv_view) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(view) }
}
