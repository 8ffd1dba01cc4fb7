/*
 * infer.h - text generation with GGUF language models on CPUs, inside your process.
 *
 * The main job, without the error handling (examples/c/hello.c has all of it):
 *
 *     infer_model *model;  infer_engine *engine;  infer_request *request;
 *     infer_request_options *options = infer_request_options_new();
 *     infer_event event = INFER_EVENT_INIT;
 *     infer_model_load("model.gguf", INFER_NTS, NULL, &model, &error);
 *     infer_engine_create(model, NULL, &engine, &error);
 *     infer_request_options_set_prompt(options, "Once upon a time", INFER_NTS, &error);
 *     infer_engine_submit(engine, options, &request, &error);
 *     while (infer_request_next(request, -1, &event, &error) == INFER_OK)
 *         fwrite(event.text, 1, event.text_len, stdout);
 *
 * Conventions
 *
 * Status. A function that can fail returns an infer_status: INFER_OK is 0, positive values are answers that are
 *   not errors (INFER_TIMEOUT, INFER_END), negative values are errors. On an error outputs are left as they were,
 *   unless the function says otherwise.
 * Errors. The last argument, infer_error **error, may be NULL. Otherwise it is always written: NULL when there is
 *   no error, else an object that you free with infer_error_free(). Its old value is never read, so do not call
 *   with one that still has to be freed. There is no "last error" of a thread. Every call that answers a status can
 *   answer INFER_ERR_INVALID_ARGUMENT for a NULL where something has to be, INFER_ERR_INVALID_HANDLE,
 *   INFER_ERR_REENTRANT, INFER_ERR_FORKED and INFER_ERR_INTERNAL; the line "Errors:" of each names the others.
 * Handles. infer_model, infer_engine, infer_request, infer_queue, infer_threads, infer_kernels, infer_kv_cache,
 *   infer_kv_seq, infer_kv_view and infer_kv_pin are counted inside: every infer_..._free accepts NULL, may be called
 *   from any thread and in any order; what something still needs lives on until it needs it no more. No other call may
 *   be using the very handle that is being freed. A NULL handle, or a handle of another type, is an error and not a
 *   crash; a freed one usually is too, but nothing promises that.
 * Threads. A function that takes a const handle may be called at the same time from several threads. Options and
 *   errors have one user at a time. Requests and queues have one reader at a time. The line "Threads:" of each
 *   function and callback says from which threads it may be called, or is.
 * Options. NULL means the defaults. Options are checked when they are set and copied when they are used; they can
 *   be changed, used again or freed right afterwards.
 * Text in. A pointer and a length in bytes, or INFER_NTS when it is NUL-terminated. It has to be UTF-8; if it is
 *   not, the call answers INFER_ERR_INVALID_UTF8 and names the first bad byte. NULL with length 0 is empty text.
 *   What a pointer in points to is read during the call only, so it can be freed right afterwards.
 * Text out. Either a pointer and a length that belong to a handle and say how long they live, or a copy into your
 *   buffer: the size needed, a terminating NUL included, is always written to *needed. Ask for it with a NULL
 *   buffer of capacity 0; a buffer that is too small is left alone and answered with INFER_ERR_BUFFER_TOO_SMALL.
 * Structs. Every struct that the library fills begins with struct_size. Initialize yours with its INFER_..._INIT
 *   macro. The library writes no more than struct_size bytes; later versions only append fields.
 * Timeouts are in milliseconds; a negative one waits without limit, 0 does not wait.
 * Callbacks run on the thread their description names. They must return (no longjmp, no C++ exception). Any call
 *   with a status made from inside one answers INFER_ERR_REENTRANT; freeing is allowed there.
 * Memory. Memory whose size depends on a file, a request or an option is asked for in a way that can fail, and
 *   answers INFER_ERR_NO_MEMORY. Small allocations of a few kilobytes abort the process when there is none left.
 * Processes. After fork() the child cannot use what the parent created: calls answer INFER_ERR_FORKED and the
 *   infer_..._free functions do nothing. A child that calls exec, or whose parent never used the library, is free.
 * Output. The library writes nothing to stdout or stderr and installs no signal handlers.
 */

#ifndef INFER_H
#define INFER_H

/* Generated from src/ffi by build.rs. Do not edit. */

#include <stddef.h>
#include <stdint.h>

/* The version of this header. infer_version() tells the version of the library. */
#define INFER_VERSION_MAJOR 0
#define INFER_VERSION_MINOR 1
#define INFER_VERSION_PATCH 0
#define INFER_VERSION "0.1.0"

/* The binary interface this header describes; see infer_abi_check(). */
#define INFER_ABI_VERSION 1

/* Given as the length of a text: it is NUL-terminated. */
#define INFER_NTS SIZE_MAX

/* Room for buckets in an infer_histogram. */
#define INFER_HISTOGRAM_BUCKETS 64

/*
 * What a call answers. Numbers are never given to another meaning; later versions can add some, so treat every
 * negative number as an error.
 */
typedef int32_t infer_status;
enum {
  /* It worked. */
  INFER_OK = 0,
  /* Not an error: nothing came within the timeout. */
  INFER_TIMEOUT = 1,
  /* Not an error: there is nothing more, the last event or entry was already given. */
  INFER_END = 2,
  /* A defect of libinfer that was caught; the error names the place. The process can go on. */
  INFER_ERR_INTERNAL = -1,
  /* An argument or option is NULL, out of range or contradicts another. */
  INFER_ERR_INVALID_ARGUMENT = -2,
  /* A handle is of another type, or not one of libinfer, or was freed. */
  INFER_ERR_INVALID_HANDLE = -3,
  /* Text is not UTF-8; the error names the first bad byte. */
  INFER_ERR_INVALID_UTF8 = -4,
  /* The operating system refused to open or read a file. */
  INFER_ERR_IO = -5,
  /* A model file is malformed or its parts do not fit together. */
  INFER_ERR_INVALID_MODEL = -6,
  /* This version or this build cannot do it. */
  INFER_ERR_UNSUPPORTED = -7,
  /* Text could not be turned into tokens or back. */
  INFER_ERR_TOKENIZER = -8,
  /* Memory could not be obtained, or a memory budget would be exceeded, or every block of a key/value cache is in use. */
  INFER_ERR_NO_MEMORY = -9,
  /* Prompt and completion do not fit into the context. */
  INFER_ERR_CONTEXT = -10,
  /*
   * The engine's queue is full, submit again later; or another thread is writing the same sequence of a key/value
   * cache.
   */
  INFER_ERR_BUSY = -11,
  /* A callback cancelled the operation. */
  INFER_ERR_CANCELLED = -12,
  /* The engine is draining or was freed. */
  INFER_ERR_CLOSED = -13,
  /* Called from inside a callback, or while another thread is reading the same request or queue. */
  INFER_ERR_REENTRANT = -14,
  /* Called in a child process after fork(). */
  INFER_ERR_FORKED = -15,
  /* The program was compiled against a header whose binary interface the library does not have. */
  INFER_ERR_ABI = -16,
  /* The caller's buffer is too small; the size it needs was reported. */
  INFER_ERR_BUFFER_TOO_SMALL = -17,
  /* There is no entry of that name. */
  INFER_ERR_NOT_FOUND = -18,
};

/* What an event says. */
typedef uint32_t infer_event_kind;
enum {
  /* New text or tokens. */
  INFER_EVENT_OUTPUT = 1,
  /* The last event: the rest of the text, and how the completion ended. */
  INFER_EVENT_FINISHED = 2,
};

/* Which part of the answer a text belongs to. */
typedef uint32_t infer_channel;
enum {
  /* The answer itself. */
  INFER_CHANNEL_CONTENT = 1,
  /* Thinking that precedes the answer. */
  INFER_CHANNEL_REASONING = 2,
  /* A call of a tool. */
  INFER_CHANNEL_TOOL = 3,
};

/* Why a completion ended. */
typedef uint32_t infer_finish_reason;
enum {
  /* It has not ended. */
  INFER_FINISH_NONE = 0,
  /* max_tokens were generated, or the context is full; also how an embedding ends. */
  INFER_FINISH_LENGTH = 1,
  /* A stop text or stop id was found. */
  INFER_FINISH_STOP = 2,
  /* The model produced a token that ends the completion. */
  INFER_FINISH_END_OF_GENERATION = 3,
  /* It was cancelled, or its engine was freed. */
  INFER_FINISH_CANCELLED = 4,
  /* Its deadline passed. */
  INFER_FINISH_DEADLINE = 5,
  /* It failed; the event has the error. */
  INFER_FINISH_ERROR = 6,
};

/* Severity of a log record. */
typedef uint32_t infer_log_level;
enum {
  /* Something failed. */
  INFER_LOG_ERROR = 1,
  /* Something works less well than it could. */
  INFER_LOG_WARN = 2,
  /* What a person who operates a service wants to know. */
  INFER_LOG_INFO = 3,
  /* Details for finding out why. */
  INFER_LOG_DEBUG = 4,
};

/* What a histogram is of. */
typedef uint32_t infer_histogram_kind;
enum {
  /* Sequences with rows in a step; one value per step. */
  INFER_HISTOGRAM_BATCH_SIZE = 1,
  /* Nanoseconds from submission to the first step; one value per completion that was begun. */
  INFER_HISTOGRAM_QUEUE_TIME = 2,
  /* Nanoseconds from submission to the first token; one value per completion that has one. */
  INFER_HISTOGRAM_TIME_TO_FIRST_TOKEN = 3,
  /* Nanoseconds since the previous token of the same completion; one value per token but the first. */
  INFER_HISTOGRAM_INTER_TOKEN_TIME = 4,
  /* Nanoseconds of a step; one value per step. */
  INFER_HISTOGRAM_STEP_TIME = 5,
  /* Nanoseconds of reading a block from the cold tier; one value per block. */
  INFER_HISTOGRAM_COLD_READ_TIME = 6,
  /* Nanoseconds of writing a batch of blocks to the cold tier; one value per batch. */
  INFER_HISTOGRAM_COLD_WRITE_TIME = 7,
};

/* Flags of infer_model_tokenize(), to be combined with |. */
typedef uint32_t infer_tokenize_flag;
enum {
  /* Add the begin and end tokens the model asks for. */
  INFER_TOKENIZE_ADD_SPECIAL = 1,
  /* Read the texts of special tokens as these tokens. */
  INFER_TOKENIZE_PARSE_SPECIAL = 2,
};

/* Flags of infer_model_detokenize(), to be combined with |. */
typedef uint32_t infer_detokenize_flag;
enum {
  /* Write the texts of special tokens instead of leaving them out. */
  INFER_DETOKENIZE_RENDER_SPECIAL = 1,
};

/* Flags of infer_model_apply_chat_template(), to be combined with |. */
typedef uint32_t infer_chat_flag;
enum {
  /* End with what makes the model answer as the assistant. */
  INFER_CHAT_ADD_GENERATION_PROMPT = 1,
};

