// The wrapper with exceptions: everything a program does with models, engines, requests and their options.
#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>
#if __cplusplus >= 202002L
#include <iterator>
#include <span>
#endif

#include "check.hpp"

using namespace std::chrono_literals;

namespace {

// The call throws infer::exception with this status and a sentence that has this part.
#define THROWS(expected, part, ...)                                            \
  do {                                                                         \
    bool thrown = false;                                                       \
    try {                                                                      \
      static_cast<void>(__VA_ARGS__);                                          \
    } catch (const infer::exception &e) {                                      \
      thrown = true;                                                           \
      CHECK(e.code() == (expected));                                           \
      if (std::string(e.what()).find(part) == std::string::npos) {             \
        std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, e.what());     \
        std::exit(1);                                                          \
      }                                                                        \
    }                                                                          \
    CHECK(thrown);                                                             \
  } while (false)

infer::request_options greedy(std::uint64_t n) {
  infer::request_options options;
  options.prompt("The old prince").max_tokens(n).temperature(0);
  return options;
}

template <class T> constexpr bool moves_only = std::is_nothrow_move_constructible_v<T> &&
                                               std::is_nothrow_move_assignable_v<T> &&
                                               !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(moves_only<infer::model> && moves_only<infer::engine> && moves_only<infer::request> &&
              moves_only<infer::threads> && moves_only<infer::kernels> && moves_only<infer::kv_cache> &&
                  moves_only<infer::kv_sequence> && moves_only<infer::kv_view> && moves_only<infer::kv_pin>);
static_assert(std::is_move_constructible_v<infer::queue> && !std::is_copy_constructible_v<infer::queue>);
static_assert(std::is_move_constructible_v<infer::request_options> &&
              !std::is_copy_constructible_v<infer::request_options>);
static_assert(std::is_same_v<infer::outcome<int>, int>);

void a_stream_is_a_range(const infer::engine &engine) {
  auto request = engine.submit(greedy(24).tag(7));
  CHECK(request.tag() == 7 && request.id() != 0);
  std::string text;
  std::vector<std::uint32_t> tokens;
  int ends = 0;
  for (const infer::event &event : request) {
    CHECK(ends == 0 && event.tag() == 7 && event.choice() == 0 && event.channel() == infer::channel::content);
    text += event.text();
    tokens.insert(tokens.end(), event.tokens().begin(), event.tokens().end());
    if (event.finished()) {
      ends++;
      CHECK(event.finish() == infer::finish_reason::length && !event.error());
      CHECK(event.generated_tokens() == tokens.size() && event.prompt_tokens() > 0);
      CHECK(event.total_time() >= event.time_to_first_token() && event.time_to_first_token() > 0ns);
    } else {
      CHECK(event.finish() == infer::finish_reason::none && event.generated_tokens() == 0);
    }
  }
  CHECK(ends == 1 && tokens.size() == 24 && !text.empty());
  // A stream that was read has no events left.
  CHECK(request.begin() == request.end());
  infer::event event;
  CHECK(request.next(event) == infer::poll::end);

  const auto collected = engine.generate(greedy(24));
  CHECK(collected.text == text && collected.tokens == tokens);
  CHECK(collected.finish == infer::finish_reason::length && collected.generated_tokens == 24);
}

void errors_are_exceptions(const infer::model &model, const infer::engine &engine) {
  THROWS(infer::status::io, "no/such/model.gguf", infer::model::load("no/such/model.gguf"));
  THROWS(infer::status::invalid_argument, "temperature", infer::request_options().temperature(-1));
  THROWS(infer::status::invalid_argument, "no_such_key", infer::request_options().set("no_such_key", 1));
  THROWS(infer::status::invalid_argument, "NUL", infer::request_options().set("seed", std::string_view("1\0002", 3)));
  THROWS(infer::status::invalid_utf8, "", infer::request_options().prompt("\xff"));
  THROWS(infer::status::invalid_argument, "prompt", engine.submit(infer::request_options()));
  const std::vector<std::uint32_t> outside{4000000000u};
  THROWS(infer::status::invalid_argument, "", engine.submit(infer::request_options().prompt_ids(outside)));
  THROWS(infer::status::unsupported, "template",
         model.apply_chat_template(std::vector<infer::message>{{"user", "hello"}}));
  THROWS(infer::status::invalid_argument, "step", engine.step());
  THROWS(infer::status::invalid_argument, "", infer::engine::create(infer::model()));
  const std::string not_a_model(64, 'x');
  THROWS(infer::status::invalid_model, "", infer::model::load_from_memory(not_a_model.data(), not_a_model.size()));
  // Values from outside can be tried without exceptions.
  infer::request_options options;
  const auto refused = options.try_set("temperature", "warm");
  CHECK(!refused && refused.error().code() == infer::status::invalid_argument && options.failure() == nullptr);
  CHECK(options.try_set("temperature", "0.5"));
  CHECK(infer::name(infer::status::busy) == "INFER_ERR_BUSY");
}

