/* Any order of freeing, readers of a freed engine, cancelling, callbacks and what may be called from them. */
#include <pthread.h>
#include <unistd.h>

#include "check.h"

static int frees, starts, stops, logs;
static infer_engine *inner_engine;
static infer_request *inner_request;
static const infer_model *shared_model;
static infer_status from_callback;

static void freed(void *user_data) {
  CHECK(user_data == &frees);
  __sync_fetch_and_add(&frees, 1);
}

static void started(uint32_t index, void *user_data) {
  (void)index;
  CHECK(user_data == &frees);
  __sync_fetch_and_add(&starts, 1);
}

static void stopped(uint32_t index, void *user_data) {
  (void)index;
  CHECK(user_data == &frees);
  __sync_fetch_and_add(&stops, 1);
}

static void log_line(const infer_log_record *record, void *user_data) {
  infer_error *error = NULL;
  infer_model_info info = INFER_MODEL_INFO_INIT;
  CHECK(user_data == &frees);
  CHECK(record->struct_size == sizeof *record && record->level >= INFER_LOG_ERROR);
  CHECK(strchr(record->message, '\n') == NULL && record->fields_json[0] == '{' && strlen(record->target) > 0);
  /* Any call with a status is refused here. */
  from_callback = infer_model_get_info(shared_model, &info, &error);
  CHECK(from_callback == INFER_ERR_REENTRANT && error != NULL);
  infer_error_free(error);
  /* Freeing is allowed, even of an engine: nothing here waits for itself. */
  infer_request_free(inner_request);
  infer_engine_free(inner_engine);
  inner_request = NULL;
  inner_engine = NULL;
  __sync_fetch_and_add(&logs, 1);
}

