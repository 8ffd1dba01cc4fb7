/* Everything works on a thread with a stack of 64 KiB. */
#include <limits.h>
#include <pthread.h>

#include "check.h"

static const char *path;

static void *body(void *argument) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_event event = INFER_EVENT_INIT;
  infer_memory_estimate estimate = INFER_MEMORY_ESTIMATE_INIT;
  uint32_t more = 1;
  const char *manual = argument;
  OK(infer_model_estimate(path, INFER_NTS, NULL, NULL, &estimate, &error));
  OK(infer_model_load(path, INFER_NTS, NULL, &model, &error));
  OK(infer_engine_options_set(eo, "manual_step", manual, &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  OK(infer_request_options_set_prompt(ro, "The old prince looked at the sky.", INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, 8, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  while (strcmp(manual, "true") == 0 && more)
    OK(infer_engine_step(engine, &more, &error));
  while (infer_request_next(request, -1, &event, &error) == INFER_OK)
    ;
  CHECK(event.kind == INFER_EVENT_FINISHED && event.finish_reason != INFER_FINISH_ERROR);
  infer_request_free(request);
  infer_request_options_free(ro);
  infer_engine_options_free(eo);
  infer_engine_free(engine);
  infer_model_free(model);
  return NULL;
}

static void on_small_stack(const char *manual) {
  pthread_attr_t attributes;
  pthread_t thread;
  CHECK(pthread_attr_init(&attributes) == 0);
  CHECK(pthread_attr_setstacksize(&attributes, 65536) == 0);
  CHECK(pthread_create(&thread, &attributes, body, (void *)manual) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  path = argv[1];
  on_small_stack("false");
  on_small_stack("true");
  return 0;
}
