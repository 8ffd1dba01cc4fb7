/* Many threads submit, read, cancel and free on one engine for some seconds; then every request is accounted for. */
#include <pthread.h>
#include <time.h>

#include "check.h"

enum { SHARED_QUEUE_TAG = 1 << 20 };

static infer_engine *engine;
static infer_queue *queue;
static time_t end;
static uint64_t queued_requests, queued_ends;
static int all_submitted;

/* Xorshift: each thread has its own sequence, the same in every run. */
static uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

static infer_request_options *options_for(uint32_t r, uint64_t tag) {
  static const char *const prompts[] = {"The old prince", "Natasha", "In the morning", "War and peace are"};
  infer_error *error = NULL;
  infer_request_options *ro = infer_request_options_new();
  CHECK(ro != NULL);
  OK(infer_request_options_set_prompt(ro, prompts[r % 4], INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, 1 + r % 24, &error));
  OK(infer_request_options_set_tag(ro, tag, &error));
  return ro;
}

static void read_to_end(const infer_request *request, uint64_t tag) {
  infer_error *error = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_status status;
  size_t tokens = 0;
  while ((status = infer_request_next(request, 60000, &event, &error)) == INFER_OK) {
    CHECK(event.tag == tag && strlen(event.text) == event.text_len);
    tokens += event.n_tokens;
  }
  CHECK(status == INFER_END && event.kind == INFER_EVENT_FINISHED && event.generated_tokens == tokens);
  CHECK(event.finish_reason != INFER_FINISH_ERROR && event.finish_reason != INFER_FINISH_NONE);
}

static void *user(void *argument) {
  uint32_t number = *(const uint32_t *)argument, state = 2463534242u + number;
  infer_error *error = NULL;
  while (time(NULL) < end) {
    uint32_t r = next_random(&state);
    infer_request_options *ro = options_for(r, number);
    infer_request *request = NULL;
    infer_status status;
    int queued = r % 5 == 0;
    if (queued)
      OK(infer_request_options_set_queue(ro, queue, SHARED_QUEUE_TAG + number, &error));
    status = infer_engine_submit(engine, ro, &request, &error);
    infer_request_options_free(ro);
    if (status == INFER_ERR_BUSY) {
      CHECK(request == NULL && error != NULL);
      infer_error_free(error);
      continue;
    }
    CHECK(status == INFER_OK && error == NULL);
    if (queued) {
      __sync_fetch_and_add(&queued_requests, 1);
      if (next_random(&state) % 2)
        OK(infer_request_cancel(request, &error));
    } else {
      infer_event event = INFER_EVENT_INIT;
      infer_stats stats = INFER_STATS_INIT;
      switch (next_random(&state) % 6) {
      case 0: break; /* Freed while it waits or runs. */
      case 1:
        OK(infer_request_cancel(request, &error));
        read_to_end(request, number);
        break;
      case 2:
        status = infer_request_next(request, 1, &event, &error);
        CHECK(status == INFER_OK || status == INFER_TIMEOUT);
        break;
      case 3:
        OK(infer_engine_stats(engine, &stats, &error));
        CHECK(stats.running <= 16);
        read_to_end(request, number);
        break;
      default: read_to_end(request, number); break;
      }
    }
    infer_request_free(request);
  }
  return NULL;
}

static void *queue_reader(void *unused) {
  infer_error *error = NULL;
  infer_event events[8];
  size_t n = 0, i;
  (void)unused;
  for (;;) {
    infer_status status = infer_queue_next(queue, 100, events, 8, sizeof events[0], &n, &error);
    CHECK(status == INFER_OK || (status == INFER_TIMEOUT && n == 0));
    for (i = 0; i < n; i++) {
      CHECK(events[i].tag >= SHARED_QUEUE_TAG && events[i].finish_reason != INFER_FINISH_ERROR);
      queued_ends += events[i].kind == INFER_EVENT_FINISHED;
    }
    if (__sync_fetch_and_add(&all_submitted, 0) && queued_ends == __sync_fetch_and_add(&queued_requests, 0))
      return NULL;
  }
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine_options *eo = infer_engine_options_new();
  infer_stats stats = INFER_STATS_INIT;
  pthread_t threads[64], reader;
  uint32_t numbers[64], n_threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 64, i;
  const char *seconds = getenv("INFER_STRESS_SECONDS");
  uint64_t ended;
  CHECK(argc >= 2 && n_threads >= 1 && n_threads <= 64);
  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  OK(infer_engine_options_set(eo, "max_running", "16", &error));
  OK(infer_engine_options_set(eo, "max_queued", "40", &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  OK(infer_queue_create(&queue, &error));
  infer_engine_options_free(eo);
  infer_model_free(model);
  end = time(NULL) + (seconds != NULL ? atoi(seconds) : 5);
  CHECK(pthread_create(&reader, NULL, queue_reader, NULL) == 0);
  for (i = 0; i < n_threads; i++) {
    numbers[i] = i;
    CHECK(pthread_create(&threads[i], NULL, user, &numbers[i]) == 0);
  }
  for (i = 0; i < n_threads; i++)
    CHECK(pthread_join(threads[i], NULL) == 0);
  __sync_fetch_and_add(&all_submitted, 1);
  CHECK(pthread_join(reader, NULL) == 0);
  OK(infer_engine_drain(engine, 60000, &error));
  OK(infer_engine_stats(engine, &stats, &error));
  ended = stats.requests_completed + stats.requests_cancelled;
  CHECK(ended == stats.requests_submitted && stats.requests_completed > 0 && stats.requests_cancelled > 0);
  CHECK(stats.requests_failed == 0 && stats.requests_expired == 0 && stats.panics == 0);
  CHECK(stats.running == 0 && stats.queued == 0 && stats.kv_bytes_used == 0 && stats.kv_tokens_used == 0);
  CHECK(stats.max_batch > 1);
  infer_queue_free(queue);
  infer_engine_free(engine);
  return 0;
}