/* A token with a meaning of its own. */
typedef uint32_t infer_special_token;
enum {
  /* Begins a text. */
  INFER_TOKEN_BOS = 1,
  /* Ends a text. */
  INFER_TOKEN_EOS = 2,
  /* Ends a turn of a conversation. */
  INFER_TOKEN_EOT = 3,
  /* Ends a message. */
  INFER_TOKEN_EOM = 4,
  /* Stands for what the vocabulary does not have. */
  INFER_TOKEN_UNKNOWN = 5,
  /* Fills up. */
  INFER_TOKEN_PADDING = 6,
  /* Separates. */
  INFER_TOKEN_SEPARATOR = 7,
};

/* Which values of a head infer_kernels_rope() turns together. */
typedef uint32_t infer_rope_pairs;
enum {
  /* Neighbours: the values 2i and 2i + 1, as models of the llama architecture have it in GGUF files. */
  INFER_ROPE_ADJACENT = 1,
  /* Halves: the values i and i + n_pairs, known as NeoX. */
  INFER_ROPE_NEOX = 2,
};

/* An element type of keys and values. */
typedef uint32_t infer_kv_type;
enum {
  /* 32-bit floats. */
  INFER_KV_F32 = 1,
  /* IEEE half floats. */
  INFER_KV_F16 = 2,
  /* The upper halves of 32-bit floats. */
  INFER_KV_BF16 = 3,
  /* For each token and head a 32-bit float, the scale, and then signed bytes; nothing is aligned. */
  INFER_KV_Q8 = 4,
};

/*
 * Schedules the requests of one model and computes them on its threads.
 *
 * Threads: any number at the same time.
 */
typedef struct infer_engine infer_engine;

/*
 * Options of creating an engine.
 *
 * Threads: one user at a time.
 */
typedef struct infer_engine_options infer_engine_options;

/*
 * Why a call failed: a status and a sentence for people. It belongs to the caller, who frees it with
 * infer_error_free().
 *
 * Threads: one user at a time; reading it from several is fine.
 */
typedef struct infer_error infer_error;

/*
 * Vector and matrix operations of one CPU level, on arrays of yours: to compare levels, and for programs that compute
 * with the weights themselves. They do not change. Every call computes on the thread that makes it, starts no other and
 * allocates no memory.
 *
 * What holds for every infer_kernels_ function that computes:
   * Results depend on the inputs and the level only. Levels differ in the last bits, because they add in another order
   * and only some round once for a product and a sum.
   * Arrays need the alignment of their type and no more: an address that is not a multiple of 4 for float and int32_t
   * is INFER_ERR_INVALID_ARGUMENT; bytes may lie anywhere. Multiples of 64 are fastest. No padding is read or written.
   * Lengths are in elements. 0 is allowed, and the array may then be NULL. A length or a product of lengths that no
   * memory can hold is INFER_ERR_INVALID_ARGUMENT.
   * An output may be the very array of an input where the function says so. Any other overlap of an output with an
   * input is INFER_ERR_INVALID_ARGUMENT.
   * NaN and infinities are values like any other and pass through as IEEE 754 says. The floating-point environment is
   * that of the calling thread: a program that flushes subnormal numbers to zero gets them flushed here as well.
   * Errors are those named here, besides INFER_ERR_INVALID_HANDLE and those of every call; outputs are then untouched.
 *
 * Threads: any number at the same time.
 */
typedef struct infer_kernels infer_kernels;

/*
 * A cache of keys and values for programs with an attention of their own: sequences of tokens in blocks of 32, which
 * share what they have in common, in memory and, with a cold tier, in a directory.
 *
 * A sequence is stored into layer by layer with infer_kv_cache_store_batch(); infer_kv_cache_advance() then makes the
 * tokens readable by infer_kv_cache_fetch() and infer_kv_cache_view(). infer_kv_cache_seal() says which tokens these
 * are, so that infer_kv_cache_lookup() finds them, also when the sequence is gone.
 *
 * It is counted inside: it lives until the handle and every sequence, view and pin of it are freed.
 *
 * Threads: any number at the same time.
 */
typedef struct infer_kv_cache infer_kv_cache;

/*
 * Options of creating a key/value cache. n_layers, n_kv_heads and head_dim have to be set.
 *
 * Threads: one user at a time.
 */
typedef struct infer_kv_cache_options infer_kv_cache_options;

/*
 * Keeps a sealed prefix in memory while it lives.
 *
 * Threads: any number at the same time.
 */
typedef struct infer_kv_pin infer_kv_pin;

/*
 * A sequence of tokens of a key/value cache.
 *
 * Threads: any number may read at the same time, also while one writes. A second writer is answered with INFER_ERR_BUSY.
 */
typedef struct infer_kv_seq infer_kv_seq;

/*
 * Keys and values of a range of positions of one layer as they lie in memory.
 *
 * Threads: any number at the same time.
 */
typedef struct infer_kv_view infer_kv_view;

/*
 * A loaded model: weights, tokenizer, chat template. It does not change after loading. Several engines may use it.
 *
 * Threads: any number at the same time.
 */
typedef struct infer_model infer_model;

/*
 * Options of loading a model.
 *
 * Threads: one user at a time.
 */
typedef struct infer_model_options infer_model_options;

/*
 * A completion queue: many requests, of one engine or several, report to it, and one thread reads the events of all.
 *
 * Threads: one reader at a time; requests may be pointed at it from any.
 */
typedef struct infer_queue infer_queue;

/*
 * One submitted completion. It does not keep its engine running: when the engine is freed, the request ends as
 * cancelled and can still be read.
 *
 * Threads: one reader at a time; cancel and the accessors from any.
 */
typedef struct infer_request infer_request;

/*
 * Options of a request. They can be used for many requests: submitting copies them.
 *
 * Threads: one user at a time; submitting counts as reading.
 */
typedef struct infer_request_options infer_request_options;

/*
 * A pool of worker threads that several engines may share; they take turns.
 *
 * Threads: any number at the same time.
 */
typedef struct infer_threads infer_threads;

/*
 * Options of creating a thread pool.
 *
 * Threads: one user at a time.
 */
typedef struct infer_threads_options infer_threads_options;

/* One option of the list that infer_options_describe() goes through. All texts are NUL-terminated and live forever. */
typedef struct {
  /* Set by INFER_OPTION_INFO_INIT. */
  uint32_t struct_size;
  /* Always 0. */
  uint32_t reserved;
  /* What the option belongs to: "model", "engine", "request", "threads" or "kv_cache". */
  const char *object;
  /* The key for infer_..._options_set(). */
  const char *name;
  /* "bool", "integer", "float", "choice" or "text". */
  const char *type_name;
  /* The default, in the form that can be set. */
  const char *default_value;
  /* The values allowed, like "1..=4096" or "f32|f16|bf16|q8". */
  const char *range;
  /* What it does, with units. */
  const char *doc;
} infer_option_info;

/* Initializes an infer_option_info: its size, and zero in every other field. */
#define INFER_OPTION_INFO_INIT { sizeof(infer_option_info), 0, NULL, NULL, NULL, NULL, NULL, NULL }

/*
 * Tells how far loading has come, as a fraction from 0 to 1 that never falls. Answer nonzero to go on and 0 to
 * cancel: the load then answers INFER_ERR_CANCELLED. user_data is the pointer given with the callback.
 *
 * Threads: the one that loads the model.
 */
typedef uint32_t (*infer_progress_callback)(float fraction, void *user_data);

/*
 * Frees the user data of a callback. It is called exactly once, when the object that owns the callback and
 * everything created from it no longer need it. When the function that was to set the callback fails, it is not
 * called.
 *
 * Threads: any.
 */
typedef void (*infer_free_callback)(void *user_data);

/* One log record, a whole line. The texts are NUL-terminated and live until the callback returns. */
typedef struct {
  /* The size the library knows; fields beyond it do not exist. */
  uint32_t struct_size;
  /* An infer_log_level. */
  uint32_t level;
  /* The part of the library that speaks, like "engine". */
  const char *target;
  /* A sentence without a line end. */
  const char *message;
  /* Keys and values as one JSON object; "{}" when there are none. */
  const char *fields_json;
} infer_log_record;

/* Initializes an infer_log_record: its size, and zero in every other field. */
#define INFER_LOG_RECORD_INIT { sizeof(infer_log_record), 0, NULL, NULL, NULL }

/*
 * Receives the log records of an engine. record lives until the callback returns; user_data is the pointer given
 * with it.
 *
 * Threads: any, several at the same time.
 */
typedef void (*infer_log_callback)(const infer_log_record *record, void *user_data);

/*
 * Runs on a thread of a pool when it starts or before it ends, with the thread's number and the pointer given with
 * the hook.
 *
 * Threads: the one of the pool that it is about.
 */
typedef void (*infer_thread_hook)(uint32_t index, void *user_data);

/* What a model is, in numbers. The texts are NUL-terminated UTF-8 and live as long as the model's handle. */
typedef struct {
  /* Set by INFER_MODEL_INFO_INIT. */
  uint32_t struct_size;
  /* Entries of the vocabulary: token ids are below this. */
  uint32_t n_vocab;
  /* Width of the residual stream. */
  uint32_t n_embd;
  /* Layers. */
  uint32_t n_layers;
  /* Query heads of the first layer. */
  uint32_t n_heads;
  /* Key/value heads of the first layer. */
  uint32_t n_kv_heads;
  /* Tokens the model was trained to attend to. */
  uint32_t context_length;
  /* 1 when the file has a chat template, else 0. */
  uint32_t has_chat_template;
  /* Number of weights. */
  uint64_t n_parameters;
  /* Bytes of all weights. */
  uint64_t weight_bytes;
  /* The architecture as the file names it, like "llama". */
  const char *architecture;
  /* The model's name as the file gives it; empty when it gives none. */
  const char *name;
  /* One line for people: architecture, number of parameters, main tensor type. */
  const char *description;
} infer_model_info;

/* Initializes an infer_model_info: its size, and zero in every other field. */
#define INFER_MODEL_INFO_INIT { sizeof(infer_model_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL }

/* Memory a model and an engine will take, in bytes. */
typedef struct {
  /* Set by INFER_MEMORY_ESTIMATE_INIT. */
  uint32_t struct_size;
  /* Always 0. */
  uint32_t reserved;
  /* The weights. */
  uint64_t weights;
  /* Cached keys and values, at the context length and number of sequences the engine's options ask for. */
  uint64_t kv_cache;
  /* Intermediate results of a step. */
  uint64_t workspace;
  /* The sum. */
  uint64_t total;
} infer_memory_estimate;

/* Initializes an infer_memory_estimate: its size, and zero in every other field. */
#define INFER_MEMORY_ESTIMATE_INIT { sizeof(infer_memory_estimate), 0, 0, 0, 0, 0 }

/*
 * A snapshot of an engine's counters. Those that end in _ns are nanoseconds. Counts and times only grow; running,
 * queued and the kv_ fields say how it is at the moment; those that begin with max_ are the largest so far. Rates and
 * shares are computed from the counts and times beside them.
 */
