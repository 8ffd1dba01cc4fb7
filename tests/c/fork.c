/* After fork: the child is refused, its frees do nothing, and the parent goes on. */
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

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

static void free_all(infer_engine *engine, infer_request *request, infer_queue *queue, infer_threads *threads,
                     infer_model *model, infer_request_options *ro, infer_threads_options *to, infer_error *kept) {
  infer_engine_free(engine);
  infer_request_free(request);
  infer_queue_free(queue);
  infer_threads_free(threads);
  infer_model_free(model);
  infer_request_options_free(ro);
  infer_threads_options_free(to);
  infer_error_free(kept);
}

#define REFUSED(call) ANSWERS(INFER_ERR_FORKED, call)

int main(int argc, char **argv) {
  infer_error *error = NULL, *kept = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_queue *queue = NULL;
  infer_threads *threads = NULL;
  infer_threads_options *to;
  infer_request_options *ro;
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

  to = infer_threads_options_new();
  ro = infer_request_options_new();
  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  OK(infer_engine_create(model, NULL, &engine, &error));
  generate(engine);
  OK(infer_threads_options_set(to, "threads", "2", &error));
  OK(infer_threads_create(to, &threads, &error));
  OK(infer_queue_create(&queue, &error));
  OK(infer_engine_pause(engine, &error));
  OK(infer_request_options_set_prompt(ro, "The prince", INFER_NTS, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  CHECK(infer_engine_step(engine, NULL, &kept) == INFER_ERR_INVALID_ARGUMENT && kept != NULL);
  child = fork();
  if (child == 0) {
    infer_error *copy = NULL;
    infer_model_info info = INFER_MODEL_INFO_INIT;
    infer_event event = INFER_EVENT_INIT;
    infer_model *other_model = NULL;
    infer_engine *other_engine = NULL;
    infer_queue *other_queue = NULL;
    infer_threads *other_threads = NULL;
    infer_request *other_request = NULL;
    size_t n = 0;
    alarm(20);
    REFUSED(infer_model_get_info(model, &info, &error));
    REFUSED(infer_model_load(argv[1], INFER_NTS, NULL, &other_model, &error));
    REFUSED(infer_model_tokenize(model, "x", 1, 0, NULL, 0, &n, &error));
    REFUSED(infer_engine_create(model, NULL, &other_engine, &error));
    REFUSED(infer_engine_submit(engine, ro, &other_request, &error));
    REFUSED(infer_engine_drain(engine, -1, &error));
    REFUSED(infer_engine_resume(engine, &error));
    REFUSED(infer_engine_wait(engine, -1, &other_request, 1, &n, &error));
    REFUSED(infer_request_next(request, -1, &event, &error));
    REFUSED(infer_request_cancel(request, &error));
    REFUSED(infer_request_options_set(ro, "seed", "1", &error));
    REFUSED(infer_queue_create(&other_queue, &error));
    REFUSED(infer_queue_next(queue, -1, &event, 1, sizeof event, &n, &error));
    REFUSED(infer_threads_create(to, &other_threads, &error));
    CHECK(infer_model_get_info(model, &info, &copy) == INFER_ERR_FORKED);
    CHECK(strstr(infer_error_message(copy), "fork") != NULL);
    infer_error_free(copy);
    CHECK(infer_request_options_new() == NULL && infer_model_options_new() == NULL);
    CHECK(infer_engine_options_new() == NULL && infer_threads_options_new() == NULL);
    /* What only reads does not wait for anything. */
    CHECK(infer_request_tag(request) == 0 && infer_threads_count(threads) == 2);
    CHECK(strlen(infer_error_message(kept)) > 0);
    /* Every free returns at once, though no thread is left to join and locks may be held for ever. */
    free_all(engine, request, queue, threads, model, ro, to, kept);
#if defined(__SANITIZE_ADDRESS__)
    /* The sanitizer would report what the stacks of the lost threads held. */
    _exit(0);
#else
    /* And the child's own end, with everything registered for it. */
    exit(0);
#endif
  }
  CHECK(child > 0 && child_passed(child));
  OK(infer_engine_resume(engine, &error));
  generate(engine);
  free_all(engine, request, queue, threads, model, ro, to, kept);
  return 0;
}