void results_can_be_used_with_exceptions() {
  infer::result<int> good(3), bad(infer::error(infer::status::busy, "busy"));
  CHECK(good && good.value() == 3 && *good == 3 && !bad && bad.error().message() == "busy");
  CHECK(std::move(bad).value_or(5) == 5);
  THROWS(infer::status::busy, "busy", bad.value());
  THROWS(infer::status::busy, "busy", *bad);
}

void handles_move(const infer::model &model) {
  auto engine = infer::engine::create(model);
  auto moved = std::move(engine);
  CHECK(!engine && moved); // NOLINT(bugprone-use-after-move)
  THROWS(infer::status::invalid_argument, "", engine.submit(greedy(1)));
  auto request = moved.submit(greedy(8));
  infer::event event;
  CHECK(request.next(event) == infer::poll::event);
  const auto first = event.text();
  const std::string copy(first);
  const auto n = event.tokens().size();
  infer::request other = std::move(request);
  CHECK(!request && other && first == copy); // NOLINT(bugprone-use-after-move)
  CHECK(n + other.collect().tokens.size() == 8);
  // Assigning frees what was there.
  moved.pause();
  other = moved.submit(greedy(8));
  moved = infer::engine::create(model);
  CHECK(other.collect().finish == infer::finish_reason::cancelled);
  infer::request empty;
  CHECK(!empty && empty.id() == 0);
  THROWS(infer::status::invalid_argument, "", empty.begin());
}

void destruction_in_any_order(const char *path) {
  infer::request request;
  infer::queue queue = infer::queue::create();
  {
    infer::engine engine;
    {
      const auto model = infer::model::load(path);
      engine = infer::engine::create(model);
    }
    CHECK(engine.generate(greedy(4)).tokens.size() == 4);
    engine.pause();
    request = engine.submit(greedy(1000));
    auto reported = engine.submit(greedy(1000).report_to(queue, 1));
    queue = infer::queue();
  }
  CHECK(request.collect().finish == infer::finish_reason::cancelled);
}

void a_queue_reads_many(const infer::engine &engine) {
  constexpr std::size_t n = 40;
  auto queue = infer::queue::create();
  CHECK(queue.next(0ms).empty());
  CHECK(queue.next(-5s).empty());
  std::vector<infer::request_options> options;
  for (std::size_t i = 0; i < n; i++)
    options.push_back(greedy(4 + i % 5).report_to(queue, i).copy());
  const auto requests = engine.submit_batch(options);
  CHECK(requests.size() == n);
  std::array<std::size_t, n> counts{};
  for (std::size_t running = n; running > 0;) {
    // A capacity below the number of requests: the rest comes with the next call.
    const auto events = queue.next(infer::forever, 7);
    CHECK(!events.empty() && events.size() <= 7);
    for (const infer::event &event : events) {
      counts.at(event.tag()) += event.tokens().size();
      running -= event.finished();
    }
  }
  for (std::size_t i = 0; i < n; i++)
    CHECK(counts[i] == 4 + i % 5);
#ifdef __linux__
  CHECK(queue.fd() >= 0);
#endif
}