static infer_request *submit(const infer_engine *engine, const char *prompt, uint64_t max_tokens) {
  infer_error *error = NULL;
  infer_request *request = NULL;
  infer_request_options *ro = infer_request_options_new();
  OK(infer_request_options_set_prompt(ro, prompt, INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, max_tokens, &error));
  OK(infer_request_options_set(ro, "temperature", "0", &error));
  OK(infer_request_options_set(ro, "ignore_end_of_generation", "true", &error));
  OK(infer_request_options_set_tag(ro, 99, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  infer_request_options_free(ro);
  CHECK(infer_request_tag(request) == 99 && infer_request_id(request) != 0);
  return request;
}

/* Reads to the end and answers the reason. */
static uint32_t finish(const infer_request *request, size_t *tokens) {
  infer_error *error = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_status status;
  uint32_t reason = INFER_FINISH_NONE;
  size_t n = 0;
  while ((status = infer_request_next(request, 60000, &event, &error)) == INFER_OK) {
    CHECK(reason == INFER_FINISH_NONE && event.tag == 99 && event.text != NULL);
    CHECK(event.text[event.text_len] == '\0');
    CHECK((event.kind == INFER_EVENT_FINISHED) == (event.finish_reason != INFER_FINISH_NONE));
    n += event.n_tokens;
    reason = event.finish_reason;
  }
  CHECK(status == INFER_END && error == NULL);
  CHECK(event.generated_tokens == n && event.total_time_ns > 0);
  /* The end stays the end. */
  ANSWERS(INFER_END, infer_request_next(request, -1, &event, &error));
  if (tokens != NULL)
    *tokens = n;
  return reason;
}

static void *reader(void *argument) {
  uint32_t *reason = malloc(sizeof *reason);
  CHECK(reason != NULL);
  *reason = finish(argument, NULL);
  return reason;
}

static void orders(const char *path) {
  infer_error *error = NULL;
  int order;
  for (order = 0; order < 6; order++) {
    infer_model *model = NULL;
    infer_engine *engine = NULL;
    infer_request *request;
    OK(infer_model_load(path, INFER_NTS, NULL, &model, &error));
    OK(infer_engine_create(model, NULL, &engine, &error));
    request = submit(engine, "The old prince", 200);
    switch (order) {
    case 0: infer_request_free(request); infer_engine_free(engine); infer_model_free(model); break;
    case 1: infer_request_free(request); infer_model_free(model); infer_engine_free(engine); break;
    case 2: infer_engine_free(engine); infer_request_free(request); infer_model_free(model); break;
    case 3: infer_engine_free(engine); infer_model_free(model); infer_request_free(request); break;
    case 4: infer_model_free(model); infer_request_free(request); infer_engine_free(engine); break;
    case 5: infer_model_free(model); infer_engine_free(engine); infer_request_free(request); break;
    }
  }
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request, *ready[4];
  infer_engine_options *eo = infer_engine_options_new();
  infer_threads_options *to = infer_threads_options_new();
  infer_threads *threads = NULL;
  infer_event events[4];
  infer_event event = INFER_EVENT_INIT;
  infer_stats before = INFER_STATS_INIT, stats = INFER_STATS_INIT;
  infer_histogram gaps = INFER_HISTOGRAM_INIT;
  double median, largest;
  pthread_t thread;
  void *reason = NULL;
  size_t n = 0, needed = 0;
  char *text;
  int i;
  CHECK(argc == 2);
  orders(argv[1]);

  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  shared_model = model;

  /* A pool that two engines share; its hooks run on each of its threads and are freed once. */
  OK(infer_threads_options_set(to, "threads", "2", &error));
  OK(infer_threads_options_set_hooks(to, started, stopped, &frees, freed, &error));
  OK(infer_threads_create(to, &threads, &error));
  CHECK(infer_threads_count(threads) == 2);
  infer_threads_options_free(to);
  CHECK(frees == 0);
  OK(infer_engine_options_set_threads(eo, threads, &error));
  infer_threads_free(threads);
  OK(infer_engine_options_set_draft_model(eo, model, &error));
  OK(infer_engine_create(model, eo, &inner_engine, &error));
  OK(infer_engine_options_set_draft_model(eo, NULL, &error));
  inner_request = submit(inner_engine, "Natasha", 100000 % 300);
  OK(infer_engine_options_set_log(eo, log_line, &frees, freed, &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  CHECK(logs > 0 && inner_engine == NULL && from_callback == INFER_ERR_REENTRANT);
  infer_engine_options_free(eo);

  /* Reading, statistics, reports. */
  OK(infer_engine_stats(engine, &before, &error));
  request = submit(engine, "The old prince", 20);
  CHECK(finish(request, &n) == INFER_FINISH_LENGTH && n == 20);
  infer_request_free(request);
  OK(infer_engine_stats(engine, &stats, &error));
  OK(infer_stats_delta(&stats, &before, &stats, &error));
  CHECK(stats.generated_tokens == 20 && stats.requests_submitted == 1 && stats.decode_tokens_per_second > 0);
  CHECK(stats.decode_ffn_share > 0 && stats.decode_ffn_share < 1);
  OK(infer_stats_merge(&stats, &stats, &error));
  CHECK(stats.generated_tokens == 40);
  OK(infer_engine_histogram(engine, INFER_HISTOGRAM_INTER_TOKEN_TIME, &gaps, &error));
  CHECK(gaps.kind == INFER_HISTOGRAM_INTER_TOKEN_TIME && gaps.count >= 19 && gaps.sum > 0 && gaps.max > 0);
  for (n = 0, i = 0; n < gaps.n_buckets; n++) {
    CHECK(n == 0 || gaps.bounds[n] > gaps.bounds[n - 1]);
    i += (int)gaps.counts[n];
  }
  CHECK((uint64_t)i == gaps.count && n <= INFER_HISTOGRAM_BUCKETS && gaps.bounds[n - 1] == UINT64_MAX);
  OK(infer_histogram_quantile(&gaps, 0.5, &median, &error));
  OK(infer_histogram_quantile(&gaps, 1, &largest, &error));
  CHECK(median > 0 && median <= largest && largest == (double)gaps.max);
  OK(infer_histogram_merge(&gaps, &gaps, &error));
  CHECK(gaps.count == 2 * (uint64_t)i);
  OK(infer_histogram_delta(&gaps, &gaps, &gaps, &error));
  CHECK(gaps.count == 0 && gaps.sum == 0);
  OK(infer_histogram_quantile(&gaps, 0.99, &median, &error));
  CHECK(median == 0);
  OK(infer_engine_metrics_text(engine, NULL, 0, &needed, &error));
  text = malloc(needed + 1000);
  CHECK(text != NULL);
  OK(infer_engine_metrics_text(engine, text, needed + 1000, &needed, &error));
  CHECK(strstr(text, "# TYPE") != NULL);
  free(text);
  OK(infer_engine_summary(engine, NULL, 0, &needed, &error));
  CHECK(needed > 1);

  /* Cancelling, twice, and after the end. */
  request = submit(engine, "The old prince", 300);
  OK(infer_request_cancel(request, &error));
  OK(infer_request_cancel(request, &error));
  CHECK(finish(request, NULL) == INFER_FINISH_CANCELLED);
  OK(infer_request_cancel(request, &error));
  infer_request_free(request);

  /* Pausing, waiting for several, taking many. */
  OK(infer_engine_pause(engine, &error));
  request = submit(engine, "In the morning", 5);
  ANSWERS(INFER_TIMEOUT, infer_engine_wait(engine, 0, ready, 4, &n, &error));
  CHECK(n == 0);
  ANSWERS(INFER_TIMEOUT, infer_request_next(request, 1, &event, &error));
  OK(infer_engine_resume(engine, &error));
  OK(infer_engine_wait(engine, -1, ready, 4, &n, &error));
  CHECK(n == 1 && ready[0] == request);
  memset(events, 0xff, sizeof events);
  i = 0;
  for (;;) {
    size_t k;
    infer_status status = infer_request_next_many(request, -1, events, 4, sizeof events[0], &n, &error);
    if (status != INFER_OK) {
      CHECK(status == INFER_END && n == 0);
      break;
    }
    for (k = 0; k < n; k++) {
      CHECK(events[k].struct_size == sizeof events[0]);
      i += (int)events[k].n_tokens;
    }
  }
  CHECK(i == 5);
  infer_request_free(request);

  /* A stop text ends the completion and is named. */
  {
    infer_request_options *ro = infer_request_options_new(), *copy = NULL;
    OK(infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, &error));
    OK(infer_request_options_set_temperature(ro, 0, &error));
    OK(infer_request_options_set_seed(ro, 5, &error));
    OK(infer_request_options_add_stop(ro, " room", INFER_NTS, &error));
    OK(infer_request_options_add_stop_id(ro, 4095, &error));
    OK(infer_request_options_copy(ro, &copy, &error));
    OK(infer_request_options_reset(ro, &error));
    ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_engine_submit(engine, ro, &request, &error));
    OK(infer_engine_submit(engine, copy, &request, &error));
    while (infer_request_next(request, -1, &event, &error) == INFER_OK)
      CHECK(strstr(event.text, " room") == NULL);
    CHECK(event.finish_reason == INFER_FINISH_STOP && strcmp(event.stop, " room") == 0 && event.stop_len == 5);
    infer_request_free(request);
    infer_request_options_free(ro);
    infer_request_options_free(copy);
  }

  /* What was computed of a prompt goes on in another engine. */
  {
    uint32_t ids[80];
    uint8_t *state;
    size_t size = 0, again = 0, n = 0;
    infer_engine *other = NULL;
    infer_request_options *ro = infer_request_options_new();
    for (n = 0; n < 80; n++)
      ids[n] = 3 + (uint32_t)(n * 37 % 500);
    OK(infer_request_options_set_prompt_ids(ro, ids, 80, &error));
    OK(infer_request_options_set(ro, "max_tokens", "4", &error));
    OK(infer_engine_submit(engine, ro, &request, &error));
    while (infer_request_next(request, -1, &event, &error) == INFER_OK) {
    }
    infer_request_free(request);
    OK(infer_engine_state_save(engine, ids, 80, NULL, 0, NULL, 0, &size, &error));
    CHECK(size > 1000 && (state = malloc(size)) != NULL);
    ANSWERS(INFER_ERR_BUFFER_TOO_SMALL,
            infer_engine_state_save(engine, ids, 80, NULL, 0, state, size - 1, &again, &error));
    CHECK(again == size);
    OK(infer_engine_state_save(engine, ids, 80, NULL, 0, state, size, &again, &error));
    CHECK(again == size);
    OK(infer_engine_create(model, NULL, &other, &error));
    ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_engine_state_restore(other, state, size - 1, NULL, 0, &n, &error));
    ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_engine_state_restore(other, NULL, 0, NULL, 0, &n, &error));
    OK(infer_engine_state_restore(other, state, size, NULL, 0, &n, &error));
    CHECK(n == 80);
    OK(infer_engine_state_restore(other, state, size, NULL, 0, NULL, &error));
    free(state);
    OK(infer_engine_submit(other, ro, &request, &error));
    while (infer_request_next(request, -1, &event, &error) == INFER_OK) {
    }
    CHECK(event.cached_tokens == 79 && event.prompt_tokens == 80);
    infer_request_free(request);
    infer_request_options_free(ro);
    infer_engine_free(other);
  }

  /* Memory and drain: taking ends, running ones finish. */
  {
    uint64_t given = 77;
    OK(infer_engine_trim(engine, UINT64_MAX, &given, &error));
    CHECK(given != 77);
    OK(infer_engine_cache_clear(engine, NULL, 0, &error));
  }
  OK(infer_engine_drain(engine, -1, &error));
  {
    infer_request_options *ro = infer_request_options_new();
    OK(infer_request_options_set_prompt(ro, "x", 1, &error));
    ANSWERS(INFER_ERR_CLOSED, infer_engine_submit(engine, ro, &request, &error));
    infer_request_options_free(ro);
  }
  OK(infer_engine_resume(engine, &error));
  ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_engine_step(engine, NULL, &error));

  /* Freeing an engine wakes the reader of its request. */
  OK(infer_engine_pause(engine, &error));
  request = submit(engine, "The old prince", 300);
  CHECK(pthread_create(&thread, NULL, reader, request) == 0);
  usleep(20000);
  infer_engine_free(engine);
  CHECK(pthread_join(thread, &reason) == 0);
  CHECK(*(uint32_t *)reason == INFER_FINISH_CANCELLED);
  free(reason);
  infer_request_free(request);

  infer_model_free(model);
  /* Freed from inside the callback means freed on another thread, a little later. */
  for (i = 0; i < 500 && __sync_fetch_and_add(&frees, 0) < 2; i++)
    usleep(10000);
  CHECK(frees == 2 && starts == 1 && stops == 1);
  return 0;
}
