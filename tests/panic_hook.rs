//! The panic hook of the C interface in a host written in Rust: the hook that was there hears of the host's panics, and of
//! none of the library's.
#![allow(unsafe_code, reason = "calls exported functions")]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::ffi::c_void;
use std::panic::catch_unwind;
use std::ptr;
use std::sync::Mutex;

use infer::ffi::{
    infer_model_load, infer_model_options_free, infer_model_options_new, infer_model_options_set_progress,
    infer_status,
};

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

unsafe extern "C" fn progress(_: f32, _: *mut c_void) -> u32 {
    u32::from(catch_unwind(|| panic!("in a callback")).is_ok())
}

#[test]
fn a_hosts_hook_hears_of_its_own_panics_alone() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<&str>().copied();
        HEARD.lock().unwrap().push(text.unwrap_or("?").to_string());
    }));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tolstoy-3m-Q8_0.gguf\0");
    let mut model = ptr::null_mut();
    // SAFETY: the pointers are those of this function, the text is NUL-terminated, the callback needs no data.
    let status = unsafe {
        let options = infer_model_options_new();
        infer_model_options_set_progress(options, Some(progress), ptr::null_mut(), None, ptr::null_mut());
        let status = infer_model_load(
            path.as_ptr().cast(),
            usize::MAX,
            options,
            &mut model,
            ptr::null_mut(),
        );
        infer_model_options_free(options);
        status
    };
    assert_eq!(status, infer_status::INFER_ERR_CANCELLED);
    let _ = catch_unwind(|| panic!("outside"));
    #[cfg(infer_faults)]
    // SAFETY: the texts are NUL-terminated; NULL is what the function refuses.
    unsafe {
        infer::ffi::infer_fault_arm(c"infer_abi_check".as_ptr(), 0);
        let status = infer::ffi::infer_abi_check(1, ptr::null_mut());
        assert_eq!(status, infer_status::INFER_ERR_INTERNAL);
        assert_eq!(infer::ffi::infer_fault_disarm(), 1);
    }
    let _ = std::panic::take_hook();
    let heard = HEARD.lock().unwrap();
    assert!(heard.len() >= 2, "{heard:?}");
    assert!(heard.iter().rev().skip(1).all(|text| text == "in a callback"));
    assert_eq!(heard.last().unwrap(), "outside");
}
