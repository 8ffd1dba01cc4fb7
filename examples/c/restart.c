/*
 * Keeps what was computed for prompts in a directory: the cold tier. The first run computes its prompt; a second run, a
 * process of its own, reads it back and generates the same text.
 *
 *     restart DIRECTORY [MODEL [MAX_TOKENS]]
 *
 * Without a model it uses the demo model of the repository. What the counters mean is in infer.h, what to do about them
 * in docs/operations.md.
 */
#include <stdio.h>
#include <stdlib.h>

#include "infer.h"

/* What many requests of a service begin with. */
static const char prompt[] =
    "The old prince lived in the country, and everything in his house was done at its hour. In the morning he walked in "
    "the garden, where the snow had been swept from the paths; then he worked in his study, and nobody was allowed to "
    "disturb him. At dinner he asked his son about the war, and did not listen to the answer. \"Bonaparte\", he said, "
    "\"was born lucky. His soldiers are excellent, and the first whom he attacked were the Germans. Only he who is lazy "
    "does not beat the Germans.\" The princess, his daughter, was silent and looked at her plate. She knew that her "
    "brother would leave in the evening, and that his wife was afraid. When the lamps had been lit the carriage stood "
    "at the door, and the servants carried out the boxes. Prince Andrew went once more through the rooms in which he "
    "had been a child. His father sat at the table and wrote. \"You are going?\" he asked, and went on writing. \"I have "
    "come to say goodbye.\" The old man turned round, put his pen down, and looked for a long time at the face of his "
    "son, as if he wanted to remember it. Then he said: ";

/* What the directory holds, and what it was good for. */
static void print_cold(const infer_stats *stats) {
  static const char *const states[] = {"off", "works", "is left alone after a failure"};
  const double mb = 1e6;

  printf("cold tier: %s, %s\n", stats->kv_cold_state < 3 ? states[stats->kv_cold_state] : "unknown",
         stats->kv_cold_writer ? "written by this process" : "written by another process");
  printf("  holds    %llu blocks, %.2f of %.0f MB\n", (unsigned long long)stats->kv_cold_blocks,
         (double)stats->kv_cold_bytes / mb, (double)stats->kv_cold_bytes_budget / mb);
  printf("  found    %llu tokens for %llu prompts\n", (unsigned long long)stats->kv_cold_hit_tokens,
         (unsigned long long)stats->kv_cold_lookups);
  printf("  read     %llu blocks, %.2f MB, %llu damaged\n", (unsigned long long)stats->kv_cold_reads,
         (double)stats->kv_cold_bytes_read / mb, (unsigned long long)stats->kv_cold_corrupt);
}

int main(int argc, char **argv) {
  const char *path = argc > 2 ? argv[2] : "models/tolstoy-3m-Q8_0.gguf";
  const unsigned long long max_tokens = argc > 3 ? strtoull(argv[3], NULL, 10) : 24;
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine_options *engine_options = infer_engine_options_new();
  infer_engine *engine = NULL;
  infer_request_options *options = infer_request_options_new();
  infer_request *request = NULL;
  infer_event event = INFER_EVENT_INIT;
  infer_stats stats = INFER_STATS_INIT;
  infer_status status;
  int exit_code = EXIT_FAILURE;

  if (argc < 2) {
    fprintf(stderr, "usage: restart DIRECTORY [MODEL [MAX_TOKENS]]\n");
    goto done;
  }
  /* The directory is all that the cold tier needs. It takes up to kv_cold_bytes, 10 GiB when nothing else is said. */
  if (infer_model_load(path, INFER_NTS, NULL, &model, &error) != INFER_OK ||
      infer_engine_options_set(engine_options, "kv_cold_dir", argv[1], &error) != INFER_OK ||
      infer_engine_create(model, engine_options, &engine, &error) != INFER_OK ||
      infer_request_options_set_prompt(options, prompt, INFER_NTS, &error) != INFER_OK ||
      infer_request_options_set_max_tokens(options, max_tokens, &error) != INFER_OK ||
      infer_request_options_set_temperature(options, 0, &error) != INFER_OK ||
      infer_engine_submit(engine, options, &request, &error) != INFER_OK)
    goto done;

  while ((status = infer_request_next(request, -1, &event, &error)) == INFER_OK) {
    fwrite(event.text, 1, event.text_len, stdout);
    fflush(stdout);
    if (event.finish_reason == INFER_FINISH_ERROR) {
      fprintf(stderr, "restart: %s\n", infer_error_message(event.error));
    } else if (event.kind == INFER_EVENT_FINISHED) {
      /* The last event says how much of the prompt was cached, in memory or in the directory. */
      printf("\nprompt: %llu tokens, %llu of them cached\n", (unsigned long long)event.prompt_tokens,
             (unsigned long long)event.cached_tokens);
      exit_code = EXIT_SUCCESS;
    }
  }
  if (status != INFER_END || infer_engine_stats(engine, &stats, &error) != INFER_OK)
    exit_code = EXIT_FAILURE;
  else
    print_cold(&stats);

done:
  if (error != NULL)
    fprintf(stderr, "restart: %s\n", infer_error_message(error));
  infer_error_free(error);
  infer_request_free(request);
  infer_request_options_free(options);
  /* Memory had room for everything until now: what is cached is written here. With kv_cold_persist false it is not. */
  infer_engine_free(engine);
  infer_engine_options_free(engine_options);
  infer_model_free(model);
  return exit_code;
}
