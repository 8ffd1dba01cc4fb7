/* A host that flushes subnormal numbers to zero and rounds towards zero: the library computes the same tokens as for a
 * host that does not, and leaves the host's setting alone. */
#include <pthread.h>

#include "check.h"

#if defined(__x86_64__)
/* Flush-to-zero, denormals-are-zero, rounding towards zero; and the bits that only record what happened. */
#define HOSTILE 0xe040u
#define STICKY 0x3fu
typedef uint32_t control;
static control get_control(void) {
  control value;
  __asm__ volatile("stmxcsr %0" : "=m"(value));
  return value & ~STICKY;
}
static void set_control(control value) { __asm__ volatile("ldmxcsr %0" : : "m"(value)); }
#elif defined(__aarch64__)
/* FZ and rounding towards zero. */
#define HOSTILE 0x1c00000u
typedef uint64_t control;
static control get_control(void) {
  control value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
static void set_control(control value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
#else
#define HOSTILE 0u
typedef uint32_t control;
static control get_control(void) { return 0; }
static void set_control(control value) { (void)value; }
#endif

enum { TOKENS = 120 };

static control usual;
static int hooked;

/* The setting is still the one of this thread after the call. */
#define KEPT(call)                          \
  do {                                      \
    control before_ = get_control();        \
    OK(call);                               \
    CHECK(get_control() == before_);        \
  } while (0)

static void started(uint32_t index, void *user_data) {
  (void)index;
  (void)user_data;
  /* What tasks on this thread will compute under. */
  CHECK(get_control() == usual);
  __sync_fetch_and_add(&hooked, 1);
}

static size_t generate(const char *path, const char *manual, control setting, uint32_t *ids) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_threads *threads = NULL;
  infer_threads_options *to = infer_threads_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_event event = INFER_EVENT_INIT;
  infer_stats stats = INFER_STATS_INIT;
  uint32_t more = 1;
  size_t n = 0;
  char text[64];
  OK(infer_threads_options_set(to, "threads", "2", &error));
  OK(infer_threads_options_set_hooks(to, started, NULL, NULL, NULL, &error));
  OK(infer_engine_options_set(eo, "manual_step", manual, &error));
  OK(infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, TOKENS, &error));
  OK(infer_request_options_set_temperature(ro, 1, &error));
  OK(infer_request_options_set_seed(ro, 11, &error));
  OK(infer_request_options_set(ro, "ignore_end_of_generation", "true", &error));
  set_control(setting);
  KEPT(infer_threads_create(to, &threads, &error));
  KEPT(infer_engine_options_set_threads(eo, threads, &error));
  KEPT(infer_model_load(path, INFER_NTS, NULL, &model, &error));
  KEPT(infer_engine_create(model, eo, &engine, &error));
  KEPT(infer_engine_submit(engine, ro, &request, &error));
  while (strcmp(manual, "true") == 0 && more)
    KEPT(infer_engine_step(engine, &more, &error));
  for (;;) {
    infer_status status = infer_request_next(request, -1, &event, &error);
    CHECK(get_control() == setting);
    if (status == INFER_END)
      break;
    CHECK(status == INFER_OK && n + event.n_tokens <= TOKENS);
    memcpy(ids + n, event.tokens, event.n_tokens * sizeof *ids);
    n += event.n_tokens;
  }
  KEPT(infer_model_detokenize(model, ids, 4, 0, text, sizeof text, NULL, &error));
  KEPT(infer_engine_stats(engine, &stats, &error));
  infer_request_free(request);
  infer_engine_free(engine);
  infer_model_free(model);
  infer_threads_free(threads);
  CHECK(get_control() == setting);
  set_control(usual);
  infer_request_options_free(ro);
  infer_engine_options_free(eo);
  infer_threads_options_free(to);
  return n;
}

int main(int argc, char **argv) {
  uint32_t expected[TOKENS], ids[TOKENS];
  const char *modes[] = {"false", "true"};
  int i;
  CHECK(argc >= 2);
  usual = get_control();
  CHECK((usual & HOSTILE) == 0);
  CHECK(generate(argv[1], "false", usual, expected) == TOKENS);
  for (i = 0; i < 2; i++) {
    memset(ids, 0, sizeof ids);
    CHECK(generate(argv[1], modes[i], usual | HOSTILE, ids) == TOKENS);
    CHECK(memcmp(ids, expected, sizeof ids) == 0);
  }
  CHECK(hooked == 3);
  return 0;
}
