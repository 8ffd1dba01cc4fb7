/* Memory that is refused at every place where the library asks its memory module for some: each time the answer says so,
 * and the same call works afterwards. */
#include "fault.h"

static const char *path;
static char *bytes;
static size_t n_bytes;
static infer_model *model;
static infer_engine *engine;
static infer_request *request;

static infer_status load(infer_error **error) { return infer_model_load(path, INFER_NTS, NULL, &model, error); }

static infer_status load_from_memory(infer_error **error) {
  return infer_model_load_from_memory(bytes, n_bytes, NULL, &model, error);
}

static infer_status estimate(infer_error **error) {
  infer_memory_estimate out = INFER_MEMORY_ESTIMATE_INIT;
  return infer_model_estimate(path, INFER_NTS, NULL, NULL, &out, error);
}

static infer_status create(infer_error **error) {
  infer_error *none = NULL;
  infer_status status;
  infer_engine_options *eo = infer_engine_options_new();
  if (infer_engine_options_set(eo, "threads", "2", &none) != INFER_OK)
    exit(2);
  status = infer_engine_create(model, eo, &engine, error);
  infer_engine_options_free(eo);
  return status;
}

static infer_status tokenize(infer_error **error) {
  uint32_t ids[64];
  char text[256];
  size_t n = 0;
  infer_status status = infer_model_tokenize(model, "The old prince", INFER_NTS, 1, ids, 64, &n, error);
  if (status != INFER_OK)
    return status;
  return infer_model_detokenize(model, ids, n, 0, text, sizeof text, &n, error);
}

/* Options, submission and every event until the end. */
static infer_status generate(infer_error **error) {
  infer_event event = INFER_EVENT_INIT;
  infer_request_options *ro = infer_request_options_new(), *copy = NULL;
  infer_status status;
  int32_t ended = INFER_OK;
  CHECK(ro != NULL);
  status = infer_request_options_set_prompt(ro, "The old prince", INFER_NTS, error);
  if (status == INFER_OK)
    status = infer_request_options_add_stop(ro, "nowhere", INFER_NTS, error);
  if (status == INFER_OK)
    status = infer_request_options_set_max_tokens(ro, 40, error);
  if (status == INFER_OK)
    status = infer_request_options_copy(ro, &copy, error);
  if (status == INFER_OK)
    status = infer_engine_submit(engine, copy, &request, error);
  infer_request_options_free(ro);
  infer_request_options_free(copy);
  if (status != INFER_OK)
    return status;
  while ((status = infer_request_next(request, 60000, &event, error)) == INFER_OK)
    if (event.finish_reason == INFER_FINISH_ERROR) {
      ended = infer_error_status(event.error);
      CHECK(strlen(infer_error_message(event.error)) > 0);
    }
  if (status != INFER_END) {
    infer_request_free(request);
    return status;
  }
  CHECK(event.kind == INFER_EVENT_FINISHED);
  infer_request_free(request);
  request = NULL;
  return (infer_status)ended;
}

static void free_model(void) {
  infer_model_free(model);
  model = NULL;
}

static void free_engine(void) {
  infer_engine_free(engine);
  engine = NULL;
}

static void nothing(void) {}

/* Refuses the first request for memory of the operation, the second, and so on, until there is none left to refuse.
 * Loading asks thousands of times for the same, so the steps grow with the number. */
static void sweep(const char *name, infer_status (*operation)(infer_error **), void (*undo)(void), unsigned at_least) {
  unsigned refused = 0;
  for (;;) {
    infer_error *error = NULL;
    infer_status status;
    infer_fault_arm("memory", refused);
    status = operation(&error);
    if (infer_fault_disarm() == 0) {
      CHECK(status == INFER_OK && error == NULL);
      undo();
      break;
    }
    if (status != INFER_ERR_NO_MEMORY) {
      fprintf(stderr, "%s, request %u for memory: %s: %s\n", name, refused, infer_status_name(status),
              infer_error_message(error));
      exit(1);
    }
    infer_error_free(error);
    refused += 1 + refused / 256;
  }
  if (refused < at_least) {
    fprintf(stderr, "%s asked for memory %u times\n", name, refused);
    exit(1);
  }
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  FILE *file;
  CHECK(argc >= 2);
  path = argv[1];
  file = fopen(path, "rb");
  bytes = malloc(1 << 24);
  CHECK(file != NULL && bytes != NULL);
  n_bytes = fread(bytes, 1, 1 << 24, file);
  fclose(file);
  sweep("load", load, free_model, 5);
  sweep("load_from_memory", load_from_memory, free_model, 5);
  sweep("estimate", estimate, nothing, 1);
  OK(infer_model_load(path, INFER_NTS, NULL, &model, &error));
  sweep("create", create, free_engine, 10);
  sweep("tokenize", tokenize, nothing, 1);
  OK(create(&error));
  sweep("generate", generate, nothing, 3);
  infer_engine_free(engine);
  free_model();
  free(bytes);
  return 0;
}
