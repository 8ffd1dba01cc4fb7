/*
 * The job of benches/bindings by the C interface: one thread reads all requests from an infer_queue.
 *
 *     throughput MODEL TOKENS PROMPT...
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "infer.h"

/* Generated at first and not measured, so that buffers have grown and caches are warm. */
#define WARM_UP 4
#define CAPACITY 64

/* What a request brought. */
struct stream {
  uint32_t *tokens;
  size_t n_tokens, room_for_tokens;
  char *text;
  size_t n_text, room_for_text;
};

/* Makes room for more elements; 0 when there is no memory. */
static int reserve(void *array, size_t size, size_t used, size_t more, size_t *room) {
  void **memory = array;
  void *grown;
  size_t wanted = *room < 16 ? 16 : *room;
  while (wanted < used + more)
    wanted *= 2;
  if (wanted == *room)
    return 1;
  grown = realloc(*memory, wanted * size);
  if (grown == NULL)
    return 0;
  *memory = grown;
  *room = wanted;
  return 1;
}

static int take(struct stream *stream, const infer_event *event) {
  if (!reserve(&stream->tokens, sizeof *stream->tokens, stream->n_tokens, event->n_tokens, &stream->room_for_tokens) ||
      !reserve(&stream->text, 1, stream->n_text, event->text_len, &stream->room_for_text))
    return 0;
  if (event->n_tokens > 0)
    memcpy(stream->tokens + stream->n_tokens, event->tokens, event->n_tokens * sizeof *stream->tokens);
  memcpy(stream->text + stream->n_text, event->text, event->text_len);
  stream->n_tokens += event->n_tokens;
  stream->n_text += event->text_len;
  return 1;
}

static int read_all(infer_queue *queue, struct stream *streams, size_t running, infer_error **error) {
  infer_event events[CAPACITY];
  while (running > 0) {
    size_t n = 0;
    if (infer_queue_next(queue, -1, events, CAPACITY, sizeof events[0], &n, error) != INFER_OK)
      return 0;
    for (size_t i = 0; i < n; i++) {
      const infer_event *event = &events[i];
      if (!take(&streams[event->tag], event)) {
        fprintf(stderr, "throughput: out of memory\n");
        return 0;
      }
      if (event->kind != INFER_EVENT_FINISHED)
        continue;
      if (event->finish_reason != INFER_FINISH_LENGTH) {
        fprintf(stderr, "throughput: request %u ended for the reason %u\n", (unsigned)event->tag,
                (unsigned)event->finish_reason);
        return 0;
      }
      running--;
    }
  }
  return 1;
}

/* Submits all prompts and reads their events to the end. */
static int complete(infer_engine *engine, char **prompts, size_t n, uint64_t max_tokens, struct stream *streams,
                    infer_error **error) {
  infer_queue *queue = NULL;
  infer_request_options **options = calloc(n, sizeof *options);
  infer_request **requests = calloc(n, sizeof *requests);
  int ok = options != NULL && requests != NULL && infer_queue_create(&queue, error) == INFER_OK;
  for (size_t i = 0; ok && i < n; i++) {
    options[i] = infer_request_options_new();
    ok = infer_request_options_set_prompt(options[i], prompts[i], INFER_NTS, error) == INFER_OK &&
         infer_request_options_set_max_tokens(options[i], max_tokens, error) == INFER_OK &&
         infer_request_options_set_temperature(options[i], 0, error) == INFER_OK &&
         infer_request_options_set(options[i], "ignore_end_of_generation", "true", error) == INFER_OK &&
         infer_request_options_set_queue(options[i], queue, i, error) == INFER_OK;
  }
  ok = ok &&
       infer_engine_submit_batch(engine, (const infer_request_options *const *)options, n, requests, error) ==
           INFER_OK &&
       read_all(queue, streams, n, error);
  for (size_t i = 0; i < n; i++) {
    if (requests != NULL)
      infer_request_free(requests[i]);
    if (options != NULL)
      infer_request_options_free(options[i]);
  }
  infer_queue_free(queue);
  free(requests);
  free(options);
  return ok;
}