void callbacks_are_called_and_contained(const char *path) {
  // Counts the copies of a callback that are alive.
  const auto alive = std::make_shared<int>(0);
  float last = -1;
  {
    infer::model_options options;
    options.progress([&last, alive](float fraction) {
      CHECK(fraction >= last);
      last = fraction;
      return true;
    });
    CHECK(alive.use_count() > 1);
    const auto model = infer::model::load(path, options);
    CHECK(last == 1);
    // Replacing a callback frees the one before.
    options.progress([](float) { return false; });
    CHECK(alive.use_count() == 1);
    THROWS(infer::status::cancelled, "", infer::model::load(path, options));
    options.progress([](float) -> bool { throw std::runtime_error("from the callback"); });
    THROWS(infer::status::cancelled, "", infer::model::load(path, options));
    options.progress({});
    CHECK(infer::model::load(path, options));
  }

  const auto model = infer::model::load(path);
  {
    infer::engine engine;
    {
      infer::engine_options options;
      options.log([alive](const infer::log_record &record) {
        CHECK(!record.message.empty() && record.fields_json.front() == '{');
        throw 1;
      });
      engine = infer::engine::create(model, options);
    }
    // The engine keeps the callback of options that are gone.
    CHECK(alive.use_count() > 1);
    CHECK(engine.generate(greedy(4)).tokens.size() == 4);
  }
  CHECK(alive.use_count() == 1);

  std::atomic<int> started{0}, stopped{0};
  {
    const auto pool = infer::threads::create(infer::threads_options().set("threads", 2).hooks(
        [&](std::uint32_t) { started++; throw 2; }, [&, alive](std::uint32_t) { stopped++; }));
    CHECK(pool.count() == 2 && alive.use_count() > 1);
    const auto engine = infer::engine::create(model, infer::engine_options().use_threads(pool));
    CHECK(engine.generate(greedy(4)).tokens.size() == 4);
  }
  CHECK(started > 0 && stopped == started && alive.use_count() == 1);

  const auto drafting = infer::engine::create(
      model, infer::engine_options().draft_model(model).set("speculation_adaptive", false).set("max_running", 1));
  CHECK(drafting.generate(greedy(20)).tokens == infer::engine::create(model).generate(greedy(20)).tokens);
  CHECK(drafting.stats().accepted_tokens > 0);
}

void models_answer_questions(const infer::model &model, const char *path) {
  const auto info = model.info();
  CHECK(info.n_vocab > 0 && info.architecture == "llama" && !info.description.empty() && !info.has_chat_template);
  const auto ids = model.tokenize("The old prince", 0);
  CHECK(!ids.empty() && model.detokenize(ids) == "The old prince");
  CHECK(model.tokenize(std::string(5000, 'a'), 0).size() > 256);
  CHECK(model.detokenize(model.tokenize(std::string(5000, 'a'), 0)).size() == 5000);
  CHECK(model.detokenize({}) == "" && model.tokenize("", 0).empty());
  CHECK(!model.token_text(ids[0]).empty());
  CHECK(!model.is_end_of_generation(ids[0]));
  const auto eos = model.special_token(infer::special_token::eos);
  CHECK(eos && model.is_end_of_generation(*eos));
  const auto keys = model.metadata_keys();
  CHECK(!keys.empty() && model.metadata("general.architecture") == "llama" && !model.metadata("no.such.key"));
  for (const std::string_view key : keys)
    CHECK(model.metadata(key));
  const auto estimate = infer::model::estimate(path);
  CHECK(estimate.weights > 0 && estimate.total >= estimate.weights + estimate.kv_cache);
  CHECK(infer::describe_options().size() > 10);
  CHECK(infer::version() == INFER_VERSION && !infer::cpu_level_name().empty());
}

