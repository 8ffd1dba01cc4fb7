/* After fork: the child is refused, its frees do nothing, and the parent goes on. */
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static int child_passed(pid_t child) {
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void generate(const infer_engine *engine) {
  infer_error *error = NULL;
  infer_request *request = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_request_options *ro = infer_request_options_new();
  OK(infer_request_options_set_prompt(ro, "The prince", INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, 5, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  while (infer_request_next(request, -1, &event, &error) == INFER_OK)
    ;
  CHECK(event.kind == INFER_EVENT_FINISHED && event.finish_reason != INFER_FINISH_ERROR);
  infer_request_options_free(ro);
  infer_request_free(request);
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  pid_t child;
  CHECK(argc == 2);

  /* A child of a process that has not used the library can use it. */
  child = fork();
  if (child == 0) {
    OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
    OK(infer_engine_create(model, NULL, &engine, &error));
    generate(engine);
    infer_engine_free(engine);
    infer_model_free(model);
    _exit(0);
  }
  CHECK(child > 0 && child_passed(child));

  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  OK(infer_engine_create(model, NULL, &engine, &error));
  generate(engine);
  child = fork();
  if (child == 0) {
    infer_request_options *ro;
    infer_error *copy = NULL;
    infer_model_info info = INFER_MODEL_INFO_INIT;
    alarm(20);
    ANSWERS(INFER_ERR_FORKED, infer_model_get_info(model, &info, &error));
    ANSWERS(INFER_ERR_FORKED, infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
    ANSWERS(INFER_ERR_FORKED, infer_engine_drain(engine, -1, &error));
    CHECK(infer_model_get_info(model, &info, &copy) == INFER_ERR_FORKED);
    CHECK(strstr(infer_error_message(copy), "fork") != NULL);
    infer_error_free(copy);
    ro = infer_request_options_new();
    CHECK(ro == NULL);
    infer_engine_free(engine);
    infer_model_free(model);
    _exit(0);
  }
  CHECK(child > 0 && child_passed(child));
  generate(engine);
  infer_engine_free(engine);
  infer_model_free(model);
  return 0;
}
