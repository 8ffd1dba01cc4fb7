/* The kernels of every level against plain loops in double: values, lengths 0 to 70, any address, in place. */
#include <math.h>

#include "check.h"

enum { MOST = 70 };

static infer_error *error;

/* Uniform in -1 to 1; repeats. */
static float uniform(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

static void fill(float *x, size_t n, uint32_t seed) {
  for (size_t i = 0; i < n; i++)
    x[i] = uniform(&seed);
}

static void near(double found, double expected, double tolerance, const char *what, size_t n) {
  if (!(fabs(found - expected) <= tolerance)) {
    fprintf(stderr, "%s of %u: found %.9g, expected %.9g\n", what, (unsigned)n, found, expected);
    exit(1);
  }
}

static void reductions(const infer_kernels *k, const float *a, const float *b, size_t n) {
  double dot = 0, sum = 0;
  float found = 77;
  for (size_t i = 0; i < n; i++) {
    dot += (double)a[i] * b[i];
    sum += a[i];
  }
  OK(infer_kernels_dot(k, a, b, n, &found, &error));
  near(found, dot, 1e-6 * (double)n, "dot", n);
  OK(infer_kernels_dot_kahan(k, a, b, n, &found, &error));
  near(found, dot, 2e-7 * (double)n, "Kahan dot", n);
  OK(infer_kernels_sum(k, a, n, &found, &error));
  near(found, sum, 1e-6 * (double)n, "sum", n);
}

typedef infer_status (*function)(const infer_kernels *, const float *, size_t, float *, infer_error **);

static double relu(double x) { return x > 0 ? x : 0; }
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double x) { return x / (1 + exp(-x)); }
static double gelu(double x) { return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

static void functions(const infer_kernels *k, const float *a, const float *b, size_t n) {
  static const struct {
    const char *name;
    function call;
    double (*reference)(double);
  } all[] = {
      {"relu", infer_kernels_relu, relu},
      {"sigmoid", infer_kernels_sigmoid, sigmoid},
      {"silu", infer_kernels_silu, silu},
      {"gelu", infer_kernels_gelu, gelu},
  };
  float x[MOST], out[MOST + 1];
  for (size_t f = 0; f < sizeof all / sizeof all[0]; f++) {
    for (size_t i = 0; i < n; i++)
      x[i] = 10 * a[i];
    out[n] = 77;
    OK(all[f].call(k, x, n, out, &error));
    for (size_t i = 0; i < n; i++)
      near(out[i], all[f].reference(x[i]), 3e-6 * (1 + fabs(all[f].reference(x[i]))), all[f].name, n);
    CHECK(out[n] == 77);
    OK(all[f].call(k, x, n, x, &error));
    CHECK(n == 0 || memcmp(x, out, n * sizeof *x) == 0);
  }
  out[n] = 77;
  OK(infer_kernels_add(k, a, b, n, out, &error));
  for (size_t i = 0; i < n; i++)
    CHECK(out[i] == a[i] + b[i]);
  OK(infer_kernels_mul(k, a, b, n, out, &error));
  for (size_t i = 0; i < n; i++)
    CHECK(out[i] == a[i] * b[i]);
  /* Both inputs and the output may be one array. */
  OK(infer_kernels_add(k, out, out, n, out, &error));
  for (size_t i = 0; i < n; i++)
    CHECK(out[i] == 2 * (a[i] * b[i]));
  CHECK(out[n] == 77);
}

static void normalizations(const infer_kernels *k, const float *x, const float *w, size_t n) {
  double square = 0, mean = 0, variance = 0, largest = -1e30, total = 0;
  float out[MOST + 1], bias[MOST];
  fill(bias, n, 5);
  for (size_t i = 0; i < n; i++) {
    square += (double)x[i] * x[i] / (double)n;
    mean += x[i] / (double)n;
    largest = x[i] > largest ? x[i] : largest;
  }
  for (size_t i = 0; i < n; i++) {
    variance += (x[i] - mean) * (x[i] - mean) / (double)n;
    total += exp(x[i] - largest);
  }
  out[n] = 77;
  OK(infer_kernels_softmax(k, x, n, out, &error));
  for (size_t i = 0; i < n; i++)
    near(out[i], exp(x[i] - largest) / total, 1e-6, "softmax", n);
  OK(infer_kernels_rms_norm(k, x, w, n, 1e-5f, out, &error));
  for (size_t i = 0; i < n; i++)
    near(out[i], x[i] / sqrt(square + 1e-5) * w[i], 3e-6, "RMS norm", n);
  OK(infer_kernels_layer_norm(k, x, w, NULL, n, 1e-5f, out, &error));
  for (size_t i = 0; i < n; i++)
    near(out[i], (x[i] - mean) / sqrt(variance + 1e-5) * w[i], 1e-4, "layer norm", n);
  OK(infer_kernels_layer_norm(k, x, w, bias, n, 1e-5f, out, &error));
  for (size_t i = 0; i < n; i++)
    near(out[i], (x[i] - mean) / sqrt(variance + 1e-5) * w[i] + bias[i], 1e-4, "layer norm with bias", n);
  CHECK(out[n] == 77);
  /* In place. */
  if (n > 0) {
    float again[MOST];
    memcpy(again, x, n * sizeof *x);
    OK(infer_kernels_layer_norm(k, again, w, bias, n, 1e-5f, again, &error));
    CHECK(memcmp(again, out, n * sizeof *x) == 0);
    OK(infer_kernels_rms_norm(k, x, w, n, 1e-5f, out, &error));
    memcpy(again, x, n * sizeof *x);
    OK(infer_kernels_rms_norm(k, again, w, n, 1e-5f, again, &error));
    CHECK(memcmp(again, out, n * sizeof *x) == 0);
    OK(infer_kernels_softmax(k, x, n, out, &error));
    memcpy(again, x, n * sizeof *x);
    OK(infer_kernels_softmax(k, again, n, again, &error));
    CHECK(memcmp(again, out, n * sizeof *x) == 0);
  }
}

static void products(const infer_kernels *k) {
  static const size_t shapes[][3] = {{1, 1, 1}, {2, 3, 4}, {5, 140, 37}, {17, 33, 64}, {3, 0, 2}, {0, 5, 5}, {4, 4, 0}};
  static float a[40 * 200], b[200 * 70], c[40 * 70 + 1];
  static int8_t p[40 * 200], q[200 * 70];
  static int32_t r[40 * 70 + 1];
  uint32_t state = 9;
  fill(a, sizeof a / sizeof *a, 1);
  fill(b, sizeof b / sizeof *b, 2);
  for (size_t i = 0; i < sizeof p; i++)
    p[i] = (int8_t)(uniform(&state) * 128.0f);
  for (size_t i = 0; i < sizeof q; i++)
    q[i] = (int8_t)(uniform(&state) * 128.0f);
  for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
    const size_t m = shapes[s][0], depth = shapes[s][1], n = shapes[s][2];
    c[m * n] = 77;
    r[m * n] = 77;
    OK(infer_kernels_matmul(k, a, b, m, depth, n, c, &error));
    OK(infer_kernels_matmul_i8(k, p, q, m, depth, n, r, &error));
    for (size_t i = 0; i < m; i++)
      for (size_t j = 0; j < n; j++) {
        double sum = 0;
        int32_t exact = 0;
        for (size_t x = 0; x < depth; x++) {
          sum += (double)a[i * depth + x] * b[x * n + j];
          exact += p[i * depth + x] * q[x * n + j];
        }
        near(c[i * n + j], sum, 1e-6 * (double)depth, "matmul", depth);
        CHECK(r[i * n + j] == exact);
      }
    CHECK(c[m * n] == 77 && r[m * n] == 77);
  }
}

