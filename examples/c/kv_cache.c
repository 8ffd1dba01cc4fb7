/*
 * Keeps keys and values of a prompt in a directory. The first run computes and stores them; a second run, a process of
 * its own, finds them and computes nothing.
 *
 *     kv_cache DIRECTORY [TOKENS]
 *
 * "Computing" is a formula here: in a program with an attention of its own the rows come from its layers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer.h"

enum { LAYERS = 4, HEADS = 2, HEAD_DIM = 64, ROW = HEADS * HEAD_DIM, BATCH = 64 };

static infer_error *error;

/* Keys and values of a token in a layer. A half float holds each number exactly. */
static void compute(uint32_t token, size_t position, uint32_t layer, float *keys, float *values) {
  for (size_t i = 0; i < ROW; i++) {
    const size_t x = token * 131 + position * 31 + layer * 7 + i;
    keys[i] = (float)(x % 2048) / 2048;
    values[i] = (float)(x % 1999) / 2048;
  }
}

/* Stores the tokens from position `from` on, several at a time, and says what they are. */
static infer_status store(infer_kv_seq *seq, const uint32_t *tokens, size_t from, size_t n) {
  static float keys[BATCH * ROW], values[BATCH * ROW];
  size_t batch;
  infer_status status = infer_kv_cache_optimal_batch(seq, &batch, &error);
  if (status != INFER_OK)
    return status;
  for (size_t at = from; at < n; at += batch) {
    const size_t count = n - at < batch ? n - at : batch;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
      for (size_t i = 0; i < count; i++)
        compute(tokens[at + i], at + i, layer, keys + i * ROW, values + i * ROW);
      status = infer_kv_cache_store_batch(seq, layer, at, count, INFER_KV_F32, keys, values, &error);
      if (status != INFER_OK)
        return status;
    }
    /* Every layer has them: they can be read. */
    status = infer_kv_cache_advance(seq, count, &error);
    if (status != INFER_OK)
      return status;
  }
  return infer_kv_cache_seal(seq, tokens, n, &error);
}

/* Counts the tokens whose keys and values are those that would be computed, to the last bit. */
static infer_status compare(const infer_kv_seq *seq, const uint32_t *tokens, size_t *same) {
  const size_t n = infer_kv_seq_length(seq);
  static float keys[ROW], values[ROW], found_keys[ROW], found_values[ROW];
  *same = 0;
  for (size_t at = 0; at < n; at++) {
    size_t layers = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
      const infer_status status =
          infer_kv_cache_fetch(seq, layer, at, 1, INFER_KV_F32, found_keys, found_values, &error);
      if (status != INFER_OK)
        return status;
      compute(tokens[at], at, layer, keys, values);
      layers += memcmp(keys, found_keys, sizeof keys) == 0 && memcmp(values, found_values, sizeof values) == 0;
    }
    *same += layers == LAYERS;
  }
  return INFER_OK;
}

int main(int argc, char **argv) {
  const size_t n = argc > 2 ? (size_t)strtoul(argv[2], NULL, 10) : 1000;
  infer_kv_cache_options *options = infer_kv_cache_options_new();
  infer_kv_cache *cache = NULL;
  infer_kv_seq *seq = NULL;
  uint32_t *tokens = malloc((n + 1) * sizeof *tokens);
  size_t found = 0, same = 0;
  int failed = 1;

  if (argc < 2 || options == NULL || tokens == NULL) {
    fprintf(stderr, "usage: kv_cache DIRECTORY [TOKENS]\n");
    goto done;
  }
  for (size_t i = 0; i < n; i++)
    tokens[i] = (uint32_t)(i * i % 32000);
  if (infer_kv_cache_options_set(options, "n_layers", "4", &error) != INFER_OK ||
      infer_kv_cache_options_set(options, "n_kv_heads", "2", &error) != INFER_OK ||
      infer_kv_cache_options_set(options, "head_dim", "64", &error) != INFER_OK ||
      infer_kv_cache_options_set(options, "kv_type", "f16", &error) != INFER_OK ||
      infer_kv_cache_options_set(options, "hot_tokens", "65536", &error) != INFER_OK ||
      infer_kv_cache_options_set(options, "cold_dir", argv[1], &error) != INFER_OK ||
      infer_kv_cache_options_set(options, "identity", "the formula of this example", &error) != INFER_OK ||
      infer_kv_cache_create(options, &cache, &error) != INFER_OK ||
      infer_kv_cache_lookup(cache, "", 0, tokens, n, &seq, &error) != INFER_OK)
    goto done;
  found = infer_kv_seq_length(seq);
  if (compare(seq, tokens, &same) != INFER_OK || store(seq, tokens, found, n) != INFER_OK)
    goto done;
  printf("%zu tokens: %zu found, %zu of them identical, %zu computed\n", n, found, same, n - found);
  failed = 0;

done:
  if (error != NULL)
    fprintf(stderr, "kv_cache: %s\n", infer_error_message(error));
  infer_error_free(error);
  free(tokens);
  infer_kv_seq_free(seq);
  infer_kv_cache_options_free(options);
  /* The last to go writes what is sealed to the directory. */
  infer_kv_cache_free(cache);
  return failed;
}
