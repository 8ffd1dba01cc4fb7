//! The second tier through the public interface: blocks come back from it, results never depend on it, and whatever its
//! storage does, requests end as they would without it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{demo_model, generate, load, read};
use infer::engine::{Engine, FinishReason, Stats};
use infer::kv::prefix::{BlockName, Key, Secret};
use infer::kv::tier::{Backend, BackendCounts, State};
use infer::model::Model;
use infer::options::{EngineOptions, OpenStorage, Prompt, RequestOptions};

const BLOCK: usize = infer::kv::BLOCK_TOKENS;

/// What a storage is told to do wrong.
#[derive(Debug, Default)]
struct Faults {
    open: AtomicBool,
    get: AtomicBool,
    put: AtomicBool,
    maintain: AtomicBool,
    /// Gets answer that there is nothing.
    lose: AtomicBool,
    delay_ms: AtomicU64,
}

/// Storage of the host's: a map that can be made to fail. It outlives the engines that use it.
#[derive(Debug, Default)]
struct Map {
    blocks: Mutex<HashMap<Key, (BlockName, Vec<u8>)>>,
    faults: Faults,
    opened: AtomicU64,
    read: AtomicU64,
}

#[derive(Debug)]
struct Storage(Arc<Map>);

impl Storage {
    fn fail(&self, fault: &AtomicBool) -> io::Result<()> {
        match self.0.faults.delay_ms.load(SeqCst) {
            0 => {}
            n => std::thread::sleep(Duration::from_millis(n)),
        }
        match fault.load(SeqCst) {
            true => Err(io::Error::other("injected")),
            false => Ok(()),
        }
    }
}

impl Backend for Storage {
    fn contains(&self, key: &Key) -> bool {
        self.0.blocks.lock().unwrap().contains_key(key)
    }

    fn admits(&self, name: &BlockName) -> bool {
        !self.contains(&name.key)
    }

    fn put(&self, batch: &[(BlockName, &[u8])]) -> io::Result<usize> {
        self.fail(&self.0.faults.put)?;
        for (name, data) in batch {
            let mut blocks = self.0.blocks.lock().unwrap();
            blocks.insert(name.key, (*name, data.to_vec()));
        }
        Ok(batch.len())
    }

    fn get(&self, name: &BlockName, out: &mut [u8]) -> io::Result<bool> {
        self.fail(&self.0.faults.get)?;
        self.0.read.fetch_add(1, SeqCst);
        let blocks = self.0.blocks.lock().unwrap();
        let found = blocks.get(&name.key).filter(|_| !self.0.faults.lose.load(SeqCst));
        if let Some((_, data)) = found {
            out.copy_from_slice(data);
        }
        Ok(found.is_some())
    }

    fn touch(&self, _: &[Key]) {}

    fn remove(&self, root: Option<Key>) -> io::Result<()> {
        self.fail(&self.0.faults.put)?;
        let mut blocks = self.0.blocks.lock().unwrap();
        blocks.retain(|_, (name, _)| root.is_some_and(|root| name.root != root));
        Ok(())
    }

    fn list(&self) -> Vec<Key> {
        self.0.blocks.lock().unwrap().keys().copied().collect()
    }

    fn maintain(&self) -> io::Result<()> {
        self.fail(&self.0.faults.maintain)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn take_notices(&self) -> Vec<String> {
        Vec::new()
    }

    fn counts(&self) -> BackendCounts {
        let n = self.0.blocks.lock().unwrap().len() as u64;
        BackendCounts {
            blocks: n,
            budget: 1 << 40,
            writer: true,
            ..BackendCounts::default()
        }
    }
}

fn storage(map: &Arc<Map>) -> OpenStorage {
    let map = Arc::clone(map);
    Arc::new(move |_| {
        map.opened.fetch_add(1, SeqCst);
        let storage = Storage(Arc::clone(&map));
        storage.fail(&map.faults.open)?;
        Ok((Arc::new(storage) as Arc<dyn Backend>, Secret::fixed([3; 32])))
    })
}

/// Memory for so many tokens, and a tier.
fn tiered(map: &Arc<Map>, model: &Arc<Model>, tokens: u64) -> EngineOptions {
    let one_block = EngineOptions {
        context_length: BLOCK,
        max_running: 1,
        ..EngineOptions::default()
    };
    let block = engine(model, one_block).stats().kv_bytes_budget;
    EngineOptions {
        context_length: 256,
        kv_budget: tokens / BLOCK as u64 * block,
        cold_storage: Some(storage(map)),
        threads: 1,
        ..EngineOptions::default()
    }
}

fn engine(model: &Arc<Model>, options: EngineOptions) -> Engine {
    Engine::new(Arc::clone(model), options).unwrap()
}

fn plain(model: &Arc<Model>) -> Engine {
    engine(
        model,
        EngineOptions {
            prefix_cache: false,
            context_length: 256,
            ..EngineOptions::default()
        },
    )
}

/// A prompt of its own for every seed.
fn prompt(seed: u64, n: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        3 + (state % 500) as u32
    };
    (0..n).map(|_| next()).collect()
}

