/* Every order of freeing a model, an engine, a running request, its queue, the engine's threads, the options of all of
 * them, and an error. */
#include "check.h"

enum { MODEL, ENGINE, REQUEST, QUEUE, THREADS, OPTIONS, ERROR, KINDS };

static const char *path;

static void free_in(const int *order) {
  infer_error *error = NULL, *kept = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_queue *queue = NULL;
  infer_threads *threads = NULL;
  infer_model_options *mo = infer_model_options_new();
  infer_threads_options *to = infer_threads_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  int i;
  OK(infer_model_options_set(mo, "load_mode", "mmap", &error));
  OK(infer_threads_options_set(to, "threads", "2", &error));
  OK(infer_threads_create(to, &threads, &error));
  OK(infer_model_load(path, INFER_NTS, mo, &model, &error));
  OK(infer_engine_options_set(eo, "context_length", "64", &error));
  OK(infer_engine_options_set(eo, "max_running", "1", &error));
  OK(infer_engine_options_set(eo, "prefill_chunk", "8", &error));
  OK(infer_engine_options_set_threads(eo, threads, &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  OK(infer_queue_create(&queue, &error));
  OK(infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, &error));
  OK(infer_request_options_set_queue(ro, queue, 7, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  CHECK(infer_engine_step(engine, NULL, &kept) == INFER_ERR_INVALID_ARGUMENT && kept != NULL);
  for (i = 0; i < KINDS; i++) {
    switch (order[i]) {
    case MODEL: infer_model_free(model); break;
    case ENGINE: infer_engine_free(engine); break;
    case REQUEST: infer_request_free(request); break;
    case QUEUE: infer_queue_free(queue); break;
    case THREADS: infer_threads_free(threads); break;
    case OPTIONS:
      infer_request_options_free(ro);
      infer_engine_options_free(eo);
      infer_threads_options_free(to);
      infer_model_options_free(mo);
      break;
    case ERROR:
      CHECK(strlen(infer_error_message(kept)) > 0);
      infer_error_free(kept);
      break;
    }
  }
}

/* Calls free_in() for every order of order[at..], and for one of `share` of them. */
static void permute(int *order, int at, unsigned share, unsigned *count) {
  int i;
  if (at == KINDS) {
    if ((*count)++ % share == 0)
      free_in(order);
    return;
  }
  for (i = at; i < KINDS; i++) {
    int swapped = order[at];
    order[at] = order[i];
    order[i] = swapped;
    permute(order, at + 1, share, count);
    swapped = order[at];
    order[at] = order[i];
    order[i] = swapped;
  }
}

int main(int argc, char **argv) {
  int order[KINDS] = {MODEL, ENGINE, REQUEST, QUEUE, THREADS, OPTIONS, ERROR};
  unsigned count = 0;
  CHECK(argc >= 2);
  path = argv[1];
  /* All 5040, or one of so many that each pair of objects is freed both ways many times. */
  permute(order, 0, argc > 2 ? (unsigned)atoi(argv[2]) : 1, &count);
  CHECK(count == 5040);
  return 0;
}
