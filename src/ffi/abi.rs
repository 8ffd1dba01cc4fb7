//! Version of the library and of its binary interface.

use std::ffi::{CStr, c_char};

use super::error::infer_error;
use super::guard::{self, Failure};
use super::kernels::c_name;
use super::status::infer_status;
use crate::kernel::CpuLevel;

const ABI_VERSION: u32 = match u32::from_str_radix(env!("INFER_ABI_VERSION"), 10) {
    Ok(version) => version,
    Err(_) => panic!("the build script sets a number"),
};

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => panic!("a version has no NUL"),
};

/// The version of the library that is running, like "0.1.0"; compare INFER_VERSION, which is that of the header. The
/// text lives forever.
///
/// Threads: any, also in a forked child and inside a callback.
#[unsafe(no_mangle)]
pub extern "C" fn infer_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The best set of kernels this CPU can run: "scalar"; "sse41", "avx2", "avx_vnni", "avx512" or "avx512_bf16" on x86-64;
/// "neon", "neon_dotprod" or "i8mm" on aarch64. An engine uses it unless its option cpu_level or the environment
/// variable INFER_CPU_LEVEL says otherwise. The text lives forever.
///
/// Threads: any, also in a forked child and inside a callback.
#[unsafe(no_mangle)]
pub extern "C" fn infer_cpu_level_name() -> *const c_char {
    guard::quiet(c"scalar".as_ptr(), || c_name(CpuLevel::detect()).as_ptr())
}

/// Checks that the library has the binary interface the program was compiled for: call
/// infer_abi_check(INFER_ABI_VERSION, &error) first when the library is loaded at run time.
///
/// Errors: INFER_ERR_ABI, naming both versions.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_abi_check(abi_version: u32, error: *mut *mut infer_error) -> infer_status {
    let body = || {
        if abi_version == ABI_VERSION {
            Ok(infer_status::INFER_OK)
        } else {
            Err(Failure::Abi(format!(
                "the program was compiled for version {abi_version} of libinfer's binary interface, but the library loaded, libinfer {}, has version {ABI_VERSION}",
                env!("CARGO_PKG_VERSION")
            )))
        }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_abi_check", error, body) }
}
