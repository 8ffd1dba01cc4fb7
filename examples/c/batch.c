/*
 * Completes several prompts at once: they share the steps of one engine, and one thread reads the events of all from
 * a queue. Prints each completion when it ends, marked with the number of its prompt.
 *
 *     batch MODEL MAX_TOKENS PROMPT...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer.h"

/* Text that grows. */
struct text {
  char *bytes;
  size_t len;
};

static int append(struct text *text, const char *bytes, size_t len) {
  char *grown = realloc(text->bytes, text->len + len + 1);
  if (grown == NULL)
    return 0;
  memcpy(grown + text->len, bytes, len);
  text->bytes = grown;
  text->len += len;
  text->bytes[text->len] = '\0';
  return 1;
}

/* Reads events until every request has ended. */
static int read_all(infer_queue *queue, struct text *texts, size_t n_requests, infer_error **error) {
  infer_event events[16];
  size_t running = n_requests;
  int failures = 0;
  while (running > 0) {
    size_t n = 0;
    if (infer_queue_next(queue, -1, events, 16, sizeof events[0], &n, error) != INFER_OK)
      return 0;
    for (size_t i = 0; i < n; i++) {
      const infer_event *event = &events[i];
      /* The tag is the index that submit() below gave the request. */
      struct text *text = &texts[event->tag];
      if (!append(text, event->text, event->text_len)) {
        fprintf(stderr, "batch: out of memory\n");
        return 0;
      }
      if (event->kind != INFER_EVENT_FINISHED)
        continue;
      running--;
      if (event->finish_reason == INFER_FINISH_ERROR) {
        fprintf(stderr, "batch: prompt %u: %s\n", (unsigned)event->tag, infer_error_message(event->error));
        failures++;
      } else {
        printf("[%u] %s\n", (unsigned)event->tag, text->bytes);
      }
    }
  }
  return failures == 0;
}

/* Submits all prompts, or none. */
static int submit(infer_engine *engine, infer_queue *queue, char **prompts, size_t n, const char *max_tokens,
                  infer_request_options **options, infer_request **requests, infer_error **error) {
  for (size_t i = 0; i < n; i++) {
    options[i] = infer_request_options_new();
    if (infer_request_options_set_prompt(options[i], prompts[i], INFER_NTS, error) != INFER_OK ||
        infer_request_options_set(options[i], "max_tokens", max_tokens, error) != INFER_OK ||
        infer_request_options_set(options[i], "temperature", "0", error) != INFER_OK ||
        infer_request_options_set_queue(options[i], queue, i, error) != INFER_OK)
      return 0;
  }
  return infer_engine_submit_batch(engine, (const infer_request_options *const *)options, n, requests, error) ==
         INFER_OK;
}

int main(int argc, char **argv) {
  size_t n = argc > 3 ? (size_t)argc - 3 : 0;
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_queue *queue = NULL;
  infer_request_options **options = calloc(n + 1, sizeof *options);
  infer_request **requests = calloc(n + 1, sizeof *requests);
  struct text *texts = calloc(n + 1, sizeof *texts);
  int ok = 0;

  if (n == 0) {
    fprintf(stderr, "usage: batch MODEL MAX_TOKENS PROMPT...\n");
  } else if (options == NULL || requests == NULL || texts == NULL) {
    fprintf(stderr, "batch: out of memory\n");
  } else {
    ok = infer_abi_check(INFER_ABI_VERSION, &error) == INFER_OK &&
         infer_model_load(argv[1], INFER_NTS, NULL, &model, &error) == INFER_OK &&
         infer_engine_create(model, NULL, &engine, &error) == INFER_OK &&
         infer_queue_create(&queue, &error) == INFER_OK &&
         submit(engine, queue, argv + 3, n, argv[2], options, requests, &error) &&
         read_all(queue, texts, n, &error);
  }

  if (error != NULL)
    fprintf(stderr, "batch: %s\n", infer_error_message(error));
  infer_error_free(error);
  for (size_t i = 0; i < n; i++) {
    if (requests != NULL)
      infer_request_free(requests[i]);
    if (options != NULL)
      infer_request_options_free(options[i]);
    if (texts != NULL)
      free(texts[i].bytes);
  }
  infer_queue_free(queue);
  infer_engine_free(engine);
  infer_model_free(model);
  free(options);
  free(requests);
  free(texts);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
