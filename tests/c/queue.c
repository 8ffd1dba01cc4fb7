/* Completion queues: many requests, one reader, a descriptor to poll; and an engine stepped by hand. */
#include <poll.h>

#include "check.h"

enum { REQUESTS = 40 };

static int readable(int fd) {
  struct pollfd p;
  p.fd = fd;
  p.events = POLLIN;
  p.revents = 0;
  return poll(&p, 1, 0) == 1;
}

int main(int argc, char **argv) {
  infer_error *error = NULL;
  infer_model *model = NULL;
  infer_engine *engine = NULL;
  infer_queue *queue = NULL;
  infer_engine_options *eo = infer_engine_options_new();
  infer_request_options *ro[REQUESTS];
  infer_request *requests[REQUESTS], *one = NULL;
  /* A program whose struct is larger than the library's. */
  struct {
    infer_event event;
    uint64_t beyond;
  } events[16];
  infer_event event = INFER_EVENT_INIT;
  size_t tokens[REQUESTS] = {0}, finished = 0, n = 5, i;
  uint32_t more = 1;
  int fd = -1, again = -1;
  CHECK(argc == 2);

  OK(infer_model_load(argv[1], INFER_NTS, NULL, &model, &error));
  OK(infer_engine_options_set(eo, "manual_step", "true", &error));
  OK(infer_engine_options_set(eo, "max_running", "8", &error));
  OK(infer_engine_create(model, eo, &engine, &error));
  infer_engine_options_free(eo);
  infer_model_free(model);
  OK(infer_queue_create(&queue, &error));
  OK(infer_queue_fd(queue, &fd, &error));
  OK(infer_queue_fd(queue, &again, &error));
  CHECK(fd == again && !readable(fd));

  for (i = 0; i < REQUESTS; i++) {
    ro[i] = infer_request_options_new();
    OK(infer_request_options_set_prompt(ro[i], "The prince", INFER_NTS, &error));
    OK(infer_request_options_set_max_tokens(ro[i], i + 1, &error));
    OK(infer_request_options_set(ro[i], "ignore_end_of_generation", "true", &error));
    OK(infer_request_options_set_queue(ro[i], queue, i, &error));
  }
  /* All or nothing: one bad request refuses the batch. */
  {
    infer_request_options *keep = ro[7];
    ro[7] = infer_request_options_new();
    requests[0] = NULL;
    ANSWERS(INFER_ERR_INVALID_ARGUMENT,
            infer_engine_submit_batch(engine, (const infer_request_options *const *)ro, REQUESTS, requests, &error));
    CHECK(requests[0] == NULL);
    infer_request_options_free(ro[7]);
    ro[7] = keep;
  }
  OK(infer_engine_submit_batch(engine, (const infer_request_options *const *)ro, REQUESTS, requests, &error));
  for (i = 0; i < REQUESTS; i++) {
    infer_request_options_free(ro[i]);
    CHECK(infer_request_tag(requests[i]) == i);
  }
  ANSWERS(INFER_ERR_INVALID_ARGUMENT, infer_request_next(requests[0], 0, &event, &error));
  ANSWERS(INFER_TIMEOUT, infer_queue_next(queue, 0, &events[0].event, 16, sizeof events[0], &n, &error));
  CHECK(n == 0);

  while (finished < REQUESTS) {
    OK(infer_engine_step(engine, &more, &error));
    while (readable(fd)) {
      for (i = 0; i < 16; i++)
        events[i].beyond = 42;
      OK(infer_queue_next(queue, -1, &events[0].event, 16, sizeof events[0], &n, &error));
      CHECK(n > 0 && n <= 16);
      for (i = 0; i < n; i++) {
        const infer_event *e = &events[i].event;
        CHECK(e->struct_size == sizeof events[0] && events[i].beyond == 42 && e->tag < REQUESTS);
        tokens[e->tag] += e->n_tokens;
        if (e->kind == INFER_EVENT_FINISHED) {
          CHECK(e->finish_reason == INFER_FINISH_LENGTH && e->generated_tokens == tokens[e->tag]);
          finished++;
        }
      }
    }
  }
  OK(infer_engine_step(engine, &more, &error));
  CHECK(more == 0);
  for (i = 0; i < REQUESTS; i++) {
    CHECK(tokens[i] == i + 1);
    infer_request_free(requests[i]);
  }

  /* A queue that is freed early, with events in it, costs its requests nothing but their readers. */
  ro[0] = infer_request_options_new();
  OK(infer_request_options_set_prompt(ro[0], "The prince", INFER_NTS, &error));
  OK(infer_request_options_set_queue(ro[0], queue, 1, &error));
  OK(infer_engine_submit(engine, ro[0], &one, &error));
  infer_queue_free(queue);
  infer_request_options_free(ro[0]);
  OK(infer_engine_drain(engine, -1, &error));
  infer_request_free(one);
  infer_engine_free(engine);
  return 0;
}
