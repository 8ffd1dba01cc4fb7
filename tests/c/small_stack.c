/* Everything works on a thread with a stack of 64 KiB. A second argument names a model with a chat template. */
#include <limits.h>
#include <pthread.h>

#include "check.h"

static const char *path, *chat_path;

static void log_line(const infer_log_record *record, void *user_data) {
  (void)user_data;
  CHECK(strlen(record->message) > 0);
}

static uint32_t progress(float fraction, void *user_data) {
  (void)user_data;
  return fraction >= 0;
}

/* What is read to its end, and by which of the ways there are. */
static void read_request(const infer_request *request) {
  infer_error *error = NULL;
  infer_event event = INFER_EVENT_INIT;
  while (infer_request_next(request, -1, &event, &error) == INFER_OK)
    ;
  CHECK(event.kind == INFER_EVENT_FINISHED && event.finish_reason != INFER_FINISH_ERROR);
}

static void read_queue(const infer_queue *queue) {
  infer_error *error = NULL;
  infer_event events[2];
  size_t n = 0;
  do
    OK(infer_queue_next(queue, -1, events, 2, sizeof events[0], &n, &error));
  while (events[n - 1].kind != INFER_EVENT_FINISHED);
}

static void steps(const infer_engine *engine, const char *manual) {
  infer_error *error = NULL;
  uint32_t more = strcmp(manual, "true") == 0;
  while (more)
    OK(infer_engine_step(engine, &more, &error));
}