typedef struct {
  /* Set by INFER_STATS_INIT. */
  uint32_t struct_size;
  /* Always 0. */
  uint32_t reserved;
  /* Requests accepted. */
  uint64_t requests_submitted;
  /* Requests refused because the queue was full. */
  uint64_t requests_refused;
  /* Requests that ended by length, stop or end of generation. */
  uint64_t requests_completed;
  /* Requests that were cancelled. */
  uint64_t requests_cancelled;
  /* Requests whose deadline passed. */
  uint64_t requests_expired;
  /* Requests that failed. */
  uint64_t requests_failed;
  /* Sequences being computed now. */
  uint64_t running;
  /* Requests waiting now. */
  uint64_t queued;
  /* Steps of the scheduler. */
  uint64_t steps;
  /* Largest number of sequences in one step. */
  uint64_t max_batch;
  /* Prompt tokens computed. */
  uint64_t prompt_tokens;
  /* Tokens generated. */
  uint64_t generated_tokens;
  /* Sum of the times requests waited before their first step. */
  uint64_t queue_time_ns;
  /* Longest such time. */
  uint64_t max_queue_time_ns;
  /* Sum of the times from submission to the first token. */
  uint64_t time_to_first_token_ns;
  /* Longest such time. */
  uint64_t max_time_to_first_token_ns;
  /* Time in steps, split by the share of prompt rows. */
  uint64_t prefill_time_ns;
  /* Time in steps, split by the share of generated rows. */
  uint64_t decode_time_ns;
  /* Prefill: embedding. */
  uint64_t prefill_embedding_time_ns;
  /* Prefill: attention. */
  uint64_t prefill_attention_time_ns;
  /* Prefill: feed-forward network. */
  uint64_t prefill_ffn_time_ns;
  /* Prefill: output projection. */
  uint64_t prefill_projection_time_ns;
  /* Prefill: sampling. */
  uint64_t prefill_sampling_time_ns;
  /* Decode: embedding. */
  uint64_t decode_embedding_time_ns;
  /* Decode: attention. */
  uint64_t decode_attention_time_ns;
  /* Decode: feed-forward network. */
  uint64_t decode_ffn_time_ns;
  /* Decode: output projection. */
  uint64_t decode_projection_time_ns;
  /* Decode: sampling. */
  uint64_t decode_sampling_time_ns;
  /* Bytes of key/value blocks in use now. */
  uint64_t kv_bytes_used;
  /* Most bytes of key/value blocks that were in use. */
  uint64_t kv_bytes_peak;
  /* Bytes of key/value blocks the engine may use. */
  uint64_t kv_bytes_budget;
  /* Tokens held in the key/value blocks in use now. */
  uint64_t kv_tokens_used;
  /* Caught panics of a step. */
  uint64_t panics;
  /* Tokens generated per second of decode_time_ns. */
  double decode_tokens_per_second;
  /* Prompt tokens computed per second of prefill_time_ns. */
  double prefill_tokens_per_second;
  /* Share of the prefill time that went to reading embedding rows, from 0 to 1. */
  double prefill_embedding_share;
  /* Share of the prefill time that went to attention, from 0 to 1. */
  double prefill_attention_share;
  /* Share of the prefill time that went to the feed-forward network, from 0 to 1. */
  double prefill_ffn_share;
  /* Share of the prefill time that went to the output projection, from 0 to 1. */
  double prefill_projection_share;
  /* Share of the prefill time that went to sampling, from 0 to 1. */
  double prefill_sampling_share;
  /* Share of the decode time that went to reading embedding rows, from 0 to 1. */
  double decode_embedding_share;
  /* Share of the decode time that went to attention, from 0 to 1. */
  double decode_attention_share;
  /* Share of the decode time that went to the feed-forward network, from 0 to 1. */
  double decode_ffn_share;
  /* Share of the decode time that went to the output projection, from 0 to 1. */
  double decode_projection_share;
  /* Share of the decode time that went to sampling, from 0 to 1. */
  double decode_sampling_share;
  /* Prompts that were looked up in the prefix cache. */
  uint64_t prefix_lookups;
  /* Prompt tokens found there, which were not computed. */
  uint64_t prefix_hit_tokens;
  /* Blocks that the prefix cache gave up for others. */
  uint64_t prefix_evictions;
  /* Bytes of key/value blocks that no request uses and the prefix cache keeps. */
  uint64_t kv_bytes_cached;
  /* Token slots of the key/value blocks in use now. */
  uint64_t kv_slots_used;
  /* Share of kv_slots_used that holds tokens, from 0 to 1. */
  double kv_utilization;
  /* Share of the prompt tokens that were found in the prefix cache, from 0 to 1. */
  double prefix_hit_share;
  /* Times that a running sequence gave up its memory or place to others. */
  uint64_t preemptions;
  /* Rows of generated tokens computed. */
  uint64_t decode_rows;
  /* Calls of attention tile by tile: one per layer and step. */
  uint64_t attention_tiled_calls;
  /* Calls of attention in two passes: one per layer and step. */
  uint64_t attention_two_pass_calls;
  /* Requests that waited longer than alert_queue_time_ms. */
  uint64_t alerts_queue_time;
  /* Requests whose first token took longer than alert_time_to_first_token_ms. */
  uint64_t alerts_time_to_first_token;
  /* Tokens that took longer than alert_inter_token_ms. */
  uint64_t alerts_inter_token_time;
  /* Times that the key/value memory in use rose above alert_kv_used_percent. */
  uint64_t alerts_kv_used;
  /* Minutes with more preemptions than alert_preemptions_per_minute. */
  uint64_t alerts_preemptions;
  /* Tokens held in the key/value blocks when most bytes of them were in use. */
  uint64_t kv_tokens_peak;
  /* Steps that verified proposed tokens. */
  uint64_t speculative_steps;
  /* Tokens proposed and verified. */
  uint64_t draft_tokens;
  /* Proposed tokens that were right. */
  uint64_t accepted_tokens;
  /* Share of the proposed tokens that were right, from 0 to 1. */
  double draft_acceptance;
  /* State of the cold tier: 0 off or not to be opened, 1 it works, 2 it failed lately and is left alone for a while. */
  uint64_t kv_cold_state;
  /* Blocks that can be read from the cold tier. */
  uint64_t kv_cold_blocks;
  /* Bytes they take in its storage. */
  uint64_t kv_cold_bytes;
  /* Bytes they may take. */
  uint64_t kv_cold_bytes_budget;
  /* Prompts of which the cold tier was asked for what memory does not have. */
  uint64_t kv_cold_lookups;
  /* Prompt tokens that the cold tier had and memory had not. */
  uint64_t kv_cold_hit_tokens;
  /* Of those, tokens that were computed all the same because that is faster. */
  uint64_t kv_cold_recomputed_tokens;
  /* Blocks read from the cold tier. */
  uint64_t kv_cold_reads;
  /* Blocks that were to be read from it and could not be had. */
  uint64_t kv_cold_misses;
  /* Of those, blocks that did not agree with their name or checksum. */
  uint64_t kv_cold_corrupt;
  /* Blocks written to the cold tier. */
  uint64_t kv_cold_spills;
  /* Blocks that its storage gave up for others. */
  uint64_t kv_cold_evictions;
  /* Blocks that were not worth a write. */
  uint64_t kv_cold_refusals;
  /* Blocks that were lost because the queue was full or writing failed. */
  uint64_t kv_cold_dropped;
  /* Blocks that wait in memory to be written. */
  uint64_t kv_cold_queued;
  /* Bytes written to the cold tier. */
  uint64_t kv_cold_bytes_written;
  /* Bytes read from it. */
  uint64_t kv_cold_bytes_read;
  /* Blocks that were read for a request that then began with them. */
  uint64_t kv_cold_prefetch_useful;
  /* Blocks that were read for a request that ended before, or whose memory others needed. */
  uint64_t kv_cold_prefetch_useless;
  /* Errors of the cold tier's storage. */
  uint64_t kv_cold_errors;
  /* Files in its directory that cannot be used: damaged, or of another version, model or layout. */
  uint64_t kv_cold_foreign_files;
  /* 1 when this process is the one that writes to the directory, 0 when another one does. */
  uint64_t kv_cold_writer;
} infer_stats;

/* Initializes an infer_stats: its size, and zero in every other field. */
#define INFER_STATS_INIT { sizeof(infer_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/*
 * How often values fell into each bucket since the engine was created. A bucket holds the values above the bound of the
 * one before it, up to its own; the last bound is UINT64_MAX. Times have seven buckets to a decade from 10 microseconds
 * to 100 seconds (1, 1.5, 2, 3, 4, 5, 7), batch sizes the powers of two up to 4096. bounds belongs to the library and
 * lives as long as the process.
 */
typedef struct {
  /* Set by INFER_HISTOGRAM_INIT. */
  uint32_t struct_size;
  /* An infer_histogram_kind. */
  uint32_t kind;
  /* Buckets that are used; the others are 0. */
  size_t n_buckets;
  /* Largest value of each bucket, ascending. */
  const uint64_t *bounds;
  /* Values: the sum of counts. */
  uint64_t count;
  /* Sum of the values. */
  uint64_t sum;
  /* Largest value so far. */
  uint64_t max;
  /* Values in each bucket. */
  uint64_t counts[INFER_HISTOGRAM_BUCKETS];
} infer_histogram;

/* Initializes an infer_histogram: its size, and zero in every other field. */
#define INFER_HISTOGRAM_INIT { sizeof(infer_histogram), 0, 0, NULL, 0, 0, 0, { 0 } }

/*
 * One event of a request. Initialize it with INFER_EVENT_INIT; it can be used again and again. The pointers belong to
 * the request or queue it was read from, and live until the next read there or until that is freed.
 */
