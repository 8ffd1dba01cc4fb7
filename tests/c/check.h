/* What the C tests share: a check that says where it failed. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer.h"

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);        \
      exit(1);                                                               \
    }                                                                        \
  } while (0)

/* The call succeeds and writes NULL to the error, whatever was there. */
#define OK(call)                                                             \
  do {                                                                       \
    infer_status status_;                                                    \
    error = (infer_error *)(void *)&error;                                   \
    status_ = (call);                                                        \
    if (status_ != INFER_OK || error != NULL) {                              \
      fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call,      \
              infer_status_name(status_), infer_error_message(error));       \
      exit(1);                                                               \
    }                                                                        \
  } while (0)

/* The call answers a status, and an error object exactly when it is an error. */
#define ANSWERS(expected, call)                                              \
  do {                                                                       \
    infer_status status_;                                                    \
    error = (infer_error *)(void *)&error;                                   \
    status_ = (call);                                                        \
    if (status_ != (expected) || (status_ < 0) != (error != NULL) ||         \
        (error != NULL && infer_error_status(error) != status_)) {           \
      fprintf(stderr, "%s:%d: %s: found %s: %s\n", __FILE__, __LINE__, #call, \
              infer_status_name(status_), infer_error_message(error));       \
      exit(1);                                                               \
    }                                                                        \
    infer_error_free(error);                                                 \
    error = NULL;                                                            \
  } while (0)

#endif
