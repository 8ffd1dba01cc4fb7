//! The floating-point environment: rounding mode and treatment of subnormal numbers.
//!
//! A host built with `-ffast-math` flushes subnormals to zero, and threads inherit that from their creator. The
//! library computes under the default environment, whatever the caller's is.

#![allow(
    unsafe_code,
    reason = "reads and writes the control register of the floating-point unit"
)]

/// Runs `f` under the default environment and restores the caller's afterwards, also when `f` panics.
pub fn with_default<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(u64);
    impl Drop for Restore {
        fn drop(&mut self) {
            write(self.0);
        }
    }
    let _restore = Restore(read());
    set_default();
    f()
}

/// Sets the default environment on the current thread.
pub(crate) fn set_default() {
    write(DEFAULT);
}

#[cfg(target_arch = "x86_64")]
/// All exceptions masked, round to nearest, subnormals kept.
const DEFAULT: u64 = 0x1f80;
#[cfg(not(target_arch = "x86_64"))]
/// Round to nearest, subnormals kept, no traps.
const DEFAULT: u64 = 0;

/// The control register, without sticky exception flags.
#[cfg(target_arch = "x86_64")]
pub(crate) fn read() -> u64 {
    let mut value = 0u32;
    // SAFETY: stores the 32-bit MXCSR to a local; every x86-64 CPU has it.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    u64::from(value)
}

// Not inlined, so that no arithmetic moves across it.
#[inline(never)]
#[cfg(target_arch = "x86_64")]
fn write(value: u64) {
    // Bits 16 and up are reserved and would fault.
    let value = (value & 0xffff) as u32;
    // SAFETY: loads MXCSR from a local with reserved bits clear.
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags, readonly))
    };
}

#[cfg(target_arch = "aarch64")]
pub(crate) fn read() -> u64 {
    let value: u64;
    // SAFETY: reads a register that user code may read.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

#[inline(never)]
#[cfg(target_arch = "aarch64")]
fn write(value: u64) {
    // SAFETY: writes a register that user code may write, with a value read from it or zero.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn read() -> u64 {
    DEFAULT
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn write(_: u64) {}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Flush-to-zero and denormals-are-zero.
    const FAST_MATH: u64 = 0x8040;

    #[test]
    fn subnormals_work_inside_and_the_callers_setting_returns() {
        let before = read();
        write(before | FAST_MATH);
        let tiny = std::hint::black_box(f32::from_bits(1));
        let double =
            || std::hint::black_box(std::hint::black_box(tiny) * std::hint::black_box(2.0)).to_bits();
        let inside = with_default(double) == 2;
        let outside = double() == 2;
        let caught = std::panic::catch_unwind(|| with_default(|| panic!("expected by this test")));
        let after = read();
        write(before);
        assert!(inside);
        assert!(!outside, "the test must see the setting it is about");
        assert!(caught.is_err());
        assert_eq!(after & FAST_MATH, FAST_MATH);
    }

    #[test]
    fn a_pool_created_under_fast_math_computes_with_subnormals() {
        use crate::kernel::{ThreadPool, ThreadPoolOptions};
        use std::sync::Mutex;
        let before = read();
        write(before | FAST_MATH);
        let options = ThreadPoolOptions {
            threads: Some(3),
            at_once: Some(3),
            ..Default::default()
        };
        let pool = ThreadPool::new(options);
        write(before);
        let pool = pool.unwrap();
        let seen = Mutex::new(Vec::new());
        let start = std::time::Instant::now();
        while seen.lock().unwrap().iter().all(|(worker, _)| *worker == 0) && start.elapsed().as_secs() < 20 {
            pool.run(9, &|_, worker| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                seen.lock().unwrap().push((worker, read() & FAST_MATH));
            });
        }
        let seen = seen.into_inner().unwrap();
        assert!(seen.iter().any(|(worker, _)| *worker > 0));
        assert!(seen.iter().all(|(_, flags)| *flags == 0), "{seen:?}");
    }
}
