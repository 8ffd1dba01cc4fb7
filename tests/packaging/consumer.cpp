// The same in C++.
#include <infer.hpp>
#include <iostream>

int main(int argc, char **argv) try {
  if (argc != 2)
    return 1;
  const auto model = infer::model::load(argv[1]);
  const auto engine = infer::engine::create(model);
  const auto done = engine.generate(infer::request_options().prompt("The old prince").max_tokens(8));
  if (done.generated_tokens == 0 || infer::version() != INFER_VERSION)
    return 1;
  std::cout << "infer " << infer::version() << '\n';
} catch (const infer::exception &e) {
  std::cerr << e.what() << '\n';
  return 1;
}
