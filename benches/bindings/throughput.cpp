// The job of benches/bindings by the C++ wrapper: one thread reads all requests from a queue.
//
//     throughput MODEL TOKENS PROMPT...
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "infer.hpp"

namespace {

// Generated at first and not measured, so that buffers have grown and caches are warm.
constexpr std::uint64_t warm_up = 4;

// What a request brought.
struct stream {
  std::vector<std::uint32_t> tokens;
  std::string text;
};

// Submits all prompts and reads their events to the end.
std::vector<stream> complete(const infer::engine &engine, const std::vector<std::string> &prompts,
                             std::uint64_t max_tokens) {
  auto queue = infer::queue::create();
  std::vector<infer::request_options> options(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); i++)
    options[i]
        .prompt(prompts[i])
        .max_tokens(max_tokens)
        .temperature(0)
        .set("ignore_end_of_generation", true)
        .report_to(queue, i);
  // The requests live until they were read: destroying one cancels it.
  const auto requests = engine.submit_batch(options);
  std::vector<stream> streams(requests.size());
  for (std::size_t running = requests.size(); running > 0;) {
    for (const infer::event &event : queue.next()) {
      stream &s = streams[event.tag()];
      s.tokens.insert(s.tokens.end(), event.tokens().begin(), event.tokens().end());
      s.text += event.text();
      if (!event.finished())
        continue;
      if (event.finish() != infer::finish_reason::length)
        throw std::runtime_error("request " + std::to_string(event.tag()) + " ended early");
      running--;
    }
  }
  return streams;
}

// Processor time of all threads of this process (CLOCK_PROCESS_CPUTIME_ID) or of this one (CLOCK_THREAD_CPUTIME_ID),
// which is the only one that is not the library's.
double cpu_seconds(clockid_t clock) {
  std::timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// FNV-1a over the ids, each as four bytes, and the text of all requests.
std::uint64_t checksum(const std::vector<stream> &streams) {
  std::uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](unsigned byte) { hash = (hash ^ (byte & 0xff)) * 0x100000001b3; };
  for (const stream &s : streams) {
    for (const std::uint32_t id : s.tokens)
      for (unsigned shift = 0; shift < 32; shift += 8)
        add(id >> shift);
    for (const char c : s.text)
      add(static_cast<unsigned char>(c));
  }
  return hash;
}

} // namespace

int main(int argc, char **argv) try {
  if (argc < 4) {
    std::fprintf(stderr, "usage: throughput MODEL TOKENS PROMPT...\n");
    return EXIT_FAILURE;
  }
  const std::vector<std::string> prompts(argv + 3, argv + argc);
  const auto model = infer::model::load(argv[1]);
  const auto engine =
      infer::engine::create(model, infer::engine_options().set("threads", 2).set("max_running", 16));
  complete(engine, prompts, warm_up);

  const auto begin = std::chrono::steady_clock::now();
  const double cpu_begin = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID), host_begin = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
  const auto streams = complete(engine, prompts, std::strtoull(argv[2], nullptr, 10));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const double cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin;
  const double host = cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - host_begin;

  double tokens = 0;
  for (const stream &s : streams)
    tokens += static_cast<double>(s.tokens.size());
  std::printf("{\"tokens\": %.0f, \"seconds\": %.6f, \"tokens_per_second\": %.1f, \"us_per_token\": %.3f, "
              "\"cpu_seconds\": %.6f, \"host_cpu_seconds\": %.6f, \"checksum\": \"%016" PRIx64 "\"}\n",
              tokens, seconds, tokens / seconds, seconds * 1e6 / tokens, cpu, host, checksum(streams));
  return EXIT_SUCCESS;
} catch (const std::exception &e) {
  std::fprintf(stderr, "throughput: %s\n", e.what());
  return EXIT_FAILURE;
}