static double seconds_of(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint64_t hash_of(uint64_t hash, const unsigned char *bytes, size_t n) {
  for (size_t i = 0; i < n; i++)
    hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  return hash;
}

/* FNV-1a over the ids, each as four bytes, and the text of all requests. */
static uint64_t checksum(const struct stream *streams, size_t n) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < n; i++) {
    for (size_t t = 0; t < streams[i].n_tokens; t++) {
      const uint32_t id = streams[i].tokens[t];
      const unsigned char bytes[4] = {(unsigned char)id, (unsigned char)(id >> 8), (unsigned char)(id >> 16),
                                      (unsigned char)(id >> 24)};
      hash = hash_of(hash, bytes, sizeof bytes);
    }
    hash = hash_of(hash, (const unsigned char *)streams[i].text, streams[i].n_text);
  }
  return hash;
}

static void free_streams(struct stream *streams, size_t n) {
  for (size_t i = 0; i < n; i++) {
    free(streams[i].tokens);
    free(streams[i].text);
    memset(&streams[i], 0, sizeof streams[i]);
  }
}

static int measure(infer_engine *engine, char **prompts, size_t n, uint64_t max_tokens, struct stream *streams,
                   infer_error **error) {
  const double begin = seconds_of(CLOCK_MONOTONIC), cpu_begin = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  /* This thread is the only one that is not the library's. */
  const double host_begin = seconds_of(CLOCK_THREAD_CPUTIME_ID);
  double seconds, cpu, host, tokens = 0;
  if (!complete(engine, prompts, n, max_tokens, streams, error))
    return 0;
  seconds = seconds_of(CLOCK_MONOTONIC) - begin;
  cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin;
  host = seconds_of(CLOCK_THREAD_CPUTIME_ID) - host_begin;
  for (size_t i = 0; i < n; i++)
    tokens += (double)streams[i].n_tokens;
  printf("{\"tokens\": %.0f, \"seconds\": %.6f, \"tokens_per_second\": %.1f, \"us_per_token\": %.3f, "
         "\"cpu_seconds\": %.6f, \"host_cpu_seconds\": %.6f, \"checksum\": \"%016" PRIx64 "\"}\n",
         tokens, seconds, tokens / seconds, seconds * 1e6 / tokens, cpu, host, checksum(streams, n));
  return 1;
}

int main(int argc, char **argv) {
  const size_t n = argc > 3 ? (size_t)argc - 3 : 0;
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_engine_options *options = infer_engine_options_new();
  struct stream *streams = calloc(n + 1, sizeof *streams);
  int ok = 0;

  if (n == 0)
    fprintf(stderr, "usage: throughput MODEL TOKENS PROMPT...\n");
  else if (streams != NULL &&
           infer_abi_check(INFER_ABI_VERSION, &error) == INFER_OK &&
           infer_model_load(argv[1], INFER_NTS, NULL, &model, &error) == INFER_OK &&
           infer_engine_options_set(options, "threads", "2", &error) == INFER_OK &&
           infer_engine_options_set(options, "max_running", "16", &error) == INFER_OK &&
           infer_engine_create(model, options, &engine, &error) == INFER_OK &&
           complete(engine, argv + 3, n, WARM_UP, streams, &error)) {
    free_streams(streams, n);
    ok = measure(engine, argv + 3, n, strtoull(argv[2], NULL, 10), streams, &error);
  }

  if (error != NULL)
    fprintf(stderr, "throughput: %s\n", infer_error_message(error));
  infer_error_free(error);
  if (streams != NULL)
    free_streams(streams, n);
  free(streams);
  infer_engine_options_free(options);
  infer_engine_free(engine);
  infer_model_free(model);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