static void rotations(const infer_kernels *k) {
  enum { HEADS = 3, DIM = 22, PAIRS = 9 };
  float x[HEADS * DIM], y[HEADS * DIM], cosines[PAIRS], sines[PAIRS];
  for (size_t i = 0; i < PAIRS; i++) {
    cosines[i] = (float)cos(0.3 + (double)i);
    sines[i] = (float)sin(0.3 + (double)i);
  }
  for (uint32_t pairs = INFER_ROPE_ADJACENT; pairs <= INFER_ROPE_NEOX; pairs++) {
    fill(x, HEADS * DIM, 3);
    memcpy(y, x, sizeof x);
    OK(infer_kernels_rope(k, y, HEADS, DIM, cosines, sines, PAIRS, pairs, &error));
    for (size_t h = 0; h < HEADS; h++) {
      const float *before = x + h * DIM, *after = y + h * DIM;
      for (size_t i = 0; i < PAIRS; i++) {
        const size_t one = pairs == INFER_ROPE_NEOX ? i : 2 * i, two = pairs == INFER_ROPE_NEOX ? i + PAIRS : 2 * i + 1;
        near(after[one], (double)before[one] * cosines[i] - (double)before[two] * sines[i], 1e-6, "rope", pairs);
        near(after[two], (double)before[one] * sines[i] + (double)before[two] * cosines[i], 1e-6, "rope", pairs);
      }
      for (size_t i = 2 * PAIRS; i < DIM; i++)
        CHECK(after[i] == before[i]);
    }
  }
  OK(infer_kernels_rope(k, NULL, 0, 0, NULL, NULL, 0, INFER_ROPE_NEOX, &error));
}

