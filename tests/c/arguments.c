/* Objects that are whole, arguments that are not: struct sizes, garbage in place of enums and flags, numbers that are
 * none, lengths against NUL-terminated texts, bytes that are not UTF-8. */
#include <math.h>

#include "check.h"

#define ARGUMENT(call) ANSWERS(INFER_ERR_INVALID_ARGUMENT, call)
#define UTF8(call) ANSWERS(INFER_ERR_INVALID_UTF8, call)

static const char BAD[] = "ab\xff";

static void sizes(const infer_model *model, const infer_engine *engine, const infer_request *ended, const char *path) {
  static const uint32_t refused[] = {0, 1, 3};
  static const uint32_t larger[] = {4096, 0x7fffffff, 0xffffffff};
  infer_error *error = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_stats stats = INFER_STATS_INIT, delta = INFER_STATS_INIT;
  infer_model_info info = INFER_MODEL_INFO_INIT;
  infer_memory_estimate estimate = INFER_MEMORY_ESTIMATE_INIT;
  infer_option_info option = INFER_OPTION_INFO_INIT;
  size_t i;
  for (i = 0; i < sizeof refused / sizeof *refused; i++) {
    event.struct_size = stats.struct_size = info.struct_size = refused[i];
    estimate.struct_size = option.struct_size = refused[i];
    ARGUMENT(infer_request_next(ended, 0, &event, &error));
    ARGUMENT(infer_engine_stats(engine, &stats, &error));
    ARGUMENT(infer_model_get_info(model, &info, &error));
    ARGUMENT(infer_model_estimate(path, INFER_NTS, NULL, NULL, &estimate, &error));
    ARGUMENT(infer_options_describe(0, &option, &error));
    ARGUMENT(infer_stats_delta(&stats, &delta, &delta, &error));
    ARGUMENT(infer_stats_delta(&delta, &stats, &delta, &error));
    ARGUMENT(infer_stats_delta(&delta, &delta, &stats, &error));
    ARGUMENT(infer_stats_merge(&stats, &delta, &error));
    ARGUMENT(infer_stats_merge(&delta, &stats, &error));
  }
  /* A later header's struct is larger; the library fills what it knows and leaves the size alone. */
  for (i = 0; i < sizeof larger / sizeof *larger; i++) {
    event.struct_size = stats.struct_size = info.struct_size = larger[i];
    estimate.struct_size = option.struct_size = larger[i];
    ANSWERS(INFER_END, infer_request_next(ended, 0, &event, &error));
    OK(infer_engine_stats(engine, &stats, &error));
    OK(infer_model_get_info(model, &info, &error));
    OK(infer_model_estimate(path, INFER_NTS, NULL, NULL, &estimate, &error));
    OK(infer_options_describe(0, &option, &error));
    CHECK(stats.struct_size == larger[i] && info.struct_size == larger[i] && option.struct_size == larger[i]);
    CHECK(info.n_vocab > 0 && estimate.total > 0 && option.name != NULL && stats.requests_submitted > 0);
  }
}

