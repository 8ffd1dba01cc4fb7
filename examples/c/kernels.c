/*
 * Runs every function of infer_kernels at every level this CPU has, and prints how long a call takes, how many times as
 * fast as at the scalar level that is, and by how much the results differ from the scalar ones.
 *
 *     kernels [MILLISECONDS]
 *
 * MILLISECONDS is how long each line is measured, 20 when it is not given.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 199309L
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "infer.h"

enum { SIDE = 256, N = SIDE * SIDE, VECTOR = 2048, HEADS = 16, HEAD_DIM = 128 };

/* Memory for arrays of floats that begin at a multiple of 64, where vectors are loaded fastest. */
static float memory[3][N + 16];

/* What the functions read. */
static float *a, *b, cosines[HEAD_DIM / 2], sines[HEAD_DIM / 2];
static int8_t bytes_a[N], bytes_b[N];
static uint8_t blocks[VECTOR / 32 * 34], halves[2 * VECTOR];
/* What they write. */
static float *out;
static int32_t sums[N];

static infer_error *error;

/* Each runs a function of the interface and answers its status. */
typedef infer_status (*work)(const infer_kernels *k);

static infer_status dot(const infer_kernels *k) { return infer_kernels_dot(k, a, b, 1024, out, &error); }
static infer_status dot_kahan(const infer_kernels *k) { return infer_kernels_dot_kahan(k, a, b, 1024, out, &error); }
static infer_status sum(const infer_kernels *k) { return infer_kernels_sum(k, a, VECTOR, out, &error); }
static infer_status matmul(const infer_kernels *k) {
  return infer_kernels_matmul(k, a, b, SIDE, SIDE, SIDE, out, &error);
}
static infer_status matmul_i8(const infer_kernels *k) {
  return infer_kernels_matmul_i8(k, bytes_a, bytes_b, SIDE, SIDE, SIDE, sums, &error);
}
static infer_status add(const infer_kernels *k) { return infer_kernels_add(k, a, b, VECTOR, out, &error); }
static infer_status mul(const infer_kernels *k) { return infer_kernels_mul(k, a, b, VECTOR, out, &error); }
static infer_status relu(const infer_kernels *k) { return infer_kernels_relu(k, a, VECTOR, out, &error); }
static infer_status silu(const infer_kernels *k) { return infer_kernels_silu(k, a, VECTOR, out, &error); }
static infer_status gelu(const infer_kernels *k) { return infer_kernels_gelu(k, a, VECTOR, out, &error); }
static infer_status sigmoid(const infer_kernels *k) { return infer_kernels_sigmoid(k, a, VECTOR, out, &error); }
static infer_status softmax(const infer_kernels *k) { return infer_kernels_softmax(k, a, VECTOR, out, &error); }
static infer_status rms_norm(const infer_kernels *k) {
  return infer_kernels_rms_norm(k, a, b, VECTOR, 1e-5f, out, &error);
}
static infer_status layer_norm(const infer_kernels *k) {
  return infer_kernels_layer_norm(k, a, b, a + VECTOR, VECTOR, 1e-5f, out, &error);
}
/* These two work in place: each call turns the values a little further. */
static infer_status rope_adjacent(const infer_kernels *k) {
  return infer_kernels_rope(k, out, HEADS, HEAD_DIM, cosines, sines, HEAD_DIM / 2, INFER_ROPE_ADJACENT, &error);
}
static infer_status rope_neox(const infer_kernels *k) {
  return infer_kernels_rope(k, out, HEADS, HEAD_DIM, cosines, sines, HEAD_DIM / 2, INFER_ROPE_NEOX, &error);
}
static infer_status dequantize(const infer_kernels *k) {
  return infer_kernels_dequantize(k, "Q8_0", blocks, sizeof blocks, VECTOR, out, &error);
}
static infer_status quantize(const infer_kernels *k) {
  return infer_kernels_quantize(k, "F16", a, VECTOR, halves, sizeof halves, &error);
}

static const struct {
  const char *name;
  const char *shape;
  work run;
} works[] = {
    {"dot", "1024", dot},
    {"dot_kahan", "1024", dot_kahan},
    {"sum", "2048", sum},
    {"matmul", "256 x 256 x 256", matmul},
    {"matmul_i8", "256 x 256 x 256", matmul_i8},
    {"add", "2048", add},
    {"mul", "2048", mul},
    {"relu", "2048", relu},
    {"silu", "2048", silu},
    {"gelu", "2048", gelu},
    {"sigmoid", "2048", sigmoid},
    {"softmax", "2048", softmax},
    {"rms_norm", "2048", rms_norm},
    {"layer_norm", "2048", layer_norm},
    {"rope adjacent", "16 heads of 128", rope_adjacent},
    {"rope neox", "16 heads of 128", rope_neox},
    {"dequantize Q8_0", "2048", dequantize},
    {"quantize F16", "2048", quantize},
};

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static float *aligned(float *x) { return x + (64 - (size_t)x % 64) % 64 / sizeof *x; }

