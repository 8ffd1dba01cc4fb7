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
  infer_kernels *kernels = NULL;
  float floats[288] = {0};
  int8_t bytes[144] = {0};
  int32_t sums[144];
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
  OK(infer_kernels_create(NULL, &kernels, &error));
  OK(infer_kernels_matmul(kernels, floats, floats, 12, 12, 12, floats + 144, &error));
  OK(infer_kernels_matmul_i8(kernels, bytes, bytes, 12, 12, 12, sums, &error));
  OK(infer_kernels_dequantize(kernels, "Q4_K", (uint8_t *)bytes, 144, 256, floats, &error));
  infer_kernels_free(kernels);
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
