//! Another static library written in Rust that a host may link beside libinfer: allocates, unwinds and starts a thread.

use std::collections::HashMap;

/// The sum of the lengths of the numbers below `n`; 0 when `n` is 7, which panics.
#[unsafe(no_mangle)]
pub extern "C" fn other_sum(n: u32) -> u32 {
    std::panic::catch_unwind(|| {
        let map: HashMap<u32, String> = (0..n).map(|i| (i, i.to_string())).collect();
        if n == 7 {
            std::panic::resume_unwind(Box::new("seven"));
        }
        let sum = move || map.values().map(|v| v.len() as u32).sum();
        std::thread::spawn(sum).join().unwrap_or(0)
    })
    .unwrap_or(0)
}
