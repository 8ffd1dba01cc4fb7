//! Threads as the library promises them: named, with a fixed stack, all signals blocked and the default
//! floating-point environment, whatever those of the creator are.

use std::thread::JoinHandle;

use super::KernelError;
use super::pool::{ThreadPool, ThreadPoolOptions, system};
use crate::options::ThreadsOptions;
use crate::topology::cpu_list;

/// Stack of a thread that computes; its deepest frames are a few hundred KiB in debug builds.
const STACK: usize = 2 << 20;

/// Starts a thread.
///
/// # Errors
/// When the system refuses one.
pub(crate) fn spawn_thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, KernelError> {
    let builder = std::thread::Builder::new()
        .name(name.to_string())
        .stack_size(STACK);
    let body = move || {
        let _inside = crate::panic_guard::enter();
        super::fp_env::set_default();
        body();
    };
    system::with_signals_blocked(|| builder.spawn(body)).map_err(|source| KernelError::Thread {
        name: name.to_string(),
        source,
    })
}

impl ThreadPool {
    /// A pool as the options of the library describe it.
    ///
    /// # Errors
    /// As [`ThreadPool::new`], and a CPU list that does not parse.
    pub fn from_options(options: &ThreadsOptions) -> Result<Self, KernelError> {
        Self::new(ThreadPoolOptions {
            threads: (options.threads > 0).then_some(options.threads),
            cpus: parse_cpus(&options.cpus)?,
            name: options.name.clone(),
            on_start: options.on_start.clone(),
            on_stop: options.on_stop.clone(),
            at_once: None,
        })
    }
}

/// CPU numbers of a list like `0-3,8`; `None` when it is empty.
fn parse_cpus(list: &str) -> Result<Option<Vec<usize>>, KernelError> {
    match cpu_list(list) {
        Some(cpus) => Ok((!cpus.is_empty()).then_some(cpus)),
        None => Err(KernelError::Pool {
            threads: 0,
            reason: format!("the CPU list {list:?} does not parse: expected numbers and ranges like 0-3,8"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_of_numbers_and_ranges_parse() {
        assert_eq!(parse_cpus("").unwrap(), None);
        assert_eq!(parse_cpus("0-2, 5").unwrap(), Some(vec![0, 1, 2, 5]));
        for bad in ["x", "1-", "3-1", "0-99999999999", "1,,2", "-1"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }
}
