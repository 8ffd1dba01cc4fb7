// Prompts in every form, and what ends a completion, in C++. The second argument names a model with a chat template.
#include <string>
#include <vector>

#include "check.hpp"

namespace {

infer::request_options greedy() {
  infer::request_options options;
  options.max_tokens(12).temperature(0);
  return options;
}

void conversations_are_json(const infer::model &model, const infer::engine &engine) {
  const std::vector<infer::message> conversation{{"user", "Who is the prince?"}};
  const std::string json = R"([{"role": "user", "content": "Who is the prince?"}])";
  const std::string rendered = model.apply_chat_template(conversation);
  CHECK(rendered.find("Who is the prince?") != std::string::npos);
  CHECK(model.apply_chat_template_json(json) == rendered);
  CHECK(model.apply_chat_template_json(json, 0).size() < rendered.size());

  auto options = greedy();
  const auto of_messages = engine.generate(options.messages(conversation));
  CHECK(of_messages.tokens.size() == 12);
  CHECK(engine.generate(options.messages_json(json)).tokens == of_messages.tokens);
  CHECK(engine.generate(options.prompt("Moscow")).tokens != of_messages.tokens);
}

void a_token_id_ends_the_completion(const infer::engine &engine) {
  auto options = greedy();
  options.prompt("The old prince");
  const auto whole = engine.generate(options);
  CHECK(whole.finish == infer::finish_reason::length);
  options.stop_id(whole.tokens[4]);
  const auto stopped = engine.generate(options);
  CHECK(stopped.finish == infer::finish_reason::stop && stopped.tokens.size() <= 5);
  CHECK(stopped.stop == std::to_string(whole.tokens[4]));
}

void the_seed_decides(const infer::engine &engine) {
  auto options = greedy();
  options.prompt("The old prince").temperature(1.5).max_tokens(24);
  const auto first = engine.generate(options.seed(1));
  CHECK(engine.generate(options.seed(1)).tokens == first.tokens);
  CHECK(engine.generate(options.seed(2)).tokens != first.tokens);
}

void an_event_tells_its_error() {
  infer_error *error = nullptr;
  CHECK(infer_abi_check(INFER_ABI_VERSION + 1, &error) == INFER_ERR_ABI);
  infer::event event;
  CHECK(!event.error());
  event.raw_pointer()->error = error;
  CHECK(event.error() && event.error()->code() == infer::status::abi && !event.error()->message().empty());
  infer_error_free(error);
}

} // namespace

int main(int argc, char **argv) {
  CHECK(argc == 3);
  infer::model_options options;
  const auto model = infer::model::load(argv[2], options.set("load_mode", "read"));
  const auto engine = infer::engine::create(model);
  conversations_are_json(model, engine);
  a_token_id_ends_the_completion(engine);
  the_seed_decides(engine);
  an_event_tells_its_error();
}