/* Fills the arrays, the same every time. */
static void prepare(void) {
  uint32_t state = 1;
  a = aligned(memory[0]);
  b = aligned(memory[1]);
  out = aligned(memory[2]);
  for (size_t i = 0; i < N; i++) {
    state = state * 1664525u + 1013904223u;
    a[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    bytes_a[i] = (int8_t)(int)((int)(state >> 24) - 128);
    state = state * 1664525u + 1013904223u;
    b[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    bytes_b[i] = (int8_t)(int)((int)(state >> 24) - 128);
  }
  /* A rotation by 0.6435 for all pairs: 3-4-5. */
  for (size_t i = 0; i < HEAD_DIM / 2; i++) {
    cosines[i] = 0.8f;
    sines[i] = 0.6f;
  }
  for (size_t i = 0; i < sizeof blocks; i++)
    /* Each block begins with its scale, a half float of 0.5. */
    blocks[i] = i % 34 == 0 ? 0 : i % 34 == 1 ? 0x38 : (uint8_t)bytes_a[i];
}

/* Runs a function once on fresh arrays and keeps all that it writes. */
static int results(const infer_kernels *k, work run, double *kept) {
  memcpy(out, a, N * sizeof *out);
  memset(sums, 0, sizeof sums);
  memset(halves, 0, sizeof halves);
  if (run(k) != INFER_OK)
    return 0;
  for (size_t i = 0; i < N; i++)
    kept[i] = (double)out[i] + (double)sums[i];
  for (size_t i = 0; i < sizeof halves; i++)
    kept[N + i] = (double)halves[i];
  return 1;
}

/* Nanoseconds of a call: the best of the batches that fit into the time. */
static double nanoseconds(const infer_kernels *k, work run, double milliseconds) {
  const double end = now() + milliseconds * 1e6;
  double best = 1e30;
  size_t batch = 1;
  memcpy(out, a, N * sizeof *out);
  do {
    const double start = now();
    double taken;
    for (size_t i = 0; i < batch; i++)
      run(k);
    taken = now() - start;
    if (taken / (double)batch < best)
      best = taken / (double)batch;
    /* Long enough for the clock. */
    if (taken < 20000)
      batch *= 2;
  } while (now() < end);
  return best;
}

int main(int argc, char **argv) {
  enum { RESULTS = N + 2 * VECTOR, LEVELS = 8 };
  static double of_scalar[RESULTS], of_level[RESULTS];
  const double milliseconds = argc > 1 ? atof(argv[1]) : 20;
  infer_kernels *kernels[LEVELS] = {NULL};
  size_t n_levels = 0;
  int failed = 0;
  const char *level;

  prepare();
  /* The lowest level comes first: it is "scalar" everywhere. */
  while (n_levels < LEVELS && (level = infer_kernels_level_at(n_levels)) != NULL) {
    if (infer_kernels_create(level, &kernels[n_levels], &error) != INFER_OK)
      goto done;
    n_levels++;
  }
  printf("%-16s %-16s %-8s %14s %10s %15s\n", "function", "shape", "level", "ns per call", "x scalar", "max difference");
  for (size_t w = 0; w < sizeof works / sizeof works[0]; w++) {
    double scalar = 0;
    if (!results(kernels[0], works[w].run, of_scalar))
      goto done;
    for (size_t l = 0; l < n_levels; l++) {
      double difference = 0, time;
      if (!results(kernels[l], works[w].run, of_level))
        goto done;
      for (size_t i = 0; i < RESULTS; i++) {
        const double d = of_level[i] > of_scalar[i] ? of_level[i] - of_scalar[i] : of_scalar[i] - of_level[i];
        difference = d > difference ? d : difference;
      }
      time = nanoseconds(kernels[l], works[w].run, milliseconds);
      if (l == 0)
        scalar = time;
      printf("%-16s %-16s %-8s %14.1f %10.2f %15.2g\n", works[w].name, works[w].shape, infer_kernels_level(kernels[l]),
             time, scalar / time, difference);
    }
  }

done:
  if (error != NULL) {
    fprintf(stderr, "kernels: %s\n", infer_error_message(error));
    failed = 1;
  }
  infer_error_free(error);
  for (size_t l = 0; l < n_levels; l++)
    infer_kernels_free(kernels[l]);
  return failed;
}