fn request(ids: Vec<u32>, seed: u64) -> RequestOptions {
    RequestOptions {
        prompt: Prompt::Ids(ids),
        ignore_end_of_generation: true,
        max_tokens: 8,
        temperature: 1.0,
        top_p: 1.0,
        seed,
        ..RequestOptions::default()
    }
}

/// Waits until the tier has written what it was given.
fn settle(engine: &Engine) -> Stats {
    engine.drain(None).unwrap();
    engine.resume();
    let begin = Instant::now();
    loop {
        let stats = engine.stats();
        if stats.kv_cold_queued == 0 || begin.elapsed() > Duration::from_secs(20) {
            return stats;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_memory_gives_up_comes_back() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    let (tiered, plain) = (engine(&model, tiered(&map, &model, 384)), plain(&model));
    let prompts: Vec<Vec<u32>> = (0..8).map(|i| prompt(i, 150)).collect();
    for (i, ids) in prompts.iter().enumerate() {
        generate(&tiered, request(ids.clone(), i as u64));
    }
    let before = settle(&tiered);
    assert!(before.kv_cold_spills >= 8, "{before:?}");
    // Memory has the last two of them, the tier all the others.
    for (i, ids) in prompts.iter().enumerate() {
        let answer = generate(&tiered, request(ids.clone(), i as u64));
        let expected = generate(&plain, request(ids.clone(), i as u64));
        assert_eq!(answer.tokens, expected.tokens, "{i}");
        assert_eq!(answer.finish.cached_tokens, 150 / BLOCK * BLOCK, "{i}");
    }
    let stats = settle(&tiered);
    assert_eq!(stats.kv_cold_state, State::Ok as u64);
    assert!(stats.kv_cold_hit_tokens >= 6 * 128, "{stats:?}");
    assert_eq!(stats.kv_cold_recomputed_tokens, 0);
    assert!(stats.kv_cold_prefetch_useful >= 24, "{stats:?}");
    assert_eq!((stats.kv_cold_prefetch_useless, stats.kv_cold_errors), (0, 0));
    assert!(tiered.summary().contains("cold tier: ok"), "{}", tiered.summary());
}

#[test]
fn a_restart_begins_with_what_was_there() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    let ids = prompt(1, 200);
    let first = engine(&model, tiered(&map, &model, 1024));
    let expected = generate(&first, request(ids.clone(), 5));
    assert_eq!(map.blocks.lock().unwrap().len(), 0, "memory has room for it");
    drop(first);
    assert!(map.blocks.lock().unwrap().len() >= 6);

    let second = engine(&model, tiered(&map, &model, 1024));
    let answer = generate(&second, request(ids.clone(), 5));
    assert_eq!(answer.tokens, expected.tokens);
    assert_eq!(answer.finish.cached_tokens, 192);

    // Without persistence nothing is left at the end, nor taken from before.
    let fleeting = EngineOptions {
        kv_cold_persist: false,
        ..tiered(&map, &model, 1024)
    };
    drop(second);
    let third = engine(&model, fleeting);
    assert_eq!(generate(&third, request(ids, 5)).finish.cached_tokens, 0);
    drop(third);
    assert!(map.blocks.lock().unwrap().is_empty());
}

#[test]
fn many_who_begin_alike_read_once() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    let system = prompt(9, 160);
    drop({
        let first = engine(&model, tiered(&map, &model, 1024));
        generate(&first, request(system.clone(), 0));
        first
    });
    let (second, plain) = (engine(&model, tiered(&map, &model, 2048)), plain(&model));
    let requests: Vec<RequestOptions> = (0..6)
        .map(|i| {
            let mut ids = system.clone();
            ids.extend(prompt(100 + i, 20));
            RequestOptions {
                n: 1 + i as usize % 2,
                ..request(ids, i)
            }
        })
        .collect();
    let submitted = second.submit_batch(requests.clone()).unwrap();
    for (one, asked) in submitted.iter().zip(requests) {
        let (mut answer, mut expected) = (read(one), generate(&plain, asked));
        // Completions of one request come in any order.
        answer.tokens.sort_unstable();
        expected.tokens.sort_unstable();
        assert_eq!(answer.tokens, expected.tokens);
        assert!(answer.finish.cached_tokens >= 160, "{:?}", answer.finish);
    }
    assert_eq!(map.read.load(SeqCst), 5, "five blocks, read for one of the six");
}

