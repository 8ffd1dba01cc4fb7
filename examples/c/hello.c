/*
 * Continues a prompt and prints the text as it comes.
 *
 *     hello [--ids] [MODEL [PROMPT [MAX_TOKENS [TEMPERATURE]]]]
 *
 * Without a model it uses the demo model of the repository. With --ids it prints token ids instead of text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer.h"

int main(int argc, char **argv) {
  int ids = argc > 1 && strcmp(argv[1], "--ids") == 0;
  const char *path, *prompt;
  unsigned long long max_tokens;
  double temperature;

  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_request_options *options = infer_request_options_new();
  infer_event event = INFER_EVENT_INIT;
  infer_status status;
  int exit_code = EXIT_FAILURE;

  argc -= ids;
  argv += ids;
  path = argc > 1 ? argv[1] : "models/tolstoy-3m-Q8_0.gguf";
  prompt = argc > 2 ? argv[2] : "Prince Andrew looked at the sky";
  max_tokens = argc > 3 ? strtoull(argv[3], NULL, 10) : 64;
  temperature = argc > 4 ? strtod(argv[4], NULL) : 0.7;

  if (infer_abi_check(INFER_ABI_VERSION, &error) != INFER_OK ||
      infer_model_load(path, INFER_NTS, NULL, &model, &error) != INFER_OK ||
      infer_engine_create(model, NULL, &engine, &error) != INFER_OK ||
      infer_request_options_set_prompt(options, prompt, INFER_NTS, &error) != INFER_OK ||
      infer_request_options_set_max_tokens(options, max_tokens, &error) != INFER_OK ||
      infer_request_options_set_temperature(options, temperature, &error) != INFER_OK ||
      infer_engine_submit(engine, options, &request, &error) != INFER_OK)
    goto done;

  /* Each event brings what was generated since the last one; the last of them says how it ended. */
  while ((status = infer_request_next(request, -1, &event, &error)) == INFER_OK) {
    if (ids) {
      for (size_t i = 0; i < event.n_tokens; i++)
        printf("%u ", (unsigned)event.tokens[i]);
    } else {
      fwrite(event.text, 1, event.text_len, stdout);
    }
    fflush(stdout);
    if (event.finish_reason == INFER_FINISH_ERROR)
      fprintf(stderr, "hello: %s\n", infer_error_message(event.error));
    else if (event.kind == INFER_EVENT_FINISHED)
      exit_code = EXIT_SUCCESS;
  }
  putchar('\n');
  if (status != INFER_END)
    exit_code = EXIT_FAILURE;

done:
  if (error != NULL)
    fprintf(stderr, "hello: %s\n", infer_error_message(error));
  /* Every free function accepts NULL, and the order does not matter. */
  infer_error_free(error);
  infer_request_free(request);
  infer_request_options_free(options);
  infer_engine_free(engine);
  infer_model_free(model);
  return exit_code;
}