/* Kinds, sizes and quantiles that are none, and histograms that do not belong together. */
static void histograms(const infer_engine *engine) {
  static const uint32_t sizes[] = {0, 3, 16, sizeof(infer_histogram) - 1};
  static const uint32_t kinds[] = {0, 8, 0xffffffff};
  static const double quantiles[] = {-0.1, 1.1, NAN, INFINITY};
  infer_error *error = NULL;
  infer_histogram steps = INFER_HISTOGRAM_INIT, batches = INFER_HISTOGRAM_INIT, h;
  double value = 7;
  size_t i;
  OK(infer_engine_histogram(engine, INFER_HISTOGRAM_STEP_TIME, &steps, &error));
  OK(infer_engine_histogram(engine, INFER_HISTOGRAM_BATCH_SIZE, &batches, &error));
  for (i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    h = steps;
    ARGUMENT(infer_engine_histogram(engine, kinds[i], &h, &error));
    CHECK(memcmp(&h, &steps, sizeof h) == 0);
    h.kind = kinds[i];
    ARGUMENT(infer_histogram_quantile(&h, 0.5, &value, &error));
  }
  for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    h = steps;
    h.struct_size = sizes[i];
    ARGUMENT(infer_engine_histogram(engine, INFER_HISTOGRAM_STEP_TIME, &h, &error));
    ARGUMENT(infer_histogram_quantile(&h, 0.5, &value, &error));
    ARGUMENT(infer_histogram_delta(&steps, &steps, &h, &error));
    ARGUMENT(infer_histogram_merge(&h, &steps, &error));
  }
  for (i = 0; i < sizeof quantiles / sizeof *quantiles; i++)
    ARGUMENT(infer_histogram_quantile(&steps, quantiles[i], &value, &error));
  h = steps;
  h.n_buckets = SIZE_MAX;
  ARGUMENT(infer_histogram_quantile(&h, 0.5, &value, &error));
  ARGUMENT(infer_histogram_delta(&steps, &batches, &h, &error));
  ARGUMENT(infer_histogram_merge(&steps, &batches, &error));
  CHECK(value == 7);
  h.struct_size = 4096;
  OK(infer_histogram_delta(&steps, &steps, &h, &error));
  CHECK(h.count == 0 && h.struct_size == 4096);
}

/* Every option refuses values of no type. */
static void numbers(void) {
  static const char *const refused[] = {"nan", "inf", "-inf", "1e999", "", " ", "0x10", "1 2", "--1", "99999999999999999999999"};
  infer_error *error = NULL;
  infer_model_options *mo = infer_model_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_threads_options *to = infer_threads_options_new();
  infer_kv_cache_options *ko = infer_kv_cache_options_new();
  infer_option_info o = INFER_OPTION_INFO_INIT;
  size_t i, k;
  for (i = 0; infer_options_describe(i, &o, NULL) == INFER_OK; i++) {
    if (strcmp(o.type_name, "text") == 0)
      continue;
    for (k = 0; k < sizeof refused / sizeof *refused; k++) {
      infer_status status;
      if (strcmp(o.object, "model") == 0)
        status = infer_model_options_set(mo, o.name, refused[k], &error);
      else if (strcmp(o.object, "engine") == 0)
        status = infer_engine_options_set(eo, o.name, refused[k], &error);
      else if (strcmp(o.object, "request") == 0)
        status = infer_request_options_set(ro, o.name, refused[k], &error);
      else if (strcmp(o.object, "kv_cache") == 0)
        status = infer_kv_cache_options_set(ko, o.name, refused[k], &error);
      else
        status = infer_threads_options_set(to, o.name, refused[k], &error);
      if (status != INFER_ERR_INVALID_ARGUMENT || strstr(infer_error_message(error), o.name) == NULL) {
        fprintf(stderr, "%s %s = '%s': %s\n", o.object, o.name, refused[k], infer_error_message(error));
        exit(1);
      }
      infer_error_free(error);
    }
  }
  CHECK(i > 20);
  ARGUMENT(infer_request_options_set_temperature(ro, (double)NAN, &error));
  ARGUMENT(infer_request_options_set_temperature(ro, -(double)NAN, &error));
  ARGUMENT(infer_request_options_set_temperature(ro, (double)INFINITY, &error));
  ARGUMENT(infer_request_options_set_temperature(ro, -(double)INFINITY, &error));
  ARGUMENT(infer_request_options_set_temperature(ro, 1e300, &error));
  ARGUMENT(infer_request_options_set_max_tokens(ro, (uint64_t)1 << 31, &error));
  OK(infer_request_options_set_seed(ro, UINT64_MAX, &error));
  OK(infer_request_options_set_tag(ro, UINT64_MAX, &error));
  infer_model_options_free(mo);
  infer_engine_options_free(eo);
  infer_request_options_free(ro);
  infer_threads_options_free(to);
  infer_kv_cache_options_free(ko);
}