#[test]
fn salts_and_opting_out_hold_in_the_tier() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    let secret = RequestOptions {
        cache_salt: "a".to_string(),
        ..request(prompt(1, 100), 0)
    };
    let private = RequestOptions {
        cache_prompt: false,
        ..request(prompt(2, 100), 0)
    };
    drop({
        let first = engine(&model, tiered(&map, &model, 1024));
        generate(&first, secret.clone());
        generate(&first, private.clone());
        first
    });
    assert_eq!(map.blocks.lock().unwrap().len(), 3, "only those of the salt");
    let second = engine(&model, tiered(&map, &model, 1024));
    let of_others = RequestOptions {
        cache_salt: "b".to_string(),
        ..secret.clone()
    };
    assert_eq!(generate(&second, of_others).finish.cached_tokens, 0);
    assert_eq!(generate(&second, private).finish.cached_tokens, 0);
    assert_eq!(generate(&second, secret.clone()).finish.cached_tokens, 96);
    second.cache_clear(b"a").unwrap();
    assert_eq!(generate(&second, secret).finish.cached_tokens, 0);
}

#[test]
fn what_is_cleared_stays_cleared() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    let of_salt = |salt: &str| RequestOptions {
        cache_salt: salt.to_string(),
        ..request(prompt(1, 100), 0)
    };
    let cached = |engine: &Engine, salt: &str| generate(engine, of_salt(salt)).finish.cached_tokens;
    // Clearing is the last thing before the end: nothing of the salt is written then.
    let first = engine(&model, tiered(&map, &model, 1024));
    for salt in ["a", "b"] {
        assert_eq!(cached(&first, salt), 0);
    }
    first.cache_clear(b"a").unwrap();
    drop(first);
    assert_eq!(map.blocks.lock().unwrap().len(), 3, "those of the other salt");

    // Storage that cannot forget now has to forget later, and is not asked meanwhile.
    let second = engine(&model, tiered(&map, &model, 1024));
    map.faults.put.store(true, SeqCst);
    second.cache_clear(b"b").unwrap();
    let begin = Instant::now();
    while second.stats().kv_cold_errors == 0 {
        assert!(begin.elapsed() < Duration::from_secs(20));
        generate(&second, request(prompt(50, 20), 0));
    }
    assert_eq!(cached(&second, "b"), 0);
    assert_eq!(map.blocks.lock().unwrap().len(), 3);
    map.faults.put.store(false, SeqCst);
    while !map.blocks.lock().unwrap().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(40), "{}", second.summary());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// While a request waits for its place, what comes from the tier must not push out what memory has of its prompt.
#[test]
fn reading_ahead_keeps_the_beginning_in_memory() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    let options = EngineOptions {
        max_running: 1,
        prefix_policy: "lru",
        ..tiered(&map, &model, 512)
    };
    let engine = engine(&model, options);
    let long = prompt(1, 224);
    generate(&engine, request(long.clone(), 0));
    // Its end leaves memory, and its beginning is what would go next.
    let mut spilled = 0;
    for seed in 2.. {
        generate(&engine, request(prompt(seed, 60), 0));
        spilled = settle(&engine).kv_cold_spills;
        if spilled >= 3 {
            break;
        }
    }
    assert!(spilled < 6, "{spilled}");
    let running = engine.submit(RequestOptions {
        max_tokens: 100,
        ..request(prompt(100, 20), 0)
    });
    let queued = engine.submit(request(long, 0)).unwrap();
    assert_eq!(read(&queued).finish.cached_tokens, 192);
    read(&running.unwrap());
    let stats = settle(&engine);
    assert_eq!(stats.kv_cold_prefetch_useless, 0, "{stats:?}");
    assert!(
        stats.kv_cold_reads > 0 && stats.kv_cold_reads <= spilled,
        "{stats:?}"
    );
    assert_eq!(stats.kv_bytes_used, 0);
}