static void formats(const infer_kernels *k) {
  /* Two blocks of Q8_0: a half float of 0.5, then signed bytes. They begin at an odd address. */
  uint8_t memory[1 + 2 * 34], *blocks = memory + 1;
  float out[64], back[64];
  for (size_t block = 0; block < 2; block++) {
    blocks[34 * block] = 0x00;
    blocks[34 * block + 1] = 0x38;
    for (size_t i = 0; i < 32; i++)
      blocks[34 * block + 2 + i] = (uint8_t)(i * 7 + block * 100);
  }
  OK(infer_kernels_dequantize(k, "Q8_0", blocks, 68, 64, out, &error));
  for (size_t i = 0; i < 64; i++)
    CHECK(out[i] == 0.5f * (float)(int8_t)blocks[34 * (i / 32) + 2 + i % 32]);
  OK(infer_kernels_dequantize(k, "Q4_K", NULL, 0, 0, NULL, &error));
  /* Small integers are exact in every float type. */
  static const char *const types[] = {"F32", "F16", "BF16"};
  for (size_t t = 0; t < 3; t++) {
    uint8_t row[4 * 64 + 1];
    const size_t bytes = t == 0 ? 4 * 64 : 2 * 64;
    for (size_t i = 0; i < 64; i++)
      out[i] = (float)i - 31;
    row[bytes] = 77;
    OK(infer_kernels_quantize(k, types[t], out, 64, row, bytes, &error));
    CHECK(row[bytes] == 77);
    OK(infer_kernels_dequantize(k, types[t], row, bytes, 64, back, &error));
    CHECK(memcmp(out, back, sizeof out) == 0);
  }
}

static void not_numbers(const infer_kernels *k) {
  float x[20], y[20], found = 0;
  for (size_t i = 0; i < 20; i++)
    x[i] = 1;
  x[13] = NAN;
  OK(infer_kernels_dot(k, x, x, 20, &found, &error));
  CHECK(isnan(found));
  OK(infer_kernels_dot_kahan(k, x, x, 20, &found, &error));
  CHECK(isnan(found));
  OK(infer_kernels_sum(k, x, 20, &found, &error));
  CHECK(isnan(found));
  OK(infer_kernels_relu(k, x, 20, y, &error));
  for (size_t i = 0; i < 20; i++)
    CHECK(i == 13 ? isnan(y[i]) : y[i] == 1);
  OK(infer_kernels_sigmoid(k, x, 20, y, &error));
  for (size_t i = 0; i < 20; i++)
    CHECK((i == 13) == (isnan(y[i]) != 0));
  OK(infer_kernels_softmax(k, x, 20, y, &error));
  for (size_t i = 0; i < 20; i++)
    CHECK(isnan(y[i]));
  x[13] = -INFINITY;
  OK(infer_kernels_softmax(k, x, 20, y, &error));
  CHECK(y[13] == 0 && y[0] > 0.05f);
}

static void arrays(const infer_kernels *k) {
  float a[MOST + 1], b[MOST + 1];
  fill(a, MOST + 1, 11);
  fill(b, MOST + 1, 12);
  /* Floats need no more than their own alignment. */
  for (size_t n = 0; n <= MOST; n++) {
    reductions(k, a + 1, b, n);
    functions(k, a, b + 1, n);
    normalizations(k, a + 1, b + 1, n);
  }
}

int main(void) {
  infer_kernels *k = NULL;
  size_t levels = 0;
  for (const char *name; (name = infer_kernels_level_at(levels)) != NULL; levels++) {
    OK(infer_kernels_create(name, &k, &error));
    CHECK(strcmp(infer_kernels_level(k), name) == 0);
    arrays(k);
    products(k);
    rotations(k);
    formats(k);
    not_numbers(k);
    infer_kernels_free(k);
  }
  CHECK(levels >= 1 && strcmp(infer_kernels_level_at(levels - 1), infer_cpu_level_name()) == 0);
  /* A level that is not there is refused with those that are. */
  static const char *const words[] = {"scalar",      "sse41", "avx2",         "avx_vnni", "avx512",
                                      "avx512_bf16", "neon",  "neon_dotprod", "i8mm"};
  for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
    int there = 0;
    for (size_t i = 0; i < levels; i++)
      there |= strcmp(words[w], infer_kernels_level_at(i)) == 0;
    k = NULL;
    if (there) {
      OK(infer_kernels_create(words[w], &k, &error));
      infer_kernels_free(k);
      continue;
    }
    CHECK(infer_kernels_create(words[w], &k, &error) == INFER_ERR_UNSUPPORTED && k == NULL);
    CHECK(strstr(infer_error_message(error), words[w]) != NULL);
    CHECK(strstr(infer_error_message(error), infer_cpu_level_name()) != NULL);
    infer_error_free(error);
  }
  /* NULL and "auto" are the best level, lowered by the environment. */
  setenv("INFER_CPU_LEVEL", "scalar", 1);
  OK(infer_kernels_create(NULL, &k, &error));
  CHECK(strcmp(infer_kernels_level(k), "scalar") == 0);
  infer_kernels_free(k);
  unsetenv("INFER_CPU_LEVEL");
  OK(infer_kernels_create("auto", &k, &error));
  CHECK(strcmp(infer_kernels_level(k), infer_cpu_level_name()) == 0);
  infer_kernels_free(k);
  return 0;
}