static void *body(void *argument) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *requests[2];
  infer_queue *queue = NULL;
  infer_model_options *mo = infer_model_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  const infer_request_options *both[2];
  infer_memory_estimate estimate = INFER_MEMORY_ESTIMATE_INIT;
  infer_kernels *kernels = NULL;
  float floats[288] = {0};
  int8_t bytes[144] = {0};
  int32_t sums[144];
  infer_stats stats = INFER_STATS_INIT;
  char *text = malloc(1 << 16);
  size_t needed = 0;
  const char *manual = argument;
  CHECK(text != NULL);
  OK(infer_model_estimate(path, INFER_NTS, NULL, NULL, &estimate, &error));
  ANSWERS(INFER_ERR_IO, infer_model_load("no/such/file", INFER_NTS, NULL, &model, &error));
  OK(infer_model_options_set_progress(mo, progress, NULL, NULL, &error));
  OK(infer_model_options_set(mo, "check_tensors", "true", &error));
  OK(infer_model_load(path, INFER_NTS, mo, &model, &error));
  OK(infer_engine_options_set(eo, "manual_step", manual, &error));
  OK(infer_engine_options_set_log(eo, log_line, NULL, NULL, &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  OK(infer_request_options_set_prompt(ro, "The old prince looked at the sky.", INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(ro, 8, &error));
  OK(infer_kernels_create(NULL, &kernels, &error));
  OK(infer_kernels_matmul(kernels, floats, floats, 12, 12, 12, floats + 144, &error));
  OK(infer_kernels_matmul_i8(kernels, bytes, bytes, 12, 12, 12, sums, &error));
  OK(infer_kernels_dequantize(kernels, "Q4_K", (uint8_t *)bytes, 144, 256, floats, &error));
  infer_kernels_free(kernels);
  OK(infer_request_options_add_stop(ro, "not in the text", INFER_NTS, &error));
  both[0] = both[1] = ro;
  OK(infer_engine_submit_batch(engine, both, 2, requests, &error));
  steps(engine, manual);
  read_request(requests[0]);
  read_request(requests[1]);
  infer_request_free(requests[0]);
  infer_request_free(requests[1]);

  OK(infer_queue_create(&queue, &error));
  OK(infer_request_options_set_queue(ro, queue, 1, &error));
  OK(infer_engine_submit(engine, ro, &requests[0], &error));
  steps(engine, manual);
  read_queue(queue);
  infer_request_free(requests[0]);
  infer_queue_free(queue);

  OK(infer_engine_stats(engine, &stats, &error));
  OK(infer_engine_summary(engine, text, 1 << 16, &needed, &error));
  OK(infer_engine_metrics_text(engine, text, 1 << 16, &needed, &error));
  OK(infer_engine_trim(engine, UINT64_MAX, NULL, &error));
  OK(infer_engine_drain(engine, -1, &error));
  free(text);
  infer_request_options_free(ro);
  infer_engine_options_free(eo);
  infer_model_options_free(mo);
  infer_engine_free(engine);
  infer_model_free(model);
  return NULL;
}

/* Texts: in pieces, back, and a whole novel of one letter; metadata. */
static void *texts(void *unused) {
  enum { LONG = 1 << 20 };
  infer_error *error = NULL;
  infer_model *model = NULL;
  char *text = malloc(LONG), *back = malloc(LONG + 64);
  uint32_t *ids = malloc(LONG * sizeof *ids), id = 0;
  size_t n = 0, needed = 0, i, count;
  (void)unused;
  CHECK(text != NULL && back != NULL && ids != NULL);
  OK(infer_model_load(path, INFER_NTS, NULL, &model, &error));
  memset(text, 'a', LONG);
  OK(infer_model_tokenize(model, text, LONG, INFER_TOKENIZE_PARSE_SPECIAL, ids, LONG, &n, &error));
  OK(infer_model_detokenize(model, ids, n, INFER_DETOKENIZE_RENDER_SPECIAL, back, LONG + 64, &needed, &error));
  CHECK(needed > LONG);
  OK(infer_model_special_token(model, INFER_TOKEN_EOS, &id, &error));
  OK(infer_model_token_text(model, id, back, LONG, &needed, &error));
  count = infer_model_metadata_count(model);
  for (i = 0; i < count; i++) {
    const char *key = NULL;
    size_t length = 0;
    OK(infer_model_metadata_at(model, i, &key, &length, &error));
    ANSWERS(INFER_ERR_BUFFER_TOO_SMALL, infer_model_metadata_get(model, key, length, back, 0, &needed, &error));
  }
  infer_model_free(model);
  free(text);
  free(back);
  free(ids);
  return NULL;
}

static void *chat(void *unused) {
  static const char nested[] = "[{\"role\":\"user\",\"content\":\"Who?\",\"more\":[[[[[[[[{\"a\":[1,2,{\"b\":null}]}]]]]]]]]}]";
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_request_options *ro = infer_request_options_new();
  const char *roles[] = {"user", "assistant", "user"}, *contents[] = {"Who?", "The prince.", "Why?"};
  char text[512];
  size_t needed = 0;
  (void)unused;
  OK(infer_model_load(chat_path, INFER_NTS, NULL, &model, &error));
  OK(infer_model_apply_chat_template(model, roles, contents, NULL, 3, INFER_CHAT_ADD_GENERATION_PROMPT, text, sizeof text,
                                     &needed, &error));
  CHECK(strstr(text, "The prince.") != NULL);
  OK(infer_model_apply_chat_template_json(model, nested, INFER_NTS, 0, text, sizeof text, &needed, &error));
  OK(infer_engine_create(model, NULL, &engine, &error));
  OK(infer_request_options_set_messages(ro, roles, contents, NULL, 3, &error));
  OK(infer_request_options_set_max_tokens(ro, 4, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  read_request(request);
  infer_request_free(request);
  OK(infer_request_options_set_messages_json(ro, nested, INFER_NTS, &error));
  OK(infer_engine_submit(engine, ro, &request, &error));
  read_request(request);
  infer_request_free(request);
  infer_request_options_free(ro);
  infer_engine_free(engine);
  infer_model_free(model);
  return NULL;
}

static void on_small_stack(void *(*function)(void *), const char *argument) {
  pthread_attr_t attributes;
  pthread_t thread;
  CHECK(pthread_attr_init(&attributes) == 0);
  CHECK(pthread_attr_setstacksize(&attributes, 65536) == 0);
  CHECK(pthread_create(&thread, &attributes, function, (void *)argument) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv) {
  CHECK(argc >= 2);
  path = argv[1];
  on_small_stack(body, "false");
  on_small_stack(body, "true");
  on_small_stack(texts, NULL);
  if (argc > 2) {
    chat_path = argv[2];
    on_small_stack(chat, NULL);
  }
  return 0;
}
