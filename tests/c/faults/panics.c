/* Panics in exported functions, in steps, in tasks of the pool and in the engine's thread become errors; what was not
 * hit goes on. */
#include "fault.h"

static void says(const infer_error *error, const char *place) {
  const char *message = infer_error_message(error);
  CHECK(infer_error_status(error) == INFER_ERR_INTERNAL);
  if (strstr(message, "an injected fault") == NULL || strstr(message, place) == NULL) {
    fprintf(stderr, "%s: %s\n", place, message);
    exit(1);
  }
}

/* The function panics when the fault is armed for it, and works again afterwards. */
#define PANICS(name, call)                                     \
  do {                                                         \
    infer_error *error = (infer_error *)(void *)&error;        \
    infer_fault_arm(name, 0);                                  \
    CHECK((call) == INFER_ERR_INTERNAL);                       \
    CHECK(infer_fault_disarm() == 1);                          \
    says(error, name);                                         \
    infer_error_free(error);                                   \
    infer_fault_arm(name, 0);                                  \
    error = NULL;                                              \
    CHECK((call) == INFER_ERR_INTERNAL);                       \
    infer_error_free(error);                                   \
    infer_fault_disarm();                                      \
  } while (0)

static infer_request *submit(const infer_engine *engine, uint64_t max_tokens) {
  infer_error *error = NULL;
  infer_request *request = NULL;
  infer_request_options *ro = infer_request_options_new();
  OK(infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, max_tokens, &error));
  OK(infer_request_options_set(ro, "ignore_end_of_generation", "true", &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  infer_request_options_free(ro);
  return request;
}

/* Reads to the end; answers the status behind it. */
static int32_t finish(const infer_request *request, const char *place) {
  infer_error *error = NULL;
  infer_event event = INFER_EVENT_INIT;
  int32_t status = INFER_OK;
  while (infer_request_next(request, 60000, &event, &error) == INFER_OK)
    if (event.finish_reason == INFER_FINISH_ERROR) {
      CHECK(event.kind == INFER_EVENT_FINISHED);
      status = infer_error_status(event.error);
      says(event.error, place);
    }
  CHECK(error == NULL && event.kind == INFER_EVENT_FINISHED);
  return status;
}

static void boundary(const char *path, const infer_model *model, const infer_engine *engine) {
  infer_event event = INFER_EVENT_INIT;
  infer_stats stats = INFER_STATS_INIT;
  infer_model_info info = INFER_MODEL_INFO_INIT;
  infer_memory_estimate estimate = INFER_MEMORY_ESTIMATE_INIT;
  infer_model *other_model = NULL;
  infer_engine *other_engine = NULL;
  infer_queue *queue = NULL, *other_queue = NULL;
  infer_threads *threads = NULL;
  infer_request *request = submit(engine, 2), *other_request = NULL;
  infer_threads_options *to = infer_threads_options_new();
  infer_request_options *ro = infer_request_options_new(), *copy = NULL;
  infer_error *none = NULL;
  char buffer[64];
  size_t n = 0;
  CHECK(infer_queue_create(&queue, &none) == INFER_OK);
  PANICS("infer_abi_check", infer_abi_check(INFER_ABI_VERSION, &error));
  PANICS("infer_model_load", infer_model_load(path, INFER_NTS, NULL, &other_model, &error));
  PANICS("infer_model_get_info", infer_model_get_info(model, &info, &error));
  PANICS("infer_model_estimate", infer_model_estimate(path, INFER_NTS, NULL, NULL, &estimate, &error));
  PANICS("infer_model_tokenize", infer_model_tokenize(model, "x", 1, 0, NULL, 0, &n, &error));
  PANICS("infer_model_metadata_get", infer_model_metadata_get(model, "x", 1, buffer, 64, &n, &error));
  PANICS("infer_engine_create", infer_engine_create(model, NULL, &other_engine, &error));
  PANICS("infer_engine_submit", infer_engine_submit(engine, ro, &other_request, &error));
  PANICS("infer_engine_wait", infer_engine_wait(engine, 0, &other_request, 1, &n, &error));
  PANICS("infer_engine_stats", infer_engine_stats(engine, &stats, &error));
  PANICS("infer_engine_drain", infer_engine_drain(engine, 0, &error));
  PANICS("infer_engine_trim", infer_engine_trim(engine, 0, NULL, &error));
  PANICS("infer_engine_state_save", infer_engine_state_save(engine, NULL, 0, NULL, 0, NULL, 0, &n, &error));
  PANICS("infer_engine_state_restore", infer_engine_state_restore(engine, NULL, 0, NULL, 0, &n, &error));
  PANICS("infer_request_next", infer_request_next(request, 0, &event, &error));
  PANICS("infer_request_cancel", infer_request_cancel(request, &error));
  PANICS("infer_request_options_set", infer_request_options_set(ro, "seed", "1", &error));
  PANICS("infer_request_options_copy", infer_request_options_copy(ro, &copy, &error));
  PANICS("infer_queue_create", infer_queue_create(&other_queue, &error));
  PANICS("infer_queue_next", infer_queue_next(queue, 0, &event, 1, sizeof event, &n, &error));
  PANICS("infer_threads_create", infer_threads_create(to, &threads, &error));
  CHECK(other_model == NULL && other_engine == NULL && other_queue == NULL && other_request == NULL);
  CHECK(threads == NULL && copy == NULL);
  /* Functions without a status answer as for a bad handle. */
  infer_fault_arm("quiet", 0);
  CHECK(infer_request_id(request) == 0 && infer_fault_disarm() == 1 && infer_request_id(request) != 0);
  infer_fault_arm("quiet", 0);
  CHECK(infer_request_options_new() == NULL && infer_fault_disarm() == 1);
  CHECK(finish(request, "") == INFER_OK);
  infer_request_free(request);
  infer_queue_free(queue);
  infer_request_options_free(ro);
  infer_threads_options_free(to);
}

/* A fault while two requests run ends those that had a part in it, and the engine goes on. */
static void running(const infer_engine *engine, const char *place, const char *said, uint64_t skip) {
  infer_error *error = NULL;
  infer_request *a, *b, *later;
  infer_stats before = INFER_STATS_INIT, stats = INFER_STATS_INIT;
  int32_t first, second;
  OK(infer_engine_stats(engine, &before, &error));
  infer_fault_arm(place, skip);
  a = submit(engine, 40);
  b = submit(engine, 40);
  first = finish(a, said);
  second = finish(b, said);
  CHECK(infer_fault_disarm() == 1);
  CHECK(first == INFER_ERR_INTERNAL || second == INFER_ERR_INTERNAL);
  later = submit(engine, 5);
  CHECK(finish(later, "") == INFER_OK);
  OK(infer_engine_stats(engine, &stats, &error));
  CHECK(stats.panics == before.panics + 1 && stats.kv_bytes_used == 0 && stats.running == 0);
  infer_request_free(a);
  infer_request_free(b);
  infer_request_free(later);
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_engine_options *eo = infer_engine_options_new();
  infer_request *request = NULL;
  uint64_t skip;
  CHECK(argc >= 2);
  OK(infer_engine_options_set(eo, "threads", "2", &error));
  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  boundary(argv[1], model, engine);
  OK(infer_engine_resume(engine, &error));
  for (skip = 0; skip < 4; skip++) {
    running(engine, "step", "step", skip * 3);
    running(engine, "task", "task", skip * 97);
  }
  running(engine, "task of a pool thread", "task of a pool thread", 0);
  infer_engine_free(engine);

  /* The same where the host steps: the call works, the request ends with the error. */
  OK(infer_engine_options_set(eo, "manual_step", "true", &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  request = submit(engine, 5);
  infer_fault_arm("step", 1);
  {
    uint32_t more = 1;
    while (more)
      OK(infer_engine_step(engine, &more, &error));
  }
  CHECK(infer_fault_disarm() == 1 && finish(request, "step") == INFER_ERR_INTERNAL);
  infer_request_free(request);
  infer_engine_free(engine);

  /* Outside a step the engine's thread is lost, but nobody waits for it in vain. */
  OK(infer_engine_options_set(eo, "manual_step", "false", &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  infer_fault_arm("thread", 0);
  request = submit(engine, 5);
  CHECK(finish(request, "thread") == INFER_ERR_INTERNAL && infer_fault_disarm() == 1);
  {
    infer_request *refused = NULL;
    infer_request_options *ro = infer_request_options_new();
    OK(infer_request_options_set_prompt(ro, "x", 1, &error));
    ANSWERS(INFER_ERR_CLOSED, infer_engine_submit(engine, ro, &refused, &error));
    infer_request_options_free(ro);
  }
  OK(infer_engine_drain(engine, -1, &error));
  infer_request_free(request);
  infer_engine_free(engine);
  infer_engine_options_free(eo);
  infer_model_free(model);
  return 0;
}