#[test]
fn who_gives_up_while_it_reads_leaves_nothing_behind() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    drop({
        let first = engine(&model, tiered(&map, &model, 1024));
        generate(&first, request(prompt(1, 200), 0));
        first
    });
    let second = engine(&model, tiered(&map, &model, 1024));
    map.faults.delay_ms.store(100, SeqCst);
    let reading = second.submit(request(prompt(1, 200), 0)).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    reading.cancel();
    assert_eq!(read(&reading).finish.reason, FinishReason::Cancelled);
    let late = RequestOptions {
        deadline_ms: 120,
        ..request(prompt(1, 200), 0)
    };
    assert_eq!(generate(&second, late).finish.reason, FinishReason::Deadline);
    map.faults.delay_ms.store(0, SeqCst);
    // Another request makes the engine step once more.
    generate(&second, request(prompt(7, 20), 0));
    let stats = settle(&second);
    assert_eq!(stats.kv_bytes_used, 0);
    assert!(stats.kv_cold_prefetch_useless > 0, "{stats:?}");
    assert_eq!(stats.requests_failed, 0);
}

#[test]
fn storage_that_hangs_is_not_waited_for() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    drop({
        let first = engine(&model, tiered(&map, &model, 1024));
        generate(&first, request(prompt(1, 200), 0));
        first
    });
    let options = EngineOptions {
        kv_cold_patience_ms: 100,
        ..tiered(&map, &model, 1024)
    };
    let (second, plain) = (engine(&model, options), plain(&model));
    map.faults.delay_ms.store(6_000, SeqCst);
    let begin = Instant::now();
    for i in 0..3 {
        let answer = generate(&second, request(prompt(1, 200), i));
        assert_eq!(answer.tokens, generate(&plain, request(prompt(1, 200), i)).tokens);
        second.cache_clear(b"nobody").unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(second.stats().kv_cold_state, State::Degraded as u64);
    let begin = Instant::now();
    drop(second);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[test]
fn a_step_of_the_hosts_own_waits_for_the_tier_too() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    for turn in 0..2 {
        let options = EngineOptions {
            manual_step: true,
            ..tiered(&map, &model, 1024)
        };
        let engine = engine(&model, options);
        let one = engine.submit(request(prompt(1, 200), 0)).unwrap();
        while engine.step().unwrap() {}
        assert_eq!(read(&one).finish.cached_tokens, 192 * turn);
    }
}

