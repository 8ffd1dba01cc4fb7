/* Log probabilities, scores of a prompt and embeddings, in events of this size and in one of a program that was compiled
 * before they came. */
#include <math.h>
#include <stddef.h>

#include "check.h"

#define PROMPT "Prince Andrew looked at her and"

static infer_request *submit(const infer_engine *engine, const char *const *set) {
  infer_error *error = NULL;
  infer_request *request = NULL;
  infer_request_options *options = infer_request_options_new();
  OK(infer_request_options_set_prompt(options, PROMPT, INFER_NTS, &error));
  for (; *set != NULL; set += 2) OK(infer_request_options_set(options, set[0], set[1], &error));
  OK(infer_engine_submit(engine, options, &request, &error));
  infer_request_options_free(options);
  return request;
}

static void events_carry_what_was_asked_for(const infer_engine *engine) {
  const char *set[] = {"temperature", "0",    "max_tokens",      "8",    "logprobs", "true", "top_logprobs",
                       "3",           "prompt_logprobs", "true", NULL};
  infer_error *error = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_request *request = submit(engine, set);
  size_t generated = 0, scored = 0, i, k;
  while (infer_request_next(request, -1, &event, &error) == INFER_OK) {
    CHECK((event.n_tokens > 0) == (event.logprobs != NULL) && event.embedding == NULL && event.n_embedding == 0);
    CHECK(event.n_tokens == 0 || event.n_top_logprobs == 3);
    for (i = 0; i < event.n_tokens; i++) {
      CHECK(event.top_tokens[3 * i] == event.tokens[i] && event.top_logprobs[3 * i] == event.logprobs[i]);
      for (k = 1; k < 3; k++) CHECK(event.top_logprobs[3 * i + k] <= event.top_logprobs[3 * i + k - 1]);
    }
    CHECK((event.n_prompt_logprobs > 0) == (event.prompt_logprobs != NULL));
    for (i = 0; i < event.n_prompt_logprobs; i++)
      CHECK(i == 0 ? isnan(event.prompt_logprobs[i]) : event.prompt_logprobs[i] < 0);
    generated += event.n_tokens;
    scored += event.n_prompt_logprobs;
  }
  CHECK(error == NULL && generated == event.generated_tokens && scored == event.prompt_tokens);
  infer_request_free(request);
}

static void an_embedding_is_the_last_event(const infer_engine *engine, size_t n_embd) {
  const char *set[] = {"embedding", "mean", NULL};
  infer_error *error = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_request *request = submit(engine, set);
  double norm = 0;
  size_t i;
  OK(infer_request_next(request, -1, &event, &error));
  CHECK(event.kind == INFER_EVENT_FINISHED && event.finish_reason == INFER_FINISH_LENGTH && event.n_tokens == 0);
  CHECK(event.n_embedding == n_embd && event.logprobs == NULL && event.prompt_logprobs == NULL);
  for (i = 0; i < n_embd; i++) norm += (double)event.embedding[i] * (double)event.embedding[i];
  CHECK(norm > 0.9999 && norm < 1.0001);
  ANSWERS(INFER_END, infer_request_next(request, -1, &event, &error));
  infer_request_free(request);
}

static void a_smaller_event_is_left_alone_beyond_its_size(const infer_engine *engine) {
  const char *set[] = {"embedding", "last", NULL};
  infer_error *error = NULL;
  infer_event event;
  infer_request *request = submit(engine, set);
  const unsigned char *bytes = (const unsigned char *)&event;
  const size_t size = offsetof(infer_event, logprobs);
  size_t i;
  memset(&event, 0xab, sizeof event);
  event.struct_size = (uint32_t)size;
  OK(infer_request_next(request, -1, &event, &error));
  CHECK(event.kind == INFER_EVENT_FINISHED && event.struct_size == size && event.prompt_tokens > 0);
  for (i = size; i < sizeof event; i++) CHECK(bytes[i] == 0xab);
  infer_request_free(request);
}

static void options_that_exclude_each_other_are_refused(const infer_engine *engine) {
  infer_error *error = NULL;
  infer_request *request = NULL;
  infer_request_options *options = infer_request_options_new();
  OK(infer_request_options_set_prompt(options, PROMPT, INFER_NTS, &error));
  ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_request_options_set(options, "top_logprobs", "21", &error));
  ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_request_options_set(options, "embedding", "max", &error));
  OK(infer_request_options_set(options, "embedding", "mean", &error));
  OK(infer_request_options_set(options, "logprobs", "true", &error));
  error = NULL;
  CHECK(infer_engine_submit(engine, options, &request, &error) == INFER_ERR_INVALID_ARGUMENT && request == NULL);
  CHECK(strstr(infer_error_message(error), "'logprobs'") != NULL);
  infer_error_free(error);
  infer_request_options_free(options);
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_model_info info = INFER_MODEL_INFO_INIT;
  CHECK(argc >= 2);
  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  OK(infer_model_get_info(model, &info, &error));
  OK(infer_engine_create(model, NULL, &engine, &error));
  events_carry_what_was_asked_for(engine);
  an_embedding_is_the_last_event(engine, info.n_embd);
  a_smaller_event_is_left_alone_beyond_its_size(engine);
  options_that_exclude_each_other_are_refused(engine);
  infer_engine_free(engine);
  infer_model_free(model);
  return 0;
}
