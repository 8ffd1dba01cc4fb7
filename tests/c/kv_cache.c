/* A key/value cache: what is stored comes back in every type, sequences share and copy, prefixes are found again. */
#include "check.h"

enum { LAYERS = 2, HEADS = 2, DIM = 16, ROW = HEADS * DIM, MOST = 100 };

static infer_error *error;
static float keys[MOST * ROW], values[MOST * ROW], out_keys[MOST * ROW], out_values[MOST * ROW];

static infer_kv_cache *create(const char *type, const char *tokens) {
  infer_kv_cache *cache = NULL;
  infer_kv_cache_options *options = infer_kv_cache_options_new();
  OK(infer_kv_cache_options_set(options, "n_layers", "2", &error));
  OK(infer_kv_cache_options_set(options, "n_kv_heads", "2", &error));
  OK(infer_kv_cache_options_set(options, "head_dim", "16", &error));
  OK(infer_kv_cache_options_set(options, "kv_type", type, &error));
  OK(infer_kv_cache_options_set(options, "hot_tokens", tokens, &error));
  OK(infer_kv_cache_create(options, &cache, &error));
  infer_kv_cache_options_free(options);
  return cache;
}

/* Rows of n tokens of a layer from a position on. */
static void make(int seed, int layer, size_t position, size_t n) {
  for (size_t i = 0; i < n * ROW; i++) {
    const size_t x = (position * ROW + i) * 31 + (size_t)(seed * 7 + layer * 3);
    keys[i] = (float)(x % 1009) / 1009.0f - 0.5f;
    values[i] = (float)(x % 997) / 997.0f - 0.5f;
  }
}

static void fill(infer_kv_seq *seq, int seed, size_t n) {
  const size_t from = infer_kv_seq_length(seq);
  for (int layer = 0; layer < LAYERS; layer++) {
    make(seed, layer, from, n);
    OK(infer_kv_cache_store_batch(seq, (uint32_t)layer, from, n, INFER_KV_F32, keys, values, &error));
  }
  OK(infer_kv_cache_advance(seq, n, &error));
}

/* Whether the tokens are those of a seed. */
static int same(const infer_kv_seq *seq, int seed, size_t position, size_t n, float tolerance) {
  for (int layer = 0; layer < LAYERS; layer++) {
    OK(infer_kv_cache_fetch(seq, (uint32_t)layer, position, n, INFER_KV_F32, out_keys, out_values, &error));
    make(seed, layer, position, n);
    for (size_t i = 0; i < n * ROW; i++) {
      const float k = out_keys[i] - keys[i], v = out_values[i] - values[i];
      if (k > tolerance || -k > tolerance || v > tolerance || -v > tolerance)
        return 0;
    }
  }
  return 1;
}

static void types(void) {
  static const struct {
    const char *name;
    uint32_t type;
    float tolerance;
    size_t head;
  } all[] = {{"f32", INFER_KV_F32, 0, 4 * DIM},
             {"f16", INFER_KV_F16, 0.001f, 2 * DIM},
             {"bf16", INFER_KV_BF16, 0.004f, 2 * DIM},
             {"q8", INFER_KV_Q8, 0.005f, 4 + DIM}};
  for (size_t t = 0; t < sizeof all / sizeof all[0]; t++) {
    infer_kv_cache *cache = create(all[t].name, "512");
    infer_kv_seq *seq = NULL, *copy = NULL;
    infer_kv_view *view = NULL;
    infer_kv_block block = INFER_KV_BLOCK_INIT;
    size_t n = 0, at = 10;
    static unsigned char raw[2][MOST * ROW * 4], again[2][MOST * ROW * 4];
    OK(infer_kv_seq_open(cache, "", 0, &seq, &error));
    OK(infer_kv_cache_optimal_batch(seq, &n, &error));
    CHECK(n >= 1 && n <= 64);
    CHECK(infer_kv_seq_token_bytes(seq, INFER_KV_F32) == 4 * ROW);
    CHECK(infer_kv_seq_token_bytes(seq, all[t].type) == HEADS * all[t].head);
    fill(seq, 1, 60);
    fill(seq, 1, 40);
    CHECK(same(seq, 1, 0, 100, all[t].tolerance) && !same(seq, 2, 0, 100, all[t].tolerance));

    /* As they are stored, there and back. */
    OK(infer_kv_seq_open(cache, "", 0, &copy, &error));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
      OK(infer_kv_cache_fetch(seq, layer, 0, 100, all[t].type, raw[0], raw[1], &error));
      OK(infer_kv_cache_store_batch(copy, layer, 0, 100, all[t].type, raw[0], raw[1], &error));
    }
    OK(infer_kv_cache_advance(copy, 100, &error));
    OK(infer_kv_cache_fetch(copy, 1, 0, 100, all[t].type, again[0], again[1], &error));
    CHECK(memcmp(raw, again, sizeof raw) == 0);

    /* As they lie in memory, also when the sequence has gone on. */
    OK(infer_kv_cache_view(copy, 1, 10, 90, &view, &error));
    OK(infer_kv_seq_truncate(copy, 0, &error));
    fill(copy, 3, 100);
    for (size_t i = 0;; i++) {
      const infer_status status = infer_kv_view_block(view, i, &block, &error);
      if (status == INFER_END)
        break;
      CHECK(status == INFER_OK && block.element_type == all[t].type && block.position == at);
      CHECK(block.head_stride == all[t].head && block.token_stride == HEADS * all[t].head);
      CHECK(memcmp(block.keys, raw[0] + at * block.token_stride, block.n_tokens * block.token_stride) == 0);
      CHECK(memcmp(block.values, raw[1] + at * block.token_stride, block.n_tokens * block.token_stride) == 0);
      at += block.n_tokens;
    }
    CHECK(at == 100);
    infer_kv_cache_free(cache);
    infer_kv_seq_free(seq);
    infer_kv_seq_free(copy);
    infer_kv_view_free(view);
  }
}

