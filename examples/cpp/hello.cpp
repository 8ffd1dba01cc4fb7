// Continues a prompt and prints the text as it comes.
//
//     hello [--ids] [MODEL [PROMPT [MAX_TOKENS [TEMPERATURE]]]]
//
// Without a model it uses the demo model of the repository. With --ids it prints token ids instead of text.
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "infer.hpp"

int main(int argc, char **argv) try {
  std::vector<std::string> args(argv + 1, argv + argc);
  const bool ids = !args.empty() && args[0] == "--ids";
  if (ids)
    args.erase(args.begin());
  const std::vector<std::string> defaults{"models/tolstoy-3m-Q8_0.gguf", "Prince Andrew looked at the sky", "64",
                                          "0.7"};
  for (std::size_t i = args.size(); i < defaults.size(); i++)
    args.push_back(defaults[i]);

  const auto model = infer::model::load(args[0]);
  const auto engine = infer::engine::create(model);
  auto request = engine.submit(
      infer::request_options().prompt(args[1]).set("max_tokens", args[2]).set("temperature", args[3]));

  int exit_code = EXIT_FAILURE;
  // Each event brings what was generated since the last one; the last of them says how it ended.
  for (const infer::event &event : request) {
    if (ids) {
      for (const std::uint32_t id : event.tokens())
        std::cout << id << ' ';
    } else {
      std::cout << event.text();
    }
    std::cout << std::flush;
    if (const auto error = event.error())
      std::cerr << "hello: " << error->message() << '\n';
    else if (event.finished())
      exit_code = EXIT_SUCCESS;
  }
  std::cout << '\n';
  return exit_code;
} catch (const std::exception &e) {
  std::cerr << "hello: " << e.what() << '\n';
  return EXIT_FAILURE;
}
