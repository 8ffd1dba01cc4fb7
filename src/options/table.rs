//! The rows: every option there is.

use super::preset::PRESET_NAMES;
use super::{Kind, Object, OptionSpec};
use crate::engine::{SCHEDULING_POLICIES, SPECULATIONS};
use crate::kv::prefix::policy::POLICY_NAMES;
use crate::sample::MAX_TOP_LOGPROBS;

const fn row(
    object: Object,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> OptionSpec {
    OptionSpec {
        object,
        name,
        kind,
        default,
        doc,
    }
}

const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

const fn float(min: f64, max: f64) -> Kind {
    Kind::Float {
        min,
        max,
        min_exclusive: false,
    }
}

/// Largest number of tokens a request can ask for.
pub const MAX_TOKENS_LIMIT: u64 = i32::MAX as u64;

/// Most tokens a sequence proposes in a step.
pub const MAX_SPECULATION_TOKENS: usize = 16;

/// Words for a CPU level, in the C API, the command and `INFER_CPU_LEVEL` alike.
pub const CPU_LEVELS: &[&str] = &[
    "auto",
    "scalar",
    "sse41",
    "avx2",
    "avx_vnni",
    "avx512",
    "avx512_bf16",
    "neon",
    "neon_dotprod",
    "i8mm",
];

/// Words of the option `f16_products`.
pub const F16_PRODUCTS: &[&str] = &["f32", "bf16"];

/// Words for the element type of the KV cache.
pub const KV_TYPES: &[&str] = &["auto", "f32", "f16", "bf16", "q8"];

/// Words for the element type of a key/value cache of its own.
pub const KV_STORE_TYPES: &[&str] = &["f32", "f16", "bf16", "q8"];

/// Words of the option `context_overflow`.
pub const CONTEXT_OVERFLOWS: &[&str] = &["error", "truncate", "shift"];

/// Words of the option `embedding`.
pub const EMBEDDINGS: &[&str] = &["off", "mean", "last", "cls"];

/// Every option there is.
pub const TABLE: &[OptionSpec] = &[
    row(
        Object::Model,
        "load_mode",
        Kind::Choice(&["read", "mmap"]),
        "read",
        "How tensor data gets into memory. read: copied into memory of the process, so that nothing another process does to the file can harm it. mmap: out of a mapping of the file; float tensors stay in it, quantized ones are copied as they are packed. The file must not be truncated or rewritten while the model lives, or the process is killed.",
    ),
    row(
        Object::Model,
        "load_threads",
        integer(0, 256),
        "0",
        "Threads that read the file and pack its weights; 0 chooses by the machine.",
    ),
    row(
        Object::Model,
        "memory_budget",
        integer(0, u64::MAX),
        "0",
        "Bytes the model's weights may take; a larger model is refused before anything is allocated. 0 means no budget.",
    ),
    row(
        Object::Model,
        "vocabulary_only",
        Kind::Bool,
        "false",
        "Load metadata and tokenizer without weights; such a model tokenizes but cannot run.",
    ),
    row(
        Object::Model,
        "check_tensors",
        Kind::Bool,
        "false",
        "Read every weight once and refuse a file with NaN or infinite values.",
    ),
    row(
        Object::Engine,
        "preset",
        Kind::Choice(PRESET_NAMES),
        "auto",
        "What decides the options left at 0 or auto, together with the model's size, when the engine is created: auto (a process among others), edge (a small device), desktop (one person's machine), server (a machine for nothing else). An option that is set keeps its value, in whatever order they are set.",
    ),
    row(
        Object::Engine,
        "cpu_level",
        Kind::Choice(CPU_LEVELS),
        "auto",
        "Kernels to use: auto is the best the CPU has, lowered by the environment variable INFER_CPU_LEVEL; a level the CPU lacks is an error.",
    ),
    row(
        Object::Engine,
        "threads",
        integer(0, 1024),
        "0",
        "Worker threads of the engine's own pool, the scheduling thread included; 0 chooses by the preset: one for each core this process may use, one less on a desktop. Those beyond the CPUs it may use sleep. Ignored when a shared pool is given.",
    ),
    row(
        Object::Engine,
        "kv_type",
        Kind::Choice(KV_TYPES),
        "auto",
        "Element type of cached keys and values; auto chooses by the preset, f16 unless it is edge. It decides the results, so it is never chosen by the machine.",
    ),
    row(
        Object::Engine,
        "context_length",
        integer(0, 1 << 31),
        "0",
        "Tokens of prompt and completion a sequence can hold; 0 chooses by the preset: what the model was trained for, at most. What the cache's memory cannot hold is cut off.",
    ),
    row(
        Object::Engine,
        "kv_budget",
        integer(0, u64::MAX),
        "0",
        "Bytes of memory for cached keys and values; 0 is enough for max_running sequences, at most the preset's share of the memory free when the engine is created (auto: half).",
    ),
    row(
        Object::Engine,
        "max_running",
        integer(0, 4096),
        "0",
        "Sequences that are computed at the same time; 0 chooses by the preset and the model's size.",
    ),
    row(
        Object::Engine,
        "batching",
        Kind::Bool,
        "true",
        "Compute several sequences in one step. false: one at a time, as if max_running were 1.",
    ),
    row(
        Object::Engine,
        "policy",
        Kind::Choice(SCHEDULING_POLICIES),
        "fcfs",
        "Which waiting request is served first: fcfs (first come, first served), priority (the highest priority of a request, which also takes the place of a running lower one), or cached_prefix (the one of which most is cached). Results do not depend on it.",
    ),
    row(
        Object::Engine,
        "max_overtaken",
        integer(0, u32::MAX as u64),
        "64",
        "How often requests that came later may be served before one: then it is next, whatever the policy says.",
    ),
    row(
        Object::Engine,
        "max_queued",
        integer(0, 1 << 20),
        "0",
        "Requests that may wait; one more is refused as busy. 0 chooses by the preset.",
    ),
    row(
        Object::Engine,
        "prefill_chunk",
        integer(0, 1 << 16),
        "0",
        "Prompt tokens computed in one step, shared by all sequences that are reading their prompt; 0 chooses by the preset and the model's size. Results do not depend on it.",
    ),
    row(
        Object::Engine,
        "prefill_budget",
        float(0.0, 1e6),
        "2",
        "Time that prompts may take of a step in which other sequences generate, in steps without prompts as measured; 0 gives them whole chunks. Smaller values keep the answers flowing, larger ones read prompts faster.",
    ),
    row(
        Object::Engine,
        "max_prompt_bytes",
        integer(1, 1 << 32),
        "16777216",
        "Longest prompt text in bytes; a longer one is refused before it is tokenized.",
    ),
    row(
        Object::Engine,
        "f16_products",
        Kind::Choice(F16_PRODUCTS),
        "f32",
        "How weights in F16 are multiplied at the level avx512_bf16: f32 loses nothing; bf16 rounds them, and what they meet, to bfloat16, which changes results slightly; it reads prompts of F16 models up to twice as fast on CPUs that multiply bfloat16 faster than f32 (Zen 4 does), more slowly on others (Emerald Rapids). Elsewhere always f32.",
    ),
    row(
        Object::Engine,
        "prefix_cache",
        Kind::Bool,
        "true",
        "Keep keys and values of finished requests while their memory is not needed, and compute of a prompt only what no earlier one had. Results do not depend on it.",
    ),
    row(
        Object::Engine,
        "prefix_policy",
        Kind::Choice(POLICY_NAMES),
        "adaptive",
        "Which kept blocks make room for new ones: lru (least recently used), lfu (least frequently used), s3fifo, tinylfu, or adaptive (the fewest hits to expect, as learned from the load).",
    ),
    row(
        Object::Engine,
        "kv_cold_dir",
        Kind::Text,
        "",
        "Directory for cached blocks that memory has no room for, the cold tier: they are read back from there, also after a restart. Created when it is not there (mode 0700); it holds what prompts mean in a readable form, so it belongs where nobody else can read. Several engines and processes of one model can share it. Empty: no cold tier.",
    ),
    row(
        Object::Engine,
        "kv_cold_bytes",
        integer(0, u64::MAX),
        "10737418240",
        "Most bytes of the directory's files.",
    ),
    row(
        Object::Engine,
        "kv_cold_policy",
        Kind::Choice(POLICY_NAMES),
        "adaptive",
        "Which blocks of a full cold tier make room for others: as prefix_policy. A block that is asked for less often than the one it would push out is not written.",
    ),
    row(
        Object::Engine,
        "kv_cold_persist",
        Kind::Bool,
        "true",
        "Keep what is cached when the engine is closed: cached blocks of memory are written then, and a later engine of the same model, precision and CPU level begins with them. When false the directory is emptied at the beginning and at the end.",
    ),
    row(
        Object::Engine,
        "kv_cold_queue_bytes",
        integer(0, u64::MAX),
        "67108864",
        "Most bytes of memory for blocks that wait to be written, and a quarter of that again for blocks that were read and not used yet. Blocks that find no room in the queue are dropped.",
    ),
    row(
        Object::Engine,
        "kv_cold_patience_ms",
        integer(0, 3_600_000),
        "10000",
        "Longest time that closing the engine waits for blocks to be written.",
    ),
    row(
        Object::Engine,
        "kv_cold_test_mode",
        Kind::Bool,
        "false",
        "A cold tier of 1 MiB in memory instead of a directory, for test suites: nothing is written anywhere.",
    ),
    row(
        Object::Engine,
        "speculation",
        Kind::Choice(SPECULATIONS),
        "auto",
        "Where tokens are proposed from that one step verifies together: ngram (what followed the last tokens when they came before, in the prompt or the answer), draft (the engine's draft model), off, or auto (draft when there is a draft model, otherwise off). Results do not depend on it.",
    ),
    row(
        Object::Engine,
        "speculation_tokens",
        integer(1, MAX_SPECULATION_TOKENS as u64),
        "8",
        "Most tokens that a sequence proposes in a step.",
    ),
    row(
        Object::Engine,
        "speculation_adaptive",
        Kind::Bool,
        "true",
        "Propose as many tokens as pay, by how many were right and how long steps were measured to take. false: always as many as possible, for comparing.",
    ),
    row(
        Object::Engine,
        "flash_attention",
        Kind::Bool,
        "true",
        "Compute attention tile by tile, with many queries and 256 positions at a time. false: all scores of a query, then its weighted values; slower, for comparing, and it changes results slightly.",
    ),
    row(
        Object::Engine,
        "exact",
        Kind::Bool,
        "false",
        "Compute with dequantized weights and f32 activations: slow, for comparing results.",
    ),
    row(
        Object::Engine,
        "manual_step",
        Kind::Bool,
        "false",
        "No scheduling thread: the host calls step until it reports that nothing is left to do.",
    ),
    row(
        Object::Engine,
        "alert_queue_time_ms",
        integer(0, 1 << 40),
        "0",
        "Milliseconds a request may wait before it is begun: a longer wait is counted in alerts_queue_time and logged as a warning, once a second at most. 0 is no limit.",
    ),
    row(
        Object::Engine,
        "alert_time_to_first_token_ms",
        integer(0, 1 << 40),
        "0",
        "The same for the time from submission to the first token, counted in alerts_time_to_first_token.",
    ),
    row(
        Object::Engine,
        "alert_inter_token_ms",
        integer(0, 1 << 40),
        "0",
        "The same for the time between two tokens of a completion, counted in alerts_inter_token_time.",
    ),
    row(
        Object::Engine,
        "alert_kv_used_percent",
        integer(0, 100),
        "0",
        "Percent of the memory for keys and values that requests may use: each time they rise above it is counted in alerts_kv_used and logged as a warning, once a second at most. 0 is no limit.",
    ),
    row(
        Object::Engine,
        "alert_preemptions_per_minute",
        integer(0, 1 << 32),
        "0",
        "Preemptions a minute may have: one with more is counted in alerts_preemptions and logged as a warning. 0 is no limit.",
    ),
    row(
        Object::Request,
        "max_tokens",
        integer(0, MAX_TOKENS_LIMIT),
        "256",
        "Tokens to generate at most; the context may end a completion earlier. 0 only reads the prompt, to score it (prompt_logprobs) or to cache it.",
    ),
    row(
        Object::Request,
        "n",
        integer(1, 128),
        "1",
        "Completions of the prompt, which is computed once. Each has its own random numbers and events, told apart by their choice.",
    ),
    row(
        Object::Request,
        "priority",
        integer(0, 1000),
        "500",
        "With the engine's policy priority: higher ones are served first.",
    ),
    row(
        Object::Request,
        "context_overflow",
        Kind::Choice(CONTEXT_OVERFLOWS),
        "error",
        "What happens when the context is full. error: a prompt too long is refused, a completion ends. truncate: the oldest tokens of a prompt too long are dropped, as many as leave room for max_tokens, or for half of the context. shift: that, and a completion that fills the context drops the older half of its tokens, reads the rest again and goes on.",
    ),
    row(
        Object::Request,
        "context_keep",
        integer(0, 1 << 31),
        "0",
        "Tokens at the beginning of the prompt that are never dropped, such as instructions; at most half of the context.",
    ),
    row(
        Object::Request,
        "temperature",
        float(0.0, 1000.0),
        "0.7",
        "Divides the logits; 0 takes the most likely token, the lowest id on ties.",
    ),
    row(
        Object::Request,
        "top_k",
        integer(0, u32::MAX as u64),
        "0",
        "Keep the k most likely tokens; 0 keeps all.",
    ),
    row(
        Object::Request,
        "top_p",
        Kind::Float {
            min: 0.0,
            max: 1.0,
            min_exclusive: true,
        },
        "0.9",
        "Keep the most likely tokens whose probabilities add up to p; 1 keeps all.",
    ),
    row(
        Object::Request,
        "min_p",
        float(0.0, 1.0),
        "0",
        "Keep tokens at least this probable relative to the most likely one; 0 keeps all.",
    ),
    row(
        Object::Request,
        "repetition_penalty",
        Kind::Float {
            min: 0.0,
            max: 100.0,
            min_exclusive: true,
        },
        "1",
        "Divides positive and multiplies negative logits of recent tokens; 1 changes nothing.",
    ),
    row(
        Object::Request,
        "repetition_window",
        integer(0, 1 << 20),
        "64",
        "How many of the last tokens, prompt included, count as recent.",
    ),
    row(
        Object::Request,
        "seed",
        integer(0, u64::MAX),
        "0",
        "Key of the random numbers; the same request with the same seed gives the same tokens.",
    ),
    row(
        Object::Request,
        "deadline_ms",
        integer(0, 1 << 40),
        "0",
        "Milliseconds after submission at which the request ends with what it has; 0 means none.",
    ),
    row(
        Object::Request,
        "ignore_end_of_generation",
        Kind::Bool,
        "false",
        "Go on when the model produces an end token.",
    ),
    row(
        Object::Request,
        "add_special",
        Kind::Bool,
        "true",
        "Add the begin and end tokens the model asks for to a prompt given as text.",
    ),
    row(
        Object::Request,
        "parse_special",
        Kind::Bool,
        "true",
        "Read the texts of special tokens in a prompt as these tokens.",
    ),
    row(
        Object::Request,
        "render_special",
        Kind::Bool,
        "false",
        "Write the texts of generated special tokens into the output.",
    ),
    row(
        Object::Request,
        "logprobs",
        Kind::Bool,
        "false",
        "Give the log probability of each generated token: natural logarithms of the softmax of the logits, before penalty and temperature.",
    ),
    row(
        Object::Request,
        "top_logprobs",
        integer(0, MAX_TOP_LOGPROBS as u64),
        "0",
        "With logprobs, also give this many of the most probable tokens at each place, at most the vocabulary.",
    ),
    row(
        Object::Request,
        "prompt_logprobs",
        Kind::Bool,
        "false",
        "Give the log probability of each token of the prompt after those before it, with the first completion. The prompt is then computed even where it is cached.",
    ),
    row(
        Object::Request,
        "embedding",
        Kind::Choice(EMBEDDINGS),
        "off",
        "Instead of generating, give an embedding of the prompt: the states after the model's final norm. mean: their mean over all tokens; last: that of the last token; cls: that of the first. All but last compute the prompt even where it is cached.",
    ),
    row(
        Object::Request,
        "embedding_normalize",
        Kind::Bool,
        "true",
        "Divide an embedding by its Euclidean norm.",
    ),
    row(
        Object::Request,
        "cache_prompt",
        Kind::Bool,
        "true",
        "Use the prefix cache: begin with what earlier requests computed of this prompt, and let later ones use this request.",
    ),
    row(
        Object::Request,
        "cache_salt",
        Kind::Text,
        "",
        "Requests share cached prefixes only with requests of the same salt: a name per tenant keeps tenants from learning by timing what others asked.",
    ),
    row(
        Object::Request,
        "speculation",
        Kind::Bool,
        "true",
        "Propose tokens for this request, where the engine does. Results do not depend on it.",
    ),
    row(
        Object::Request,
        "tag",
        integer(0, u64::MAX),
        "0",
        "A number of the caller's that comes back in every event.",
    ),
    row(
        Object::Threads,
        "threads",
        integer(0, 1024),
        "0",
        "Threads of the pool, the calling thread included; 0 is the number of cores this process may use, as far as its CPU quota goes. Those beyond the CPUs it may use sleep.",
    ),
    row(
        Object::Threads,
        "cpus",
        Kind::Text,
        "",
        "CPUs to bind the threads to, as a list like 0-3,8; empty leaves placement to the system.",
    ),
    row(
        Object::Threads,
        "name",
        Kind::Text,
        "infer",
        "Name of the threads, up to 10 bytes; a number is appended.",
    ),
    row(
        Object::KvCache,
        "n_layers",
        integer(0, 65536),
        "0",
        "Layers with keys and values. It has to be set.",
    ),
    row(
        Object::KvCache,
        "n_kv_heads",
        integer(0, 65536),
        "0",
        "Key/value heads of a layer. It has to be set.",
    ),
    row(
        Object::KvCache,
        "head_dim",
        integer(0, 65536),
        "0",
        "Elements of a head, the same for keys and values. It has to be set.",
    ),
    row(
        Object::KvCache,
        "kv_type",
        Kind::Choice(KV_STORE_TYPES),
        "f16",
        "Element type that keys and values are stored in. What comes in as float is converted; q8 has a scale for each token and head.",
    ),
    row(
        Object::KvCache,
        "hot_tokens",
        integer(1, 1 << 40),
        "2048",
        "Tokens that memory may hold, rounded up to blocks of 32. Memory is taken when it is first used and never grows beyond this.",
    ),
    row(
        Object::KvCache,
        "policy",
        Kind::Choice(POLICY_NAMES),
        "adaptive",
        "Which sealed blocks that nobody uses leave memory first.",
    ),
    row(
        Object::KvCache,
        "identity",
        Kind::Text,
        "",
        "What keys and values depend on beside the tokens: model, precision, version of the program. Blocks of another identity are never found.",
    ),
    row(
        Object::KvCache,
        "cold_dir",
        Kind::Text,
        "",
        "Directory for sealed blocks that memory has no room for, the cold tier: lookups read them back from there, also after a restart. Created when it is not there (mode 0700); it holds what prompts mean in a readable form, so it belongs where nobody else can read. Empty: no cold tier.",
    ),
    row(
        Object::KvCache,
        "cold_bytes",
        integer(0, u64::MAX),
        "10737418240",
        "Most bytes of the directory's files.",
    ),
    row(
        Object::KvCache,
        "cold_policy",
        Kind::Choice(POLICY_NAMES),
        "adaptive",
        "Which blocks of a full cold tier make room for others. A block that is asked for less often than the one it would push out is not written.",
    ),
    row(
        Object::KvCache,
        "cold_persist",
        Kind::Bool,
        "true",
        "Keep what is sealed when the cache is freed: sealed blocks of memory are written then, and a later cache of the same shape, type and identity finds them. When false the directory is emptied at the beginning and at the end.",
    ),
    row(
        Object::KvCache,
        "cold_queue_bytes",
        integer(0, u64::MAX),
        "67108864",
        "Most bytes of memory for blocks that wait to be written, two blocks at least, and a quarter of that again for blocks on their way back. Blocks that find no room are dropped.",
    ),
    row(
        Object::KvCache,
        "cold_patience_ms",
        integer(0, 3_600_000),
        "10000",
        "Longest time that freeing the cache waits for blocks to be written.",
    ),
    row(
        Object::KvCache,
        "test_mode",
        Kind::Bool,
        "false",
        "For test suites: at most 256 tokens in memory and a second tier of 1 MiB that is in memory as well, so that nothing is left on a disk.",
    ),
];
