/* Loads, creates an engine and generates in processes with ever more address space: each either works or is told that
 * there is no memory, and none ends in any other way. */
#include <malloc.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"

enum { WORKED = 0, NO_MEMORY_AT_LOAD = 40, NO_MEMORY_AT_ENGINE, NO_MEMORY_AT_SUBMIT, NO_MEMORY_WHILE_RUNNING, LAST };

/* The library promises an error for sizes that depend on files, options and requests, not for every small object.
 * Those come from this reserve. */
enum { RESERVE = 8 << 20 };

static rlim_t address_space(void) {
  unsigned long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
  fclose(file);
  return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* Ends the process unless the call worked. */
#define STEP(call, no_memory)                        \
  do {                                               \
    infer_status status_ = (call);                   \
    if (status_ != INFER_OK)                         \
      failed(status_, error, no_memory);             \
  } while (0)

static void failed(infer_status status, const infer_error *error, int no_memory) {
  if (status == INFER_ERR_NO_MEMORY && error != NULL && strlen(infer_error_message(error)) > 0)
    _exit(no_memory);
  fprintf(stderr, "%s: %s\n", infer_status_name(status), infer_error_message(error));
  _exit(1);
}

static void child(const char *path, rlim_t more) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_model_options *mo;
  infer_engine_options *eo;
  infer_request_options *ro;
  infer_event event = INFER_EVENT_INIT;
  struct rlimit limit;
  infer_status status;
  void *reserve;
  alarm(120);
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  reserve = malloc(RESERVE);
  CHECK(reserve != NULL);
  memset(reserve, 1, RESERVE);
  free(reserve);
  mallopt(M_MMAP_THRESHOLD, 64 << 10);
  limit.rlim_cur = limit.rlim_max = address_space() + more;
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);

  mo = infer_model_options_new();
  eo = infer_engine_options_new();
  ro = infer_request_options_new();
  CHECK(mo != NULL && eo != NULL && ro != NULL);
  STEP(infer_model_options_set(mo, "load_threads", "2", &error), 1);
  STEP(infer_engine_options_set(eo, "threads", "2", &error), 1);
  STEP(infer_engine_options_set(eo, "max_running", "4", &error), 1);
  STEP(infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, &error), 1);
  STEP(infer_request_options_set_max_tokens(ro, 12, &error), 1);
  STEP(infer_model_load(path, INFER_NTS, mo, &model, &error), NO_MEMORY_AT_LOAD);
  STEP(infer_engine_create(model, eo, &engine, &error), NO_MEMORY_AT_ENGINE);
  STEP(infer_engine_submit(engine, ro, &request, &error), NO_MEMORY_AT_SUBMIT);
  while ((status = infer_request_next(request, 60000, &event, &error)) == INFER_OK)
    ;
  CHECK(status == INFER_END);
  if (event.finish_reason == INFER_FINISH_ERROR) {
    CHECK(event.error != NULL);
    failed((infer_status)infer_error_status(event.error), event.error, NO_MEMORY_WHILE_RUNNING);
  }
  infer_request_free(request);
  infer_engine_free(engine);
  infer_model_free(model);
  infer_model_options_free(mo);
  infer_engine_options_free(eo);
  infer_request_options_free(ro);
  _exit(WORKED);
}

int main(int argc, char **argv) {
  int seen[LAST] = {0}, worked_in_a_row = 0;
  rlim_t more, by;
  CHECK(argc >= 2);
  by = (rlim_t)(argc > 2 ? atoi(argv[2]) : 256) << 10;
  /* Two steps after it works for the first time could still be luck. */
  for (more = 0; worked_in_a_row < 3; more += by) {
    int status = 0;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
      child(argv[1], more);
    CHECK(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || (WEXITSTATUS(status) != WORKED && WEXITSTATUS(status) < NO_MEMORY_AT_LOAD)) {
      fprintf(stderr, "with %lu KiB: status %x\n", (unsigned long)(more >> 10), (unsigned)status);
      return 1;
    }
    seen[WEXITSTATUS(status)]++;
    worked_in_a_row = WEXITSTATUS(status) == WORKED ? worked_in_a_row + 1 : 0;
    CHECK(more < (rlim_t)1 << 32);
  }
  if (argc > 3)
    fprintf(stderr, "%d %d %d %d %d\n", seen[0], seen[40], seen[41], seen[42], seen[43]);
  /* The sweep reached both ends of loading and of creating an engine. */
  CHECK(seen[NO_MEMORY_AT_LOAD] > 0 && seen[NO_MEMORY_AT_ENGINE] > 0);
  return 0;
}