typedef struct {
  /* Set by INFER_EVENT_INIT. */
  uint32_t struct_size;
  /* An infer_event_kind. */
  uint32_t kind;
  /* The tag from the request's options. */
  uint64_t tag;
  /* Which completion of the request, from 0. */
  uint32_t choice;
  /* An infer_channel. */
  uint32_t channel;
  /*
   * New text: whole UTF-8 code points, never NULL, NUL-terminated. It can lag behind tokens while a code point or a
   * possible stop text is incomplete.
   */
  const char *text;
  /* Bytes of text, the terminating NUL not counted. */
  size_t text_len;
  /* New token ids, the one that ended the completion included. */
  const uint32_t *tokens;
  /* Number of tokens. */
  size_t n_tokens;
  /*
   * An infer_finish_reason; INFER_FINISH_NONE unless kind is INFER_EVENT_FINISHED. This and what follows, up to
   * decode_tokens_per_second, is zero before the end.
   */
  uint32_t finish_reason;
  /* Always 0. */
  uint32_t reserved;
  /*
   * The stop text that was found, or the number of a stop id, NUL-terminated; NULL unless the reason is
   * INFER_FINISH_STOP.
   */
  const char *stop;
  /* Bytes of stop. */
  size_t stop_len;
  /* The failure when the reason is INFER_FINISH_ERROR, else NULL. It is lent: do not free it. */
  const infer_error *error;
  /* Tokens of the prompt. */
  uint64_t prompt_tokens;
  /* Prompt tokens that did not have to be computed, because their keys and values were cached. */
  uint64_t cached_tokens;
  /* Tokens generated. */
  uint64_t generated_tokens;
  /* Nanoseconds from submission to the first step that computed something for it. */
  uint64_t queue_time_ns;
  /* Nanoseconds from submission to the first generated token; 0 when there was none. */
  uint64_t time_to_first_token_ns;
  /* Nanoseconds from submission to the end. */
  uint64_t total_time_ns;
  /* Generated tokens after the first, per second; 0 when there were fewer than two. */
  double decode_tokens_per_second;
  /*
   * With the request option logprobs, the natural logarithm of the probability of each of tokens, by the model's
   * distribution before penalty and temperature; else NULL. This and the next three are there in every event with
   * tokens.
   */
  const float *logprobs;
  /*
   * With the request option top_logprobs, the ids of the most probable tokens, most probable first, ties by id:
   * n_top_logprobs for the first of tokens, then as many for the second, and so on; else NULL.
   */
  const uint32_t *top_tokens;
  /* Log probabilities of top_tokens, in the same order; else NULL. */
  const float *top_logprobs;
  /* How many of top_tokens and top_logprobs belong to each of tokens. */
  size_t n_top_logprobs;
  /*
   * With the request option prompt_logprobs, the log probability of each token of the prompt after those before it,
   * NaN for the first. They come once, in one event of choice 0; else NULL.
   */
  const float *prompt_logprobs;
  /* Number of prompt_logprobs: the prompt's tokens, or 0. */
  size_t n_prompt_logprobs;
  /*
   * With the request option embedding, the prompt's embedding, in the event of the kind INFER_EVENT_FINISHED; else
   * NULL.
   */
  const float *embedding;
  /* Numbers in embedding: the model's n_embd, or 0. */
  size_t n_embedding;
} infer_event;

/* Initializes an infer_event: its size, and zero in every other field. */
#define INFER_EVENT_INIT { sizeof(infer_event), 0, 0, 0, 0, NULL, 0, NULL, 0, 0, 0, NULL, 0, NULL, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, 0, NULL, 0, NULL, 0 }

/*
 * Counts of a key/value cache since it was created, and its state now. Those that begin with cold_ are 0 without a cold
 * tier.
 */
typedef struct {
  /* Set by INFER_KV_STATS_INIT. */
  uint32_t struct_size;
  /* Always 0. */
  uint32_t reserved;
  /* Bytes of a block of 32 tokens. */
  uint64_t block_bytes;
  /* Blocks that memory may hold. */
  uint64_t hot_blocks;
  /* Blocks in use by sequences, views and pins; one that several use counts once. */
  uint64_t hot_blocks_used;
  /* Sealed blocks that nobody uses, kept until their memory is needed. */
  uint64_t hot_blocks_cached;
  /* Bytes of the blocks in use and cached. */
  uint64_t hot_bytes;
  /* Tokens held in the blocks in use and cached. */
  uint64_t hot_tokens;
  /* Share of the token slots of these blocks that holds tokens, from 0 to 1. */
  double utilization;
  /* Tokens that sequences advanced by. */
  uint64_t tokens_stored;
  /* Tokens of blocks that were sealed. */
  uint64_t tokens_sealed;
  /* Lookups and pins. */
  uint64_t lookups;
  /* Tokens they asked for. */
  uint64_t lookup_tokens;
  /* Tokens they found, those of the cold tier included. */
  uint64_t hit_tokens;
  /* Lookups and pins that found nothing. */
  uint64_t misses;
  /* Blocks that memory gave up for others. */
  uint64_t evictions;
  /* Blocks copied because a sequence went on in the middle of a shared one. */
  uint64_t copies;
  /* Fetches and views. */
  uint64_t fetches;
  /* Tokens they covered, of one layer each. */
  uint64_t tokens_fetched;
  /* Whether there is a cold tier that works: 1 or 0. */
  uint64_t cold_active;
  /* Blocks in the cold tier. */
  uint64_t cold_blocks;
  /* Bytes they take. */
  uint64_t cold_bytes;
  /* Bytes they may take. */
  uint64_t cold_budget;
  /* Tokens that lookups found there, part of hit_tokens. */
  uint64_t cold_hit_tokens;
  /* Blocks read back. */
  uint64_t cold_reads;
  /* Blocks written. */
  uint64_t spills;
  /* Blocks offered to the cold tier that were not written: not worth it, or no room to wait. */
  uint64_t spills_refused;
  /* Bytes that wait to be written. */
  uint64_t cold_queue_bytes;
} infer_kv_stats;

/* Initializes an infer_kv_stats: its size, and zero in every other field. */
#define INFER_KV_STATS_INIT { sizeof(infer_kv_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/*
 * The tokens of a view that lie in one block. Element e of head h of the token position + t is at keys + t *
 * token_stride + h * head_stride, as values are; heads of INFER_KV_Q8 begin with their scale. The
 * memory lives until the view is freed.
 */
typedef struct {
  /* Set by INFER_KV_BLOCK_INIT. */
  uint32_t struct_size;
  /* The type of the cache, an infer_kv_type. */
  uint32_t element_type;
  /* Position of the first token. */
  size_t position;
  /* Tokens. */
  size_t n_tokens;
  /* Their keys. */
  const void *keys;
  /* Their values. */
  const void *values;
  /* Bytes from one token to the next. */
  size_t token_stride;
  /* Bytes from one head to the next. */
  size_t head_stride;
} infer_kv_block;

/* Initializes an infer_kv_block: its size, and zero in every other field. */
#define INFER_KV_BLOCK_INIT { sizeof(infer_kv_block), 0, 0, 0, NULL, NULL, 0, 0 }

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* ---- Version ---- */

/*
 * The version of the library that is running, like "0.1.0"; compare INFER_VERSION, which is that of the header. The
 * text lives forever.
 *
 * Threads: any, also in a forked child and inside a callback.
 */
const char *infer_version(void);

/*
 * The best set of kernels this CPU can run: "scalar"; "sse41", "avx2", "avx_vnni", "avx512" or "avx512_bf16" on x86-64;
 * "neon", "neon_dotprod" or "i8mm" on aarch64. An engine uses it unless its option cpu_level or the environment
 * variable INFER_CPU_LEVEL says otherwise. The text lives forever.
 *
 * Threads: any, also in a forked child and inside a callback.
 */
const char *infer_cpu_level_name(void);

/*
 * Checks that the library has the binary interface the program was compiled for: call
 * infer_abi_check(INFER_ABI_VERSION, &error) first when the library is loaded at run time.
 *
 * Errors: INFER_ERR_ABI, naming both versions.
 * Threads: any.
 */
infer_status infer_abi_check(uint32_t abi_version, infer_error **error);

/* ---- Errors ---- */

/*
 * The name of a status as it is written in C, like "INFER_ERR_BUSY"; "unknown status" for any other number. The text
 * lives forever.
 *
 * Threads: any, also in a forked child and inside a callback.
 */
const char *infer_status_name(int32_t status);

/*
 * The sentence of an error: what was attempted, on what, what was expected and what was found. NUL-terminated UTF-8
 * that lives as long as the error; "no error" for NULL.
 *
 * Threads: any number of readers, also in a forked child and inside a callback.
 */
const char *infer_error_message(const infer_error *error);

/*
 * The status of an error, the same number that the call answered; INFER_OK for NULL.
 *
 * Threads: any number of readers, also in a forked child and inside a callback.
 */
int32_t infer_error_status(const infer_error *error);

/*
 * Frees an error. NULL is ignored, and so is an error that an event only lent.
 *
 * Threads: any; nobody else may be using the error.
 */
void infer_error_free(infer_error *error);

/* ---- Options: what there is ---- */

/*
 * Describes the option number index, counted from 0 over the options of all objects. Lists every option there is:
 * whatever is listed can be set with the infer_..._options_set() of its object. The texts live forever.
 *
 * Answers INFER_END past the last option.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when info is NULL or too small.
 * Threads: any.
 */
infer_status infer_options_describe(size_t index,
                                    infer_option_info *info,
                                    infer_error **error);

/* ---- Options of loading a model ---- */

/*
 * New options with every default; NULL only when there is no memory. Free them with infer_model_options_free().
 *
 * Threads: any.
 */
infer_model_options *infer_model_options_new(void);

/*
 * Frees options. NULL is ignored.
 *
 * Threads: any; nobody else may be using the options.
 */
void infer_model_options_free(infer_model_options *options);

/*
 * Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
 * Threads: one user of options at a time.
 */
infer_status infer_model_options_set(infer_model_options *options,
                                     const char *key,
                                     const char *value,
                                     infer_error **error);

/*
 * Sets the function that is told about the progress of loading; NULL removes it. free_user_data may be NULL; it runs
 * when the options are gone.
 *
 * Errors: those of every call.
 * Threads: one user of options at a time.
 */
infer_status infer_model_options_set_progress(infer_model_options *options,
                                              infer_progress_callback callback,
                                              void *user_data,
                                              infer_free_callback free_user_data,
                                              infer_error **error);

/* ---- Options of an engine ---- */

/*
 * New options with every default; NULL only when there is no memory. Free them with infer_engine_options_free().
 *
 * Threads: any.
 */
infer_engine_options *infer_engine_options_new(void);

/*
 * Frees options. NULL is ignored.
 *
 * Threads: any; nobody else may be using the options.
 */
void infer_engine_options_free(infer_engine_options *options);

/*
 * Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
 * Threads: one user of options at a time.
 */
infer_status infer_engine_options_set(infer_engine_options *options,
                                      const char *key,
                                      const char *value,
                                      infer_error **error);

/*
 * Sets the function that receives the log records of engines created with these options; NULL means silence, which
 * is the default. free_user_data may be NULL; it runs when the options and all engines created from them are gone.
 *
 * Errors: those of every call.
 * Threads: one user of options at a time.
 */
infer_status infer_engine_options_set_log(infer_engine_options *options,
                                          infer_log_callback callback,
                                          void *user_data,
                                          infer_free_callback free_user_data,
                                          infer_error **error);

/*
 * Lets engines created with these options compute on a thread pool that others may share, instead of one of their
 * own; NULL takes that back. The pool lives on until the last engine that uses it is freed.
 *
 * Errors: those of every call.
 * Threads: one user of options at a time.
 */
infer_status infer_engine_options_set_threads(infer_engine_options *options,
                                              const infer_threads *threads,
                                              infer_error **error);

/*
 * Gives engines created with these options a draft model: a smaller model with the same tokens, which proposes what one
 * step of the engine's model verifies, so that the same tokens come sooner; NULL takes that back. The option speculation
 * says whether it is used; auto does. The draft's key/value cache is a share of kv_budget. The model lives on until the
 * last engine that uses it is freed.
 *
 * Errors: those of every call; infer_engine_create() refuses a model with other tokens and names the first.
 * Threads: one user of options at a time.
 */
infer_status infer_engine_options_set_draft_model(infer_engine_options *options,
                                                  const infer_model *model,
                                                  infer_error **error);

/* ---- Options of a request ---- */

