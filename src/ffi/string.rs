//! Text from C and text to C.

use std::ffi::{CStr, c_char};

use super::guard::{Answer, Failure, invalid};
use super::memory;
use super::status::infer_status;

/// The length that says: NUL-terminated.
pub(crate) const NTS: usize = usize::MAX;

/// Text of the caller.
///
/// # Safety
/// `pointer` is NULL, or points to `length` readable bytes, or to a NUL-terminated string when `length` is
/// [`NTS`]; they do not change while the answer is used.
pub(crate) unsafe fn input<'a>(
    pointer: *const c_char,
    length: usize,
    what: &str,
) -> Result<&'a str, Failure> {
    // SAFETY: the promise of the caller.
    let bytes = unsafe { bytes(pointer, length, what)? };
    std::str::from_utf8(bytes).map_err(|e| {
        Failure::Utf8(format!(
            "{what} is not UTF-8: the byte at offset {} of {} does not belong there",
            e.valid_up_to(),
            bytes.len()
        ))
    })
}

unsafe fn bytes<'a>(pointer: *const c_char, length: usize, what: &str) -> Result<&'a [u8], Failure> {
    if length == NTS {
        if pointer.is_null() {
            return Err(invalid(format!(
                "{what}: expected NUL-terminated text, found NULL"
            )));
        }
        // SAFETY: not NULL, and NUL-terminated by the promise of the caller.
        return Ok(unsafe { CStr::from_ptr(pointer) }.to_bytes());
    }
    // SAFETY: the promise of the caller.
    unsafe { memory::input(pointer.cast::<u8>(), length, what) }
}

/// A copy whose allocation can fail.
pub(crate) fn owned(text: &str, what: &str) -> Result<String, Failure> {
    let mut bytes = crate::memory::with_capacity(text.len(), what)?;
    bytes.extend_from_slice(text.as_bytes());
    String::from_utf8(bytes).map_err(|_| invalid(format!("{what} is not UTF-8")))
}

/// Copies text and a NUL into the caller's buffer and reports the size that needs.
///
/// # Safety
/// `buffer` is NULL or has `capacity` writable bytes; `needed` is NULL or writable.
pub(crate) unsafe fn output(text: &str, buffer: *mut c_char, capacity: usize, needed: *mut usize) -> Answer {
    let size = text.len() + 1;
    // SAFETY: the promise of the caller.
    if !unsafe { memory::report(size, buffer.is_null(), capacity, needed)? } {
        return Ok(infer_status::INFER_OK);
    }
    // SAFETY: the buffer is not NULL and `report` found that it has room for text and NUL.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(infer_status::INFER_OK)
}

/// Text for a C string: NUL-terminated, NULs inside replaced.
pub(crate) fn terminated(text: &str) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    text.push('\0');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_utf8_is_refused_with_its_offset() {
        let bytes = b"abc\xffdef\0";
        // SAFETY: the pointer and the lengths describe `bytes`.
        unsafe {
            for length in [7, NTS] {
                let Err(Failure::Utf8(message)) = input(bytes.as_ptr().cast(), length, "the prompt") else {
                    panic!("accepted");
                };
                assert!(
                    message.contains("offset 3") && message.contains("the prompt"),
                    "{message}"
                );
            }
            assert_eq!(input(bytes.as_ptr().cast(), 3, "x").unwrap(), "abc");
            assert_eq!(input(std::ptr::null(), 0, "x").unwrap(), "");
            assert!(input(std::ptr::null(), 1, "x").is_err());
            assert!(input(std::ptr::null(), NTS, "x").is_err());
            assert!(input(bytes.as_ptr().cast(), usize::MAX - 1, "x").is_err());
        }
    }

    #[test]
    fn the_size_needed_is_reported_and_a_small_buffer_left_alone() {
        let mut buffer = [9i8 as c_char; 6];
        let mut needed = 0;
        // SAFETY: the pointers and the capacity describe `buffer` and `needed`.
        unsafe {
            assert!(output("tree", std::ptr::null_mut(), 0, &mut needed).is_ok());
            assert_eq!(needed, 5);
            assert!(matches!(
                output("tree", buffer.as_mut_ptr(), 4, &mut needed),
                Err(Failure::BufferTooSmall(_))
            ));
            assert_eq!(buffer, [9; 6]);
            assert!(output("tree", buffer.as_mut_ptr(), 5, std::ptr::null_mut()).is_ok());
            assert!(output("tree", std::ptr::null_mut(), 0, std::ptr::null_mut()).is_err());
        }
        assert_eq!(&buffer.map(|c| c as u8), b"tree\0\x09");
    }
}