/// Requests of a few conversations, more than memory holds, while storage fails in every way in turn.
#[test]
fn no_fault_of_the_storage_shows_in_a_request() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    let options = EngineOptions {
        max_running: 3,
        prefill_chunk: 48,
        ..tiered(&map, &model, 512)
    };
    let (tiered, plain) = (engine(&model, options), plain(&model));
    let faults = &map.faults;
    let all = [
        &faults.get,
        &faults.put,
        &faults.maintain,
        &faults.lose,
        &faults.open,
    ];
    for round in 0..12usize {
        for (i, fault) in all.iter().enumerate() {
            fault.store(i == round % 6, SeqCst);
        }
        faults.delay_ms.store(if round % 6 == 5 { 20 } else { 0 }, SeqCst);
        let requests: Vec<RequestOptions> = (0..6)
            .map(|i| request(prompt((round * 5 + i) as u64 % 11, 150), i as u64))
            .collect();
        let submitted = tiered.submit_batch(requests.clone()).unwrap();
        for (one, asked) in submitted.iter().zip(requests) {
            let answer = read(one);
            assert_eq!(answer.finish.reason, FinishReason::Length, "{:?}", answer.finish);
            assert_eq!(answer.tokens, generate(&plain, asked).tokens, "round {round}");
        }
    }
    for fault in all {
        fault.store(false, SeqCst);
    }
    faults.delay_ms.store(0, SeqCst);
    // It comes back with the first that is asked for after its pause.
    let begin = Instant::now();
    let mut seed = 1000;
    while tiered.stats().kv_cold_state != State::Ok as u64 {
        assert!(begin.elapsed() < Duration::from_secs(30), "{}", tiered.summary());
        for _ in 0..4 {
            seed += 1;
            generate(&tiered, request(prompt(seed % 40, 150), 0));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let stats = settle(&tiered);
    assert!(
        stats.kv_cold_errors > 0 && stats.kv_cold_hit_tokens > 0,
        "{stats:?}"
    );
    assert_eq!((stats.requests_failed, stats.panics), (0, 0));
    assert_eq!(stats.kv_bytes_used, 0, "{stats:?}");
}

#[test]
fn storage_that_turns_up_late_is_used_with_its_own_secret() {
    let model = load(&demo_model());
    let map = Arc::<Map>::default();
    drop({
        let first = engine(&model, tiered(&map, &model, 1024));
        generate(&first, request(prompt(1, 200), 0));
        first
    });
    map.faults.open.store(true, SeqCst);
    let late = engine(&model, tiered(&map, &model, 1024));
    assert_eq!(late.stats().kv_cold_state, State::Off as u64);
    assert_eq!(
        generate(&late, request(prompt(2, 200), 0)).finish.cached_tokens,
        0
    );
    map.faults.open.store(false, SeqCst);
    let begin = Instant::now();
    while late.stats().kv_cold_state != State::Ok as u64 {
        assert!(begin.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        generate(&late, request(prompt(1, 200), 0)).finish.cached_tokens,
        192
    );
}

/// A directory of its own that is gone afterwards.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("infer-cold-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn options(&self) -> EngineOptions {
        EngineOptions {
            context_length: 256,
            kv_cold_dir: self.0.to_str().unwrap().to_string(),
            threads: 1,
            ..EngineOptions::default()
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_directory_outlives_engines_of_the_same_kind_only() {
    let model = load(&demo_model());
    let scratch = Scratch::new("restart");
    let ids = prompt(3, 200);
    let expected = {
        let first = engine(&model, scratch.options());
        generate(&first, request(ids.clone(), 1)).tokens
    };
    let second = engine(&model, scratch.options());
    let answer = generate(&second, request(ids.clone(), 1));
    assert_eq!((answer.finish.cached_tokens, &answer.tokens), (192, &expected));
    // Another one beside it reads what is there, and writes nothing.
    let reader = engine(&model, scratch.options());
    let answer = generate(&reader, request(ids.clone(), 1));
    assert_eq!((answer.finish.cached_tokens, &answer.tokens), (192, &expected));
    assert_eq!(
        (reader.stats().kv_cold_writer, second.stats().kv_cold_writer),
        (0, 1)
    );
    drop((second, reader));
    // Keys and values of another kind are never taken for these.
    for other in [
        EngineOptions {
            kv_type: "q8",
            ..scratch.options()
        },
        EngineOptions {
            cpu_level: "scalar",
            ..scratch.options()
        },
    ] {
        let other = engine(&model, other);
        assert_eq!(generate(&other, request(ids.clone(), 1)).finish.cached_tokens, 0);
        assert!(other.stats().kv_cold_foreign_files >= 1, "{}", other.summary());
    }
    let last = engine(&model, scratch.options());
    let answer = generate(&last, request(ids, 1));
    assert_eq!((answer.finish.cached_tokens, answer.tokens), (192, expected));
}

#[test]
fn a_test_suite_needs_no_disk() {
    let model = load(&demo_model());
    let options = EngineOptions {
        kv_cold_test_mode: true,
        kv_cold_dir: "/nowhere/that/can/be/made".to_string(),
        cold_storage: None,
        ..tiered(&Arc::default(), &model, 384)
    };
    let (engine, plain) = (engine(&model, options), plain(&model));
    for i in [0, 1, 2, 3, 0] {
        let answer = generate(&engine, request(prompt(i, 150), i));
        assert_eq!(answer.tokens, generate(&plain, request(prompt(i, 150), i)).tokens);
    }
    let stats = settle(&engine);
    assert!(
        stats.kv_cold_spills > 0 && stats.kv_cold_bytes <= 1 << 20,
        "{stats:?}"
    );
    assert!(!std::path::Path::new("/nowhere").exists());
}

#[test]
fn a_path_that_is_no_directory_is_told_at_once() {
    let model = load(&demo_model());
    let options = EngineOptions {
        kv_cold_dir: demo_model().to_str().unwrap().to_string(),
        ..EngineOptions::default()
    };
    let Err(e) = Engine::new(Arc::clone(&model), options) else {
        panic!("a file was taken for a directory");
    };
    assert!(
        e.to_string().contains("tolstoy-3m") && e.to_string().contains("directory"),
        "{e}"
    );
    // Less than a block is a mistake of whoever set it, too.
    let scratch = Scratch::new("small");
    let options = EngineOptions {
        kv_cold_bytes: 1000,
        ..scratch.options()
    };
    let Err(e) = Engine::new(model, options) else {
        panic!("1000 bytes were enough");
    };
    assert!(e.to_string().contains("1000"), "{e}");
}