/*
 * New options with every default and no prompt; NULL only when there is no memory. Free them with
 * infer_request_options_free().
 *
 * Threads: any.
 */
infer_request_options *infer_request_options_new(void);

/*
 * Frees options. NULL is ignored.
 *
 * Threads: any; nobody else may be using the options.
 */
void infer_request_options_free(infer_request_options *options);

/*
 * Sets everything back to what infer_request_options_new() gives.
 *
 * Errors: those of every call.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_reset(infer_request_options *options, infer_error **error);

/*
 * Creates options that are a copy of others, prompt included, to vary them. Free the copy with
 * infer_request_options_free().
 *
 * Errors: INFER_ERR_NO_MEMORY.
 * Threads: any, while nobody changes options.
 */
infer_status infer_request_options_copy(const infer_request_options *options,
                                        infer_request_options **copy,
                                        infer_error **error);

/*
 * Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set(infer_request_options *options,
                                       const char *key,
                                       const char *value,
                                       infer_error **error);

/*
 * Sets the prompt as text, which is copied. It replaces any prompt set before. The request's options add_special and
 * parse_special say how it becomes tokens.
 *
 * Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_prompt(infer_request_options *options,
                                              const char *text,
                                              size_t text_len,
                                              infer_error **error);

/*
 * Sets the prompt as n token ids, which are copied and used as they are. It replaces any prompt set before. Ids
 * outside the vocabulary are refused when the request is submitted.
 *
 * Errors: INFER_ERR_NO_MEMORY.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_prompt_ids(infer_request_options *options,
                                                  const uint32_t *ids,
                                                  size_t n,
                                                  infer_error **error);

/*
 * Sets the prompt as a conversation of n messages, rendered by the model's chat template when the request is
 * submitted. It replaces any prompt set before.
 *
 * roles is an array of NUL-terminated texts like "system", "user", "assistant". contents is an array of texts;
 * content_lens has their lengths (INFER_NTS allowed), or is NULL when all are NUL-terminated. Everything is copied.
 *
 * Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_messages(infer_request_options *options,
                                                const char *const *roles,
                                                const char *const *contents,
                                                const size_t *content_lens,
                                                size_t n,
                                                infer_error **error);

/*
 * Sets the prompt as a conversation in JSON, an array of objects with role, content and whatever else the model's
 * chat template knows. It replaces any prompt set before.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when it is not such JSON, INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_messages_json(infer_request_options *options,
                                                     const char *json,
                                                     size_t json_len,
                                                     infer_error **error);

/*
 * Sets how many tokens are generated at most: the option max_tokens.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT outside its range.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_max_tokens(infer_request_options *options,
                                                  uint64_t max_tokens,
                                                  infer_error **error);

/*
 * Sets the temperature: 0 takes the most likely token each time.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT outside its range.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_temperature(infer_request_options *options,
                                                   double temperature,
                                                   infer_error **error);

/*
 * Sets the seed: the same request with the same seed gives the same tokens.
 *
 * Errors: those of every call.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_seed(infer_request_options *options,
                                            uint64_t seed,
                                            infer_error **error);

/*
 * Sets the number that comes back in every event of the request.
 *
 * Errors: those of every call.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_tag(infer_request_options *options,
                                           uint64_t tag,
                                           infer_error **error);

/*
 * Adds a text that ends the completion where it appears; it is not part of the output. The text must not be empty.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT, INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_add_stop(infer_request_options *options,
                                            const char *text,
                                            size_t text_len,
                                            infer_error **error);

/*
 * Adds a token id that ends the completion.
 *
 * Errors: INFER_ERR_NO_MEMORY.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_add_stop_id(infer_request_options *options,
                                               uint32_t id,
                                               infer_error **error);

/*
 * Lets requests report to a queue, marked with tag, instead of being read one by one: infer_queue_next() then gives
 * their events, and infer_request_next() answers INFER_ERR_INVALID_ARGUMENT. A NULL queue takes that back. What
 * requests report after the queue was freed is lost.
 *
 * Errors: those of every call.
 * Threads: one user of options at a time.
 */
infer_status infer_request_options_set_queue(infer_request_options *options,
                                             const infer_queue *queue,
                                             uint64_t tag,
                                             infer_error **error);

/* ---- Options of a thread pool ---- */

/*
 * New options with every default; NULL only when there is no memory. Free them with infer_threads_options_free().
 *
 * Threads: any.
 */
infer_threads_options *infer_threads_options_new(void);

/*
 * Frees options. NULL is ignored.
 *
 * Threads: any; nobody else may be using the options.
 */
void infer_threads_options_free(infer_threads_options *options);

/*
 * Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
 * Threads: one user of options at a time.
 */
infer_status infer_threads_options_set(infer_threads_options *options,
                                       const char *key,
                                       const char *value,
                                       infer_error **error);

/*
 * Sets functions that run on each thread of the pool when it starts and before it ends, for naming it in a profiler
 * or attaching it to a runtime. Each may be NULL. free_user_data may be NULL; it runs when the options and all pools
 * created from them are gone.
 *
 * Errors: those of every call.
 * Threads: one user of options at a time.
 */
infer_status infer_threads_options_set_hooks(infer_threads_options *options,
                                             infer_thread_hook on_start,
                                             infer_thread_hook on_stop,
                                             void *user_data,
                                             infer_free_callback free_user_data,
                                             infer_error **error);

/* ---- Options of a key/value cache ---- */

/*
 * New options with every default; NULL only when there is no memory. Free them with infer_kv_cache_options_free().
 *
 * Threads: any.
 */
infer_kv_cache_options *infer_kv_cache_options_new(void);

/*
 * Frees options. NULL is ignored.
 *
 * Threads: any; nobody else may be using the options.
 */
void infer_kv_cache_options_free(infer_kv_cache_options *options);

/*
 * Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
 * Threads: one user of options at a time.
 */
infer_status infer_kv_cache_options_set(infer_kv_cache_options *options,
                                        const char *key,
                                        const char *value,
                                        infer_error **error);

/* ---- Thread pools ---- */

/*
 * Creates a thread pool. options may be NULL. Free it with infer_threads_free().
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for a CPU list that this process may not use or more threads than the system
 * gives, INFER_ERR_NO_MEMORY.
 * Threads: any, while nobody changes options.
 */
infer_status infer_threads_create(const infer_threads_options *options,
                                  infer_threads **threads,
                                  infer_error **error);

/*
 * Frees a pool. Engines that use it keep it alive. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_threads_free(infer_threads *threads);

/*
 * The number of threads that compute, that of the engine included; 0 for NULL.
 *
 * Threads: any.
 */
uint32_t infer_threads_count(const infer_threads *threads);

/* ---- Models ---- */

/*
 * Loads a model from a GGUF file. For a model split over several files give the path of the first; the others are
 * found beside it. options may be NULL. Blocks until everything is read. Free the model with infer_model_free().
 *
 * Errors: INFER_ERR_IO, INFER_ERR_INVALID_MODEL with the key or tensor that is wrong, INFER_ERR_UNSUPPORTED for an
 * architecture or tensor type this version does not know, INFER_ERR_NO_MEMORY, INFER_ERR_CANCELLED.
 * Threads: any, while nobody changes options.
 */
infer_status infer_model_load(const char *path,
                              size_t path_len,
                              const infer_model_options *options,
                              infer_model **model,
                              infer_error **error);

/*
 * Loads a model from the bytes of a GGUF file in memory. They are only read during the call and can be freed
 * afterwards. options may be NULL. Free the model with infer_model_free().
 *
 * Errors: as infer_model_load().
 * Threads: any, while nobody changes options.
 */
infer_status infer_model_load_from_memory(const void *data,
                                          size_t size,
                                          const infer_model_options *options,
                                          infer_model **model,
                                          infer_error **error);

/*
 * Frees a model. Engines that use it keep it alive. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_model_free(infer_model *model);

/*
 * Fills info with the model's numbers and names. The names live as long as the model's handle.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when info is NULL or too small.
 * Threads: any.
 */
infer_status infer_model_get_info(const infer_model *model,
                                  infer_model_info *info,
                                  infer_error **error);

/*
 * Computes, from the header of a GGUF file alone, how much memory a model and an engine with these options would
 * take. Both options may be NULL.
 *
 * Errors: as infer_model_load().
 * Threads: any, while nobody changes options.
 */
infer_status infer_model_estimate(const char *path,
                                  size_t path_len,
                                  const infer_model_options *model_options,
                                  const infer_engine_options *engine_options,
                                  infer_memory_estimate *estimate,
                                  infer_error **error);

/*
 * The number of metadata keys of a model; 0 for NULL.
 *
 * Threads: any.
 */
size_t infer_model_metadata_count(const infer_model *model);

/*
 * The metadata key number index, in the order of the file. The key is not NUL-terminated; it lives as long as the
 * model's handle.
 *
 * Answers INFER_END past the last key.
 *
 * Errors: those of every call.
 * Threads: any.
 */
infer_status infer_model_metadata_at(const infer_model *model,
                                     size_t index,
                                     const char **key,
                                     size_t *key_len,
                                     infer_error **error);

/*
 * Copies the value of a metadata key as text into buffer: a string as it is, numbers in decimal, true or false, an
 * array as JSON. See "Text out" above for buffer, capacity and needed.
 *
 * Errors: INFER_ERR_NOT_FOUND, INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_INVALID_UTF8.
 * Threads: any.
 */
infer_status infer_model_metadata_get(const infer_model *model,
                                      const char *key,
                                      size_t key_len,
                                      char *buffer,
                                      size_t capacity,
                                      size_t *needed,
                                      infer_error **error);

/*
 * Turns text into token ids and copies them into ids, which has room for capacity of them. How many there are is
 * always written to *needed, also when there is no room (ids is then left alone); ask for it with a NULL array of
 * capacity 0. flags combines infer_tokenize_flag.
 *
 * Errors: INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_INVALID_UTF8, INFER_ERR_TOKENIZER, INFER_ERR_UNSUPPORTED for a model
 * without a tokenizer or with one this version does not know.
 * Threads: any.
 */
infer_status infer_model_tokenize(const infer_model *model,
                                  const char *text,
                                  size_t text_len,
                                  uint32_t flags,
                                  uint32_t *ids,
                                  size_t capacity,
                                  size_t *needed,
                                  infer_error **error);

/*
 * Turns n token ids into text and copies it into buffer. Bytes that are not UTF-8 are replaced by U+FFFD. See "Text
 * out" above for buffer, capacity and needed. flags combines infer_detokenize_flag.
 *
 * Errors: INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_INVALID_ARGUMENT for an id outside the vocabulary,
 * INFER_ERR_UNSUPPORTED for a model without a tokenizer.
 * Threads: any.
 */
infer_status infer_model_detokenize(const infer_model *model,
                                    const uint32_t *ids,
                                    size_t n,
                                    uint32_t flags,
                                    char *buffer,
                                    size_t capacity,
                                    size_t *needed,
                                    infer_error **error);

/*
 * Copies the text of one token into buffer, special tokens included. A token that is only a part of a code point
 * gives U+FFFD: to show a stream, use the text of events. See "Text out" above for buffer, capacity and needed.
 *
 * Errors: as infer_model_detokenize().
 * Threads: any.
 */
