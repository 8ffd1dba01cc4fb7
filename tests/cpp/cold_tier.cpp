// Two engines, one after the other: the second finds what the first left in a directory.
#include <string>
#include <vector>

#include "check.hpp"

int main(int argc, char **argv) {
  CHECK(argc == 3);
  const auto model = infer::model::load(argv[1]);
  std::vector<std::uint32_t> ids;
  for (std::uint32_t i = 0; i < 100; i++)
    ids.push_back(300 + i);
  std::string text;
  // Whole blocks of 32 tokens.
  for (const std::uint64_t cached : {0u, 96u}) {
    infer::engine_options options;
    options.set("kv_cold_dir", argv[2]);
    const auto engine = infer::engine::create(model, options);
    infer::request_options request;
    request.prompt_ids(ids).max_tokens(16).temperature(0).set("ignore_end_of_generation", true);
    std::string answer;
    for (const infer::event &event : engine.submit(request)) {
      answer += event.text();
      CHECK(!event.finished() || event.cached_tokens() == cached);
    }
    const auto stats = engine.stats();
    CHECK(stats.kv_cold_state == 1 && stats.kv_cold_hit_tokens == cached && stats.kv_cold_reads == cached / 32);
    CHECK(!answer.empty() && (cached == 0 || answer == text));
    text = answer;
  }
}
