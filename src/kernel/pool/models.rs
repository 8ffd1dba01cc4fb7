//! The pool under a model checker: every task runs exactly once, and nobody sleeps for ever.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{ThreadPool, ThreadPoolOptions};
use crate::sync::model::{Defect, finds, holds};
use crate::sync::thread;

fn pool(threads: usize) -> ThreadPool {
    let options = ThreadPoolOptions {
        threads: Some(threads),
        at_once: Some(threads),
        ..ThreadPoolOptions::default()
    };
    ThreadPool::new(options).unwrap()
}

/// Runs jobs and checks that each task of each ran once before `run` returned.
fn run_jobs(pool: &ThreadPool, jobs: usize) {
    for _ in 0..jobs {
        let counts = [const { AtomicUsize::new(0) }; 3];
        pool.run(counts.len(), &|i, worker| {
            assert!(worker < pool.threads());
            counts[i].fetch_add(1, SeqCst);
            thread::yield_now();
        });
        assert!(counts.iter().all(|n| n.load(SeqCst) == 1));
    }
}

fn jobs_one_after_another() {
    run_jobs(&pool(3), 2);
}

fn jobs_for_fewer_workers_between_others() {
    let pool = pool(3);
    ThreadPool::with_workers(2, || run_jobs(&pool, 1));
    run_jobs(&pool, 1);
    ThreadPool::with_workers(2, || run_jobs(&pool, 1));
}

fn callers_that_take_turns() {
    let pool = Arc::new(pool(2));
    let other = Arc::clone(&pool);
    let caller = thread::spawn(move || run_jobs(&other, 1));
    run_jobs(&pool, 1);
    caller.join().unwrap();
}

fn a_task_that_uses_the_pool() {
    let pool = pool(2);
    let inner = AtomicUsize::new(0);
    pool.run(2, &|_, _| {
        pool.run(2, &|_, _| {
            inner.fetch_add(1, SeqCst);
        });
    });
    assert_eq!(inner.load(SeqCst), 4);
}

#[test]
fn every_task_runs_once_and_the_threads_end() {
    holds(jobs_one_after_another);
    holds(jobs_for_fewer_workers_between_others);
    holds(callers_that_take_turns);
    holds(a_task_that_uses_the_pool);
}

#[test]
fn a_wake_up_between_look_and_sleep_is_missed_without_the_lock() {
    finds(Defect::Planted, jobs_one_after_another);
}

#[test]
fn lost_wake_ups_are_found() {
    finds(Defect::LostWakeUps, jobs_one_after_another);
}
