// The header from C++17: handles in smart pointers, initializer macros, constants in a switch.
#include <memory>
#include <string>

#include "check.h"

namespace {

template <auto Free> struct Deleter {
  template <class T> void operator()(T *handle) const { Free(handle); }
};
template <class T, auto Free> using Owned = std::unique_ptr<T, Deleter<Free>>;

using Model = Owned<infer_model, infer_model_free>;
using Engine = Owned<infer_engine, infer_engine_free>;
using Request = Owned<infer_request, infer_request_free>;
using RequestOptions = Owned<infer_request_options, infer_request_options_free>;

} // namespace

int main(int argc, char **argv) {
  infer_error *error = nullptr;
  infer_model *model = nullptr;
  infer_engine *engine = nullptr;
  infer_request *request = nullptr;
  CHECK(argc == 2);
  OK(infer_model_load(argv[1], INFER_NTS, nullptr, &model, &error));
  Model owned_model(model);
  OK(infer_engine_create(model, nullptr, &engine, &error));
  Engine owned_engine(engine);
  RequestOptions options(infer_request_options_new());
  OK(infer_request_options_set_prompt(options.get(), "The old prince", INFER_NTS, &error));
  OK(infer_request_options_set_max_tokens(options.get(), 12, &error));
  OK(infer_engine_submit(engine, options.get(), &request, &error));
  Request owned_request(request);
  infer_event event = INFER_EVENT_INIT;
  std::string text;
  while (infer_request_next(request, -1, &event, &error) == INFER_OK)
    text.append(event.text, event.text_len);
  switch (event.finish_reason) {
  case INFER_FINISH_LENGTH:
  case INFER_FINISH_END_OF_GENERATION:
    break;
  default:
    CHECK(!"an ending that was not asked for");
  }
  CHECK(!text.empty());
  return 0;
}
