//! The thread pool through its public interface.

#![allow(clippy::unwrap_used, reason = "helpers of tests stop at the first error")]

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use infer::kernel::{ThreadPool, ThreadPoolOptions, for_each_chunk_mut};

/// All of whose threads take part, also where there are fewer CPUs.
fn pool(threads: usize) -> ThreadPool {
    ThreadPool::new(ThreadPoolOptions {
        threads: Some(threads),
        at_once: Some(threads),
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn every_task_runs_once_on_an_existing_worker() {
    for threads in [1, 2, 4, 16] {
        let pool = pool(threads);
        for n in [0, 1, 2, 7, 64, 1000] {
            let counts: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            pool.run(n, &|i, worker| {
                assert!(worker < threads);
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn the_other_workers_take_part() {
    let pool = pool(3);
    let seen = Mutex::new(HashSet::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    while seen.lock().unwrap().len() < 3 && Instant::now() < deadline {
        pool.run(12, &|_, worker| {
            std::thread::sleep(Duration::from_millis(2));
            seen.lock().unwrap().insert((worker, std::thread::current().id()));
        });
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[test]
fn a_job_takes_no_more_workers_than_it_is_told_to() {
    let pool = pool(4);
    let run = |most: usize| {
        ThreadPool::with_workers(most, || {
            pool.run(64, &|_, worker| {
                assert!(worker < most);
                std::hint::black_box((0..2000).fold(0u64, |a, b| a ^ std::hint::black_box(b)));
            });
        });
    };
    for _ in 0..50 {
        (1..=4).for_each(run);
        // Long enough to sleep, for workers that the next job wants.
        std::thread::sleep(Duration::from_micros(300));
    }
    // One worker needs no barrier; and the limit ends with the call.
    let before = pool.jobs();
    run(1);
    assert_eq!(pool.jobs(), before);
    pool.run(64, &|_, _| ());
    assert_eq!(pool.jobs(), before + 1);
}

#[test]
fn threads_beyond_the_cpus_sleep() {
    let pool = ThreadPool::new(ThreadPoolOptions {
        threads: Some(64),
        at_once: Some(3),
        ..Default::default()
    })
    .unwrap();
    assert_eq!(pool.threads(), 64);
    assert!((1..=3).contains(&pool.decode_workers()));
    for _ in 0..200 {
        pool.run(256, &|_, worker| assert!(worker < 3));
    }
}

#[test]
fn chunks_cover_the_slice() {
    let pool = pool(2);
    for n in [0, 1, 9, 10, 11, 1000] {
        let mut v = vec![0usize; n];
        for_each_chunk_mut(&pool, &mut v, 10, |i, chunk| {
            assert!(chunk.len() == 10 || i == n / 10);
            chunk
                .iter_mut()
                .enumerate()
                .for_each(|(j, x)| *x += 10 * i + j + 1);
        });
        assert!(v.iter().enumerate().all(|(i, x)| *x == i + 1));
    }
}

#[test]
fn a_panic_reaches_the_caller_after_the_other_tasks_ran_and_the_pool_lives_on() {
    for threads in [1, 2, 4] {
        let pool = pool(threads);
        let ran = AtomicUsize::new(0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, &|i, _| {
                ran.fetch_add(1, Ordering::Relaxed);
                if i == 3 {
                    panic!("expected by this test");
                }
            });
        }));
        assert_eq!(
            *caught.unwrap_err().downcast::<&str>().unwrap(),
            "expected by this test"
        );
        assert_eq!(ran.load(Ordering::Relaxed), 50);
        pool.run(50, &|_, _| _ = ran.fetch_add(1, Ordering::Relaxed));
        assert_eq!(ran.load(Ordering::Relaxed), 100);
    }
}

#[test]
fn a_run_inside_a_task_runs_on_the_same_worker() {
    for threads in [1, 3] {
        let outer = pool(threads);
        let other = pool(2);
        let ran = AtomicUsize::new(0);
        outer.run(8, &|_, worker| {
            let thread = std::thread::current().id();
            outer.run(4, &|_, inner| {
                assert_eq!((inner, std::thread::current().id()), (worker, thread));
                ran.fetch_add(1, Ordering::Relaxed);
            });
            // Through another pool, whose first worker is this thread.
            other.run(1, &|_, _| {
                outer.run(1, &|_, _| _ = ran.fetch_add(1, Ordering::Relaxed))
            });
        });
        assert_eq!(ran.load(Ordering::Relaxed), 40);
    }
}

#[test]
fn callers_from_several_threads_take_turns() {
    let pool = Arc::new(pool(3));
    let active: [AtomicUsize; 4] = Default::default();
    let total = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for caller in 0..4 {
            let (pool, active, total) = (&pool, &active, &total);
            s.spawn(move || {
                for _ in 0..300 {
                    pool.run(9, &|_, _| {
                        active[caller].fetch_add(1, Ordering::SeqCst);
                        for (other, a) in active.iter().enumerate() {
                            assert!(
                                other == caller || a.load(Ordering::SeqCst) == 0,
                                "two jobs at once"
                            );
                        }
                        total.fetch_add(1, Ordering::Relaxed);
                        active[caller].fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 4 * 300 * 9);
}

#[test]
fn more_threads_than_cpus_do_not_collapse() {
    let time = |threads| {
        let pool = pool(threads);
        let start = Instant::now();
        for _ in 0..200 {
            pool.run(4 * threads, &|_, _| {
                std::hint::black_box(
                    (0..20_000 / threads as u64).fold(0u64, |a, b| a ^ std::hint::black_box(b)),
                );
            });
        }
        start.elapsed()
    };
    let (few, many) = (time(2), time(16));
    assert!(
        many < few * 10 + Duration::from_millis(500),
        "2 threads {few:?}, 16 threads {many:?}"
    );
}

#[test]
fn dropping_joins_quickly_also_when_workers_sleep() {
    for idle in [0, 5] {
        let pool = pool(8);
        pool.run(8, &|_, _| ());
        std::thread::sleep(Duration::from_millis(idle));
        let start = Instant::now();
        drop(pool);
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn hooks_run_in_every_created_thread_and_may_panic() {
    let started = Arc::new(AtomicUsize::new(0));
    let stopped = Arc::new(AtomicUsize::new(0));
    let (a, b) = (Arc::clone(&started), Arc::clone(&stopped));
    let pool = ThreadPool::new(ThreadPoolOptions {
        threads: Some(4),
        on_start: Some(Arc::new(move |worker| {
            a.fetch_add(1 << worker, Ordering::SeqCst);
            assert_ne!(worker, 2, "expected by this test");
        })),
        on_stop: Some(Arc::new(move |worker| {
            _ = b.fetch_add(1 << worker, Ordering::SeqCst)
        })),
        ..Default::default()
    })
    .unwrap();
    pool.run(10, &|_, _| ());
    drop(pool);
    assert_eq!(started.load(Ordering::SeqCst), 0b1110);
    assert_eq!(stopped.load(Ordering::SeqCst), 0b1110);
}

#[test]
fn absurd_options_are_errors() {
    for threads in [0, 1025, usize::MAX] {
        let options = ThreadPoolOptions {
            threads: Some(threads),
            ..Default::default()
        };
        let e = ThreadPool::new(options).unwrap_err().to_string();
        assert!(e.contains("expected 1 to 1024"), "{e}");
    }
}

#[cfg(target_os = "linux")]
mod linux {
    #![allow(unsafe_code, reason = "fork in one test")]
    use super::*;

    fn status(task: &str, field: &str) -> String {
        let path = if task == "self" {
            "/proc/thread-self/status".into()
        } else {
            format!("/proc/self/task/{task}/status")
        };
        let status = std::fs::read_to_string(path).unwrap();
        status
            .lines()
            .find_map(|l| l.strip_prefix(field))
            .unwrap()
            .trim()
            .to_string()
    }

    #[test]
    fn a_cpu_outside_the_allowance_is_an_error_and_one_inside_is_pinned_to() {
        let allowed = |task: &str| status(task, "Cpus_allowed_list:");
        let list = allowed("self").to_string();
        let first: usize = list.split(['-', ',']).next().unwrap().parse().unwrap();
        let options = |cpus| ThreadPoolOptions {
            threads: Some(2),
            cpus: Some(cpus),
            name: "pinned".into(),
            ..Default::default()
        };
        for cpu in [100_000, usize::MAX] {
            let e = ThreadPool::new(options(vec![first, cpu]))
                .unwrap_err()
                .to_string();
            assert!(e.contains(&format!("may not use CPU {cpu}")), "{e}");
        }
        let pool = ThreadPool::new(options(vec![first])).unwrap();
        let tid = wait_for_thread("pinned-1");
        let deadline = Instant::now() + Duration::from_secs(10);
        while allowed(&tid) != first.to_string() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(allowed(&tid), first.to_string());
        drop(pool);
    }

    /// The id of the thread with this name.
    fn wait_for_thread(name: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            for task in std::fs::read_dir("/proc/self/task").unwrap() {
                let tid = task.unwrap().file_name().into_string().unwrap();
                let comm = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
                if comm.trim() == name {
                    return tid;
                }
            }
        }
        panic!("no thread named {name}");
    }

    #[test]
    fn workers_are_named_and_block_every_signal_while_the_caller_does_not() {
        let before = status("self", "SigBlk:");
        let pool = ThreadPool::new(ThreadPoolOptions {
            threads: Some(2),
            name: "a-long-name-cut\0".into(),
            ..Default::default()
        })
        .unwrap();
        let tid = wait_for_thread("a-long-name-c-1");
        let blocked = u64::from_str_radix(&status(&tid, "SigBlk:"), 16).unwrap();
        // SIGKILL (9) and SIGSTOP (19) cannot be blocked, 32 and 33 belong to the C library.
        let cannot = (1u64 << 8) | (1 << 18) | (1 << 31) | (1 << 32);
        assert_eq!(blocked | cannot, u64::MAX, "{blocked:#x}");
        assert_eq!(status("self", "SigBlk:"), before);
        drop(pool);
    }

    #[test]
    fn an_idle_pool_uses_no_cpu() {
        let pool = ThreadPool::new(ThreadPoolOptions {
            threads: Some(4),
            name: "idle".into(),
            ..Default::default()
        })
        .unwrap();
        pool.run(64, &|_, _| ());
        let tids: Vec<_> = (1..4).map(|i| wait_for_thread(&format!("idle-{i}"))).collect();
        let used = || -> u64 {
            let ticks = |tid: &String| {
                let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
                stat.split(' ').next().unwrap().parse::<u64>().unwrap()
            };
            tids.iter().map(ticks).sum()
        };
        // On a loaded machine the workers may take a while to get through their last spin.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut before = used();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = used();
            if now == before || Instant::now() > deadline {
                break;
            }
            before = now;
        }
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(used() - before, 0, "nanoseconds of CPU time while idle");
        drop(pool);
    }

    #[test]
    fn a_thread_the_system_refuses_is_an_error_value() {
        const CHILD: &str = "LIBINFER_TEST_CHILD_LIMIT";
        if std::env::var_os(CHILD).is_some() {
            let e = ThreadPool::new(ThreadPoolOptions {
                threads: Some(1000),
                ..Default::default()
            })
            .unwrap_err()
            .to_string();
            println!("child: {e}");
            assert!(
                std::fs::read_dir("/proc/self/task").unwrap().count() < 10,
                "threads were left behind"
            );
            return;
        }
        let this = std::env::current_exe().unwrap();
        // Room for the scratch memory of a thousand workers, not for their stacks.
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 1200000; exec \"$0\" --exact linux::a_thread_the_system_refuses_is_an_error_value --nocapture"])
            .arg(this)
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            text.contains("child: the system refused the thread infer-")
                && text.contains("of a pool of 1000: "),
            "{text}"
        );
    }

    #[test]
    fn a_forked_child_drops_the_pool_without_waiting_for_threads_it_does_not_have() {
        let pool = pool(4);
        pool.run(16, &|_, _| ());
        // SAFETY: the child drops the pool, which touches neither locks nor the allocator's shared state beyond freeing,
        // and leaves with _exit.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                drop(pool);
                libc::_exit(7);
            }
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut state = 0;
            while libc::waitpid(child, &mut state, libc::WNOHANG) == 0 {
                if Instant::now() > deadline {
                    libc::kill(child, libc::SIGKILL);
                    panic!("the child hangs");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(libc::WIFEXITED(state) && libc::WEXITSTATUS(state) == 7);
        }
        pool.run(16, &|_, _| ());
    }
}
