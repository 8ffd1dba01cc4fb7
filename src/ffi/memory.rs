//! The caller's memory: arrays in, arrays out, and structs that begin with their size.

use super::guard::{Answer, Failure, invalid};
use super::status::infer_status;

/// An array of the caller.
///
/// # Safety
/// `pointer` is NULL or points to `n` readable elements that do not change while the answer is used.
pub(crate) unsafe fn input<'a, T>(pointer: *const T, n: usize, what: &str) -> Result<&'a [T], Failure> {
    if n == 0 {
        return Ok(&[]);
    }
    check(pointer, what)?;
    if n.checked_mul(size_of::<T>())
        .is_none_or(|bytes| bytes > isize::MAX as usize)
    {
        return Err(invalid(format!(
            "{what}: {n} elements of {} bytes are more than memory can hold",
            size_of::<T>()
        )));
    }
    // SAFETY: not NULL, aligned, of a possible size, and readable by the promise of the caller.
    Ok(unsafe { std::slice::from_raw_parts(pointer, n) })
}

/// An array of the caller to write to.
///
/// # Safety
/// `pointer` is NULL or points to `n` writable elements that nothing else reads or writes while the answer is used.
pub(crate) unsafe fn output_slice<'a, T>(
    pointer: *mut T,
    n: usize,
    what: &str,
) -> Result<&'a mut [T], Failure> {
    // SAFETY: the promise of the caller is more than that of `input`; the answer is not used beside this one.
    let n = unsafe { input(pointer.cast_const(), n, what)? }.len();
    if n == 0 {
        return Ok(&mut []);
    }
    // SAFETY: checked by `input`, and writable by the promise of the caller.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, n) })
}

/// Checks a pointer to memory of the caller.
pub(crate) fn check<T>(pointer: *const T, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(invalid(format!("{what}: expected a pointer, found NULL")));
    }
    if !pointer.is_aligned() {
        return Err(invalid(format!(
            "{what}: the address {pointer:p} is not a multiple of {}",
            align_of::<T>()
        )));
    }
    Ok(())
}

/// Writes one value to the caller, who passed [`check`] before the work was done.
///
/// # Safety
/// `pointer` passed [`check`] and is writable.
pub(crate) unsafe fn put<T>(pointer: *mut T, value: T) {
    // SAFETY: checked and writable.
    unsafe { pointer.write(value) };
}

/// Reports the size an output needs. Answers whether to copy, which is not the case when the caller only asks.
///
/// # Safety
/// `needed` is NULL or writable.
pub(crate) unsafe fn report(
    size: usize,
    no_buffer: bool,
    capacity: usize,
    needed: *mut usize,
) -> Result<bool, Failure> {
    if !needed.is_null() {
        check(needed, "needed")?;
        // SAFETY: checked, and writable by the promise of the caller.
        unsafe { needed.write(size) };
    }
    if no_buffer {
        return if capacity > 0 {
            Err(invalid(format!(
                "buffer: expected room for {capacity}, found NULL"
            )))
        } else if needed.is_null() {
            Err(invalid(
                "buffer and needed are both NULL: there is nothing to answer",
            ))
        } else {
            Ok(false)
        };
    }
    if capacity < size {
        return Err(Failure::BufferTooSmall(format!(
            "the buffer has room for {capacity}, but {size} are needed"
        )));
    }
    Ok(true)
}

/// Copies an array into the caller's and reports how many elements it has.
///
/// # Safety
/// `buffer` is NULL or has room for `capacity` elements; `needed` is NULL or writable.
pub(crate) unsafe fn output<T: Copy>(
    values: &[T],
    buffer: *mut T,
    capacity: usize,
    needed: *mut usize,
) -> Answer {
    // SAFETY: the promise of the caller.
    if unsafe { report(values.len(), buffer.is_null(), capacity, needed)? } {
        check(buffer.cast_const(), "buffer")?;
        // SAFETY: checked, and `report` found that there is room.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), buffer, values.len()) };
    }
    Ok(infer_status::INFER_OK)
}

