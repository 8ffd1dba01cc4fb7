/* Opens the library, uses it, closes it, and again: nothing of it is left that could run after it is gone. */
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>

#include "../check.h"

struct api {
  infer_status (*model_load)(const char *, size_t, const infer_model_options *, infer_model **, infer_error **);
  infer_status (*engine_create)(const infer_model *, const infer_engine_options *, infer_engine **, infer_error **);
  infer_request_options *(*request_options_new)(void);
  infer_status (*set_prompt)(infer_request_options *, const char *, size_t, infer_error **);
  infer_status (*set_max_tokens)(infer_request_options *, uint64_t, infer_error **);
  infer_status (*submit)(const infer_engine *, const infer_request_options *, infer_request **, infer_error **);
  infer_status (*next)(const infer_request *, int64_t, infer_event *, infer_error **);
  void (*request_options_free)(infer_request_options *);
  void (*request_free)(infer_request *);
  void (*engine_free)(infer_engine *);
  void (*model_free)(infer_model *);
  void (*error_free)(infer_error *);
};

static const char *model_path, *library;

static void find(void *handle, const char *name, void *function) {
  void *found = dlsym(handle, name);
  CHECK(found != NULL);
  memcpy(function, &found, sizeof found);
}

static void *open_library(struct api *api) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL)
    fprintf(stderr, "%s\n", dlerror());
  CHECK(handle != NULL);
  find(handle, "infer_model_load", &api->model_load);
  find(handle, "infer_engine_create", &api->engine_create);
  find(handle, "infer_request_options_new", &api->request_options_new);
  find(handle, "infer_request_options_set_prompt", &api->set_prompt);
  find(handle, "infer_request_options_set_max_tokens", &api->set_max_tokens);
  find(handle, "infer_engine_submit", &api->submit);
  find(handle, "infer_request_next", &api->next);
  find(handle, "infer_request_options_free", &api->request_options_free);
  find(handle, "infer_request_free", &api->request_free);
  find(handle, "infer_engine_free", &api->engine_free);
  find(handle, "infer_model_free", &api->model_free);
  find(handle, "infer_error_free", &api->error_free);
  return handle;
}

static void use(const struct api *api) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_request_options *ro = api->request_options_new();
  infer_event event = INFER_EVENT_INIT;
  CHECK(api->model_load("no/such/file", INFER_NTS, NULL, &model, &error) == INFER_ERR_IO && error != NULL);
  api->error_free(error);
  CHECK(api->model_load(model_path, INFER_NTS, NULL, &model, NULL) == INFER_OK);
  CHECK(api->engine_create(model, NULL, &engine, NULL) == INFER_OK);
  CHECK(api->set_prompt(ro, "The prince", INFER_NTS, NULL) == INFER_OK);
  CHECK(api->set_max_tokens(ro, 8, NULL) == INFER_OK);
  CHECK(api->submit(engine, ro, &request, NULL) == INFER_OK);
  while (api->next(request, -1, &event, NULL) == INFER_OK)
    ;
  CHECK(event.kind == INFER_EVENT_FINISHED && event.generated_tokens > 0);
  api->request_free(request);
  api->engine_free(engine);
  api->model_free(model);
  api->request_options_free(ro);
}

static sem_t used, closed;

/* A thread that has used the library and ends after it was closed: what it left in the thread must not run. */
static void *survivor(void *api) {
  use(api);
  CHECK(sem_post(&used) == 0);
  while (sem_wait(&closed) != 0)
    ;
  return NULL;
}

int main(int argc, char **argv) {
  struct api api;
  pthread_t thread;
  void *handle;
  int i;
  CHECK(argc == 3);
  model_path = argv[1];
  library = argv[2];
  CHECK(sem_init(&used, 0, 0) == 0 && sem_init(&closed, 0, 0) == 0);
  /* Opened and never used. */
  CHECK(dlclose(open_library(&api)) == 0);
  for (i = 0; i < 3; i++) {
    handle = open_library(&api);
    use(&api);
    CHECK(dlclose(handle) == 0);
    handle = open_library(&api);
    CHECK(pthread_create(&thread, NULL, survivor, &api) == 0);
    while (sem_wait(&used) != 0)
      ;
    CHECK(dlclose(handle) == 0);
    CHECK(sem_post(&closed) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
  }
  return 0;
}
