// The wrapper without exceptions, compiled with -fno-exceptions: the same calls answer results.
#include <string>
#include <type_traits>
#include <vector>

#include "check.hpp"

using namespace std::chrono_literals;

namespace {

static_assert(std::is_same_v<infer::outcome<int>, infer::result<int>>);

infer::request_options greedy(std::uint64_t n) {
  infer::request_options options;
  options.prompt("The old prince").max_tokens(n).temperature(0);
  return options;
}

void calls_answer_results(const infer::model &model, const infer::engine &engine) {
  const auto missing = infer::model::load("no/such/model.gguf");
  CHECK(!missing && missing.error().code() == infer::status::io);
  CHECK(missing.error().message().find("no/such/model.gguf") != std::string::npos);
  const auto info = model.info();
  CHECK(info && info->n_vocab > 0 && info->architecture == "llama");
  const auto ids = model.tokenize("The old prince", 0);
  CHECK(ids && model.detokenize(*ids).value() == "The old prince");
  CHECK(model.metadata("no.such.key") && !model.metadata("no.such.key").value());
  CHECK(model.special_token(infer::special_token::eos).value());
  CHECK(!engine.step() && engine.pause() && engine.resume() && engine.stats() && engine.summary());
  CHECK(infer::describe_options()->size() > 10);
  CHECK(!infer::engine::create(infer::model()));
}

void the_first_failure_of_options_is_kept(const infer::engine &engine) {
  auto options = greedy(4);
  CHECK(options.failure() == nullptr);
  options.temperature(-1).set("no_such_key", 1).max_tokens(5);
  CHECK(options.failure() != nullptr && options.failure()->code() == infer::status::invalid_argument);
  CHECK(options.failure()->message().find("temperature") != std::string::npos);
  const auto submitted = engine.submit(options);
  CHECK(!submitted && submitted.error().message() == options.failure()->message());
  CHECK(!options.copy() && !engine.generate(options));
  std::vector<infer::request_options> batch;
  batch.push_back(greedy(1));
  batch.push_back(std::move(options));
  CHECK(!engine.submit_batch(batch));
  // reset() forgets it.
  batch[1].reset().prompt("The old prince").max_tokens(1);
  CHECK(batch[1].failure() == nullptr);
  CHECK(engine.submit_batch(batch)->size() == 2);
  infer::model_options of_model;
  of_model.set("no_such_key", "1");
  CHECK(!infer::model::load("models/tolstoy-3m-Q8_0.gguf", of_model));
  CHECK(!infer::model::estimate("models/tolstoy-3m-Q8_0.gguf", of_model));
  // A value from outside can be tried instead.
  auto tried = greedy(1);
  CHECK(!tried.try_set("temperature", "warm") && tried.failure() == nullptr && engine.submit(tried));
}

void a_stream_is_a_range(const infer::engine &engine) {
  auto request = engine.submit(greedy(12));
  CHECK(request);
  std::size_t n = 0;
  bool finished = false;
  for (const infer::event &event : *request) {
    n += event.tokens().size();
    finished = event.finished();
  }
  CHECK(n == 12 && finished && request->failure() == nullptr);
  // A read that fails ends the loop and is told.
  infer::request empty;
  for (const infer::event &event : empty)
    CHECK(event.finished() && false);
  CHECK(empty.failure() != nullptr && empty.failure()->code() == infer::status::invalid_argument);
  CHECK(engine.generate(greedy(12))->tokens.size() == 12);
}

void outputs_come_with_their_tokens(const infer::model &model, const infer::engine &engine) {
  auto options = greedy(6);
  options.set("logprobs", "true").set("top_logprobs", "3").set("prompt_logprobs", "true");
  auto request = engine.submit(options);
  CHECK(request);
  std::size_t scored = 0;
  for (const infer::event &event : *request) {
    CHECK(event.logprobs().size() == event.tokens().size());
    for (std::size_t i = 0; i < event.tokens().size(); i++) {
      CHECK(event.top_tokens(i).size() == 3 && event.top_logprobs(i).size() == 3);
      CHECK(event.top_tokens(i)[0] == event.tokens()[i] && event.top_logprobs(i)[0] == event.logprobs()[i]);
    }
    CHECK(event.top_tokens(event.tokens().size()).empty() && event.embedding().empty());
    scored += event.prompt_logprobs().size();
  }
  const auto whole = engine.generate(options);
  CHECK(whole && whole->logprobs.size() == 6 && whole->prompt_logprobs.size() == scored);
  CHECK(scored == whole->prompt_tokens && whole->embedding.empty());
  const auto embedded = engine.generate(greedy(6).set("embedding", "mean"));
  CHECK(embedded && embedded->tokens.empty() && embedded->embedding.size() == model.info()->n_embd);
}

void a_queue_reads_many(const infer::engine &engine) {
  auto queue = infer::queue::create().value();
  std::vector<infer::request> requests;
  for (std::uint64_t i = 0; i < 10; i++)
    requests.push_back(engine.submit(greedy(3).report_to(queue, i)).value());
  for (std::size_t running = requests.size(); running > 0;) {
    const auto events = queue.next(10s);
    CHECK(events && !events->empty());
    for (const infer::event &event : *events)
      running -= event.finished();
  }
  infer::event event;
  const auto refused = requests[0].next(event);
  CHECK(!refused && refused.error().code() == infer::status::invalid_argument);
}

void kernels_answer_results() {
  const auto unknown = infer::kernels::create("AVX9");
  CHECK(!unknown && unknown.error().code() == infer::status::invalid_argument);
  const auto k = infer::kernels::create("scalar").value();
  std::vector<float> x{3, -4};
  CHECK(k.dot(x, x).value() == 25 && k.relu(x, x) && x[1] == 0);
  const auto refused = k.softmax(x, infer::span<float>(x.data(), 1));
  CHECK(!refused && refused.error().code() == infer::status::invalid_argument);
}

void a_key_value_cache_answers_results() {
  const auto refused = infer::kv_cache::create(infer::kv_cache_options().set("kv_type", "f64"));
  CHECK(!refused && refused.error().code() == infer::status::invalid_argument);
  const auto cache = infer::kv_cache::create(infer::kv_cache_options().shape(1, 1, 4)).value();
  auto sequence = cache.open().value();
  const std::vector<float> row{1, 2, 3, 4};
  CHECK(sequence.store(0, 0, row, row) && sequence.advance(1) && sequence.length() == 1);
  const auto early = sequence.advance(1);
  CHECK(!early && early.error().code() == infer::status::invalid_argument);
  CHECK(sequence.view(0, 0, 1).value().blocks().value().size() == 1);
}

} // namespace

int main(int argc, char **argv) {
  CHECK(argc == 2);
  const auto model = infer::model::load(argv[1]).value();
  const auto engine = infer::engine::create(model).value();
  calls_answer_results(model, engine);
  the_first_failure_of_options_is_kept(engine);
  a_stream_is_a_range(engine);
  outputs_come_with_their_tokens(model, engine);
  a_queue_reads_many(engine);
  kernels_answer_results();
  a_key_value_cache_answers_results();
}
