/* A program of someone who has libinfer installed: generates a few tokens and prints the version. */
#include <infer.h>
#include <stdio.h>
#include <string.h>

#ifdef WITH_OTHER
/* Of another static library with a Rust standard library inside: the sum of the lengths of the first n numbers. */
unsigned other_sum(unsigned n);
#endif

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_request *request = NULL;
  infer_request_options *options = infer_request_options_new();
  infer_event event = INFER_EVENT_INIT;
  uint64_t generated = 0;

  if (argc == 2 && infer_abi_check(INFER_ABI_VERSION, &error) == INFER_OK &&
      infer_model_load(argv[1], INFER_NTS, NULL, &model, &error) == INFER_OK &&
      infer_engine_create(model, NULL, &engine, &error) == INFER_OK &&
      infer_request_options_set_prompt(options, "The old prince", INFER_NTS, &error) == INFER_OK &&
      infer_request_options_set_max_tokens(options, 8, &error) == INFER_OK &&
      infer_engine_submit(engine, options, &request, &error) == INFER_OK)
    while (infer_request_next(request, -1, &event, &error) == INFER_OK)
      generated = event.generated_tokens;
  if (error != NULL)
    fprintf(stderr, "%s\n", infer_error_message(error));
  infer_error_free(error);
  infer_request_free(request);
  infer_request_options_free(options);
  infer_engine_free(engine);
  infer_model_free(model);
  if (generated == 0 || strcmp(infer_version(), INFER_VERSION) != 0)
    return 1;
#ifdef WITH_OTHER
  /* 10 numbers of one digit, 10 of two; 7 panics inside and is caught. */
  if (other_sum(20) != 30 || other_sum(7) != 0)
    return 1;
#endif
  printf("infer %s\n", infer_version());
  return 0;
}
