/* Signals: the library installs no handler and changes no mask, its threads block every signal and have names, and a
 * storm of signals at the host's threads changes nothing. */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"

enum { TOKENS = 200, POOL = 3 };

static volatile sig_atomic_t alarms, users;
static int storm_over;

static void on_alarm(int number) {
  (void)number;
  alarms++;
}

static void on_user(int number) {
  (void)number;
  users++;
}

static void dispositions(struct sigaction *actions) {
  int s;
  memset(actions, 0, NSIG * sizeof *actions);
  for (s = 1; s < NSIG; s++)
    sigaction(s, NULL, &actions[s]); /* Those the C library keeps to itself stay zero. */
}

static void check_dispositions(const struct sigaction *before) {
  struct sigaction now[NSIG];
  int s;
  dispositions(now);
  for (s = 1; s < NSIG; s++)
    CHECK(now[s].sa_handler == before[s].sa_handler && now[s].sa_flags == before[s].sa_flags);
}

static void check_mask(const sigset_t *before) {
  sigset_t now;
  int s;
  CHECK(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
  for (s = 1; s < NSIG; s++)
    CHECK(sigismember(&now, s) == sigismember(before, s));
}

/* Checks every thread but the first and answers how many have a name that begins with the given one. */
static int library_threads(const char *prefix) {
  /* KILL and STOP cannot be blocked; 32 and 33 belong to the C library. */
  uint64_t all = ~(uint64_t)0 & ~((uint64_t)1 << (SIGKILL - 1)) & ~((uint64_t)1 << (SIGSTOP - 1)) & ~((uint64_t)3 << 31);
  DIR *folder = opendir("/proc/self/task");
  struct dirent *entry;
  int found = 0;
  CHECK(folder != NULL);
  while ((entry = readdir(folder)) != NULL) {
    char path[300], line[256], name[64] = "";
    unsigned long long blocked = 0;
    FILE *status;
    if (entry->d_name[0] == '.' || atol(entry->d_name) == (long)getpid())
      continue;
    snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
    status = fopen(path, "r");
    if (status == NULL)
      continue;
    while (fgets(line, sizeof line, status) != NULL) {
      sscanf(line, "Name:\t%63[^\n]", name);
      sscanf(line, "SigBlk:\t%llx", &blocked);
    }
    fclose(status);
    if (strncmp(name, "infer", 5) != 0 && strncmp(name, "mine", 4) != 0)
      continue; /* A tool's. */
    CHECK((blocked & all) == all);
    found += strncmp(name, prefix, strlen(prefix)) == 0;
  }
  closedir(folder);
  return found;
}

static size_t generate(const char *path, uint32_t *ids) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_threads *threads = NULL;
  infer_threads_options *to = infer_threads_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_event event = INFER_EVENT_INIT;
  infer_status status;
  size_t n = 0;
  int tries;
  OK(infer_threads_options_set(to, "threads", "3", &error));
  OK(infer_threads_options_set(to, "name", "mine", &error));
  OK(infer_threads_create(to, &threads, &error));
  OK(infer_engine_options_set_threads(eo, threads, &error));
  OK(infer_model_load(path, INFER_NTS, NULL, &model, &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  /* A thread gets its name when it first runs, and one that has loaded may still be about to vanish. */
  for (tries = 0; tries < 5000 && !(library_threads("mine-") == POOL - 1 && library_threads("") == POOL); tries++)
    usleep(1000);
  CHECK(library_threads("mine-") == POOL - 1 && library_threads("infer-engine") == 1);
  CHECK(library_threads("") == POOL);
  OK(infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, TOKENS, &error));
  OK(infer_request_options_set_temperature(ro, 0, &error));
  OK(infer_request_options_set(ro, "ignore_end_of_generation", "true", &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  while ((status = infer_request_next(request, 60000, &event, &error)) == INFER_OK) {
    CHECK(n + event.n_tokens <= TOKENS);
    memcpy(ids + n, event.tokens, event.n_tokens * sizeof *ids);
    n += event.n_tokens;
  }
  CHECK(status == INFER_END && event.finish_reason == INFER_FINISH_LENGTH);
  infer_request_free(request);
  infer_engine_free(engine);
  infer_model_free(model);
  infer_threads_free(threads);
  infer_request_options_free(ro);
  infer_engine_options_free(eo);
  infer_threads_options_free(to);
  for (tries = 0; tries < 5000 && library_threads("") > 0; tries++)
    usleep(1000);
  CHECK(library_threads("") == 0);
  return n;
}

/* A signal that interrupts the main thread a thousand times a second. */
static void *storm(void *main_thread) {
  sigset_t all;
  sigfillset(&all);
  CHECK(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
  while (!__sync_fetch_and_add(&storm_over, 0)) {
    CHECK(pthread_kill(*(pthread_t *)main_thread, SIGUSR1) == 0);
    usleep(1000);
  }
  return NULL;
}

int main(int argc, char **argv) {
  static struct sigaction before[NSIG];
  struct sigaction handler;
  sigset_t mask;
  struct itimerval every_millisecond = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
  uint32_t calm[TOKENS], stormy[TOKENS];
  pthread_t self = pthread_self(), thread;
  CHECK(argc >= 2);
  memset(&handler, 0, sizeof handler);
  /* Without SA_RESTART: system calls of the interrupted thread fail with EINTR. */
  handler.sa_handler = on_alarm;
  CHECK(sigaction(SIGALRM, &handler, NULL) == 0);
  handler.sa_handler = on_user;
  CHECK(sigaction(SIGUSR1, &handler, NULL) == 0);
  CHECK(sigemptyset(&mask) == 0 && sigaddset(&mask, SIGUSR2) == 0);
  CHECK(pthread_sigmask(SIG_SETMASK, &mask, NULL) == 0);
  dispositions(before);

  CHECK(generate(argv[1], calm) == TOKENS);
  check_dispositions(before);
  check_mask(&mask);

  CHECK(setitimer(ITIMER_REAL, &every_millisecond, NULL) == 0);
  CHECK(pthread_create(&thread, NULL, storm, &self) == 0);
  CHECK(generate(argv[1], stormy) == TOKENS);
  CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
  __sync_fetch_and_add(&storm_over, 1);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(alarms > 0 && users > 0);
  CHECK(memcmp(calm, stormy, sizeof calm) == 0);
  check_dispositions(before);
  check_mask(&mask);
  return 0;
}
