/* Says something on both outputs between calls that fail in every way there is. The test that runs it sees the lines
 * of this program alone. */
#include <unistd.h>

#include "check.h"

static void say(const char *line) {
  size_t n = strlen(line);
  CHECK(write(1, line, n) == (ssize_t)n);
  CHECK(write(2, line, n) == (ssize_t)n);
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_model_options *mo = infer_model_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_event event = INFER_EVENT_INIT;
  char broken[256];
  CHECK(argc >= 2);
  say("loading\n");
  memset(broken, 0xff, sizeof broken);
  memcpy(broken, "GGUF\3\0\0\0", 8);
  ANSWERS(INFER_ERR_IO, infer_model_load("no/such/file", INFER_NTS, NULL, &model, &error));
  ANSWERS(INFER_ERR_INVALID_MODEL, infer_model_load_from_memory(broken, sizeof broken, NULL, &model, &error));
  OK(infer_model_options_set(mo, "memory_budget", "1000", &error));
  ANSWERS(INFER_ERR_NO_MEMORY, infer_model_load(argv[1], INFER_NTS, mo, &model, &error));
  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  say("running\n");
  OK(infer_engine_options_set(eo, "kv_budget", "1", &error));
  ANSWERS(INFER_ERR_NO_MEMORY, infer_engine_create(model, eo, &engine, &error));
  OK(infer_engine_create(model, NULL, &engine, &error));
  ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_engine_submit(engine, ro, &request, &error));
  OK(infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, &error));
  OK(infer_request_options_set(ro, "deadline_ms", "1", &error));
  OK(infer_engine_pause(engine, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  usleep(5000);
  OK(infer_engine_resume(engine, &error));
  while (infer_request_next(request, -1, &event, NULL) == INFER_OK)
    ;
  CHECK(event.finish_reason == INFER_FINISH_DEADLINE);
  infer_request_free(request);
  OK(infer_engine_submit(engine, ro, &request, &error));
  infer_engine_free(engine);
  infer_request_free(request);
  say("done\n");
  infer_model_free(model);
  infer_model_options_free(mo);
  infer_engine_options_free(eo);
  infer_request_options_free(ro);
  return 0;
}