infer_status infer_model_token_text(const infer_model *model,
                                    uint32_t id,
                                    char *buffer,
                                    size_t capacity,
                                    size_t *needed,
                                    infer_error **error);

/*
 * Writes the id of a special token, an infer_special_token, to *id.
 *
 * Errors: INFER_ERR_NOT_FOUND when the model has no such token, INFER_ERR_INVALID_ARGUMENT for an unknown kind,
 * INFER_ERR_UNSUPPORTED for a model without a tokenizer.
 * Threads: any.
 */
infer_status infer_model_special_token(const infer_model *model,
                                       uint32_t kind,
                                       uint32_t *id,
                                       infer_error **error);

/*
 * Writes 1 to *answer when the token ends a completion, else 0. A model can have several such tokens.
 *
 * Errors: INFER_ERR_UNSUPPORTED for a model without a tokenizer.
 * Threads: any.
 */
infer_status infer_model_is_end_of_generation(const infer_model *model,
                                              uint32_t id,
                                              uint32_t *answer,
                                              infer_error **error);

/*
 * Renders a conversation of n messages by the model's chat template and copies the text into buffer. For roles,
 * contents and content_lens see infer_request_options_set_messages(), for buffer, capacity and needed "Text out"
 * above. flags combines infer_chat_flag.
 *
 * Errors: INFER_ERR_UNSUPPORTED when the model has no template, INFER_ERR_INVALID_ARGUMENT with the template's reason
 * when it refuses the messages, INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_INVALID_UTF8.
 * Threads: any.
 */
infer_status infer_model_apply_chat_template(const infer_model *model,
                                             const char *const *roles,
                                             const char *const *contents,
                                             const size_t *content_lens,
                                             size_t n,
                                             uint32_t flags,
                                             char *buffer,
                                             size_t capacity,
                                             size_t *needed,
                                             infer_error **error);

/*
 * Renders and copies as infer_model_apply_chat_template() does, with the messages as JSON: an array of objects with
 * role, content and whatever else the template knows.
 *
 * Errors: as infer_model_apply_chat_template(), and INFER_ERR_INVALID_ARGUMENT when it is not such JSON.
 * Threads: any.
 */
infer_status infer_model_apply_chat_template_json(const infer_model *model,
                                                  const char *json,
                                                  size_t json_len,
                                                  uint32_t flags,
                                                  char *buffer,
                                                  size_t capacity,
                                                  size_t *needed,
                                                  infer_error **error);

/* ---- Engines ---- */

/*
 * Creates an engine for a model, which it keeps alive. options may be NULL. Unless the option manual_step is set it
 * starts threads of its own. Free it with infer_engine_free().
 *
 * Errors: INFER_ERR_NO_MEMORY, INFER_ERR_UNSUPPORTED for a CPU level this machine lacks or a model loaded without
 * weights, INFER_ERR_INVALID_ARGUMENT for options that contradict each other.
 * Threads: any, while nobody changes options.
 */
infer_status infer_engine_create(const infer_model *model,
                                 const infer_engine_options *options,
                                 infer_engine **engine,
                                 infer_error **error);

/*
 * Frees an engine: its requests end as cancelled, their readers wake up, its threads end. The requests themselves
 * still have to be freed, before or after. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_engine_free(infer_engine *engine);

/*
 * Submits a request. It never waits for other requests; text is turned into tokens on the calling thread. options are
 * copied. Free the request with infer_request_free().
 *
 * Errors: INFER_ERR_BUSY when max_queued requests wait, INFER_ERR_CLOSED while draining, INFER_ERR_INVALID_ARGUMENT
 * without a prompt or with ids outside the vocabulary, INFER_ERR_CONTEXT for a prompt that does not fit,
 * INFER_ERR_TOKENIZER, INFER_ERR_UNSUPPORTED, INFER_ERR_NO_MEMORY.
 * Threads: any, while nobody changes options.
 */
infer_status infer_engine_submit(const infer_engine *engine,
                                 const infer_request_options *options,
                                 infer_request **request,
                                 infer_error **error);

/*
 * Submits n requests, all or none: options is an array of n option objects (the same one may appear more than once),
 * requests receives n requests in the same order. Free each with infer_request_free().
 *
 * Errors: as infer_engine_submit(); the error names the index.
 * Threads: any, while nobody changes options.
 */
infer_status infer_engine_submit_batch(const infer_engine *engine,
                                       const infer_request_options *const *options,
                                       size_t n,
                                       infer_request **requests,
                                       infer_error **error);

/*
 * Waits until requests of this engine have events to read, writes up to capacity of them to ready and how many to
 * *n. They stay ready until they are read, and stay yours to free with infer_request_free(). Requests that report to
 * a queue do not appear. Do not free a request of this engine while another thread may be given it here.
 *
 * Answers INFER_TIMEOUT with *n = 0 when none became ready.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for a capacity of 0.
 * Threads: any.
 */
infer_status infer_engine_wait(const infer_engine *engine,
                               int64_t timeout_ms,
                               infer_request **ready,
                               size_t capacity,
                               size_t *n,
                               infer_error **error);

/*
 * Stops taking requests, which are answered with INFER_ERR_CLOSED from then on, and waits until those that were taken
 * have ended. infer_engine_resume() takes requests again.
 *
 * Answers INFER_TIMEOUT when some are still running; call again or free the engine.
 *
 * Errors: INFER_ERR_REENTRANT while another thread is in infer_engine_step().
 * Threads: any.
 */
infer_status infer_engine_drain(const infer_engine *engine,
                                int64_t timeout_ms,
                                infer_error **error);

/*
 * Stops computing after the current step until infer_engine_resume(). Requests can still be submitted and cancelled.
 *
 * Errors: those of every call.
 * Threads: any.
 */
infer_status infer_engine_pause(const infer_engine *engine,
                                infer_error **error);

/*
 * Goes on after infer_engine_pause(), and takes requests again after infer_engine_drain().
 *
 * Errors: those of every call.
 * Threads: any.
 */
infer_status infer_engine_resume(const infer_engine *engine, infer_error **error);

/*
 * Gives up to bytes of memory that is only kept for speed back to the system. How much it was is written to *freed,
 * which may be NULL.
 *
 * Errors: those of every call.
 * Threads: any.
 */
infer_status infer_engine_trim(const infer_engine *engine,
                               uint64_t bytes,
                               uint64_t *freed,
                               infer_error **error);

/*
 * Forgets cached keys and values of finished requests: those with this salt, or all when the salt is empty. The salt
 * is any text up to salt_len bytes.
 *
 * Errors: INFER_ERR_INVALID_UTF8.
 * Threads: any.
 */
infer_status infer_engine_cache_clear(const infer_engine *engine,
                                      const char *salt,
                                      size_t salt_len,
                                      infer_error **error);

/*
 * Computes one step on the calling thread, for engines created with the option manual_step. 1 is written to *more
 * when there is still work and 0 when all requests have ended. more may be NULL.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for an engine that steps by itself, INFER_ERR_REENTRANT while another thread is
 * in a step.
 * Threads: any, one at a time.
 */
infer_status infer_engine_step(const infer_engine *engine,
                               uint32_t *more,
                               infer_error **error);

/*
 * Fills stats with a snapshot of the engine's counters. Reading them does not slow the engine down.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when stats is NULL or too small.
 * Threads: any.
 */
infer_status infer_engine_stats(const infer_engine *engine,
                                infer_stats *stats,
                                infer_error **error);

/*
 * Fills histogram with how often values fell into each bucket; kind is an infer_histogram_kind. Reading it does not slow
 * the engine down.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when histogram is NULL or too small, or when there is no such kind.
 * Threads: any.
 */
infer_status infer_engine_histogram(const infer_engine *engine,
                                    uint32_t kind,
                                    infer_histogram *histogram,
                                    infer_error **error);

/*
 * Copies a report for people into buffer: for each feature whether it is on, what the model's geometry predicts, and
 * what was measured. See "Text out" above for buffer, capacity and needed; the report can grow between two calls, so
 * leave some room.
 *
 * Errors: INFER_ERR_BUFFER_TOO_SMALL.
 * Threads: any.
 */
infer_status infer_engine_summary(const infer_engine *engine,
                                  char *buffer,
                                  size_t capacity,
                                  size_t *needed,
                                  infer_error **error);

/*
 * Copies the counters and histograms in Prometheus' text format into buffer. See infer_engine_summary() for buffer,
 * capacity and needed.
 *
 * Errors: INFER_ERR_BUFFER_TOO_SMALL.
 * Threads: any.
 */
infer_status infer_engine_metrics_text(const infer_engine *engine,
                                       char *buffer,
                                       size_t capacity,
                                       size_t *needed,
                                       infer_error **error);

/*
 * Copies what the prefix cache holds of the longest cached prefix of these token ids, with this salt (any text up to
 * salt_len bytes), into buffer, so that infer_engine_state_restore() can bring it back in another engine or process.
 * When nothing of it is cached that is a state of no tokens. The bytes hold the token ids in the clear. Running requests
 * wait while it is copied, between two steps.
 *
 * The size of the state is always written to *needed: ask for it with a NULL buffer of capacity 0, and leave some room,
 * because it grows with requests that are running.
 *
 * Errors: INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_UNSUPPORTED for an engine without prefix_cache, INFER_ERR_INVALID_UTF8,
 * INFER_ERR_NO_MEMORY.
 * Threads: any.
 */
infer_status infer_engine_state_save(const infer_engine *engine,
                                     const uint32_t *ids,
                                     size_t n_ids,
                                     const char *salt,
                                     size_t salt_len,
                                     uint8_t *buffer,
                                     size_t capacity,
                                     size_t *needed,
                                     infer_error **error);

/*
 * Brings the size bytes of a saved state into the prefix cache: requests with this salt whose prompts begin with its
 * tokens start after them, with the output they have without it. How many tokens are cached then is written to
 * *n_tokens, which may be NULL; they are fewer than were saved when the cache is too small beside what is running.
 * The bytes are needed only during the call. Running requests wait while they are copied, between two steps.
 *
 * A state fits engines that compute the same bits: same weights, element type of the cache, CPU level, precision and
 * version of the arithmetic. Bytes that are damaged are refused, but restore only what you saved: who writes
 * states can choose what the model takes for the meaning of a prompt.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for bytes that are no state, or one of another kind of engine: the error says what
 * differs; INFER_ERR_UNSUPPORTED for an engine without prefix_cache, INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
 * Threads: any.
 */
infer_status infer_engine_state_restore(const infer_engine *engine,
                                        const uint8_t *buffer,
                                        size_t size,
                                        const char *salt,
                                        size_t salt_len,
                                        size_t *n_tokens,
                                        infer_error **error);

/* ---- Requests ---- */