static void prefixes(void) {
  infer_kv_cache *cache = create("f32", "256");
  infer_kv_seq *seq = NULL, *fork = NULL, *found = NULL;
  infer_kv_pin *pin = NULL;
  infer_kv_stats stats = INFER_KV_STATS_INIT;
  uint32_t tokens[MOST];
  for (uint32_t i = 0; i < MOST; i++)
    tokens[i] = 1000 + i;
  OK(infer_kv_seq_open(cache, "tenant", INFER_NTS, &seq, &error));
  fill(seq, 1, 80);
  OK(infer_kv_seq_fork(seq, &fork, &error));
  fill(fork, 2, 10);
  fill(seq, 1, 20);
  CHECK(same(seq, 1, 0, 100, 0) && same(fork, 1, 0, 80, 0) && same(fork, 2, 80, 10, 0));
  OK(infer_kv_cache_seal(seq, tokens, 100, &error));
  infer_kv_seq_free(seq);
  infer_kv_seq_free(fork);
  OK(infer_kv_cache_lookup(cache, "", 0, tokens, 100, &found, &error));
  CHECK(infer_kv_seq_length(found) == 0);
  infer_kv_seq_free(found);
  tokens[70] = 1;
  OK(infer_kv_cache_lookup(cache, "tenant", 6, tokens, 100, &found, &error));
  CHECK(infer_kv_seq_length(found) == 70 && same(found, 1, 0, 70, 0));
  fill(found, 2, 30);
  CHECK(same(found, 1, 0, 70, 0) && same(found, 2, 70, 30, 0));
  infer_kv_seq_free(found);
  OK(infer_kv_cache_pin(cache, "tenant", 6, tokens, 100, &pin, &error));
  CHECK(infer_kv_pin_length(pin) == 70);
  OK(infer_kv_cache_stats(cache, &stats, &error));
  CHECK(stats.hot_blocks == 8 && stats.hot_blocks_used == 3 && stats.hot_blocks_cached == 0);
  CHECK(stats.lookups == 3 && stats.misses == 1 && stats.hit_tokens == 140 && stats.utilization == 1);
  CHECK(stats.hot_bytes == 3 * stats.block_bytes && stats.cold_active == 0);

  /* The other five blocks fill up, and then nothing is left. */
  OK(infer_kv_seq_open(cache, "", 0, &seq, &error));
  fill(seq, 4, 100);
  fill(seq, 4, 60);
  make(4, 0, 160, 1);
  ANSWERS(INFER_ERR_NO_MEMORY, infer_kv_cache_store(seq, 0, 160, keys, values, &error));
  infer_kv_pin_free(pin);
  OK(infer_kv_cache_store(seq, 0, 160, keys, values, &error));
  CHECK(same(seq, 4, 0, 100, 0) && same(seq, 4, 100, 60, 0));
  OK(infer_kv_cache_stats(cache, &stats, &error));
  CHECK(stats.evictions == 1);
  infer_kv_seq_free(seq);
  infer_kv_cache_free(cache);
}

int main(void) {
  types();
  prefixes();
  return 0;
}
