//! Handles: the one place where the pointers C holds are cast.
//!
//! A handle points to a heap block whose first word says what it is. The word is checked on every entry, so that
//! NULL, a handle of another type and (as far as the allocator left the word alone) a freed handle are errors.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::guard::Failure;
use crate::error::Error;

/// A type that C sees as an opaque struct.
pub(crate) trait Object {
    /// What is behind it.
    type State;
    /// The word at its front.
    const MAGIC: u64;
    /// Its name in C.
    const NAME: &'static str;
}

/// The memory behind a handle.
#[repr(C)]
pub(crate) struct Handle<S> {
    magic: AtomicU64,
    pub(crate) state: S,
}

const FREED: u64 = u64::from_be_bytes(*b"INFfreed");

/// Words and names of all objects, for messages about a handle of the wrong type.
const KNOWN: &[(u64, &str)] = &[
    (magic(b"INFmodel"), "infer_model"),
    (magic(b"INFengin"), "infer_engine"),
    (magic(b"INFreque"), "infer_request"),
    (magic(b"INFqueue"), "infer_queue"),
    (magic(b"INFthrea"), "infer_threads"),
    (magic(b"INFkerne"), "infer_kernels"),
    (magic(b"INFkvcac"), "infer_kv_cache"),
    (magic(b"INFkvseq"), "infer_kv_seq"),
    (magic(b"INFkvpin"), "infer_kv_pin"),
    (magic(b"INFkview"), "infer_kv_view"),
    (magic(b"INFerror"), "infer_error"),
    (magic(b"INFopt_m"), "infer_model_options"),
    (magic(b"INFopt_e"), "infer_engine_options"),
    (magic(b"INFopt_r"), "infer_request_options"),
    (magic(b"INFopt_t"), "infer_threads_options"),
    (magic(b"INFopt_k"), "infer_kv_cache_options"),
    (FREED, "handle that was freed"),
];

/// Eight letters as a word.
pub(crate) const fn magic(letters: &[u8; 8]) -> u64 {
    u64::from_be_bytes(*letters)
}

impl<S> Handle<S> {
    /// A handle that is not on the heap.
    pub(crate) const fn new(magic: u64, state: S) -> Self {
        Self {
            magic: AtomicU64::new(magic),
            state,
        }
    }
}

/// Puts a handle on the heap without owning it as C does yet.
pub(crate) fn boxed<O: Object>(state: O::State) -> Result<Box<Handle<O::State>>, Failure> {
    let mut one = Vec::new();
    one.try_reserve_exact(1).map_err(|_| Failure::NoMemory)?;
    one.push(Handle::new(O::MAGIC, state));
    let one: Box<[Handle<O::State>]> = one.into_boxed_slice();
    // SAFETY: a slice of one element has the layout of the element, and the box gives up its ownership.
    Ok(unsafe { Box::from_raw(Box::into_raw(one).cast()) })
}

/// Puts a handle on the heap for C to own.
pub(crate) fn create<O: Object>(state: O::State) -> Result<*mut O, Failure> {
    Ok(Box::into_raw(boxed::<O>(state)?).cast())
}

/// The pointer by which C knows a handle that Rust owns.
pub(crate) fn borrowed<O: Object>(handle: &Handle<O::State>) -> *const O {
    std::ptr::from_ref(handle).cast()
}

fn describe(word: u64) -> &'static str {
    KNOWN
        .iter()
        .find(|(m, _)| *m == word)
        .map_or("pointer to something else", |(_, name)| name)
}

/// Checks a handle and answers its state.
///
/// # Safety
/// A pointer that is not NULL points to at least eight readable bytes, and the handle is not freed while the
/// answer is used.
pub(crate) unsafe fn get<'a, O: Object>(handle: *const O) -> Result<&'a O::State, Failure> {
    // SAFETY: the caller's promise is the same.
    unsafe { check(handle)? };
    // SAFETY: the word at the front says that this is a handle of the type, created here and not freed.
    Ok(unsafe { &(*handle.cast::<Handle<O::State>>()).state })
}

/// Checks a handle and answers its state for changing.
///
/// # Safety
/// As [`get`], and no other thread uses the handle meanwhile.
pub(crate) unsafe fn get_mut<'a, O: Object>(handle: *mut O) -> Result<&'a mut O::State, Failure> {
    // SAFETY: the caller's promise is the same.
    unsafe { check(handle.cast_const())? };
    // SAFETY: the word at the front says what it is, and the caller promised to be its only user.
    Ok(unsafe { &mut (*handle.cast::<Handle<O::State>>()).state })
}

unsafe fn check<O: Object>(handle: *const O) -> Result<(), Failure> {
    if handle.is_null() {
        return Err(Failure::Library(Error::InvalidArgument(format!(
            "expected an {}, found NULL",
            O::NAME
        ))));
    }
    let word = handle.cast::<AtomicU64>();
    if !word.is_aligned() {
        return Err(Failure::Handle(format!(
            "expected an {}, found the odd address {word:p}",
            O::NAME
        )));
    }
    // SAFETY: aligned, not NULL, and readable by the promise of the caller.
    let found = unsafe { (*word).load(Relaxed) };
    if found == O::MAGIC {
        Ok(())
    } else {
        Err(Failure::Handle(format!(
            "expected an {}, found the address of a {}",
            O::NAME,
            describe(found)
        )))
    }
}

/// Takes a handle back from C; `None` when it is NULL or not such a handle.
///
/// # Safety
/// As [`get`], and nobody uses the handle afterwards.
pub(crate) unsafe fn take<O: Object>(handle: *mut O) -> Option<Box<Handle<O::State>>> {
    let word = handle.cast::<AtomicU64>();
    if handle.is_null() || !word.is_aligned() {
        return None;
    }
    // SAFETY: aligned, not NULL, and readable by the promise of the caller.
    unsafe { &*word }
        .compare_exchange(O::MAGIC, FREED, Relaxed, Relaxed)
        .ok()?;
    // SAFETY: the word says that `create` made it, and having changed it only this thread takes it.
    Some(unsafe { Box::from_raw(handle.cast()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing;
    impl Object for Thing {
        type State = u32;
        const MAGIC: u64 = magic(b"INFmodel");
        const NAME: &'static str = "infer_model";
    }
    struct Other;
    impl Object for Other {
        type State = u32;
        const MAGIC: u64 = magic(b"INFengin");
        const NAME: &'static str = "infer_engine";
    }

    #[test]
    fn a_handle_of_another_type_is_named_and_refused() {
        let thing: *mut Thing = create(5).unwrap();
        // SAFETY: the pointer was just created.
        unsafe {
            assert_eq!(*get(thing.cast_const()).unwrap(), 5);
            let Err(Failure::Handle(message)) = get(thing.cast::<Other>().cast_const()) else {
                panic!("accepted");
            };
            assert!(
                message.contains("infer_engine") && message.contains("infer_model"),
                "{message}"
            );
            assert!(take(thing.cast::<Other>()).is_none());
            assert!(take(thing).is_some());
            assert!(get::<Thing>(std::ptr::null()).is_err());
            assert!(get::<Thing>(std::ptr::without_provenance(3)).is_err());
        }
    }
}
