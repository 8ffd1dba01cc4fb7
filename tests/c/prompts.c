/* Prompts in every form: the same ids as text and as token ids, and the same messages as arrays and as JSON. The second
 * argument names a model with a chat template; without it only the refusal of one that has none is tested. */
#include "check.h"

#define LENGTH 12

static void generate(const infer_engine *engine, infer_request_options *options, uint32_t ids[LENGTH]) {
  infer_error *error = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_request *request = NULL;
  size_t n = 0, i;
  OK(infer_request_options_set_max_tokens(options, LENGTH, &error));
  OK(infer_request_options_set_temperature(options, 0, &error));
  OK(infer_engine_submit(engine, options, &request, &error));
  while (infer_request_next(request, -1, &event, &error) == INFER_OK)
    for (i = 0; i < event.n_tokens; i++) {
      CHECK(n < LENGTH);
      ids[n++] = event.tokens[i];
    }
  CHECK(error == NULL);
  for (; n < LENGTH; n++) ids[n] = UINT32_MAX;
  infer_request_free(request);
}

static void ids_are_the_text(const infer_model *model, const infer_engine *engine) {
  infer_error *error = NULL;
  infer_request_options *options = infer_request_options_new();
  uint32_t prompt[32], of_text[LENGTH], of_ids[LENGTH];
  size_t n = 0;
  OK(infer_request_options_set_prompt(options, "The old prince", INFER_NTS, &error));
  generate(engine, options, of_text);
  OK(infer_model_tokenize(model, "The old prince", INFER_NTS, INFER_TOKENIZE_ADD_SPECIAL, prompt, 32, &n, &error));
  OK(infer_request_options_set_prompt_ids(options, prompt, n, &error));
  memset(prompt, 0, sizeof prompt);
  generate(engine, options, of_ids);
  CHECK(memcmp(of_text, of_ids, sizeof of_text) == 0);
  /* Another prompt gives another answer, so the comparison can fail. */
  OK(infer_request_options_set_prompt(options, "Moscow", INFER_NTS, &error));
  generate(engine, options, of_ids);
  CHECK(memcmp(of_text, of_ids, sizeof of_text) != 0);
  infer_request_options_free(options);
}

static const char *const roles[] = {"user"};
static const char *const contents[] = {"Who is the prince?"};
static const char json[] = "[{\"role\": \"user\", \"content\": \"Who is the prince?\"}]";

static void without_a_template(const infer_model *model, const infer_engine *engine) {
  infer_error *error = NULL;
  infer_request *request = NULL;
  infer_request_options *options = infer_request_options_new();
  char text[256];
  size_t needed = 77;
  ANSWERS(INFER_ERR_UNSUPPORTED,
          infer_model_apply_chat_template(model, roles, contents, NULL, 1, 0, text, sizeof text, &needed, &error));
  ANSWERS(INFER_ERR_UNSUPPORTED,
          infer_model_apply_chat_template_json(model, json, INFER_NTS, 0, text, sizeof text, &needed, &error));
  CHECK(needed == 77);
  OK(infer_request_options_set_messages_json(options, json, INFER_NTS, &error));
  ANSWERS(INFER_ERR_UNSUPPORTED, infer_engine_submit(engine, options, &request, &error));
  CHECK(request == NULL);
  infer_request_options_free(options);
}

static void messages_are_json(const infer_model *model, const infer_engine *engine) {
  infer_error *error = NULL;
  infer_request_options *options = infer_request_options_new();
  const uint32_t flag = INFER_CHAT_ADD_GENERATION_PROMPT;
  char of_arrays[256], of_json[256];
  uint32_t arrays[LENGTH], texts[LENGTH];
  size_t length = strlen(contents[0]), needed = 0;
  OK(infer_model_apply_chat_template(model, roles, contents, &length, 1, flag, of_arrays, sizeof of_arrays, &needed, &error));
  CHECK(needed == strlen(of_arrays) + 1 && strstr(of_arrays, contents[0]) != NULL);
  OK(infer_model_apply_chat_template_json(model, json, sizeof json - 1, flag, of_json, sizeof of_json, &needed, &error));
  CHECK(strcmp(of_arrays, of_json) == 0);
  OK(infer_request_options_set_messages(options, roles, contents, NULL, 1, &error));
  generate(engine, options, arrays);
  OK(infer_request_options_set_messages_json(options, json, sizeof json - 1, &error));
  generate(engine, options, texts);
  CHECK(memcmp(arrays, texts, sizeof arrays) == 0);
  infer_request_options_free(options);
}

static void open_model(const char *path, infer_model **model, infer_engine **engine) {
  infer_error *error = NULL;
  OK(infer_model_load(path, INFER_NTS, NULL, model, &error));
  OK(infer_engine_create(*model, NULL, engine, &error));
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  CHECK(argc == 2 || argc == 3);
  OK(infer_abi_check(INFER_ABI_VERSION, &error));
  CHECK(strcmp(infer_version(), INFER_VERSION) == 0);
  CHECK(strchr("sani", infer_cpu_level_name()[0]) != NULL);
  CHECK(strcmp(infer_status_name(INFER_END), "INFER_END") == 0);
  CHECK(infer_abi_check(INFER_ABI_VERSION + 1, &error) == INFER_ERR_ABI && infer_error_status(error) == INFER_ERR_ABI);
  CHECK(strlen(infer_error_message(error)) > 10);
  infer_error_free(error);

  open_model(argv[1], &model, &engine);
  ids_are_the_text(model, engine);
  without_a_template(model, engine);
  infer_engine_free(engine);
  infer_model_free(model);
  if (argc == 3) {
    open_model(argv[2], &model, &engine);
    messages_are_json(model, engine);
    infer_engine_free(engine);
    infer_model_free(model);
  }
  return 0;
}