static void enums(const infer_model *model) {
  static const uint32_t kinds[] = {0, 8, 0x7fffffff, 0x80000000, 0xffffffff};
  infer_error *error = NULL;
  uint32_t id = 0;
  char buffer[64];
  size_t n = 0, i;
  const char *role = "user", *content = "hello";
  infer_status s;
  for (i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    ARGUMENT(infer_model_special_token(model, kinds[i], &id, &error));
    if (kinds[i] == 0)
      continue;
    ARGUMENT(infer_model_tokenize(model, "x", 1, kinds[i], &id, 1, &n, &error));
    ARGUMENT(infer_model_detokenize(model, &id, 1, kinds[i], buffer, sizeof buffer, &n, &error));
    ARGUMENT(infer_model_apply_chat_template(model, &role, &content, NULL, 1, kinds[i], buffer, sizeof buffer, &n, &error));
    ARGUMENT(infer_model_apply_chat_template_json(model, "[]", 2, kinds[i], buffer, sizeof buffer, &n, &error));
  }
  for (s = -40; s < 10; s++)
    CHECK(strlen(infer_status_name(s)) > 0);
  CHECK(strcmp(infer_status_name(INT32_MIN), infer_status_name(INT32_MAX)) == 0);
}

static void ids(const infer_model *model, const infer_engine *engine, uint32_t n_vocab) {
  infer_error *error = NULL;
  infer_request_options *ro = infer_request_options_new();
  infer_request *request = NULL;
  uint32_t bad[2], answer;
  char buffer[64];
  size_t n = 0;
  int i;
  bad[0] = n_vocab;
  bad[1] = UINT32_MAX;
  for (i = 0; i < 2; i++) {
    ARGUMENT(infer_model_token_text(model, bad[i], buffer, sizeof buffer, &n, &error));
    answer = 9;
    OK(infer_model_is_end_of_generation(model, bad[i], &answer, &error));
    CHECK(answer == 0);
    ARGUMENT(infer_model_detokenize(model, &bad[i], 1, 0, buffer, sizeof buffer, &n, &error));
    OK(infer_request_options_set_prompt_ids(ro, &bad[i], 1, &error));
    ARGUMENT(infer_engine_submit(engine, ro, &request, &error));
  }
  CHECK(request == NULL);
  OK(infer_request_options_set_prompt_ids(ro, NULL, 0, &error));
  ARGUMENT(infer_engine_submit(engine, ro, &request, &error));
  infer_request_options_free(ro);
}

static void lengths(const infer_model *model) {
  infer_error *error = NULL;
  infer_request_options *ro = infer_request_options_new();
  const char text[] = "The old\0prince";
  uint32_t a[32], b[32];
  size_t na = 0, nb = 0, i;
  /* The length counts; the NUL does only with INFER_NTS. */
  OK(infer_model_tokenize(model, text, INFER_NTS, 0, a, 32, &na, &error));
  OK(infer_model_tokenize(model, text, 7, 0, b, 32, &nb, &error));
  CHECK(na == nb && memcmp(a, b, na * sizeof *a) == 0);
  OK(infer_model_tokenize(model, text, 3, 0, b, 32, &nb, &error));
  CHECK(nb < na);
  OK(infer_model_tokenize(model, text, sizeof text - 1, 0, b, 32, &nb, &error));
  CHECK(nb > na);
  OK(infer_model_tokenize(model, NULL, 0, 0, b, 32, &nb, &error));
  for (i = 1; i < 4; i++) {
    size_t impossible = INFER_NTS - i;
    ARGUMENT(infer_model_tokenize(model, text, impossible, 0, b, 32, &nb, &error));
    ARGUMENT(infer_request_options_set_prompt(ro, text, impossible, &error));
    ARGUMENT(infer_request_options_set_prompt_ids(ro, a, impossible, &error));
    ARGUMENT(infer_request_options_add_stop(ro, text, impossible, &error));
    ARGUMENT(infer_request_options_set_messages_json(ro, text, impossible, &error));
    ARGUMENT(infer_model_detokenize(model, a, impossible, 0, NULL, 0, &nb, &error));
  }
  infer_request_options_free(ro);
}

