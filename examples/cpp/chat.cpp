// A conversation: each line of the standard input is a message, each answer is printed as it comes. The model's chat
// template turns the conversation into a prompt. An empty line or the end of the input ends it.
//
//     chat MODEL [MAX_TOKENS [TEMPERATURE]] < messages
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "infer.hpp"

int main(int argc, char **argv) try {
  if (argc < 2) {
    std::cerr << "usage: chat MODEL [MAX_TOKENS [TEMPERATURE]]\n";
    return EXIT_FAILURE;
  }
  const auto model = infer::model::load(argv[1]);
  if (!model.info().has_chat_template) {
    std::cerr << "chat: " << argv[1] << " has no chat template\n";
    return EXIT_FAILURE;
  }
  const auto engine = infer::engine::create(model);
  infer::request_options options;
  options.set("max_tokens", argc > 2 ? argv[2] : "256").set("temperature", argc > 3 ? argv[3] : "0.7");

  std::vector<infer::message> conversation;
  for (std::string line; std::getline(std::cin, line) && !line.empty();) {
    conversation.push_back({"user", line});
    auto request = engine.submit(options.messages(conversation));
    std::string answer;
    for (const infer::event &event : request) {
      answer += event.text();
      std::cout << event.text() << std::flush;
      if (const auto error = event.error())
        throw infer::exception(*error);
    }
    std::cout << '\n';
    conversation.push_back({"assistant", answer});
  }
  return EXIT_SUCCESS;
} catch (const std::exception &e) {
  std::cerr << "chat: " << e.what() << '\n';
  return EXIT_FAILURE;
}