/*
 * Waits for the next event and fills event. Everything that was produced since the last read comes in one event. The
 * last one has the kind INFER_EVENT_FINISHED; after it comes INFER_END. What the event points to lives until the next
 * read of the request or until it is freed.
 *
 * Answers INFER_TIMEOUT when nothing came in time, INFER_END after the last event; event is then unchanged.
 *
 * Errors: INFER_ERR_REENTRANT while another thread reads, INFER_ERR_INVALID_ARGUMENT for a request that reports to a
 * queue.
 * Threads: one reader of the request at a time.
 */
infer_status infer_request_next(const infer_request *request,
                                int64_t timeout_ms,
                                infer_event *event,
                                infer_error **error);

/*
 * Waits for the next event and takes all that are there, up to capacity. events is an array whose elements are stride
 * bytes apart, sizeof(infer_event) in your program; they need no initialization. How many were filled is written to
 * *n. What they point to lives until the next read of the request or until it is freed.
 *
 * Answers as infer_request_next(); *n is 0 unless it is INFER_OK.
 *
 * Errors: as infer_request_next().
 * Threads: one reader of the request at a time.
 */
infer_status infer_request_next_many(const infer_request *request,
                                     int64_t timeout_ms,
                                     infer_event *events,
                                     size_t capacity,
                                     size_t stride,
                                     size_t *n,
                                     infer_error **error);

/*
 * Cancels a request: it ends within one layer or chunk of its prompt, its memory is released before its last event,
 * and that event has the reason INFER_FINISH_CANCELLED. Cancelling twice, or after the end, changes nothing.
 *
 * Errors: those of every call.
 * Threads: any, also while another one reads.
 */
infer_status infer_request_cancel(const infer_request *request,
                                  infer_error **error);

/*
 * Frees a request; if it has not ended it is cancelled, without waiting for that. Events of a request that reports to
 * a queue can still be in there. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_request_free(infer_request *request);

/*
 * The tag from the request's options; 0 for NULL.
 *
 * Threads: any.
 */
uint64_t infer_request_tag(const infer_request *request);

/*
 * A number that no other request of this process has; 0 for NULL.
 *
 * Threads: any.
 */
uint64_t infer_request_id(const infer_request *request);

/* ---- Completion queues ---- */

/*
 * Creates a queue. Free it with infer_queue_free().
 *
 * Errors: INFER_ERR_NO_MEMORY.
 * Threads: any.
 */
infer_status infer_queue_create(infer_queue **queue, infer_error **error);

/*
 * Frees a queue. Requests that report to it go on, unread. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_queue_free(infer_queue *queue);

/*
 * Waits until there are events and takes up to capacity of them, at most one per request: what a request produced
 * since it was last read comes in one event, so a slow reader gets fewer and longer ones. The request is known by the
 * tag. events is an array whose elements are stride bytes apart, sizeof(infer_event) in your program; they need no
 * initialization. How many were filled is written to *n. What they point to lives until the next read of the queue.
 *
 * Answers INFER_TIMEOUT with *n = 0 when nothing came in time. A queue has no end: count the events of kind
 * INFER_EVENT_FINISHED.
 *
 * Errors: INFER_ERR_REENTRANT while another thread reads.
 * Threads: one reader of the queue at a time.
 */
infer_status infer_queue_next(const infer_queue *queue,
                              int64_t timeout_ms,
                              infer_event *events,
                              size_t capacity,
                              size_t stride,
                              size_t *n,
                              infer_error **error);

/*
 * Writes a file descriptor to *fd that is readable while the queue has events, for poll, epoll or an event loop. It
 * belongs to the queue: neither read nor close it. Every call gives the same one; freeing the queue closes it.
 *
 * Errors: INFER_ERR_UNSUPPORTED where there is no eventfd, which is everywhere but Linux; INFER_ERR_IO when the
 * process has too many open files.
 * Threads: any.
 */
infer_status infer_queue_fd(const infer_queue *queue,
                            int *fd,
                            infer_error **error);

/* ---- Statistics ---- */

/*
 * Computes what happened between two snapshots of the same engine: counts and times are subtracted, the present state
 * and maxima are those of later, rates and shares are those of the time between. delta may be one of the others.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL or too small.
 * Threads: any, while nobody changes the structs.
 */
infer_status infer_stats_delta(const infer_stats *later,
                               const infer_stats *earlier,
                               infer_stats *delta,
                               infer_error **error);

/*
 * Adds the snapshot of another engine to total: counts, times and present states are added, the larger maximum stays,
 * rates and shares are those of both.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL or too small.
 * Threads: any, while nobody changes the structs.
 */
infer_status infer_stats_merge(infer_stats *total,
                               const infer_stats *other,
                               infer_error **error);

/*
 * Estimates the value that the share q of all values does not exceed, with the values of a bucket laid evenly between its
 * ends: q is 0.5 for the median, 0.99 for the 99th percentile, 1 for the maximum. 0 when there are no values.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL, when histogram was not filled by this library, or when q is not
 * from 0 to 1.
 * Threads: any, while nobody changes histogram.
 */
infer_status infer_histogram_quantile(const infer_histogram *histogram,
                                      double q,
                                      double *value,
                                      infer_error **error);

/*
 * Computes what came between two histograms of the same engine and kind: values are subtracted, the maximum is that of
 * later. delta may be one of the others.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL or too small, or when the kinds differ.
 * Threads: any, while nobody changes the structs.
 */
infer_status infer_histogram_delta(const infer_histogram *later,
                                   const infer_histogram *earlier,
                                   infer_histogram *delta,
                                   infer_error **error);

/*
 * Adds the values of another engine's histogram of the same kind to total; the larger maximum stays.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL or too small, or when the kinds differ.
 * Threads: any, while nobody changes the structs.
 */
infer_status infer_histogram_merge(infer_histogram *total,
                                   const infer_histogram *other,
                                   infer_error **error);

/* ---- Kernels ---- */

/*
 * Creates the kernels of a level: "scalar"; "sse41", "avx2", "avx_vnni", "avx512", "avx512_bf16" on x86-64; "neon",
 * "neon_dotprod", "i8mm" on aarch64; or "auto" for the best this CPU has, lowered by the environment variable
 * INFER_CPU_LEVEL if that is set. level is NUL-terminated; NULL is "auto". Free it with infer_kernels_free().
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for another word, INFER_ERR_UNSUPPORTED for a level that this CPU or this build
 * does not have, naming those it has.
 * Threads: any.
 */
infer_status infer_kernels_create(const char *level,
                                  infer_kernels **kernels,
                                  infer_error **error);

/*
 * Frees kernels. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_kernels_free(infer_kernels *kernels);

/*
 * The level of kernels, one of the words of infer_kernels_create(), never "auto"; "" for NULL. The text lives forever.
 *
 * Threads: any.
 */
const char *infer_kernels_level(const infer_kernels *kernels);

/*
 * The levels that this CPU and this build have, one for each index from 0 on, lowest first; NULL behind the last. The
 * text lives forever.
 *
 * Threads: any, also in a forked child and inside a callback.
 */
const char *infer_kernels_level_at(size_t index);

/*
 * Dot product: *out = the sum of a[i] * b[i] for n elements. The error can grow with n.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_dot(const infer_kernels *kernels,
                               const float *a,
                               const float *b,
                               size_t n,
                               float *out,
                               infer_error **error);

/*
 * Dot product with compensated summation (Kahan): as infer_kernels_dot(), but the error stays within a few units in the
 * last place of the sum of |a[i] * b[i]|, whatever n is. Takes a few times as long.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_dot_kahan(const infer_kernels *kernels,
                                     const float *a,
                                     const float *b,
                                     size_t n,
                                     float *out,
                                     infer_error **error);

/*
 * Sum: *out = the sum of x[i] for n elements; 0 for none. The error can grow with n.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_sum(const infer_kernels *kernels,
                               const float *x,
                               size_t n,
                               float *out,
                               infer_error **error);

/*
 * Matrix product: c = a * b, where a has m rows of k values, b has k rows of n, and c gets m rows of n, all without
 * gaps. Each value of c is one sum over k in ascending order. c may not overlap a or b.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_matmul(const infer_kernels *kernels,
                                  const float *a,
                                  const float *b,
                                  size_t m,
                                  size_t k,
                                  size_t n,
                                  float *c,
                                  infer_error **error);

/*
 * Matrix product of signed bytes, exact: c = a * b with the shapes of infer_kernels_matmul(). k is at most 131071, so
 * that no sum leaves int32_t. c may not overlap a or b.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_matmul_i8(const infer_kernels *kernels,
                                     const int8_t *a,
                                     const int8_t *b,
                                     size_t m,
                                     size_t k,
                                     size_t n,
                                     int32_t *c,
                                     infer_error **error);

/*
 * Sums: out[i] = a[i] + b[i] for n elements. out may be a or b.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_add(const infer_kernels *kernels,
                               const float *a,
                               const float *b,
                               size_t n,
                               float *out,
                               infer_error **error);

/*
 * Products: out[i] = a[i] * b[i] for n elements. out may be a or b.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_mul(const infer_kernels *kernels,
                               const float *a,
                               const float *b,
                               size_t n,
                               float *out,
                               infer_error **error);

/*
 * Rectifier: out[i] = max(x[i], 0) for n elements; NaN stays. out may be x.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_relu(const infer_kernels *kernels,
                                const float *x,
                                size_t n,
                                float *out,
                                infer_error **error);

/*
 * Sigmoid-weighted unit, also called swish: out[i] = x[i] / (1 + exp(-x[i])) for n elements. out may be x.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_silu(const infer_kernels *kernels,
                                const float *x,
                                size_t n,
                                float *out,
                                infer_error **error);

/*
 * Gaussian error unit in its tanh form, the one that language models use:
 * out[i] = x[i] / 2 * (1 + tanh(sqrt(2 / pi) * (x[i] + 0.044715 * x[i]^3))) for n elements. out may be x.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_gelu(const infer_kernels *kernels,
                                const float *x,
                                size_t n,
                                float *out,
                                infer_error **error);

/*
 * Sigmoid: out[i] = 1 / (1 + exp(-x[i])) for n elements. out may be x.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_sigmoid(const infer_kernels *kernels,
                                   const float *x,
                                   size_t n,
                                   float *out,
                                   infer_error **error);

/*
 * Softmax: out[i] = exp(x[i] - max) / the sum of exp(x[j] - max) for n elements, max being the largest. An element of
 * -INFINITY gets 0; a NaN, an infinity, or nothing but -INFINITY makes all NaN. out may be x.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_softmax(const infer_kernels *kernels,
                                   const float *x,
                                   size_t n,
                                   float *out,
                                   infer_error **error);

/*
 * Root-mean-square norm: out[i] = x[i] / sqrt(mean of x[j]^2 + eps) * weight[i] for n elements. out may be x, and may
 * not overlap weight.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_rms_norm(const infer_kernels *kernels,
                                    const float *x,
                                    const float *weight,
                                    size_t n,
                                    float eps,
                                    float *out,
                                    infer_error **error);

/*
 * Layer norm: out[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i] for n elements, the variance being the
 * mean of (x[j] - mean)^2. bias may be NULL for none. out may be x, and may not overlap weight or bias.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT.
 * Threads: any.
 */