/// A struct that crosses the boundary: plain data without padding that begins with a `u32 struct_size`.
///
/// # Safety
/// The type is `repr(C)`, its first field is `struct_size: u32`, it has no padding, and all bytes zero are a value.
pub(crate) unsafe trait AbiStruct: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// The smallest size a caller may have: the fields of the very first version that make sense alone.
    const MIN: usize;
}

/// Checks a struct the caller wants filled and answers the size the caller knows.
///
/// # Safety
/// `theirs` is NULL or points to a struct that is as large as its first field says.
pub(crate) unsafe fn struct_size<T: AbiStruct>(theirs: *const T, what: &str) -> Result<usize, Failure> {
    check(theirs, what)?;
    // SAFETY: checked; the first field is a u32 that the caller has set.
    let size = unsafe { theirs.cast::<u32>().read() } as usize;
    if size < T::MIN {
        return Err(invalid(format!(
            "{what}: expected struct_size of at least {} (this library's {} has {}), found {size}; initialize it with {}_INIT",
            T::MIN,
            T::NAME,
            size_of::<T>(),
            T::NAME.to_uppercase(),
        )));
    }
    Ok(size)
}

/// Writes as much of `ours` as the caller's struct holds.
///
/// # Safety
/// `theirs` passed [`struct_size`], or is an element of an array whose stride is `size`, and is writable.
pub(crate) unsafe fn write_struct<T: AbiStruct>(ours: &T, theirs: *mut T, size: usize) {
    let size32 = u32::try_from(size).unwrap_or(u32::MAX);
    // SAFETY: both sides have at least that many bytes, and a field of the caller cannot overlap a Rust value.
    unsafe {
        std::ptr::copy_nonoverlapping(
            std::ptr::from_ref(ours).cast::<u8>(),
            theirs.cast::<u8>(),
            size.min(size_of::<T>()),
        );
        theirs.cast::<u32>().write(size32);
    }
}

/// Reads a struct of the caller; fields it does not have are zero.
///
/// # Safety
/// `theirs` is NULL or points to a struct that is as large as its first field says.
pub(crate) unsafe fn read_struct<T: AbiStruct>(theirs: *const T, what: &str) -> Result<T, Failure> {
    // SAFETY: the promise of the caller.
    let size = unsafe { struct_size(theirs, what)? };
    let mut ours = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: both sides have at least that many bytes; all bytes zero are a value of the type.
    unsafe {
        std::ptr::copy_nonoverlapping(
            theirs.cast::<u8>(),
            ours.as_mut_ptr().cast::<u8>(),
            size.min(size_of::<T>()),
        );
        Ok(ours.assume_init())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Pair {
        struct_size: u32,
        a: u32,
        b: u64,
    }
    // SAFETY: plain integers without padding.
    unsafe impl AbiStruct for Pair {
        const NAME: &'static str = "pair";
        const MIN: usize = 8;
    }

    #[test]
    fn no_more_is_written_than_the_caller_has() {
        let ours = Pair {
            struct_size: 0,
            a: 1,
            b: 2,
        };
        let mut theirs = Pair {
            struct_size: 8,
            a: 7,
            b: 7,
        };
        // SAFETY: `theirs` is larger than its size says.
        unsafe {
            let size = struct_size(&theirs, "pair").unwrap();
            write_struct(&ours, &mut theirs, size);
            assert_eq!((theirs.struct_size, theirs.a, theirs.b), (8, 1, 7));
            theirs.struct_size = 16;
            write_struct(&ours, &mut theirs, 16);
            assert_eq!((theirs.struct_size, theirs.a, theirs.b), (16, 1, 2));
            theirs.struct_size = 8;
            assert_eq!(read_struct(&theirs, "pair").unwrap().b, 0);
            theirs.struct_size = 4;
            assert!(struct_size(&theirs, "pair").is_err());
        }
    }
}
