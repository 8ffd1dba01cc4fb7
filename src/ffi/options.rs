//! The list of options, and what the option objects share.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use super::error::infer_error;
use super::guard::{self, Answer, Failure};
use super::handle::{self, Object};
use super::memory::{self, AbiStruct};
use super::status::infer_status;
use super::string;
use crate::options::{OptionSet, TABLE};

/// One option of the list that infer_options_describe() goes through. All texts are NUL-terminated and live forever.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_option_info {
    /// Set by INFER_OPTION_INFO_INIT.
    pub struct_size: u32,
    /// Always 0.
    pub reserved: u32,
    /// What the option belongs to: "model", "engine", "request", "threads" or "kv_cache".
    pub object: *const c_char,
    /// The key for infer_..._options_set().
    pub name: *const c_char,
    /// "bool", "integer", "float", "choice" or "text".
    pub type_name: *const c_char,
    /// The default, in the form that can be set.
    pub default_value: *const c_char,
    /// The values allowed, like "1..=4096" or "f32|f16|bf16|q8".
    pub range: *const c_char,
    /// What it does, with units.
    pub doc: *const c_char,
}

// SAFETY: repr(C), struct_size first, pointers after two u32 leave no padding, zero is a value of every field.
unsafe impl AbiStruct for infer_option_info {
    const NAME: &'static str = "infer_option_info";
    const MIN: usize = size_of::<infer_option_info>();
}

/// The texts of a row of the table, NUL-terminated, in the order of the struct.
type Texts = [CString; 6];

fn texts() -> &'static [Texts] {
    static TEXTS: OnceLock<Vec<Texts>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        TABLE
            .iter()
            .map(|s| {
                [
                    s.object.name(),
                    s.name,
                    s.kind.name(),
                    s.default,
                    &s.kind.range(),
                    s.doc,
                ]
                .map(|text| CString::new(text).unwrap_or_default())
            })
            .collect()
    })
}

/// Describes the option number index, counted from 0 over the options of all objects. Lists every option there is:
/// whatever is listed can be set with the infer_..._options_set() of its object. The texts live forever.
///
/// Answers INFER_END past the last option.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when info is NULL or too small.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_options_describe(
    index: usize,
    info: *mut infer_option_info,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let size = unsafe { memory::struct_size(info.cast_const(), "info")? };
        let Some(texts) = texts().get(index) else {
            return Ok(infer_status::INFER_END);
        };
        let [object, name, type_name, default_value, range, doc] = texts.each_ref().map(|text| text.as_ptr());
        let ours = infer_option_info {
            struct_size: 0,
            reserved: 0,
            object,
            name,
            type_name,
            default_value,
            range,
            doc,
        };
        // SAFETY: `info` passed the check.
        unsafe { memory::write_struct(&ours, info, size) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_options_describe", error, body) }
}

/// Creates an options object; NULL when there is no memory, in a forked child, or inside a callback.
pub(crate) fn create<O: Object>() -> *mut O
where
    O::State: Default,
{
    if super::fork::is_child() || super::callback::is_inside() {
        return std::ptr::null_mut();
    }
    super::panic_hook::install();
    guard::quiet(std::ptr::null_mut(), || {
        handle::create(O::State::default()).unwrap_or(std::ptr::null_mut())
    })
}

/// Sets one option by name.
///
/// # Safety
/// The pointers are as the conventions of the header ask.
pub(crate) unsafe fn set<O: Object, S: OptionSet>(
    options: *mut O,
    key: *const c_char,
    value: *const c_char,
    select: impl FnOnce(&mut O::State) -> &mut S,
) -> Answer {
    // SAFETY: the promise of the caller.
    let (options, key, value) = unsafe {
        (
            handle::get_mut(options)?,
            string::input(key, string::NTS, "the option's key")?,
            string::input(value, string::NTS, "the option's value")?,
        )
    };
    assign(select(options), key, value)
}

/// Sets an option from text that is already checked to be text.
pub(crate) fn assign(options: &mut impl OptionSet, key: &str, value: &str) -> Answer {
    options.set(key, value).map_err(Failure::from)?;
    Ok(infer_status::INFER_OK)
}

/// The state of an options object, or defaults for NULL.
///
/// # Safety
/// As [`handle::get`].
pub(crate) unsafe fn or_default<O: Object>(
    options: *const O,
    default: &mut Option<O::State>,
) -> Result<&O::State, Failure>
where
    O::State: Default,
{
    if options.is_null() {
        return Ok(default.insert(O::State::default()));
    }
    // SAFETY: the promise of the caller.
    unsafe { handle::get(options) }
}