infer_status infer_kernels_layer_norm(const infer_kernels *kernels,
                                      const float *x,
                                      const float *weight,
                                      const float *bias,
                                      size_t n,
                                      float eps,
                                      float *out,
                                      infer_error **error);

/*
 * Rotary position embedding, in place: x has n_heads rows of head_dim values, all at the same position. In each row the
 * first 2 * n_pairs values are turned pair by pair, (a, b) to (a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]) for
 * pair i; the others stay. cos and sin have n_pairs values, those of the angles: position times frequency i. pairs is an
 * infer_rope_pairs. x may not overlap cos or sin.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT, also when 2 * n_pairs is more than head_dim.
 * Threads: any.
 */
infer_status infer_kernels_rope(const infer_kernels *kernels,
                                float *x,
                                size_t n_heads,
                                size_t head_dim,
                                const float *cos,
                                const float *sin,
                                size_t n_pairs,
                                uint32_t pairs,
                                infer_error **error);

/*
 * Expands a row of a GGUF tensor: out gets the n values of the blocks in src. type_name is NUL-terminated, one of
 * F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4; n is a multiple of its block (32,
 * 256 for the names with _K and for IQ4_XS, 1 for floats) and src_bytes the size of these blocks. All levels give the
 * same bits. out may not overlap src.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT, INFER_ERR_UNSUPPORTED for another type of the file format.
 * Threads: any.
 */
infer_status infer_kernels_dequantize(const infer_kernels *kernels,
                                      const char *type_name,
                                      const uint8_t *src,
                                      size_t src_bytes,
                                      size_t n,
                                      float *out,
                                      infer_error **error);

/*
 * Writes n values as a row of a GGUF tensor; type_name is "F32", "F16" or "BF16". Values are rounded to nearest even.
 * out_bytes is the size of the row: 4 or 2 bytes per value. All levels give the same bits. out may not overlap x.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT, INFER_ERR_UNSUPPORTED for another type of the file format.
 * Threads: any.
 */
infer_status infer_kernels_quantize(const infer_kernels *kernels,
                                    const char *type_name,
                                    const float *x,
                                    size_t n,
                                    uint8_t *out,
                                    size_t out_bytes,
                                    infer_error **error);

/* ---- Key/value caches ---- */

/*
 * Creates a cache. Memory for tokens is taken when it is first used. Free it with infer_kv_cache_free().
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when the options give no shape or one too large, INFER_ERR_NO_MEMORY,
 * INFER_ERR_INVALID_ARGUMENT also when the directory of the cold tier is none, or others can write to it.
 * Threads: any, while nobody changes options.
 */
infer_status infer_kv_cache_create(const infer_kv_cache_options *options,
                                   infer_kv_cache **cache,
                                   infer_error **error);

/*
 * Frees a cache. Its sequences, views and pins keep what they need. With the option cold_persist what is sealed is
 * written to the cold tier when the cache and all sequences are freed: the last of these calls waits for it, up to
 * cold_patience_ms. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_kv_cache_free(infer_kv_cache *cache);

/*
 * Opens an empty sequence. salt names who may find what it seals: lookups of another salt never do. "" is a salt like
 * any other. Free it with infer_kv_seq_free().
 *
 * Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
 * Threads: any.
 */
infer_status infer_kv_seq_open(const infer_kv_cache *cache,
                               const char *salt,
                               size_t salt_len,
                               infer_kv_seq **seq,
                               infer_error **error);

/*
 * Opens a sequence that begins with the longest prefix of tokens that was sealed below salt. infer_kv_seq_length() says
 * how long that is, 0 where nothing was found. Nothing is copied: the sequence shares the blocks, and copies the last
 * one when it goes on in its middle. What only the cold tier has is read back into memory as far as there is room, whole
 * blocks of 32 tokens; in memory the prefix is found to the token. Free it with infer_kv_seq_free().
 *
 * Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
 * Threads: any.
 */
infer_status infer_kv_cache_lookup(const infer_kv_cache *cache,
                                   const char *salt,
                                   size_t salt_len,
                                   const uint32_t *tokens,
                                   size_t n_tokens,
                                   infer_kv_seq **seq,
                                   infer_error **error);

/*
 * Keeps the longest prefix of tokens that was sealed below salt in memory until the pin is freed by infer_kv_pin_free().
 * infer_kv_pin_length() says how long it is.
 *
 * Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
 * Threads: any.
 */
infer_status infer_kv_cache_pin(const infer_kv_cache *cache,
                                const char *salt,
                                size_t salt_len,
                                const uint32_t *tokens,
                                size_t n_tokens,
                                infer_kv_pin **pin,
                                infer_error **error);

/*
 * Tokens of the prefix that a pin keeps; 0 where nothing was found, and for NULL.
 *
 * Threads: any.
 */
size_t infer_kv_pin_length(const infer_kv_pin *pin);

/*
 * Frees a pin: its prefix can be evicted again. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_kv_pin_free(infer_kv_pin *pin);

/*
 * Fills a snapshot of the counters.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when stats is NULL or too small.
 * Threads: any.
 */
infer_status infer_kv_cache_stats(const infer_kv_cache *cache,
                                  infer_kv_stats *stats,
                                  infer_error **error);

/*
 * Opens a sequence with the same tokens. Nothing is copied: both share every block, and the first to go on in the middle
 * of the last one copies it. Free it with infer_kv_seq_free().
 *
 * Errors: INFER_ERR_NO_MEMORY.
 * Threads: any, also while another one writes seq.
 */
infer_status infer_kv_seq_fork(const infer_kv_seq *seq,
                               infer_kv_seq **fork,
                               infer_error **error);

/*
 * Forgets all tokens from position length on, those stored and not advanced over included.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when there are not so many tokens, INFER_ERR_BUSY when another thread is writing.
 * Threads: one writer of seq at a time.
 */
infer_status infer_kv_seq_truncate(infer_kv_seq *seq,
                                   size_t length,
                                   infer_error **error);

/*
 * Tokens of a sequence that can be read; 0 for NULL and in a forked child.
 *
 * Threads: any.
 */
size_t infer_kv_seq_length(const infer_kv_seq *seq);

/*
 * Bytes of the keys of one token and layer in an element type, which is INFER_KV_F32 or that of the cache; as many as
 * its values take. 0 for another type and for NULL.
 *
 * Threads: any.
 */
size_t infer_kv_seq_token_bytes(const infer_kv_seq *seq,
                                uint32_t element_type);

/*
 * Frees a sequence. What it sealed stays in the cache until its memory is needed. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle.
 */
void infer_kv_seq_free(infer_kv_seq *seq);

/*
 * Stores keys and values of one token of a layer: n_kv_heads times head_dim floats each. It is
 * infer_kv_cache_store_batch() of one token of INFER_KV_F32.
 *
 * Errors: those of infer_kv_cache_store_batch().
 * Threads: one writer of seq at a time.
 */
infer_status infer_kv_cache_store(infer_kv_seq *seq,
                                  uint32_t layer,
                                  size_t position,
                                  const float *keys,
                                  const float *values,
                                  infer_error **error);

/*
 * Stores keys and values of n tokens of a layer from position on: token by token, in it head by head, each of head_dim
 * elements. element_type is INFER_KV_F32, converted to the type of the cache, or that type itself, taken over bit for
 * bit. The positions of a layer follow on one another without a gap, from the length of the sequence on; those not
 * advanced over yet can be stored again.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for a layer, position or type outside what is accepted, INFER_ERR_NO_MEMORY when
 * every block is in use by sequences, views and pins, INFER_ERR_BUSY when another thread is writing. Tokens before the
 * block that there was no memory for are stored.
 * Threads: one writer of seq at a time.
 */
infer_status infer_kv_cache_store_batch(infer_kv_seq *seq,
                                        uint32_t layer,
                                        size_t position,
                                        size_t n,
                                        uint32_t element_type,
                                        const void *keys,
                                        const void *values,
                                        infer_error **error);

/*
 * Makes n more tokens of a sequence readable. Every layer has to have them.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when a layer does not have them, naming it, INFER_ERR_BUSY when another thread is
 * writing.
 * Threads: one writer of seq at a time.
 */
infer_status infer_kv_cache_advance(infer_kv_seq *seq,
                                    size_t n,
                                    infer_error **error);

/*
 * How many tokens to give to a call of infer_kv_cache_store_batch(): the largest power of two up to 64 with which a
 * token takes at most 3 % longer than with the best. Measured on this machine with rows of this cache when it is first
 * asked for, which takes about 15 milliseconds and 8 MiB of memory; the cache keeps the answer.
 *
 * Errors: INFER_ERR_NO_MEMORY.
 * Threads: any.
 */
infer_status infer_kv_cache_optimal_batch(const infer_kv_seq *seq,
                                          size_t *n,
                                          infer_error **error);

/*
 * Copies keys and values of n tokens of a layer from position on: token by token, in it head by head. element_type is
 * INFER_KV_F32, converted from the type of the cache, or that type itself. keys and values may not overlap.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for a layer or type outside what is accepted, or positions that cannot be read.
 * Threads: any, also while another one writes seq.
 */
infer_status infer_kv_cache_fetch(const infer_kv_seq *seq,
                                  uint32_t layer,
                                  size_t position,
                                  size_t n,
                                  uint32_t element_type,
                                  void *keys,
                                  void *values,
                                  infer_error **error);

/*
 * Gives keys and values of n tokens of a layer from position on as they lie in memory, for infer_kv_view_block(). They
 * stay as they are until the view is freed by infer_kv_view_free(), whatever becomes of the sequence. Tokens of a block
 * that is not full yet are copied.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT for a layer outside the range or positions that cannot be read,
 * INFER_ERR_NO_MEMORY.
 * Threads: any, also while another one writes seq.
 */
infer_status infer_kv_cache_view(const infer_kv_seq *seq,
                                 uint32_t layer,
                                 size_t position,
                                 size_t n,
                                 infer_kv_view **view,
                                 infer_error **error);

/*
 * Says which tokens a sequence holds from its beginning. Its full blocks of 32 tokens are found by them from now on,
 * by infer_kv_cache_lookup() with the salt of the sequence. What was sealed before is not looked at again. Where the
 * same bytes are known already, the sequence shares them and gives its own memory back.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when there are more tokens than the sequence has, INFER_ERR_BUSY when another
 * thread is writing.
 * Threads: one writer of seq at a time.
 */
infer_status infer_kv_cache_seal(infer_kv_seq *seq,
                                 const uint32_t *tokens,
                                 size_t n_tokens,
                                 infer_error **error);

/*
 * Describes the part of a view in its block number index, counted from 0. The memory stays until the view is freed and
 * must not be written to.
 *
 * Answers INFER_END past the last block.
 *
 * Errors: INFER_ERR_INVALID_ARGUMENT when block is NULL or too small.
 * Threads: any.
 */
infer_status infer_kv_view_block(const infer_kv_view *view,
                                 size_t index,
                                 infer_kv_block *block,
                                 infer_error **error);

/*
 * Frees a view. NULL is ignored.
 *
 * Threads: any; nobody else may be using the handle or what it points to.
 */
void infer_kv_view_free(infer_kv_view *view);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* INFER_H */
