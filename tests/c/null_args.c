/* Calls every function with NULL and garbage: each answers an error, none crashes. */
#include "check.h"

#define ARGUMENT(call) ANSWERS(INFER_ERR_INVALID_ARGUMENT, call)
#define HANDLE(call) ANSWERS(INFER_ERR_INVALID_HANDLE, call)

int main(void) {
  infer_error *error = NULL;
  uint64_t garbage[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  char buffer[8];
  size_t n = 77, length = 0;
  uint32_t id = 0;
  uint64_t freed = 0;
  const char *key = NULL;
  int fd = 0;
  infer_event event = INFER_EVENT_INIT;
  infer_stats stats = INFER_STATS_INIT;
  infer_model_info info = INFER_MODEL_INFO_INIT;
  infer_memory_estimate estimate = INFER_MEMORY_ESTIMATE_INIT;
  infer_option_info option = INFER_OPTION_INFO_INIT;
  infer_model *model = NULL, *bad_model = (infer_model *)(void *)garbage;
  infer_engine *engine = NULL, *bad_engine = (infer_engine *)(void *)garbage;
  infer_request *request = NULL, *bad_request = (infer_request *)(void *)garbage;
  infer_queue *queue = NULL, *bad_queue = (infer_queue *)(void *)garbage;
  infer_threads *threads = NULL, *bad_threads = (infer_threads *)(void *)garbage;
  infer_kernels *kernels = NULL, *bad_kernels = (infer_kernels *)(void *)garbage;
  float floats[64] = {0}, out[64] = {0}, number = 77;
  int8_t bytes[64] = {0};
  int32_t sums[64] = {0};
  uint8_t *raw = (uint8_t *)bytes;
  float *odd = (float *)(void *)((char *)floats + 1);
  infer_model_options *mo = infer_model_options_new();
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro = infer_request_options_new();
  infer_threads_options *to = infer_threads_options_new();
  infer_request_options *copy = NULL;

  CHECK(mo != NULL && eo != NULL && ro != NULL && to != NULL);

  /* Version and errors. */
  CHECK(strcmp(infer_version(), INFER_VERSION) == 0);
  CHECK(strlen(infer_cpu_level_name()) > 0);
  OK(infer_abi_check(INFER_ABI_VERSION, &error));
  ANSWERS(INFER_ERR_ABI, infer_abi_check(INFER_ABI_VERSION + 1, &error));
  CHECK(infer_abi_check(INFER_ABI_VERSION + 1, NULL) == INFER_ERR_ABI);
  CHECK(strcmp(infer_status_name(INFER_ERR_BUSY), "INFER_ERR_BUSY") == 0);
  CHECK(strcmp(infer_status_name(-12345), "unknown status") == 0);
  CHECK(strcmp(infer_error_message(NULL), "no error") == 0);
  CHECK(infer_error_status(NULL) == INFER_OK);
  CHECK(infer_error_message((infer_error *)(void *)garbage) != NULL);
  CHECK(infer_error_status((infer_error *)(void *)garbage) == INFER_ERR_INVALID_HANDLE);
  infer_error_free(NULL);
  infer_error_free((infer_error *)(void *)garbage);

  /* Options. */
  ARGUMENT(infer_options_describe(0, NULL, &error));
  option.struct_size = 0;
  ARGUMENT(infer_options_describe(0, &option, &error));
  option.struct_size = sizeof option;
  ANSWERS(INFER_END, infer_options_describe(SIZE_MAX, &option, &error));
  infer_model_options_free(NULL);
  infer_engine_options_free(NULL);
  infer_request_options_free(NULL);
  infer_threads_options_free(NULL);
  ARGUMENT(infer_model_options_set(NULL, "load_mode", "read", &error));
  ARGUMENT(infer_model_options_set(mo, NULL, "read", &error));
  ARGUMENT(infer_model_options_set(mo, "load_mode", NULL, &error));
  ARGUMENT(infer_model_options_set(mo, "load_mode", "steal", &error));
  ARGUMENT(infer_model_options_set(mo, "nothing", "1", &error));
  HANDLE(infer_model_options_set((infer_model_options *)(void *)eo, "load_mode", "read", &error));
  ARGUMENT(infer_model_options_set_progress(NULL, NULL, NULL, NULL, &error));
  ARGUMENT(infer_engine_options_set(NULL, "threads", "1", &error));
  ARGUMENT(infer_engine_options_set(eo, "threads", "-1", &error));
  ARGUMENT(infer_engine_options_set_log(NULL, NULL, NULL, NULL, &error));
  ARGUMENT(infer_engine_options_set_threads(NULL, NULL, &error));
  HANDLE(infer_engine_options_set_threads(eo, bad_threads, &error));
  ARGUMENT(infer_engine_options_set_draft_model(NULL, NULL, &error));
  HANDLE(infer_engine_options_set_draft_model(eo, (infer_model *)(void *)eo, &error));
  ARGUMENT(infer_request_options_set(NULL, "seed", "1", &error));
  ANSWERS(INFER_ERR_INVALID_UTF8, infer_request_options_set(ro, "seed", "\xff", &error));
  ARGUMENT(infer_request_options_reset(NULL, &error));
  ARGUMENT(infer_request_options_copy(NULL, &copy, &error));
  ARGUMENT(infer_request_options_copy(ro, NULL, &error));
  ARGUMENT(infer_request_options_set_prompt(NULL, "x", 1, &error));
  ARGUMENT(infer_request_options_set_prompt(ro, NULL, 1, &error));
  ARGUMENT(infer_request_options_set_prompt(ro, NULL, INFER_NTS, &error));
  ANSWERS(INFER_ERR_INVALID_UTF8, infer_request_options_set_prompt(ro, "a\xc3", 2, &error));
  ARGUMENT(infer_request_options_set_prompt_ids(NULL, &id, 1, &error));
  ARGUMENT(infer_request_options_set_prompt_ids(ro, NULL, 1, &error));
  ARGUMENT(infer_request_options_set_prompt_ids(ro, &id, SIZE_MAX, &error));
  ARGUMENT(infer_request_options_set_prompt_ids(ro, (uint32_t *)(void *)(buffer + 1 - (size_t)buffer % 2), 1, &error));
  ARGUMENT(infer_request_options_set_messages(NULL, &key, &key, NULL, 1, &error));
  ARGUMENT(infer_request_options_set_messages(ro, &key, &key, NULL, 1, &error));
  ARGUMENT(infer_request_options_set_messages(ro, NULL, NULL, NULL, 1, &error));
  ARGUMENT(infer_request_options_set_messages_json(NULL, "[]", 2, &error));
  ARGUMENT(infer_request_options_set_messages_json(ro, "{", 1, &error));
  ARGUMENT(infer_request_options_set_max_tokens(NULL, 1, &error));
  ARGUMENT(infer_request_options_set_max_tokens(ro, 0, &error));
  ARGUMENT(infer_request_options_set_max_tokens(ro, UINT64_MAX, &error));
  ARGUMENT(infer_request_options_set_temperature(NULL, 1, &error));
  ARGUMENT(infer_request_options_set_temperature(ro, -1, &error));
  ARGUMENT(infer_request_options_set_seed(NULL, 1, &error));
  ARGUMENT(infer_request_options_set_tag(NULL, 1, &error));
  ARGUMENT(infer_request_options_add_stop(NULL, "x", 1, &error));
  ARGUMENT(infer_request_options_add_stop(ro, "", 0, &error));
  ARGUMENT(infer_request_options_add_stop_id(NULL, 1, &error));
  ARGUMENT(infer_request_options_set_queue(NULL, NULL, 1, &error));
  HANDLE(infer_request_options_set_queue(ro, bad_queue, 1, &error));
  ARGUMENT(infer_threads_options_set(NULL, "threads", "1", &error));
  ARGUMENT(infer_threads_options_set(to, "threads", "many", &error));
  ARGUMENT(infer_threads_options_set_hooks(NULL, NULL, NULL, NULL, NULL, &error));

  /* Thread pools. */
  ARGUMENT(infer_threads_create(NULL, NULL, &error));
  HANDLE(infer_threads_create((infer_threads_options *)(void *)garbage, &threads, &error));
  OK(infer_threads_options_set(to, "cpus", "100000", &error));
  ARGUMENT(infer_threads_create(to, &threads, &error));
  CHECK(threads == NULL);
  CHECK(infer_threads_count(NULL) == 0 && infer_threads_count(bad_threads) == 0);
  infer_threads_free(NULL);
  infer_threads_free(bad_threads);

  /* Models. */
  ARGUMENT(infer_model_load(NULL, INFER_NTS, NULL, &model, &error));
  ARGUMENT(infer_model_load("x", INFER_NTS, NULL, NULL, &error));
  HANDLE(infer_model_load("x", 1, (infer_model_options *)(void *)eo, &model, &error));
  ANSWERS(INFER_ERR_IO, infer_model_load("no/such/file", INFER_NTS, NULL, &model, &error));
  ANSWERS(INFER_ERR_IO, infer_model_load("", 0, NULL, &model, &error));
  ANSWERS(INFER_ERR_INVALID_UTF8, infer_model_load("\xfe", INFER_NTS, NULL, &model, &error));
  ARGUMENT(infer_model_load_from_memory(NULL, 5, NULL, &model, &error));
  ARGUMENT(infer_model_load_from_memory(garbage, sizeof garbage, NULL, NULL, &error));
  ANSWERS(INFER_ERR_INVALID_MODEL, infer_model_load_from_memory(garbage, sizeof garbage, NULL, &model, &error));
  ANSWERS(INFER_ERR_INVALID_MODEL, infer_model_load_from_memory(NULL, 0, NULL, &model, &error));
  CHECK(model == NULL);
  ARGUMENT(infer_model_get_info(NULL, &info, &error));
  HANDLE(infer_model_get_info(bad_model, &info, &error));
  HANDLE(infer_model_get_info((infer_model *)(void *)mo, &info, &error));
  HANDLE(infer_model_get_info((infer_model *)(void *)((char *)mo + 1), &info, &error));
  ARGUMENT(infer_model_estimate(NULL, 1, NULL, NULL, &estimate, &error));
  ARGUMENT(infer_model_estimate("x", 1, NULL, NULL, NULL, &error));
  ANSWERS(INFER_ERR_IO, infer_model_estimate("x", 1, NULL, NULL, &estimate, &error));
  CHECK(infer_model_metadata_count(NULL) == 0 && infer_model_metadata_count(bad_model) == 0);
  ARGUMENT(infer_model_metadata_at(NULL, 0, &key, &n, &error));
  HANDLE(infer_model_metadata_at(bad_model, 0, &key, &n, &error));
  ARGUMENT(infer_model_metadata_at(bad_model, 0, NULL, &n, &error));
  ARGUMENT(infer_model_metadata_get(NULL, "x", 1, buffer, sizeof buffer, &n, &error));
  ARGUMENT(infer_model_tokenize(NULL, "x", 1, 0, &id, 1, &n, &error));
  ARGUMENT(infer_model_tokenize(NULL, "x", 1, 0xff, &id, 1, &n, &error));
  HANDLE(infer_model_tokenize(bad_model, "x", 1, 0, &id, 1, &n, &error));
  ARGUMENT(infer_model_detokenize(NULL, &id, 1, 0, buffer, sizeof buffer, &n, &error));
  ARGUMENT(infer_model_token_text(NULL, 0, buffer, sizeof buffer, &n, &error));
  ARGUMENT(infer_model_special_token(NULL, INFER_TOKEN_BOS, &id, &error));
  ARGUMENT(infer_model_is_end_of_generation(NULL, 0, &id, &error));
  ARGUMENT(infer_model_apply_chat_template(NULL, &key, &key, NULL, 1, 0, buffer, sizeof buffer, &n, &error));
  ARGUMENT(infer_model_apply_chat_template_json(NULL, "[]", 2, 0, buffer, sizeof buffer, &n, &error));
  infer_model_free(NULL);
  infer_model_free(bad_model);
  infer_model_free((infer_model *)(void *)mo);

  /* Engines. */
  ARGUMENT(infer_engine_create(NULL, NULL, &engine, &error));
  ARGUMENT(infer_engine_create(bad_model, NULL, NULL, &error));
  HANDLE(infer_engine_create(bad_model, NULL, &engine, &error));
  ARGUMENT(infer_engine_submit(NULL, ro, &request, &error));
  HANDLE(infer_engine_submit(bad_engine, ro, &request, &error));
  ARGUMENT(infer_engine_submit(bad_engine, ro, NULL, &error));
  ARGUMENT(infer_engine_submit_batch(NULL, (const infer_request_options *const *)&ro, 1, &request, &error));
  ARGUMENT(infer_engine_submit_batch(bad_engine, NULL, 0, &request, &error));
  ARGUMENT(infer_engine_wait(NULL, 0, &request, 1, &n, &error));
  ARGUMENT(infer_engine_wait(bad_engine, 0, &request, 0, &n, &error));
  HANDLE(infer_engine_wait(bad_engine, 0, &request, 1, &n, &error));
  ARGUMENT(infer_engine_drain(NULL, 0, &error));
  ARGUMENT(infer_engine_pause(NULL, &error));
  ARGUMENT(infer_engine_resume(NULL, &error));
  ARGUMENT(infer_engine_trim(NULL, 1, &freed, &error));
  ARGUMENT(infer_engine_cache_clear(NULL, "x", 1, &error));
  ARGUMENT(infer_engine_step(NULL, &id, &error));
  ARGUMENT(infer_engine_stats(NULL, &stats, &error));
  HANDLE(infer_engine_stats(bad_engine, &stats, &error));
  ARGUMENT(infer_engine_summary(NULL, buffer, sizeof buffer, &length, &error));
  ARGUMENT(infer_engine_metrics_text(NULL, buffer, sizeof buffer, &length, &error));
  infer_engine_free(NULL);
  infer_engine_free(bad_engine);

  /* Requests. */
  ARGUMENT(infer_request_next(NULL, 0, &event, &error));
  HANDLE(infer_request_next(bad_request, 0, &event, &error));
  ARGUMENT(infer_request_next_many(NULL, 0, &event, 1, sizeof event, &n, &error));
  ARGUMENT(infer_request_next_many(bad_request, 0, NULL, 1, sizeof event, &n, &error));
  ARGUMENT(infer_request_next_many(bad_request, 0, &event, 0, sizeof event, &n, &error));
  ARGUMENT(infer_request_next_many(bad_request, 0, &event, 1, 3, &n, &error));
  ARGUMENT(infer_request_next_many(bad_request, 0, &event, SIZE_MAX, sizeof event, &n, &error));
  ARGUMENT(infer_request_cancel(NULL, &error));
  HANDLE(infer_request_cancel(bad_request, &error));
  CHECK(infer_request_tag(NULL) == 0 && infer_request_tag(bad_request) == 0);
  CHECK(infer_request_id(NULL) == 0 && infer_request_id(bad_request) == 0);
  infer_request_free(NULL);
  infer_request_free(bad_request);

  /* Queues. */
  ARGUMENT(infer_queue_create(NULL, &error));
  ARGUMENT(infer_queue_next(NULL, 0, &event, 1, sizeof event, &n, &error));
  HANDLE(infer_queue_next(bad_queue, 0, &event, 1, sizeof event, &n, &error));
  ARGUMENT(infer_queue_fd(NULL, &fd, &error));
  ARGUMENT(infer_queue_fd(bad_queue, NULL, &error));
  HANDLE(infer_queue_fd(bad_queue, &fd, &error));
  infer_queue_free(NULL);
  infer_queue_free(bad_queue);

  /* Statistics. */
  ARGUMENT(infer_stats_delta(NULL, &stats, &stats, &error));
  ARGUMENT(infer_stats_delta(&stats, NULL, &stats, &error));
  ARGUMENT(infer_stats_delta(&stats, &stats, NULL, &error));
  ARGUMENT(infer_stats_merge(NULL, &stats, &error));
  stats.struct_size = 4;
  ARGUMENT(infer_stats_merge(&stats, &stats, &error));

  /* Kernels. */
  ARGUMENT(infer_kernels_create("auto", NULL, &error));
  ARGUMENT(infer_kernels_create("AVX9", &kernels, &error));
  ARGUMENT(infer_kernels_create("", &kernels, &error));
  ANSWERS(INFER_ERR_INVALID_UTF8, infer_kernels_create("\xff", &kernels, &error));
  CHECK(kernels == NULL);
  CHECK(strcmp(infer_kernels_level(NULL), "") == 0 && strcmp(infer_kernels_level(bad_kernels), "") == 0);
  CHECK(strcmp(infer_kernels_level_at(0), "scalar") == 0 && infer_kernels_level_at(SIZE_MAX) == NULL);
  infer_kernels_free(NULL);
  infer_kernels_free(bad_kernels);
  HANDLE(infer_kernels_dot(bad_kernels, floats, floats, 8, &number, &error));
  HANDLE(infer_kernels_add((infer_kernels *)(void *)mo, floats, floats, 8, out, &error));
  OK(infer_kernels_create(NULL, &kernels, &error));
  HANDLE(infer_threads_create((infer_threads_options *)(void *)kernels, &threads, &error));
  /* Each with NULL for the handle, for every array, with an odd address and with a length that overflows. */
  ARGUMENT(infer_kernels_dot(NULL, floats, floats, 8, &number, &error));
  ARGUMENT(infer_kernels_dot(kernels, NULL, floats, 8, &number, &error));
  ARGUMENT(infer_kernels_dot(kernels, floats, NULL, 8, &number, &error));
  ARGUMENT(infer_kernels_dot(kernels, floats, floats, 8, NULL, &error));
  ARGUMENT(infer_kernels_dot(kernels, odd, floats, 8, &number, &error));
  ARGUMENT(infer_kernels_dot(kernels, floats, floats, SIZE_MAX, &number, &error));
  ARGUMENT(infer_kernels_dot(kernels, floats, floats, SIZE_MAX / 4, &number, &error));
  ARGUMENT(infer_kernels_dot_kahan(NULL, floats, floats, 8, &number, &error));
  ARGUMENT(infer_kernels_dot_kahan(kernels, NULL, floats, 8, &number, &error));
  ARGUMENT(infer_kernels_dot_kahan(kernels, floats, floats, SIZE_MAX, &number, &error));
  ARGUMENT(infer_kernels_sum(NULL, floats, 8, &number, &error));
  ARGUMENT(infer_kernels_sum(kernels, NULL, 8, &number, &error));
  ARGUMENT(infer_kernels_sum(kernels, floats, 8, NULL, &error));
  ARGUMENT(infer_kernels_sum(kernels, floats, SIZE_MAX, &number, &error));
  CHECK(number == 77);
  ARGUMENT(infer_kernels_matmul(NULL, floats, floats, 2, 2, 2, out, &error));
  ARGUMENT(infer_kernels_matmul(kernels, NULL, floats, 2, 2, 2, out, &error));
  ARGUMENT(infer_kernels_matmul(kernels, floats, NULL, 2, 2, 2, out, &error));
  ARGUMENT(infer_kernels_matmul(kernels, floats, floats, 2, 2, 2, NULL, &error));
  ARGUMENT(infer_kernels_matmul(kernels, floats, odd, 2, 2, 2, out, &error));
  ARGUMENT(infer_kernels_matmul(kernels, floats, out, 2, 2, 2, out, &error));
  ARGUMENT(infer_kernels_matmul(kernels, out + 3, floats, 2, 2, 2, out, &error));
  ARGUMENT(infer_kernels_matmul(kernels, floats, floats, SIZE_MAX / 2, 3, 1, out, &error));
  ARGUMENT(infer_kernels_matmul(kernels, floats, floats, SIZE_MAX, 0, SIZE_MAX, out, &error));
  ARGUMENT(infer_kernels_matmul_i8(NULL, bytes, bytes, 2, 2, 2, sums, &error));
  ARGUMENT(infer_kernels_matmul_i8(kernels, NULL, bytes, 2, 2, 2, sums, &error));
  ARGUMENT(infer_kernels_matmul_i8(kernels, bytes, bytes, 2, 2, 2, NULL, &error));
  ARGUMENT(infer_kernels_matmul_i8(kernels, bytes, (int8_t *)sums, 2, 2, 2, sums, &error));
  ARGUMENT(infer_kernels_matmul_i8(kernels, bytes, bytes, 1, 131072, 0, sums, &error));
  ARGUMENT(infer_kernels_matmul_i8(kernels, bytes, bytes, SIZE_MAX, 2, 2, sums, &error));
  ARGUMENT(infer_kernels_add(NULL, floats, floats, 8, out, &error));
  ARGUMENT(infer_kernels_add(kernels, NULL, floats, 8, out, &error));
  ARGUMENT(infer_kernels_add(kernels, floats, NULL, 8, out, &error));
  ARGUMENT(infer_kernels_add(kernels, floats, floats, 8, NULL, &error));
  ARGUMENT(infer_kernels_add(kernels, floats, floats, 8, floats + 1, &error));
  ARGUMENT(infer_kernels_add(kernels, floats + 7, out, 8, floats, &error));
  ARGUMENT(infer_kernels_mul(NULL, floats, floats, 8, out, &error));
  ARGUMENT(infer_kernels_mul(kernels, floats, out, 8, out + 1, &error));
  ARGUMENT(infer_kernels_mul(kernels, floats, floats, SIZE_MAX, out, &error));
  ARGUMENT(infer_kernels_relu(NULL, floats, 8, out, &error));
  ARGUMENT(infer_kernels_relu(kernels, NULL, 8, out, &error));
  ARGUMENT(infer_kernels_relu(kernels, floats, 8, floats + 1, &error));
  ARGUMENT(infer_kernels_silu(NULL, floats, 8, out, &error));
  ARGUMENT(infer_kernels_silu(kernels, floats, 8, NULL, &error));
  ARGUMENT(infer_kernels_gelu(NULL, floats, 8, out, &error));
  ARGUMENT(infer_kernels_gelu(kernels, floats, 8, odd, &error));
  ARGUMENT(infer_kernels_sigmoid(NULL, floats, 8, out, &error));
  ARGUMENT(infer_kernels_sigmoid(kernels, floats, SIZE_MAX, out, &error));
  ARGUMENT(infer_kernels_softmax(NULL, floats, 8, out, &error));
  ARGUMENT(infer_kernels_softmax(kernels, NULL, 8, out, &error));
  ARGUMENT(infer_kernels_softmax(kernels, floats, 8, floats + 3, &error));
  ARGUMENT(infer_kernels_rms_norm(NULL, floats, floats, 8, 0, out, &error));
  ARGUMENT(infer_kernels_rms_norm(kernels, NULL, floats, 8, 0, out, &error));
  ARGUMENT(infer_kernels_rms_norm(kernels, floats, NULL, 8, 0, out, &error));
  ARGUMENT(infer_kernels_rms_norm(kernels, floats, out, 8, 0, out, &error));
  ARGUMENT(infer_kernels_layer_norm(NULL, floats, floats, NULL, 8, 0, out, &error));
  ARGUMENT(infer_kernels_layer_norm(kernels, NULL, floats, NULL, 8, 0, out, &error));
  ARGUMENT(infer_kernels_layer_norm(kernels, floats, floats, out + 7, 8, 0, out, &error));
  ARGUMENT(infer_kernels_layer_norm(kernels, floats, NULL, floats, 8, 0, out, &error));
  ARGUMENT(infer_kernels_rope(NULL, out, 2, 8, floats, floats, 4, INFER_ROPE_NEOX, &error));
  ARGUMENT(infer_kernels_rope(kernels, NULL, 2, 8, floats, floats, 4, INFER_ROPE_NEOX, &error));
  ARGUMENT(infer_kernels_rope(kernels, out, 2, 8, NULL, floats, 4, INFER_ROPE_NEOX, &error));
  ARGUMENT(infer_kernels_rope(kernels, out, 2, 8, floats, floats, 4, 0, &error));
  ARGUMENT(infer_kernels_rope(kernels, out, 2, 8, floats, floats, 5, INFER_ROPE_NEOX, &error));
  ARGUMENT(infer_kernels_rope(kernels, out, 2, 8, floats, out, 4, INFER_ROPE_ADJACENT, &error));
  ARGUMENT(infer_kernels_rope(kernels, out, SIZE_MAX, 8, floats, floats, 4, INFER_ROPE_NEOX, &error));
  ARGUMENT(infer_kernels_dequantize(NULL, "Q8_0", raw, 34, 32, out, &error));
  ARGUMENT(infer_kernels_dequantize(kernels, NULL, raw, 34, 32, out, &error));
  ARGUMENT(infer_kernels_dequantize(kernels, "q8_0", raw, 34, 32, out, &error));
  ARGUMENT(infer_kernels_dequantize(kernels, "Q8_0", NULL, 34, 32, out, &error));
  ARGUMENT(infer_kernels_dequantize(kernels, "Q8_0", raw, 33, 32, out, &error));
  ARGUMENT(infer_kernels_dequantize(kernels, "Q8_0", raw, 34, 31, out, &error));
  ARGUMENT(infer_kernels_dequantize(kernels, "F32", raw, 4, SIZE_MAX, out, &error));
  ARGUMENT(infer_kernels_dequantize(kernels, "Q8_0", (uint8_t *)out + 9, 34, 32, out, &error));
  ANSWERS(INFER_ERR_UNSUPPORTED, infer_kernels_dequantize(kernels, "IQ1_S", raw, 50, 256, out, &error));
  ANSWERS(INFER_ERR_INVALID_UTF8, infer_kernels_dequantize(kernels, "\xff", raw, 34, 32, out, &error));
  ARGUMENT(infer_kernels_quantize(NULL, "F16", floats, 8, raw, 16, &error));
  ARGUMENT(infer_kernels_quantize(kernels, "F16", NULL, 8, raw, 16, &error));
  ARGUMENT(infer_kernels_quantize(kernels, "F16", floats, 8, NULL, 16, &error));
  ARGUMENT(infer_kernels_quantize(kernels, "F16", floats, 8, raw, 17, &error));
  ARGUMENT(infer_kernels_quantize(kernels, "F16", floats, 8, (uint8_t *)floats, 16, &error));
  ARGUMENT(infer_kernels_quantize(kernels, "F99", floats, 8, raw, 16, &error));
  ANSWERS(INFER_ERR_UNSUPPORTED, infer_kernels_quantize(kernels, "Q8_0", floats, 32, raw, 34, &error));
  for (id = 0; id < 64; id++)
    CHECK(out[id] == 0 && floats[id] == 0 && bytes[id] == 0 && sums[id] == 0);
  infer_kernels_free(kernels);

  /* Outputs are untouched by failures. */
  CHECK(n == 77 && key == NULL && engine == NULL && request == NULL && queue == NULL && copy == NULL);

  infer_model_options_free(mo);
  infer_engine_options_free(eo);
  infer_request_options_free(ro);
  infer_threads_options_free(to);
  return 0;
}
