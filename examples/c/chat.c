/*
 * A conversation: each line of the standard input is a message, each answer is printed as it comes. The model's chat
 * template turns the conversation into a prompt. An empty line or the end of the input ends it.
 *
 *     chat MODEL [MAX_TOKENS [TEMPERATURE]] < messages
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer.h"

/* The conversation so far: roles and contents, one of each per message. */
struct conversation {
  const char **roles;
  char **contents;
  size_t n;
};

/* Adds a message and takes over its content. */
static int add(struct conversation *c, const char *role, char *content) {
  const char **roles = realloc(c->roles, (c->n + 1) * sizeof *roles);
  char **contents;
  if (roles != NULL)
    c->roles = roles;
  contents = realloc(c->contents, (c->n + 1) * sizeof *contents);
  if (contents != NULL)
    c->contents = contents;
  if (roles == NULL || contents == NULL || content == NULL) {
    free(content);
    return 0;
  }
  c->roles[c->n] = role;
  c->contents[c->n] = content;
  c->n++;
  return 1;
}

/* Copies text that is not NUL-terminated behind the first len bytes of text. */
static char *append(char *text, size_t len, const char *more, size_t more_len) {
  char *grown = realloc(text, len + more_len + 1);
  if (grown == NULL) {
    free(text);
    return NULL;
  }
  memcpy(grown + len, more, more_len);
  grown[len + more_len] = '\0';
  return grown;
}

/* Lets the model answer the conversation, prints the answer and adds it. */
static int answer(infer_engine *engine, infer_request_options *options, struct conversation *c, infer_error **error) {
  infer_request *request = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_status status;
  char *text = append(NULL, 0, "", 0);
  size_t len = 0;
  int ok = 1;

  if (infer_request_options_set_messages(options, c->roles, (const char *const *)c->contents, NULL, c->n, error) !=
          INFER_OK ||
      infer_engine_submit(engine, options, &request, error) != INFER_OK) {
    free(text);
    return 0;
  }
  while ((status = infer_request_next(request, -1, &event, error)) == INFER_OK) {
    fwrite(event.text, 1, event.text_len, stdout);
    fflush(stdout);
    if (text != NULL)
      text = append(text, len, event.text, event.text_len);
    len += event.text_len;
    if (event.finish_reason == INFER_FINISH_ERROR) {
      fprintf(stderr, "chat: %s\n", infer_error_message(event.error));
      ok = 0;
    }
  }
  putchar('\n');
  infer_request_free(request);
  return add(c, "assistant", text) && ok && status == INFER_END;
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request_options *options = infer_request_options_new();
  infer_model_info info = INFER_MODEL_INFO_INIT;
  struct conversation c = {NULL, NULL, 0};
  char line[4096];
  int ok = 0;

  if (argc < 2) {
    fprintf(stderr, "usage: chat MODEL [MAX_TOKENS [TEMPERATURE]]\n");
    goto done;
  }
  if (infer_abi_check(INFER_ABI_VERSION, &error) != INFER_OK ||
      infer_model_load(argv[1], INFER_NTS, NULL, &model, &error) != INFER_OK ||
      infer_model_get_info(model, &info, &error) != INFER_OK)
    goto done;
  if (!info.has_chat_template) {
    fprintf(stderr, "chat: %s has no chat template\n", argv[1]);
    goto done;
  }
  if (infer_request_options_set(options, "max_tokens", argc > 2 ? argv[2] : "256", &error) != INFER_OK ||
      infer_request_options_set(options, "temperature", argc > 3 ? argv[3] : "0.7", &error) != INFER_OK ||
      infer_engine_create(model, NULL, &engine, &error) != INFER_OK)
    goto done;

  ok = 1;
  while (ok && fgets(line, sizeof line, stdin) != NULL) {
    size_t len = strcspn(line, "\r\n");
    if (len == 0)
      break;
    ok = add(&c, "user", append(NULL, 0, line, len)) && answer(engine, options, &c, &error);
  }

done:
  if (error != NULL)
    fprintf(stderr, "chat: %s\n", infer_error_message(error));
  infer_error_free(error);
  for (size_t i = 0; i < c.n; i++)
    free(c.contents[i]);
  free(c.contents);
  free(c.roles);
  infer_request_options_free(options);
  infer_engine_free(engine);
  infer_model_free(model);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
