/* Models: info, metadata, tokens, buffers, loading from memory, estimates, progress. */
#include "check.h"

static uint32_t count_progress(float fraction, void *user_data) {
  int *calls = user_data;
  CHECK(fraction >= 0 && fraction <= 1);
  ++*calls;
  return 1;
}

static uint32_t cancel(float fraction, void *user_data) {
  (void)fraction;
  (void)user_data;
  return 0;
}

static void freed(void *user_data) { ++*(int *)user_data; }

static void options(void) {
  infer_error *error = NULL;
  infer_option_info info = INFER_OPTION_INFO_INIT;
  infer_model_options *mo = infer_model_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_threads_options *to = infer_threads_options_new();
  infer_kv_cache_options *ko = infer_kv_cache_options_new();
  size_t i = 0;
  infer_status status;
  /* Every option that is listed can be set to its default. */
  while ((status = infer_options_describe(i, &info, &error)) == INFER_OK) {
    CHECK(strlen(info.doc) > 0 && strlen(info.range) > 0 && strlen(info.type_name) > 0);
    if (strcmp(info.object, "model") == 0)
      OK(infer_model_options_set(mo, info.name, info.default_value, &error));
    else if (strcmp(info.object, "engine") == 0)
      OK(infer_engine_options_set(eo, info.name, info.default_value, &error));
    else if (strcmp(info.object, "request") == 0)
      OK(infer_request_options_set(ro, info.name, info.default_value, &error));
    else if (strcmp(info.object, "kv_cache") == 0)
      OK(infer_kv_cache_options_set(ko, info.name, info.default_value, &error));
    else
      OK(infer_threads_options_set(to, info.name, info.default_value, &error));
    i++;
  }
  CHECK(status == INFER_END && i > 20);
  infer_model_options_free(mo);
  infer_engine_options_free(eo);
  infer_request_options_free(ro);
  infer_threads_options_free(to);
  infer_kv_cache_options_free(ko);
}

static void tokens(const infer_model *model, const infer_model_info *info) {
  infer_error *error = NULL;
  const char *text = "The old prince";
  uint32_t ids[32], id = 0, answer = 7;
  char buffer[64];
  size_t n = 0, needed = 0;
  OK(infer_model_tokenize(model, text, INFER_NTS, INFER_TOKENIZE_ADD_SPECIAL, NULL, 0, &n, &error));
  CHECK(n > 1 && n < 32);
  ids[0] = 12345;
  ANSWERS(INFER_ERR_BUFFER_TOO_SMALL, infer_model_tokenize(model, text, INFER_NTS, 0, ids, 1, &needed, &error));
  CHECK(ids[0] == 12345 && needed == n - 1);
  OK(infer_model_tokenize(model, text, INFER_NTS, INFER_TOKENIZE_ADD_SPECIAL, ids, 32, &n, &error));
  OK(infer_model_special_token(model, INFER_TOKEN_BOS, &id, &error));
  CHECK(ids[0] == id && id < info->n_vocab);
  OK(infer_model_detokenize(model, ids, n, 0, NULL, 0, &needed, &error));
  CHECK(needed <= sizeof buffer);
  OK(infer_model_detokenize(model, ids, n, 0, buffer, needed, &needed, &error));
  CHECK(needed == strlen(buffer) + 1 && strcmp(buffer + (buffer[0] == ' '), text) == 0);
  memset(buffer, 'x', sizeof buffer);
  ANSWERS(INFER_ERR_BUFFER_TOO_SMALL,
          infer_model_detokenize(model, ids, n, 0, buffer, needed - 1, &needed, &error));
  CHECK(buffer[0] == 'x');
  ids[0] = info->n_vocab;
  ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_model_detokenize(model, ids, 1, 0, buffer, 64, &needed, &error));
  OK(infer_model_token_text(model, id, buffer, sizeof buffer, &needed, &error));
  CHECK(needed > 1);
  OK(infer_model_special_token(model, INFER_TOKEN_EOS, &id, &error));
  OK(infer_model_is_end_of_generation(model, id, &answer, &error));
  CHECK(answer == 1);
  OK(infer_model_is_end_of_generation(model, 5, &answer, &error));
  CHECK(answer == 0);
  ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_model_special_token(model, 99, &id, &error));
  ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_model_tokenize(model, text, 3, 4, ids, 32, &n, &error));
  ANSWERS(INFER_ERR_UNSUPPORTED,
          infer_model_apply_chat_template_json(model, "[]", 2, 0, buffer, sizeof buffer, &needed, &error));
}