void engines_are_controlled(const infer::model &model) {
  const auto engine = infer::engine::create(model);
  engine.pause();
  auto request = engine.submit(greedy(4));
  infer::event event;
  CHECK(request.next(event, 20ms) == infer::poll::timeout);
  CHECK(engine.wait(1us).empty());
  CHECK(!engine.drain(1ms));
  engine.resume();
  const auto ready = engine.wait();
  CHECK(ready.size() == 1 && ready[0] == request.id());
  CHECK(request.collect().finish == infer::finish_reason::length);
  CHECK(engine.drain(10s));
  THROWS(infer::status::closed, "", engine.submit(greedy(1)));
  engine.resume();

  auto endless = engine.submit(greedy(100000).set("max_tokens", 200));
  std::thread other([&] { endless.cancel(); });
  const auto ended = endless.collect();
  other.join();
  CHECK(ended.finish == infer::finish_reason::cancelled || ended.finish == infer::finish_reason::length);

  const auto stats = engine.stats();
  CHECK(stats.requests_submitted == 2 && infer::stats_delta(stats, stats).requests_submitted == 0);
  CHECK(infer::stats_merge(stats, stats).requests_submitted == 4);
  const auto gaps = engine.histogram(infer::histogram_kind::inter_token_time);
  CHECK(gaps.count > 0 && infer::histogram_quantile(gaps, 1) == static_cast<double>(gaps.max));
  CHECK(infer::histogram_delta(gaps, gaps).count == 0 && infer::histogram_merge(gaps, gaps).count == 2 * gaps.count);
  THROWS(infer::status::invalid_argument, "0 to 1", infer::histogram_quantile(gaps, 2));
  CHECK(!engine.summary().empty() && engine.metrics_text().find("infer_") != std::string::npos);
  engine.cache_clear();
  engine.cache_clear("salt");
  engine.trim(0);

  const auto ids = model.tokenize("The old prince looked at the soldiers who stood in the snow, and said nothing.");
  const auto said = engine.generate(greedy(12).prompt_ids(ids)).text;
  const auto state = engine.state_save(ids);
  const auto fresh = infer::engine::create(model);
  CHECK(fresh.state_restore(state) == ids.size());
  CHECK(fresh.generate(greedy(12).prompt_ids(ids)).text == said);
  CHECK(fresh.stats().prefix_hit_tokens == ids.size() - 1);
  THROWS(infer::status::invalid_argument, "state", fresh.state_restore({state.data(), state.size() - 1}));

  const auto manual = infer::engine::create(model, infer::engine_options().set("manual_step", true));
  auto stepped = manual.submit(greedy(3));
  while (manual.step()) {
  }
  CHECK(stepped.collect().tokens.size() == 3);
}

void request_options_hold(const infer::engine &engine) {
  const auto text = engine.generate(greedy(24)).text;
  const auto word = text.substr(text.find(' ', 1) + 1, 3);
  const auto stopped = engine.generate(greedy(24).stop(word));
  CHECK(stopped.finish == infer::finish_reason::stop && stopped.stop == word);
  CHECK(stopped.text == text.substr(0, text.find(word)));
  auto options = greedy(24);
  auto copy = options.copy();
  options.reset();
  CHECK(engine.generate(copy).text == text);
  // Numbers are written in a form that does not depend on the type or the locale.
  copy.set("temperature", 0.7f).set("temperature", 0.5).set("seed", std::uint64_t{1} << 40).set("temperature", 0);
  CHECK(engine.generate(copy).text == text);
  const char *value = "3";
  CHECK(engine.generate(copy.set("max_tokens", value)).tokens.size() == 3);
}

void spans_take_what_is_in_a_row() {
  const std::vector<std::uint32_t> vector{1, 2, 3};
  const std::array<std::uint32_t, 2> array{4, 5};
  const std::uint32_t plain[] = {6};
  infer::span<const std::uint32_t> s = vector;
  CHECK(s.size() == 3 && s[2] == 3 && s.data() == vector.data());
  s = array;
  CHECK(s.size() == 2 && *s.begin() == 4);
  s = plain;
  CHECK(s.size() == 1 && !s.empty() && infer::span<const std::uint32_t>().empty());
#if __cplusplus >= 202002L
  const std::span<const std::uint32_t> standard = s;
  CHECK(standard.data() == plain);
  s = std::span<const std::uint32_t>(vector);
  CHECK(s.size() == 3);
  static_assert(std::input_iterator<infer::request::iterator>);
#endif
}

void timeouts_are_durations() {
  CHECK(infer::timeout().milliseconds() < 0 && infer::forever.milliseconds() < 0);
  CHECK(infer::timeout(0s).milliseconds() == 0 && infer::timeout(-1h).milliseconds() == 0);
  CHECK(infer::timeout(1ns).milliseconds() == 1 && infer::timeout(1500us).milliseconds() == 2);
  CHECK(infer::timeout(2min).milliseconds() == 120000);
  CHECK(infer::timeout(std::chrono::duration<double>(0.25)).milliseconds() == 250);
  CHECK(infer::timeout(std::chrono::hours::max()).milliseconds() < 0);
}

