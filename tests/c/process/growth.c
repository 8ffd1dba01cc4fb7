/* Loads, generates and frees many times: resident memory does not grow. With a third argument something is kept in
 * every round, which has to be noticed. */
#include <malloc.h>
#include <unistd.h>

#include "../check.h"

enum { WARM_UP = 30, ROUNDS = 200, KEPT_BYTES = 16 << 10 };

/* Resident memory in bytes, without what the heap holds free: a leak could hide in it. */
static long resident(void) {
  long pages = -1, all = 0;
  FILE *file;
  malloc_trim(0);
  file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%ld %ld", &all, &pages) == 2);
  fclose(file);
  return pages * sysconf(_SC_PAGESIZE);
}

static void round_trip(const char *path, int i) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_queue *queue = NULL;
  infer_request *request = NULL;
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_event event = INFER_EVENT_INIT;
  size_t n = 0;
  OK(infer_engine_options_set(eo, "threads", "2", &error));
  OK(infer_model_load(path, INFER_NTS, NULL, &model, &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  OK(infer_queue_create(&queue, &error));
  OK(infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, 4, &error));
  if (i % 2 == 0)
    OK(infer_request_options_set_queue(ro, queue, 1, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  do {
    if (i % 2 == 0)
      OK(infer_queue_next(queue, -1, &event, 1, sizeof event, &n, &error));
    else
      OK(infer_request_next(request, -1, &event, &error));
  } while (event.kind != INFER_EVENT_FINISHED);
  ANSWERS(INFER_ERR_IO, infer_model_load("no/such/file", INFER_NTS, NULL, &model, &error));
  infer_request_free(request);
  infer_queue_free(queue);
  infer_engine_free(engine);
  infer_model_free(model);
  infer_engine_options_free(eo);
  infer_request_options_free(ro);
}

static void keep_some(void) {
  static char text[KEPT_BYTES];
  infer_error *error = NULL;
  infer_request_options *kept = infer_request_options_new();
  memset(text, 'x', sizeof text);
  OK(infer_request_options_set_prompt(kept, text, sizeof text, &error));
}

int main(int argc, char **argv) {
  long before, growth;
  int i, leak = argc > 2;
  CHECK(argc >= 2);
  /* One heap for all threads, so that a page used by a thread that ended is used again. */
  CHECK(mallopt(M_ARENA_MAX, 1) == 1);
  for (i = 0; i < WARM_UP; i++)
    round_trip(argv[1], i);
  before = resident();
  for (i = 0; i < ROUNDS; i++) {
    round_trip(argv[1], i);
    if (leak)
      keep_some();
  }
  growth = resident() - before;
  /* 5 KiB a round: less than any object with a prompt, an event or a thread behind it. */
  if (growth > ROUNDS * 5 * 1024L) {
    if (leak)
      return 3;
    fprintf(stderr, "%d rounds added %ld bytes of resident memory\n", ROUNDS, growth);
    return 1;
  }
  return 0;
}