static void metadata(const infer_model *model) {
  infer_error *error = NULL;
  size_t count = infer_model_metadata_count(model), i, needed = 0;
  char buffer[64];
  CHECK(count > 10);
  for (i = 0; i < count; i++) {
    const char *key = NULL;
    char *value;
    size_t length = 0;
    OK(infer_model_metadata_at(model, i, &key, &length, &error));
    OK(infer_model_metadata_get(model, key, length, NULL, 0, &needed, &error));
    value = malloc(needed);
    CHECK(value != NULL);
    OK(infer_model_metadata_get(model, key, length, value, needed, NULL, &error));
    CHECK(strlen(value) == needed - 1);
    free(value);
  }
  {
    const char *key = NULL;
    size_t length = 0;
    ANSWERS(INFER_END, infer_model_metadata_at(model, count, &key, &length, &error));
  }
  OK(infer_model_metadata_get(model, "general.architecture", INFER_NTS, buffer, sizeof buffer, &needed, &error));
  CHECK(strcmp(buffer, "llama") == 0);
  ANSWERS(INFER_ERR_NOT_FOUND,
          infer_model_metadata_get(model, "no.such.key", INFER_NTS, buffer, sizeof buffer, &needed, &error));
}

static void from_memory(const char *path) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_model_info info = INFER_MODEL_INFO_INIT;
  FILE *file = fopen(path, "rb");
  char *bytes = malloc(1 << 24);
  size_t size;
  CHECK(file != NULL && bytes != NULL);
  size = fread(bytes, 1, 1 << 24, file);
  fclose(file);
  /* Exactly as large as the file, so that a tool sees any access beyond it. */
  bytes = realloc(bytes, size);
  CHECK(bytes != NULL);
  OK(infer_model_load_from_memory(bytes, size, NULL, &model, &error));
  memset(bytes, 0xff, size);
  free(bytes);
  OK(infer_model_get_info(model, &info, &error));
  CHECK(strcmp(info.architecture, "llama") == 0);
  infer_model_free(model);
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_model_options *mo = infer_model_options_new();
  infer_model_info info = INFER_MODEL_INFO_INIT;
  infer_memory_estimate estimate = INFER_MEMORY_ESTIMATE_INIT;
  int calls = 0, frees = 0, i;
  struct {
    infer_model_info info;
    uint64_t beyond;
  } larger;
  CHECK(argc == 2);

  options();

  OK(infer_model_options_set_progress(mo, cancel, &frees, freed, &error));
  ANSWERS(INFER_ERR_CANCELLED, infer_model_load(argv[1], INFER_NTS, mo, &model, &error));
  CHECK(model == NULL && frees == 0);
  OK(infer_model_options_set_progress(mo, count_progress, &calls, NULL, &error));
  CHECK(frees == 1);
  OK(infer_model_load(argv[1], strlen(argv[1]), mo, &model, &error));
  CHECK(calls > 0);
  infer_model_options_free(mo);
  CHECK(frees == 1);

  OK(infer_model_get_info(model, &info, &error));
  CHECK(info.n_vocab > 256 && info.n_layers > 0 && info.n_heads > 0 && info.n_parameters > 1000000);
  CHECK(strlen(info.description) > 0 && info.has_chat_template == 0);
  /* No more is written than the caller has, and what a later header has beyond ours is left alone. */
  memset(&info, 0, sizeof info);
  info.struct_size = 32;
  OK(infer_model_get_info(model, &info, &error));
  CHECK(info.struct_size == 32 && info.context_length > 0 && info.n_parameters == 0 && info.name == NULL);
  memset(&larger, 0, sizeof larger);
  larger.info.struct_size = sizeof larger;
  larger.beyond = 42;
  OK(infer_model_get_info(model, &larger.info, &error));
  CHECK(larger.info.n_parameters > 0 && larger.beyond == 42);
  info.struct_size = sizeof info;
  OK(infer_model_get_info(model, &info, &error));

  tokens(model, &info);
  metadata(model);
  OK(infer_model_estimate(argv[1], INFER_NTS, NULL, NULL, &estimate, &error));
  CHECK(estimate.weights > 1000000 && estimate.total >= estimate.weights + estimate.kv_cache);
  from_memory(argv[1]);
  infer_model_free(model);

  for (i = 0; i < 20; i++) {
    OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
    infer_model_free(model);
  }
  return 0;
}