void kernels_compute_on_spans() {
  const auto levels = infer::kernels::levels();
  CHECK(!levels.empty() && levels.front() == "scalar" && levels.back() == infer::cpu_level_name());
  CHECK(infer::kernels::create().level() == levels.back() || std::getenv("INFER_CPU_LEVEL") != nullptr);
  THROWS(infer::status::invalid_argument, "AVX9", infer::kernels::create("AVX9"));
  THROWS(infer::status::invalid_argument, "NUL", infer::kernels::create(std::string_view("scalar\0", 7)));
  CHECK(infer::kernels().level().empty());
  for (const std::string_view level : levels) {
    const auto k = infer::kernels::create(level);
    CHECK(k && k.level() == level);
    const std::vector<float> a{1, -2, 3}, b{4, 5, 6}, one{1, 1, 1};
    std::array<float, 3> out{};
    using values = std::array<float, 3>;
    CHECK(k.dot(a, b) == 12 && k.dot_kahan(a, b) == 12 && k.sum(a) == 2);
    k.add(a, b, out);
    CHECK((out == values{5, 3, 9}));
    k.mul(a, b, out);
    CHECK((out == values{4, -10, 18}));
    k.relu(a, out);
    CHECK((out == values{1, 0, 3}));
    k.sigmoid(std::vector<float>{0, 0, 0}, out);
    CHECK((out == values{0.5f, 0.5f, 0.5f}));
    k.silu(std::vector<float>{0, 0, 0}, out);
    CHECK((out == values{0, 0, 0}));
    k.gelu(std::vector<float>{0, 40, -40}, out);
    CHECK(out[0] == 0 && out[1] == 40 && out[2] <= 0 && out[2] > -1e-6f);
    k.softmax(one, out);
    CHECK(out[0] == out[2] && out[0] > 0.3333f && out[0] < 0.3334f);
    k.rms_norm(std::vector<float>{2, -2, 2}, one, 0, out);
    CHECK((out == values{1, -1, 1}));
    const std::vector<float> centred{3, 3, 3};
    k.layer_norm(centred, one, b, 1e-5f, out);
    CHECK((out == values{4, 5, 6}));
    k.layer_norm(centred, one, {}, 1e-5f, out);
    CHECK((out == values{0, 0, 0}));
    std::array<float, 2> c{};
    k.matmul(a, b, 1, 3, 1, infer::span<float>(c.data(), 1));
    CHECK(c[0] == 12);
    const std::array<std::int8_t, 2> row{-128, 127};
    std::array<std::int32_t, 4> sums{};
    k.matmul_i8(row, row, 2, 1, 2, sums);
    CHECK(sums[0] == 16384 && sums[1] == -16256 && sums[2] == -16256 && sums[3] == 16129);
    std::array<float, 6> head{1, 2, 3, 4, 5, 6};
    const std::vector<float> quarter{0}, whole{1};
    k.rope(head, 3, quarter, whole, infer::rope_pairs::adjacent);
    CHECK((head == std::array<float, 6>{-2, 1, 3, -5, 4, 6}));
    std::array<std::uint8_t, 6> halves{};
    k.quantize("F16", a, halves);
    k.dequantize("F16", halves, out);
    CHECK((out == values{1, -2, 3}));
    THROWS(infer::status::invalid_argument, "lengths", k.dot(a, infer::span<const float>(b.data(), 2)));
    THROWS(infer::status::invalid_argument, "lengths", k.add(a, b, infer::span<float>(out.data(), 2)));
    THROWS(infer::status::invalid_argument, "lengths", (k.matmul(a, b, 3, 3, 1, c), 0));
    THROWS(infer::status::invalid_argument, "lengths", (k.rope(head, 4, quarter, whole, infer::rope_pairs::neox), 0));
    THROWS(infer::status::unsupported, "IQ1_S", (k.dequantize("IQ1_S", halves, out), 0));
  }
}

