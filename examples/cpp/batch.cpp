// Completes several prompts at once: they share the steps of one engine, and one thread reads the events of all from
// a queue. Prints each completion when it ends, marked with the number of its prompt. Written without exceptions: it
// can be compiled with -fno-exceptions.
//
//     batch MODEL MAX_TOKENS PROMPT...
#ifndef INFER_NO_EXCEPTIONS
#define INFER_NO_EXCEPTIONS
#endif
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "infer.hpp"

namespace {

// Reads events until every request has ended; the number of those that failed, or an error.
infer::result<int> read_all(infer::queue &queue, std::size_t running) {
  std::vector<std::string> texts(running);
  int failures = 0;
  while (running > 0) {
    const auto events = queue.next();
    if (!events)
      return events.error();
    for (const infer::event &event : *events) {
      // The tag is the index that complete() below gave the request.
      std::string &text = texts[event.tag()];
      text += event.text();
      if (!event.finished())
        continue;
      running--;
      if (const auto error = event.error()) {
        std::cerr << "batch: prompt " << event.tag() << ": " << error->message() << '\n';
        failures++;
      } else {
        std::cout << '[' << event.tag() << "] " << text << '\n';
      }
    }
  }
  return failures;
}

infer::result<int> complete(const char *path, const char *max_tokens, const std::vector<std::string> &prompts) {
  const auto model = infer::model::load(path);
  if (!model)
    return model.error();
  const auto engine = infer::engine::create(*model);
  if (!engine)
    return engine.error();
  auto queue = infer::queue::create();
  if (!queue)
    return queue.error();

  std::vector<infer::request_options> options;
  for (std::size_t i = 0; i < prompts.size(); i++) {
    // A setter that fails is remembered, and submitting answers its error.
    infer::request_options one;
    one.prompt(prompts[i]).set("max_tokens", max_tokens).temperature(0).report_to(*queue, i);
    options.push_back(std::move(one));
  }
  // The requests live until they were read: destroying one cancels it.
  const auto requests = engine->submit_batch(options);
  if (!requests)
    return requests.error();
  return read_all(*queue, requests->size());
}

} // namespace

int main(int argc, char **argv) {
  if (argc < 4) {
    std::cerr << "usage: batch MODEL MAX_TOKENS PROMPT...\n";
    return EXIT_FAILURE;
  }
  const auto failures = complete(argv[1], argv[2], std::vector<std::string>(argv + 3, argv + argc));
  if (!failures)
    std::cerr << "batch: " << failures.error().message() << '\n';
  return failures && *failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