static void utf8(const infer_model *model, const infer_engine *engine) {
  infer_error *error = NULL;
  infer_model_options *mo = infer_model_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_threads_options *to = infer_threads_options_new();
  infer_memory_estimate estimate = INFER_MEMORY_ESTIMATE_INIT;
  infer_model *none = NULL;
  const char *good = "user", *bad = BAD;
  char buffer[64];
  uint32_t id = 0;
  size_t n = 0, length = sizeof BAD - 1;
  UTF8(infer_model_options_set(mo, BAD, "1", &error));
  UTF8(infer_model_options_set(mo, "load_mode", BAD, &error));
  UTF8(infer_engine_options_set(eo, BAD, "1", &error));
  UTF8(infer_engine_options_set(eo, "threads", BAD, &error));
  UTF8(infer_request_options_set(ro, BAD, "1", &error));
  UTF8(infer_threads_options_set(to, BAD, "1", &error));
  UTF8(infer_threads_options_set(to, "name", BAD, &error));
  UTF8(infer_model_load(BAD, INFER_NTS, NULL, &none, &error));
  UTF8(infer_model_load(BAD, length, NULL, &none, &error));
  UTF8(infer_model_estimate(BAD, INFER_NTS, NULL, NULL, &estimate, &error));
  UTF8(infer_model_metadata_get(model, BAD, length, buffer, sizeof buffer, &n, &error));
  UTF8(infer_model_tokenize(model, BAD, INFER_NTS, 0, &id, 1, &n, &error));
  UTF8(infer_model_apply_chat_template(model, &bad, &good, NULL, 1, 0, buffer, sizeof buffer, &n, &error));
  UTF8(infer_model_apply_chat_template(model, &good, &bad, NULL, 1, 0, buffer, sizeof buffer, &n, &error));
  UTF8(infer_model_apply_chat_template(model, &good, &bad, &length, 1, 0, buffer, sizeof buffer, &n, &error));
  UTF8(infer_model_apply_chat_template_json(model, BAD, length, 0, buffer, sizeof buffer, &n, &error));
  UTF8(infer_request_options_set_prompt(ro, BAD, INFER_NTS, &error));
  UTF8(infer_request_options_set_messages(ro, &bad, &good, NULL, 1, &error));
  UTF8(infer_request_options_set_messages(ro, &good, &bad, NULL, 1, &error));
  UTF8(infer_request_options_set_messages_json(ro, BAD, length, &error));
  UTF8(infer_request_options_add_stop(ro, BAD, INFER_NTS, &error));
  UTF8(infer_engine_cache_clear(engine, BAD, length, &error));
  UTF8(infer_engine_state_save(engine, &id, 1, BAD, length, NULL, 0, &n, &error));
  UTF8(infer_engine_state_restore(engine, (const uint8_t *)good, 1, BAD, length, &n, &error));
  infer_model_options_free(mo);
  infer_engine_options_free(eo);
  infer_request_options_free(ro);
  infer_threads_options_free(to);
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_request_options *ro = infer_request_options_new();
  infer_model_info info = INFER_MODEL_INFO_INIT;
  infer_event event = INFER_EVENT_INIT;
  infer_event events[2];
  size_t n = 0;
  CHECK(argc >= 2);
  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  OK(infer_model_get_info(model, &info, &error));
  OK(infer_engine_create(model, NULL, &engine, &error));
  OK(infer_request_options_set_prompt(ro, "x", 1, &error));
  OK(infer_request_options_set_max_tokens(ro, 1, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  infer_request_options_free(ro);
  /* Any negative timeout waits without limit, and the longest one does not overflow. */
  do
    OK(infer_request_next(request, INT64_MIN, &event, &error));
  while (event.kind != INFER_EVENT_FINISHED);
  ANSWERS(INFER_END, infer_request_next(request, INT64_MAX, &event, &error));
  for (n = 0; n < sizeof(uint64_t); n++)
    ARGUMENT(infer_request_next_many(request, 0, events, 2, n, &n, &error));
  ARGUMENT(infer_request_next_many(request, 0, events, 2, sizeof events[0] + 1, &n, &error));
  ARGUMENT(infer_request_next_many(request, 0, events, SIZE_MAX / 4, sizeof events[0], &n, &error));

  sizes(model, engine, request, argv[1]);
  histograms(engine);
  numbers();
  enums(model);
  ids(model, engine, info.n_vocab);
  lengths(model);
  utf8(model, engine);

  infer_request_free(request);
  infer_engine_free(engine);
  infer_model_free(model);
  return 0;
}