void a_key_value_cache_gives_back_what_was_stored() {
  constexpr std::size_t row = 2 * 16, n = 40;
  THROWS(infer::status::invalid_argument, "n_layers", infer::kv_cache::create({}));
  const auto cache = infer::kv_cache::create(
      infer::kv_cache_options().shape(2, 2, 16).set("kv_type", "f16").set("hot_tokens", 256));
  CHECK(cache && cache.stats().hot_blocks == 8);
  std::vector<float> keys(n * row), values(n * row), out_keys(n * row), out_values(n * row);
  for (std::size_t i = 0; i < keys.size(); i++) {
    keys[i] = static_cast<float>(i % 512) / 512;
    values[i] = -keys[i];
  }
  std::vector<std::uint32_t> tokens(n);
  for (std::size_t i = 0; i < n; i++)
    tokens[i] = static_cast<std::uint32_t>(i);
  {
    auto sequence = cache.open("tenant");
    CHECK(sequence && sequence.length() == 0 && sequence.token_bytes() == 4 * row);
    CHECK(sequence.token_bytes(infer::kv_type::f16) == 2 * row && sequence.token_bytes(infer::kv_type::q8) == 0);
    CHECK(sequence.optimal_batch() >= 1);
    const infer::span<const float> one_key(keys.data(), row), one_value(values.data(), row);
    for (std::uint32_t layer = 0; layer < 2; layer++) {
      sequence.store_batch(layer, 0, n, keys, values);
      sequence.store(layer, n, one_key, one_value);
    }
    THROWS(infer::status::invalid_argument, "lengths", (sequence.store(0, n + 1, keys, values), 0));
    THROWS(infer::status::invalid_argument, "lengths", (sequence.store_batch(0, 0, n + 1, keys, values), 0));
    THROWS(infer::status::invalid_argument, "advance", (sequence.advance(n + 2), 0));
    sequence.advance(n + 1);
    CHECK(sequence.length() == n + 1);
    auto fork = sequence.fork();
    fork.truncate(n);
    std::vector<std::uint8_t> raw_keys(2 * row * n), raw_values(2 * row * n);
    fork.fetch(infer::kv_type::f16, 1, 0, n, raw_keys, raw_values);
    THROWS(infer::status::invalid_argument, "element_type",
           (fork.fetch(infer::kv_type::q8, 1, 0, n, raw_keys, raw_values), 0));
    fork.store_batch(infer::kv_type::f16, 1, n, n, raw_keys, raw_values);
    sequence.seal(tokens);
  }
  CHECK(cache.lookup(tokens).length() == 0);
  const auto pin = cache.pin(tokens, "tenant");
  CHECK(pin && pin.length() == 32);
  const auto found = cache.lookup(tokens, "tenant");
  CHECK(found.length() == 32);
  infer::span<float> to_keys(out_keys.data(), 32 * row), to_values(out_values.data(), 32 * row);
  found.fetch(1, 0, 32, to_keys, to_values);
  for (std::size_t i = 0; i < 32 * row; i++)
    CHECK(out_keys[i] == keys[i] && out_values[i] == values[i]);
  const auto view = found.view(0, 4, 20);
  const auto blocks = view.blocks();
  CHECK(view && blocks.size() == 1 && blocks[0].position == 4 && blocks[0].n_tokens == 20);
  CHECK(blocks[0].element_type == INFER_KV_F16 && blocks[0].token_stride == 2 * row);
  CHECK(cache.stats().hit_tokens == 64 && cache.stats().misses == 1);
}

} // namespace

int main(int argc, char **argv) {
  CHECK(argc == 2);
  const auto model = infer::model::load(argv[1]);
  const auto engine = infer::engine::create(model);
  a_stream_is_a_range(engine);
  errors_are_exceptions(model, engine);
  results_can_be_used_with_exceptions();
  handles_move(model);
  destruction_in_any_order(argv[1]);
  a_queue_reads_many(engine);
  callbacks_are_called_and_contained(argv[1]);
  models_answer_questions(model, argv[1]);
  engines_are_controlled(model);
  request_options_hold(engine);
  spans_take_what_is_in_a_row();
  timeouts_are_durations();
  kernels_compute_on_spans();
  a_key_value_cache_gives_back_what_was_stored();
}
