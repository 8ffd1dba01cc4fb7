/// infer.hpp - infer.h for C++17 and later, header-only: handles that free themselves, text as std::string_view,
/// errors as exceptions or as results.
///
///     auto model = infer::model::load("model.gguf");
///     auto engine = infer::engine::create(model);
///     auto request = engine.submit(infer::request_options().prompt("Once upon a time").max_tokens(64));
///     for (const infer::event &event : request)
///       std::cout << event.text();
///
/// Errors. With exceptions a call that fails throws infer::exception. Where exceptions are switched off
///   (-fno-exceptions), or INFER_NO_EXCEPTIONS is defined before this file is included, nothing here throws: the same
///   calls return infer::result<T>, which holds a value or an infer::error. "outcome<T>" in a declaration below means
///   T in the first case and result<T> in the second. Memory that the C++ standard library cannot get is reported the
///   way that library does it.
/// Options. A setter returns its options, so that calls can be chained. One that fails throws; without exceptions the
///   first failure is kept, told by failure(), and answered by the call that is given the options.
/// Handles. model, engine, request, queue, threads, kernels, kv_cache, kv_sequence, kv_view and kv_pin can be moved and
///   not copied. They can be destroyed in any order and on any thread: what something still needs lives on. One that was moved from, or default-constructed, is
///   empty; using it is an error and not a crash.
/// Threads. A const member function may be called at the same time from several threads, any other member function by
///   one thread at a time. A request and a queue have one reader at a time.
/// Callbacks are std::function objects that live as long as anything that may call them. What they throw does not
///   reach the library: an exception from a progress callback cancels the load, others are dropped.
///
/// The manual is infer.h: statuses, options, lifetimes and limits are described there and hold here as well.

#ifndef INFER_HPP
#define INFER_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <locale>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "infer.h"

#if !defined(INFER_NO_EXCEPTIONS) && !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#define INFER_NO_EXCEPTIONS 1
#endif

namespace infer {

// One program may contain both kinds of translation units; their functions must not be taken for each other.
#ifdef INFER_NO_EXCEPTIONS
inline namespace results {
#else
inline namespace exceptions {
#endif

/// What a call answered. Later versions of the library can add numbers: treat every negative one as an error.
enum class status : infer_status {
  ok = INFER_OK,
  timeout = INFER_TIMEOUT,
  end = INFER_END,
  internal = INFER_ERR_INTERNAL,
  invalid_argument = INFER_ERR_INVALID_ARGUMENT,
  invalid_handle = INFER_ERR_INVALID_HANDLE,
  invalid_utf8 = INFER_ERR_INVALID_UTF8,
  io = INFER_ERR_IO,
  invalid_model = INFER_ERR_INVALID_MODEL,
  unsupported = INFER_ERR_UNSUPPORTED,
  tokenizer = INFER_ERR_TOKENIZER,
  no_memory = INFER_ERR_NO_MEMORY,
  context = INFER_ERR_CONTEXT,
  busy = INFER_ERR_BUSY,
  cancelled = INFER_ERR_CANCELLED,
  closed = INFER_ERR_CLOSED,
  reentrant = INFER_ERR_REENTRANT,
  forked = INFER_ERR_FORKED,
  abi = INFER_ERR_ABI,
  buffer_too_small = INFER_ERR_BUFFER_TOO_SMALL,
  not_found = INFER_ERR_NOT_FOUND,
};

/// What an event says.
enum class event_kind : std::uint32_t { output = INFER_EVENT_OUTPUT, finished = INFER_EVENT_FINISHED };

/// Which part of the answer a text belongs to.
enum class channel : std::uint32_t {
  content = INFER_CHANNEL_CONTENT,
  reasoning = INFER_CHANNEL_REASONING,
  tool = INFER_CHANNEL_TOOL,
};

/// Why a completion ended.
enum class finish_reason : std::uint32_t {
  none = INFER_FINISH_NONE,
  length = INFER_FINISH_LENGTH,
  stop = INFER_FINISH_STOP,
  end_of_generation = INFER_FINISH_END_OF_GENERATION,
  cancelled = INFER_FINISH_CANCELLED,
  deadline = INFER_FINISH_DEADLINE,
  error = INFER_FINISH_ERROR,
};

/// Severity of a log record.
enum class log_level : std::uint32_t {
  error = INFER_LOG_ERROR,
  warn = INFER_LOG_WARN,
  info = INFER_LOG_INFO,
  debug = INFER_LOG_DEBUG,
};

/// What a histogram is of: sequences of a step, or nanoseconds.
enum class histogram_kind : std::uint32_t {
  batch_size = INFER_HISTOGRAM_BATCH_SIZE,
  queue_time = INFER_HISTOGRAM_QUEUE_TIME,
  time_to_first_token = INFER_HISTOGRAM_TIME_TO_FIRST_TOKEN,
  inter_token_time = INFER_HISTOGRAM_INTER_TOKEN_TIME,
  step_time = INFER_HISTOGRAM_STEP_TIME,
  cold_read_time = INFER_HISTOGRAM_COLD_READ_TIME,
  cold_write_time = INFER_HISTOGRAM_COLD_WRITE_TIME,
};

/// A token with a meaning of its own.
enum class special_token : std::uint32_t {
  bos = INFER_TOKEN_BOS,
  eos = INFER_TOKEN_EOS,
  eot = INFER_TOKEN_EOT,
  eom = INFER_TOKEN_EOM,
  unknown = INFER_TOKEN_UNKNOWN,
  padding = INFER_TOKEN_PADDING,
  separator = INFER_TOKEN_SEPARATOR,
};

/// What waiting for an event came to.
enum class poll { event, timeout, end };

/// Why a call failed: a status, and a sentence that says what was attempted, expected and found.
class error {
public:
  error(status code, std::string message) : code_(code), message_(std::move(message)) {}
  /// The status, a negative number.
  status code() const noexcept { return code_; }
  /// The sentence, UTF-8.
  const std::string &message() const noexcept { return message_; }

private:
  status code_;
  std::string message_;
};

/// The name of a status as it is written in C, like "INFER_ERR_BUSY".
inline std::string_view name(status code) noexcept { return infer_status_name(static_cast<infer_status>(code)); }

#ifndef INFER_NO_EXCEPTIONS
/// What a call that fails throws; what() is the sentence.
class exception : public std::runtime_error {
public:
  explicit exception(const error &reason) : std::runtime_error(reason.message()), code_(reason.code()) {}
  /// The status, a negative number.
  status code() const noexcept { return code_; }

private:
  status code_;
};
#endif

namespace detail {

[[noreturn]] inline void fail(const error &reason) {
#ifdef INFER_NO_EXCEPTIONS
  static_cast<void>(reason);
  std::abort();
#else
  throw exception(reason);
#endif
}

} // namespace detail

/// A value or an error.
template <class T> class [[nodiscard]] result {
public:
  result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  result(infer::error reason) : content_(std::in_place_index<1>, std::move(reason)) {}

  bool has_value() const noexcept { return content_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }
  /// The value. Without one: throws infer::exception, or calls std::abort() where there are no exceptions. The same
  /// holds for * and ->.
  T &value() & { return checked(), *std::get_if<0>(&content_); }
  const T &value() const & { return checked(), *std::get_if<0>(&content_); }
  T &&value() && { return checked(), std::move(*std::get_if<0>(&content_)); }
  T &operator*() & { return value(); }
  const T &operator*() const & { return value(); }
  T &&operator*() && { return std::move(*this).value(); }
  T *operator->() { return &value(); }
  const T *operator->() const { return &value(); }
  /// The value, or another one.
  T value_or(T other) && { return has_value() ? std::move(**this) : std::move(other); }
  /// The error. Without one: calls std::abort().
  const infer::error &error() const noexcept {
    if (has_value())
      std::abort();
    return *std::get_if<1>(&content_);
  }

private:
  void checked() const {
    if (!has_value())
      detail::fail(error());
  }
  std::variant<T, infer::error> content_;
};

/// Success or an error.
template <> class [[nodiscard]] result<void> {
public:
  result() = default;
  result(infer::error reason) : error_(std::move(reason)) {}

  bool has_value() const noexcept { return !error_; }
  explicit operator bool() const noexcept { return has_value(); }
  /// Nothing on success. Otherwise: throws infer::exception, or calls std::abort() where there are no exceptions.
  void value() const {
    if (error_)
      detail::fail(*error_);
  }
  /// The error. Without one: calls std::abort().
  const infer::error &error() const noexcept {
    if (!error_)
      std::abort();
    return *error_;
  }

private:
  std::optional<infer::error> error_;
};

/// What a call that can fail returns: T with exceptions, result<T> without.
#ifdef INFER_NO_EXCEPTIONS
template <class T> using outcome = result<T>;
#else
template <class T> using outcome = T;
#endif

/// Elements in a row that belong to someone else, as std::span has them from C++20 on. Made from, and convertible
/// to, whatever has data() and size(): std::vector, std::array, std::span.
template <class T> class span {
public:
  constexpr span() noexcept = default;
  constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <std::size_t N> constexpr span(T (&array)[N]) noexcept : data_(array), size_(N) {}
  template <class C, class = std::enable_if_t<
                         std::is_convertible_v<
                             std::remove_pointer_t<decltype(std::declval<C &>().data())> (*)[], T (*)[]> &&
                         std::is_convertible_v<decltype(std::declval<C &>().size()), std::size_t>>>
  constexpr span(C &&container) noexcept : data_(container.data()), size_(container.size()) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T *begin() const noexcept { return data_; }
  constexpr T *end() const noexcept { return data_ + size_; }
  constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }

private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
};

/// How long to wait: any std::chrono duration, rounded up to milliseconds, or infer::forever. A negative duration
/// does not wait, so that a deadline minus the present time can be given.
class timeout {
public:
  /// Waits without limit.
  constexpr timeout() noexcept = default;
  template <class Rep, class Period> constexpr timeout(std::chrono::duration<Rep, Period> duration) {
    using milliseconds = std::chrono::duration<std::int64_t, std::milli>;
    // A longer wait than the conversion can express is one without limit.
    constexpr double longest = 9.0e15;
    const double ms = std::chrono::duration<double, std::milli>(duration).count();
    if (ms <= 0)
      milliseconds_ = 0;
    else if (ms < longest)
      milliseconds_ = std::chrono::ceil<milliseconds>(duration).count();
  }
  /// Milliseconds, negative without limit.
  constexpr std::int64_t milliseconds() const noexcept { return milliseconds_; }

private:
  std::int64_t milliseconds_ = -1;
};

/// Waits without limit.
inline constexpr timeout forever{};

/// One message of a conversation.
struct message {
  /// "system", "user", "assistant", or another role the model's template knows.
  std::string role;
  std::string content;
};

namespace detail {

template <auto Free> struct deleter {
  template <class T> void operator()(T *handle) const noexcept { Free(handle); }
};
template <class T, auto Free> using handle = std::unique_ptr<T, deleter<Free>>;

/// Turns the error of a failed call into a value of its own and frees it.
inline error take(infer_status code, infer_error *reason) {
  error taken(static_cast<status>(code), reason != nullptr ? infer_error_message(reason) : infer_status_name(code));
  infer_error_free(reason);
  return taken;
}

/// Calls a C function that gets the place for its error; what is not an error is success.
template <class Call> result<void> run(Call &&call) {
  infer_error *reason = nullptr;
  const infer_status code = call(&reason);
  if (code < 0)
    return take(code, reason);
  return {};
}

/// Calls a C function that can also answer INFER_TIMEOUT or INFER_END.
template <class Call> result<poll> wait(Call &&call) {
  infer_error *reason = nullptr;
  const infer_status code = call(&reason);
  if (code < 0)
    return take(code, reason);
  return code == INFER_OK ? poll::event : code == INFER_TIMEOUT ? poll::timeout : poll::end;
}

/// Calls a C function that writes one value; `value` is what it has before.
template <class T, class Call> result<T> get(T value, Call &&call) {
  infer_error *reason = nullptr;
  const infer_status code = call(&value, &reason);
  if (code < 0)
    return take(code, reason);
  return result<T>(std::move(value));
}

/// Calls a C function that creates a handle.
template <class Object, class Raw, class Call> result<Object> create(Call &&call) {
  Raw *raw = nullptr;
  infer_error *reason = nullptr;
  const infer_status code = call(&raw, &reason);
  if (code < 0)
    return take(code, reason);
  return Object(raw);
}

/// Calls a C function that copies into a buffer and tells the size it needs, until the buffer is large enough.
/// `spare` elements of a string are a NUL behind its end.
template <class Buffer, class Call> result<Buffer> copy(std::size_t spare, Call &&call) {
  Buffer buffer(std::size_t{256}, typename Buffer::value_type{});
  for (;;) {
    std::size_t needed = 0;
    infer_error *reason = nullptr;
    const infer_status code = call(buffer.data(), buffer.size(), &needed, &reason);
    if (code == INFER_ERR_BUFFER_TOO_SMALL && needed > buffer.size()) {
      infer_error_free(reason);
      buffer.resize(needed);
      continue;
    }
    if (code < 0)
      return take(code, reason);
    buffer.resize(needed > spare ? needed - spare : 0);
    return result<Buffer>(std::move(buffer));
  }
}

template <class Call> result<std::string> copy_text(Call &&call) {
  return copy<std::string>(1, std::forward<Call>(call));
}

#ifdef INFER_NO_EXCEPTIONS
template <class T> result<T> finish(result<T> found) { return found; }
#else
template <class T> T finish(result<T> found) { return std::move(found).value(); }
#endif

/// Text that C has to see NUL-terminated.
inline result<std::string> terminated(std::string_view what, std::string_view text) {
  if (text.find('\0') != std::string_view::npos)
    return error(status::invalid_argument, std::string(what) + " must not contain a NUL byte");
  return std::string(text);
}

/// Where what has no result of its own reports: it throws, or keeps the first failure.
class reporter {
public:
  /// The first failure, or nullptr. With exceptions it is always nullptr: the failure was thrown.
  const infer::error *failure() const noexcept { return failure_ ? &*failure_ : nullptr; }

protected:
  void report(const result<void> &found) {
    if (!found)
      report(found.error());
  }
  void report(const infer::error &reason) {
#ifdef INFER_NO_EXCEPTIONS
    if (!failure_)
      failure_ = reason;
#else
    fail(reason);
#endif
  }
  void forget() noexcept { failure_.reset(); }

private:
  std::optional<infer::error> failure_;
};

/// Owns a copy of the function that a callback calls.
template <class Function> struct callback {
  static void free(void *user_data) { delete static_cast<Function *>(user_data); }

  /// Calls it; what it throws ends here and gives `otherwise`.
  template <class Result, class... Args> static Result call(void *user_data, Result otherwise, Args &&...args) {
#ifdef INFER_NO_EXCEPTIONS
    static_cast<void>(otherwise);
    return static_cast<Result>((*static_cast<Function *>(user_data))(std::forward<Args>(args)...));
#else
    try {
      return static_cast<Result>((*static_cast<Function *>(user_data))(std::forward<Args>(args)...));
    } catch (...) {
      return otherwise;
    }
#endif
  }
};

/// Hands user data to a C setter, which owns it from then on if it succeeds.
template <class Function, class Set> result<void> give(Function function, Set &&set) {
  auto owned = std::make_unique<Function>(std::move(function));
  auto found = run([&](infer_error **e) { return set(owned.get(), callback<Function>::free, e); });
  if (found)
    static_cast<void>(owned.release());
  return found;
}

/// What the options of all objects have in common: they are set by key and value.
template <class Self, class Raw, auto New, auto Free, auto Set> class options : public reporter {
public:
  /// Options with every default.
  options() : handle_(New()) {
    if (!handle_)
      report(infer::error(status::no_memory, "there is no memory for new options"));
  }

  /// Sets an option by its name; infer::describe_options() lists names, types and ranges.
  Self &set(std::string_view key, std::string_view value) { return done(try_set(key, value)); }
  /// The same for a number or a truth value.
  template <class Number, class = std::enable_if_t<std::is_arithmetic_v<Number>>>
  Self &set(std::string_view key, Number value) {
    if constexpr (std::is_same_v<Number, bool>) {
      return set(key, std::string_view(value ? "true" : "false"));
    } else if constexpr (std::is_floating_point_v<Number>) {
      std::ostringstream text;
      // The global locale may write a comma.
      text.imbue(std::locale::classic());
      text.precision(17);
      text << value;
      return set(key, std::string_view(text.str()));
    } else {
      return set(key, std::string_view(std::to_string(value)));
    }
  }
  /// Sets an option by its name and tells whether it worked, with and without exceptions: for values from outside.
  result<void> try_set(std::string_view key, std::string_view value) {
    const auto k = terminated("the name of an option", key);
    const auto v = terminated("the value of an option", value);
    if (!k || !v)
      return (k ? v : k).error();
    return run([&](infer_error **e) { return Set(get(), k->c_str(), v->c_str(), e); });
  }

  /// The C handle, which stays owned by this object.
  Raw *get() const noexcept { return handle_.get(); }

protected:
  explicit options(Raw *raw) noexcept : handle_(raw) {}
  Self &done(const result<void> &found) {
    this->report(found);
    return static_cast<Self &>(*this);
  }

private:
  handle<Raw, Free> handle_;
};

} // namespace detail

/// Options of loading a model.
class model_options : public detail::options<model_options, infer_model_options, infer_model_options_new,
                                             infer_model_options_free, infer_model_options_set> {
public:
  /// Is told about the progress of loading, from 0 to 1, on the thread that loads; false cancels. An empty function
  /// removes it.
  model_options &progress(std::function<bool(float)> function) {
    if (!function)
      return done(detail::run([&](infer_error **e) {
        return infer_model_options_set_progress(get(), nullptr, nullptr, nullptr, e);
      }));
    return done(detail::give(std::move(function), [&](void *user_data, infer_free_callback free, infer_error **e) {
      return infer_model_options_set_progress(get(), on_progress, user_data, free, e);
    }));
  }

private:
  static std::uint32_t on_progress(float fraction, void *user_data) {
    return detail::callback<std::function<bool(float)>>::call(user_data, std::uint32_t{0}, fraction);
  }
};

/// Options of a thread pool.
class threads_options : public detail::options<threads_options, infer_threads_options, infer_threads_options_new,
                                               infer_threads_options_free, infer_threads_options_set> {
public:
  using hook = std::function<void(std::uint32_t)>;

  /// Run on each thread of the pool when it starts and before it ends, with its number. Each may be empty.
  threads_options &hooks(hook on_start, hook on_stop = {}) {
    return done(detail::give(pair{std::move(on_start), std::move(on_stop)},
                             [&](void *user_data, infer_free_callback free, infer_error **e) {
                               return infer_threads_options_set_hooks(get(), started, stopping, user_data, free, e);
                             }));
  }

private:
  struct pair {
    hook on_start;
    hook on_stop;
    int operator()(std::uint32_t index, bool starts) const {
      const hook &function = starts ? on_start : on_stop;
      if (function)
        function(index);
      return 0;
    }
  };
  static void started(std::uint32_t index, void *user_data) {
    detail::callback<pair>::call(user_data, 0, index, true);
  }
  static void stopping(std::uint32_t index, void *user_data) {
    detail::callback<pair>::call(user_data, 0, index, false);
  }
};

/// A pool of worker threads that several engines may share; they take turns.
class threads {
public:
  /// An empty handle.
  threads() noexcept = default;
  /// Takes over a C handle.
  explicit threads(infer_threads *raw) noexcept : handle_(raw) {}

  static outcome<threads> create(const threads_options &options = {}) {
    if (options.failure() != nullptr)
      return detail::finish(result<threads>(*options.failure()));
    return detail::finish(detail::create<threads, infer_threads>([&](infer_threads **out, infer_error **e) {
      return infer_threads_create(options.get(), out, e);
    }));
  }

  /// The number of threads that compute, that of the engine included.
  std::uint32_t count() const noexcept { return infer_threads_count(get()); }
  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_threads *get() const noexcept { return handle_.get(); }

private:
  detail::handle<infer_threads, infer_threads_free> handle_;
};

/// One log record. The texts live until the callback returns.
struct log_record {
  log_level level;
  /// The part of the library that speaks.
  std::string_view target;
  /// A sentence without a line end.
  std::string_view message;
  /// Keys and values as one JSON object.
  std::string_view fields_json;
};

class model;

/// Options of an engine.
class engine_options : public detail::options<engine_options, infer_engine_options, infer_engine_options_new,
                                              infer_engine_options_free, infer_engine_options_set> {
public:
  /// Receives the log records, on any thread and from several at the same time. An empty function means silence.
  engine_options &log(std::function<void(const log_record &)> function) {
    if (!function)
      return done(detail::run(
          [&](infer_error **e) { return infer_engine_options_set_log(get(), nullptr, nullptr, nullptr, e); }));
    return done(detail::give(logger{std::move(function)},
                             [&](void *user_data, infer_free_callback free, infer_error **e) {
                               return infer_engine_options_set_log(get(), on_log, user_data, free, e);
                             }));
  }
  /// Computes on a thread pool that others may share. It lives on until the last engine that uses it is gone.
  engine_options &use_threads(const threads &pool) {
    return done(
        detail::run([&](infer_error **e) { return infer_engine_options_set_threads(get(), pool.get(), e); }));
  }
  /// A smaller model with the same tokens proposes what the engine's model verifies. It lives on until the last engine
  /// that uses it is gone.
  engine_options &draft_model(const model &draft);

private:
  struct logger {
    std::function<void(const log_record &)> function;
    int operator()(const infer_log_record &r) const {
      function({static_cast<log_level>(r.level), r.target, r.message, r.fields_json});
      return 0;
    }
  };
  static void on_log(const infer_log_record *record, void *user_data) {
    detail::callback<logger>::call(user_data, 0, *record);
  }
};

/// One event of a request. What it points to lives until the next read of the request or queue it came from.
class event {
public:
  event() noexcept = default;

  event_kind kind() const noexcept { return static_cast<event_kind>(raw_.kind); }
  /// Whether it is the last one.
  bool finished() const noexcept { return kind() == event_kind::finished; }
  /// The tag from the request's options.
  std::uint64_t tag() const noexcept { return raw_.tag; }
  /// Which completion of the request, from 0.
  std::uint32_t choice() const noexcept { return raw_.choice; }
  infer::channel channel() const noexcept { return static_cast<infer::channel>(raw_.channel); }
  /// New text: whole UTF-8 code points, NUL-terminated.
  std::string_view text() const noexcept { return view(raw_.text, raw_.text_len); }
  /// New token ids, the one that ended the completion included.
  span<const std::uint32_t> tokens() const noexcept { return {raw_.tokens, raw_.n_tokens}; }
  /// With the option logprobs, the log probability of each of tokens(), before penalty and temperature.
  span<const float> logprobs() const noexcept { return {raw_.logprobs, raw_.logprobs != nullptr ? raw_.n_tokens : 0}; }
  /// With the option top_logprobs, the most probable tokens in the place of tokens()[i], most probable first.
  span<const std::uint32_t> top_tokens(std::size_t i) const noexcept { return top(raw_.top_tokens, i); }
  /// The log probabilities of top_tokens(i).
  span<const float> top_logprobs(std::size_t i) const noexcept { return top(raw_.top_logprobs, i); }
  /// With the option prompt_logprobs, in one event of choice 0: that of each token of the prompt, NaN for the first.
  span<const float> prompt_logprobs() const noexcept { return {raw_.prompt_logprobs, raw_.n_prompt_logprobs}; }
  /// With the option embedding, in the last event: the prompt's embedding.
  span<const float> embedding() const noexcept { return {raw_.embedding, raw_.n_embedding}; }

  /// How it ended; finish_reason::none before the end. All that follows is zero or empty before the end.
  finish_reason finish() const noexcept { return static_cast<finish_reason>(raw_.finish_reason); }
  /// The stop text that was found, or the number of a stop id.
  std::string_view stop() const noexcept { return view(raw_.stop, raw_.stop_len); }
  /// The failure when the reason is finish_reason::error.
  std::optional<infer::error> error() const {
    if (raw_.error == nullptr)
      return std::nullopt;
    return infer::error(static_cast<status>(infer_error_status(raw_.error)), infer_error_message(raw_.error));
  }
  std::uint64_t prompt_tokens() const noexcept { return raw_.prompt_tokens; }
  /// Prompt tokens that did not have to be computed.
  std::uint64_t cached_tokens() const noexcept { return raw_.cached_tokens; }
  std::uint64_t generated_tokens() const noexcept { return raw_.generated_tokens; }
  /// From submission to the first step.
  std::chrono::nanoseconds queue_time() const noexcept { return time(raw_.queue_time_ns); }
  /// From submission to the first generated token.
  std::chrono::nanoseconds time_to_first_token() const noexcept { return time(raw_.time_to_first_token_ns); }
  /// From submission to the end.
  std::chrono::nanoseconds total_time() const noexcept { return time(raw_.total_time_ns); }
  double decode_tokens_per_second() const noexcept { return raw_.decode_tokens_per_second; }

  /// The C struct.
  const infer_event &raw() const noexcept { return raw_; }
  infer_event *raw_pointer() noexcept { return &raw_; }

private:
  template <class T> span<const T> top(const T *all, std::size_t i) const noexcept {
    const std::size_t n = raw_.n_top_logprobs;
    return i < raw_.n_tokens && n > 0 ? span<const T>(all + i * n, n) : span<const T>();
  }
  static std::string_view view(const char *text, std::size_t len) noexcept {
    return text != nullptr ? std::string_view(text, len) : std::string_view();
  }
  static std::chrono::nanoseconds time(std::uint64_t ns) noexcept {
    return std::chrono::nanoseconds(static_cast<std::chrono::nanoseconds::rep>(ns));
  }
  infer_event raw_ = INFER_EVENT_INIT;
};

/// A completion queue: many requests report to it, and one thread reads the events of all.
class queue {
public:
  /// An empty handle.
  queue() noexcept = default;
  /// Takes over a C handle.
  explicit queue(infer_queue *raw) noexcept : handle_(raw) {}

  static outcome<queue> create() { return detail::finish(detail::create<queue, infer_queue>(infer_queue_create)); }

  /// Waits until there are events and takes up to `capacity` of them, at most one per request, known by their tags;
  /// none when nothing came in time. They live until the next read. A queue has no end: count finished events.
  outcome<span<const event>> next(timeout limit = forever, std::size_t capacity = 64) {
    if (events_.size() < capacity)
      events_.resize(capacity);
    std::size_t n = 0;
    const auto found = detail::run([&](infer_error **e) {
      infer_event *first = events_.empty() ? nullptr : events_.front().raw_pointer();
      return infer_queue_next(get(), limit.milliseconds(), first, capacity, sizeof(event), &n, e);
    });
    if (!found)
      return detail::finish(result<span<const event>>(found.error()));
    return detail::finish(result<span<const event>>(span<const event>(events_.data(), n)));
  }
  /// A file descriptor that is readable while there are events. It belongs to the queue. Linux only.
  outcome<int> fd() const {
    return detail::finish(
        detail::get(-1, [&](int *out, infer_error **e) { return infer_queue_fd(get(), out, e); }));
  }
  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_queue *get() const noexcept { return handle_.get(); }

private:
  std::vector<event> events_;
  detail::handle<infer_queue, infer_queue_free> handle_;
};

/// Options of a request. They can be used for many requests: submitting copies them.
class request_options : public detail::options<request_options, infer_request_options, infer_request_options_new,
                                               infer_request_options_free, infer_request_options_set> {
public:
  request_options() = default;
  /// Takes over a C handle.
  explicit request_options(infer_request_options *raw) noexcept : options(raw) {}

  /// Options that are a copy of these, prompt included.
  outcome<request_options> copy() const {
    if (failure() != nullptr)
      return detail::finish(result<request_options>(*failure()));
    return detail::finish(detail::create<request_options, infer_request_options>(
        [&](infer_request_options **out, infer_error **e) { return infer_request_options_copy(get(), out, e); }));
  }
  /// Sets everything back to the defaults, a kept failure included.
  request_options &reset() {
    forget();
    return apply([&](infer_error **e) { return infer_request_options_reset(get(), e); });
  }

  /// Sets the prompt as text. This and the next three replace each other.
  request_options &prompt(std::string_view text) {
    return apply(
        [&](infer_error **e) { return infer_request_options_set_prompt(get(), text.data(), text.size(), e); });
  }
  /// Sets the prompt as token ids.
  request_options &prompt_ids(span<const std::uint32_t> ids) {
    return apply(
        [&](infer_error **e) { return infer_request_options_set_prompt_ids(get(), ids.data(), ids.size(), e); });
  }
  /// Sets the prompt as a conversation, rendered by the model's chat template.
  request_options &messages(span<const message> conversation);
  /// Sets the prompt as a conversation in JSON: an array of objects with role, content and more.
  request_options &messages_json(std::string_view json) {
    return apply(
        [&](infer_error **e) { return infer_request_options_set_messages_json(get(), json.data(), json.size(), e); });
  }

  /// How many tokens are generated at most.
  request_options &max_tokens(std::uint64_t n) {
    return apply([&](infer_error **e) { return infer_request_options_set_max_tokens(get(), n, e); });
  }
  /// 0 takes the most likely token each time.
  request_options &temperature(double t) {
    return apply([&](infer_error **e) { return infer_request_options_set_temperature(get(), t, e); });
  }
  /// The same request with the same seed gives the same tokens.
  request_options &seed(std::uint64_t number) {
    return apply([&](infer_error **e) { return infer_request_options_set_seed(get(), number, e); });
  }
  /// The number that comes back in every event.
  request_options &tag(std::uint64_t number) {
    return apply([&](infer_error **e) { return infer_request_options_set_tag(get(), number, e); });
  }
  /// Adds a text that ends the completion and is not part of the output.
  request_options &stop(std::string_view text) {
    return apply([&](infer_error **e) { return infer_request_options_add_stop(get(), text.data(), text.size(), e); });
  }
  /// Adds a token id that ends the completion.
  request_options &stop_id(std::uint32_t id) {
    return apply([&](infer_error **e) { return infer_request_options_add_stop_id(get(), id, e); });
  }
  /// Lets requests report to a queue, marked with a tag, instead of being read one by one.
  request_options &report_to(const queue &q, std::uint64_t tag) {
    return apply([&](infer_error **e) { return infer_request_options_set_queue(get(), q.get(), tag, e); });
  }

private:
  template <class Call> request_options &apply(Call &&call) { return done(detail::run(std::forward<Call>(call))); }
};

/// What a request brought until its end.
struct completion {
  std::string text;
  std::vector<std::uint32_t> tokens;
  finish_reason finish = finish_reason::none;
  /// The stop text that was found, or the number of a stop id.
  std::string stop;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t generated_tokens = 0;
  /// As those of an event, of the whole completion.
  std::vector<float> logprobs;
  std::vector<float> prompt_logprobs;
  std::vector<float> embedding;
};

/// One submitted completion. Destroying it cancels it. It has one reader at a time; const members from any thread.
class request : public detail::reporter {
public:
  /// An empty handle.
  request() noexcept = default;
  /// Takes over a C handle.
  explicit request(infer_request *raw) noexcept : handle_(raw) {}

  /// Waits for the next event: poll::event when `out` was filled, poll::end after the last one.
  outcome<poll> next(event &out, timeout limit = forever) { return detail::finish(read(out, limit)); }
  /// Reads to the end. A completion that failed is a failure of this call.
  outcome<completion> collect();

  /// The events, for `for (const infer::event &event : request)`: waits for each, ends after the last. A failure to
  /// read throws; without exceptions it ends the loop and failure() tells. A completion that failed is not such a
  /// failure: its last event has the reason finish_reason::error.
  class iterator {
  public:
    using iterator_category = std::input_iterator_tag;
    using value_type = event;
    using difference_type = std::ptrdiff_t;
    using pointer = const event *;
    using reference = const event &;

    iterator() noexcept = default;
    reference operator*() const noexcept { return owner_->current_; }
    pointer operator->() const noexcept { return &owner_->current_; }
    iterator &operator++() {
      owner_ = owner_->advance() ? owner_ : nullptr;
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator &a, const iterator &b) noexcept { return a.owner_ == b.owner_; }
    friend bool operator!=(const iterator &a, const iterator &b) noexcept { return a.owner_ != b.owner_; }

  private:
    friend class request;
    explicit iterator(request *owner) noexcept : owner_(owner) {}
    request *owner_ = nullptr;
  };
  /// Waits for the next event that was not read.
  iterator begin() { return ++iterator(this); }
  iterator end() noexcept { return {}; }

  /// Ends it soon, with the reason finish_reason::cancelled. From any thread, also while another one reads.
  outcome<void> cancel() const {
    return detail::finish(detail::run([&](infer_error **e) { return infer_request_cancel(get(), e); }));
  }
  /// The tag from its options.
  std::uint64_t tag() const noexcept { return infer_request_tag(get()); }
  /// A number that no other request of this process has.
  std::uint64_t id() const noexcept { return infer_request_id(get()); }
  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_request *get() const noexcept { return handle_.get(); }

private:
  result<poll> read(event &out, timeout limit) {
    return detail::wait([&](infer_error **e) {
      return infer_request_next(get(), limit.milliseconds(), out.raw_pointer(), e);
    });
  }
  bool advance() {
    const auto found = read(current_, forever);
    if (!found)
      report(found.error());
    return found && *found == poll::event;
  }
  detail::handle<infer_request, infer_request_free> handle_;
  event current_;
};

/// What a model is, in numbers. The texts live as long as the model.
struct model_info {
  std::uint32_t n_vocab;
  std::uint32_t n_embd;
  std::uint32_t n_layers;
  std::uint32_t n_heads;
  std::uint32_t n_kv_heads;
  /// Tokens the model was trained to attend to.
  std::uint32_t context_length;
  bool has_chat_template;
  std::uint64_t n_parameters;
  std::uint64_t weight_bytes;
  std::string_view architecture;
  std::string_view name;
  /// One line for people.
  std::string_view description;
};

/// A loaded model: weights, tokenizer, chat template. It does not change after loading.
class model {
public:
  /// An empty handle.
  model() noexcept = default;
  /// Takes over a C handle.
  explicit model(infer_model *raw) noexcept : handle_(raw) {}

  /// Loads a model from a GGUF file, or from the first of several. The library is checked for the binary interface of
  /// this header first.
  static outcome<model> load(std::string_view path, const model_options &options = {}) {
    return detail::finish(checked(options, [&](infer_model **out, infer_error **e) {
      return infer_model_load(path.data(), path.size(), options.get(), out, e);
    }));
  }
  /// Loads a model from the bytes of a GGUF file, which are only read during the call.
  static outcome<model> load_from_memory(const void *data, std::size_t size, const model_options &options = {}) {
    return detail::finish(checked(options, [&](infer_model **out, infer_error **e) {
      return infer_model_load_from_memory(data, size, options.get(), out, e);
    }));
  }
  /// How much memory a model and an engine with these options would take, from the header of a GGUF file alone.
  static outcome<infer_memory_estimate> estimate(std::string_view path, const model_options &model = {},
                                                 const engine_options &engine = {}) {
    const infer::error *failure = model.failure() != nullptr ? model.failure() : engine.failure();
    if (failure != nullptr)
      return detail::finish(result<infer_memory_estimate>(*failure));
    return detail::finish(detail::get(infer_memory_estimate INFER_MEMORY_ESTIMATE_INIT,
                                      [&](infer_memory_estimate *out, infer_error **e) {
                                        return infer_model_estimate(path.data(), path.size(), model.get(),
                                                                    engine.get(), out, e);
                                      }));
  }

  outcome<model_info> info() const;

  /// The metadata keys, in the order of the file. They live as long as the model.
  outcome<std::vector<std::string_view>> metadata_keys() const;
  /// The value of a metadata key as text: numbers in decimal, arrays as JSON; nothing when there is no such key.
  outcome<std::optional<std::string>> metadata(std::string_view key) const;

  /// Turns text into token ids. `flags` combines infer_tokenize_flag.
  outcome<std::vector<std::uint32_t>> tokenize(std::string_view text,
                                               std::uint32_t flags = INFER_TOKENIZE_ADD_SPECIAL) const {
    return detail::finish(detail::copy<std::vector<std::uint32_t>>(
        0, [&](std::uint32_t *ids, std::size_t capacity, std::size_t *needed, infer_error **e) {
          return infer_model_tokenize(get(), text.data(), text.size(), flags, ids, capacity, needed, e);
        }));
  }
  /// Turns token ids into text. `flags` combines infer_detokenize_flag.
  outcome<std::string> detokenize(span<const std::uint32_t> ids, std::uint32_t flags = 0) const {
    return text([&](char *buffer, std::size_t capacity, std::size_t *needed, infer_error **e) {
      return infer_model_detokenize(get(), ids.data(), ids.size(), flags, buffer, capacity, needed, e);
    });
  }
  /// The text of one token; U+FFFD for a part of a code point.
  outcome<std::string> token_text(std::uint32_t id) const {
    return text([&](char *buffer, std::size_t capacity, std::size_t *needed, infer_error **e) {
      return infer_model_token_text(get(), id, buffer, capacity, needed, e);
    });
  }
  /// The id of a special token; nothing when the model has none.
  outcome<std::optional<std::uint32_t>> special_token(infer::special_token kind) const;
  /// Whether a token ends a completion.
  outcome<bool> is_end_of_generation(std::uint32_t id) const;

  /// Renders a conversation by the model's chat template. `flags` combines infer_chat_flag.
  outcome<std::string> apply_chat_template(span<const message> conversation,
                                           std::uint32_t flags = INFER_CHAT_ADD_GENERATION_PROMPT) const;
  /// The same for a conversation in JSON.
  outcome<std::string> apply_chat_template_json(std::string_view json,
                                                std::uint32_t flags = INFER_CHAT_ADD_GENERATION_PROMPT) const {
    return text([&](char *buffer, std::size_t capacity, std::size_t *needed, infer_error **e) {
      return infer_model_apply_chat_template_json(get(), json.data(), json.size(), flags, buffer, capacity, needed, e);
    });
  }

  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_model *get() const noexcept { return handle_.get(); }

private:
  template <class Call> static result<model> checked(const model_options &options, Call &&call) {
    if (options.failure() != nullptr)
      return *options.failure();
    const auto found = detail::run([](infer_error **e) { return infer_abi_check(INFER_ABI_VERSION, e); });
    if (!found)
      return found.error();
    return detail::create<model, infer_model>(std::forward<Call>(call));
  }
  template <class Call> static outcome<std::string> text(Call &&call) {
    return detail::finish(detail::copy_text(std::forward<Call>(call)));
  }
  detail::handle<infer_model, infer_model_free> handle_;
};

inline engine_options &engine_options::draft_model(const model &draft) {
  return done(
      detail::run([&](infer_error **e) { return infer_engine_options_set_draft_model(get(), draft.get(), e); }));
}

/// Schedules the requests of one model and computes them on its threads. Destroying it ends its requests as
/// cancelled, and their readers wake up.
class engine {
public:
  /// An empty handle.
  engine() noexcept = default;
  /// Takes over a C handle.
  explicit engine(infer_engine *raw) noexcept : handle_(raw) {}

  /// Creates an engine for a model, which it keeps alive.
  static outcome<engine> create(const model &of, const engine_options &options = {}) {
    if (options.failure() != nullptr)
      return detail::finish(result<engine>(*options.failure()));
    return detail::finish(detail::create<engine, infer_engine>([&](infer_engine **out, infer_error **e) {
      return infer_engine_create(of.get(), options.get(), out, e);
    }));
  }

  /// Submits a request without waiting for others. A full queue is status::busy.
  outcome<request> submit(const request_options &options) const {
    if (options.failure() != nullptr)
      return detail::finish(result<request>(*options.failure()));
    return detail::finish(detail::create<request, infer_request>([&](infer_request **out, infer_error **e) {
      return infer_engine_submit(get(), options.get(), out, e);
    }));
  }
  /// Submits all, or none.
  outcome<std::vector<request>> submit_batch(span<const request_options> options) const;
  /// Submits, and reads to the end.
  outcome<completion> generate(const request_options &options) const;

  /// Waits until requests of this engine have events to read and gives the ids of up to `capacity` of them, none when
  /// nothing came in time. Do not destroy a request of this engine meanwhile.
  outcome<std::vector<std::uint64_t>> wait(timeout limit = forever, std::size_t capacity = 64) const;
  /// Takes no more requests and waits for those that were taken; false when some are still running.
  outcome<bool> drain(timeout limit = forever) const;
  /// Stops computing after the current step until resume().
  outcome<void> pause() const {
    return detail::finish(detail::run([&](infer_error **e) { return infer_engine_pause(get(), e); }));
  }
  /// Goes on after pause(), and takes requests again after drain().
  outcome<void> resume() const {
    return detail::finish(detail::run([&](infer_error **e) { return infer_engine_resume(get(), e); }));
  }
  /// Gives up to `bytes` of memory that is only kept for speed back, and tells how much it was.
  outcome<std::uint64_t> trim(std::uint64_t bytes) const {
    return detail::finish(detail::get(std::uint64_t{0}, [&](std::uint64_t *out, infer_error **e) {
      return infer_engine_trim(get(), bytes, out, e);
    }));
  }
  /// Forgets cached keys and values of finished requests: those with this salt, or all when it is empty.
  outcome<void> cache_clear(std::string_view salt = {}) const {
    return detail::finish(
        detail::run([&](infer_error **e) { return infer_engine_cache_clear(get(), salt.data(), salt.size(), e); }));
  }
  /// What the prefix cache holds of the longest cached prefix of these ids with this salt, for state_restore() in another
  /// engine or process. The bytes hold the ids in the clear.
  outcome<std::vector<std::uint8_t>> state_save(span<const std::uint32_t> ids, std::string_view salt = {}) const {
    return detail::finish(detail::copy<std::vector<std::uint8_t>>(
        0, [&](std::uint8_t *buffer, std::size_t capacity, std::size_t *needed, infer_error **e) {
          return infer_engine_state_save(get(), ids.data(), ids.size(), salt.data(), salt.size(), buffer, capacity, needed,
                                         e);
        }));
  }
  /// Brings a saved state into the prefix cache and tells how many tokens are cached then. Restore only what you saved.
  outcome<std::size_t> state_restore(span<const std::uint8_t> state, std::string_view salt = {}) const {
    return detail::finish(detail::get(std::size_t{0}, [&](std::size_t *out, infer_error **e) {
      return infer_engine_state_restore(get(), state.data(), state.size(), salt.data(), salt.size(), out, e);
    }));
  }
  /// Computes one step, for engines created with the option manual_step; false when all requests have ended.
  outcome<bool> step() const;

  /// A snapshot of the counters.
  outcome<infer_stats> stats() const {
    return detail::finish(detail::get(infer_stats INFER_STATS_INIT, [&](infer_stats *out, infer_error **e) {
      return infer_engine_stats(get(), out, e);
    }));
  }
  /// How often values fell into each bucket.
  outcome<infer_histogram> histogram(histogram_kind kind) const {
    return detail::finish(detail::get(infer_histogram INFER_HISTOGRAM_INIT, [&](infer_histogram *out, infer_error **e) {
      return infer_engine_histogram(get(), static_cast<std::uint32_t>(kind), out, e);
    }));
  }
  /// A report for people.
  outcome<std::string> summary() const {
    return detail::finish(
        detail::copy_text([&](char *buffer, std::size_t capacity, std::size_t *needed, infer_error **e) {
          return infer_engine_summary(get(), buffer, capacity, needed, e);
        }));
  }
  /// The counters and histograms in Prometheus' text format.
  outcome<std::string> metrics_text() const {
    return detail::finish(
        detail::copy_text([&](char *buffer, std::size_t capacity, std::size_t *needed, infer_error **e) {
          return infer_engine_metrics_text(get(), buffer, capacity, needed, e);
        }));
  }

  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_engine *get() const noexcept { return handle_.get(); }

private:
  detail::handle<infer_engine, infer_engine_free> handle_;
};

/// One option of the list that describe_options() gives. All texts live forever.
struct option_info {
  /// "model", "engine", "request" or "threads".
  std::string_view object;
  std::string_view name;
  /// "bool", "integer", "float", "choice" or "text".
  std::string_view type_name;
  std::string_view default_value;
  std::string_view range;
  std::string_view doc;
};

/// Every option there is.
inline outcome<std::vector<option_info>> describe_options() {
  std::vector<option_info> all;
  for (;;) {
    infer_option_info raw = INFER_OPTION_INFO_INIT;
    const auto found = detail::wait([&](infer_error **e) { return infer_options_describe(all.size(), &raw, e); });
    if (!found)
      return detail::finish(result<std::vector<option_info>>(found.error()));
    if (*found != poll::event)
      return detail::finish(result<std::vector<option_info>>(std::move(all)));
    all.push_back({raw.object, raw.name, raw.type_name, raw.default_value, raw.range, raw.doc});
  }
}

/// The version of the library that is running; INFER_VERSION is that of the header.
inline std::string_view version() noexcept { return infer_version(); }
/// The best set of kernels this CPU can run.
inline std::string_view cpu_level_name() noexcept { return infer_cpu_level_name(); }

/// Which values of a head kernels::rope() turns together.
enum class rope_pairs : std::uint32_t { adjacent = INFER_ROPE_ADJACENT, neox = INFER_ROPE_NEOX };

/// Vector and matrix operations of one CPU level on arrays of yours. Lengths are those of the spans: where they do not fit
/// together, the call fails with status::invalid_argument. An output may be an input where infer.h says so.
class kernels {
public:
  /// An empty handle.
  kernels() noexcept = default;
  /// Takes over a C handle.
  explicit kernels(infer_kernels *raw) noexcept : handle_(raw) {}

  /// "auto", or one of levels(). A level this CPU does not have is status::unsupported.
  static outcome<kernels> create(std::string_view level = "auto") {
    const auto text = detail::terminated("the level", level);
    if (!text)
      return detail::finish(result<kernels>(text.error()));
    return detail::finish(detail::create<kernels, infer_kernels>([&](infer_kernels **out, infer_error **e) {
      return infer_kernels_create(text->c_str(), out, e);
    }));
  }
  /// The levels there are, lowest first.
  static std::vector<std::string_view> levels() {
    std::vector<std::string_view> all;
    while (const char *level = infer_kernels_level_at(all.size()))
      all.emplace_back(level);
    return all;
  }
  /// The level, never "auto"; empty for an empty handle.
  std::string_view level() const noexcept { return infer_kernels_level(get()); }

  /// The sum of a[i] * b[i].
  outcome<float> dot(span<const float> a, span<const float> b) const {
    return reduce({b.size()}, a.size(), [&](float *out, infer_error **e) {
      return infer_kernels_dot(get(), a.data(), b.data(), a.size(), out, e);
    });
  }
  /// The same with an error that does not grow with the length.
  outcome<float> dot_kahan(span<const float> a, span<const float> b) const {
    return reduce({b.size()}, a.size(), [&](float *out, infer_error **e) {
      return infer_kernels_dot_kahan(get(), a.data(), b.data(), a.size(), out, e);
    });
  }
  /// The sum of x[i].
  outcome<float> sum(span<const float> x) const {
    return reduce({}, x.size(), [&](float *out, infer_error **e) {
      return infer_kernels_sum(get(), x.data(), x.size(), out, e);
    });
  }

  /// c = a * b with a of m * k values, b of k * n and c of m * n, row by row.
  outcome<void> matmul(span<const float> a, span<const float> b, std::size_t m, std::size_t k, std::size_t n,
                       span<float> c) const {
    return multiply({a.size(), b.size(), c.size()}, {m, k, n}, [&](infer_error **e) {
      return infer_kernels_matmul(get(), a.data(), b.data(), m, k, n, c.data(), e);
    });
  }
  /// The same for signed bytes, exact; k is at most 131071.
  outcome<void> matmul_i8(span<const std::int8_t> a, span<const std::int8_t> b, std::size_t m, std::size_t k,
                          std::size_t n, span<std::int32_t> c) const {
    return multiply({a.size(), b.size(), c.size()}, {m, k, n}, [&](infer_error **e) {
      return infer_kernels_matmul_i8(get(), a.data(), b.data(), m, k, n, c.data(), e);
    });
  }

  /// out[i] = a[i] + b[i].
  outcome<void> add(span<const float> a, span<const float> b, span<float> out) const {
    return map({a.size(), b.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_add(get(), a.data(), b.data(), out.size(), out.data(), e);
    });
  }
  /// out[i] = a[i] * b[i].
  outcome<void> mul(span<const float> a, span<const float> b, span<float> out) const {
    return map({a.size(), b.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_mul(get(), a.data(), b.data(), out.size(), out.data(), e);
    });
  }
  /// out[i] = max(x[i], 0).
  outcome<void> relu(span<const float> x, span<float> out) const {
    return map({x.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_relu(get(), x.data(), out.size(), out.data(), e);
    });
  }
  /// out[i] = x[i] / (1 + exp(-x[i])).
  outcome<void> silu(span<const float> x, span<float> out) const {
    return map({x.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_silu(get(), x.data(), out.size(), out.data(), e);
    });
  }
  /// The Gaussian error unit in its tanh form.
  outcome<void> gelu(span<const float> x, span<float> out) const {
    return map({x.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_gelu(get(), x.data(), out.size(), out.data(), e);
    });
  }
  /// out[i] = 1 / (1 + exp(-x[i])).
  outcome<void> sigmoid(span<const float> x, span<float> out) const {
    return map({x.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_sigmoid(get(), x.data(), out.size(), out.data(), e);
    });
  }
  /// out[i] = exp(x[i]) / the sum of exp(x[j]).
  outcome<void> softmax(span<const float> x, span<float> out) const {
    return map({x.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_softmax(get(), x.data(), out.size(), out.data(), e);
    });
  }
  /// out[i] = x[i] / sqrt(mean of x[j]^2 + eps) * weight[i].
  outcome<void> rms_norm(span<const float> x, span<const float> weight, float eps, span<float> out) const {
    return map({x.size(), weight.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_rms_norm(get(), x.data(), weight.data(), out.size(), eps, out.data(), e);
    });
  }
  /// out[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]; an empty bias is none.
  outcome<void> layer_norm(span<const float> x, span<const float> weight, span<const float> bias, float eps,
                           span<float> out) const {
    return map({x.size(), weight.size(), bias.empty() ? out.size() : bias.size()}, out.size(), [&](infer_error **e) {
      return infer_kernels_layer_norm(get(), x.data(), weight.data(), bias.empty() ? nullptr : bias.data(), out.size(),
                                      eps, out.data(), e);
    });
  }
  /// Turns the first 2 * cos.size() values of each row of head_dim values, pair by pair, in place.
  outcome<void> rope(span<float> x, std::size_t head_dim, span<const float> cos, span<const float> sin,
                     rope_pairs pairs) const {
    const std::size_t heads = head_dim == 0 ? 0 : x.size() / head_dim;
    return map({sin.size(), heads * head_dim == x.size() ? cos.size() : cos.size() + 1}, cos.size(),
               [&](infer_error **e) {
                 return infer_kernels_rope(get(), x.data(), heads, head_dim, cos.data(), sin.data(), cos.size(),
                                           static_cast<std::uint32_t>(pairs), e);
               });
  }

  /// Expands the blocks in src, of the tensor type with this name, like "Q4_K".
  outcome<void> dequantize(std::string_view type_name, span<const std::uint8_t> src, span<float> out) const {
    return named(type_name, [&](const char *name, infer_error **e) {
      return infer_kernels_dequantize(get(), name, src.data(), src.size(), out.size(), out.data(), e);
    });
  }
  /// Writes values as a row of type "F32", "F16" or "BF16".
  outcome<void> quantize(std::string_view type_name, span<const float> x, span<std::uint8_t> out) const {
    return named(type_name, [&](const char *name, infer_error **e) {
      return infer_kernels_quantize(get(), name, x.data(), x.size(), out.data(), out.size(), e);
    });
  }

  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_kernels *get() const noexcept { return handle_.get(); }

private:
  struct shape {
    std::size_t m, k, n;
  };
  struct sizes {
    std::size_t a, b, c;
  };
  static bool fits(std::initializer_list<std::size_t> lengths, std::size_t n) noexcept {
    for (const std::size_t length : lengths)
      if (length != n)
        return false;
    return true;
  }
  /// Whether x * y is the length; an overflow is not.
  static bool fits(std::size_t x, std::size_t y, std::size_t length) noexcept {
    return x == 0 || y == 0 ? length == 0 : length % x == 0 && length / x == y;
  }
  static error mismatch() { return error(status::invalid_argument, "the lengths of the arrays do not fit together"); }

  template <class Call>
  static outcome<float> reduce(std::initializer_list<std::size_t> lengths, std::size_t n, Call &&call) {
    if (!fits(lengths, n))
      return detail::finish(result<float>(mismatch()));
    return detail::finish(detail::get(0.0f, std::forward<Call>(call)));
  }
  template <class Call>
  static outcome<void> map(std::initializer_list<std::size_t> lengths, std::size_t n, Call &&call) {
    if (!fits(lengths, n))
      return detail::finish(result<void>(mismatch()));
    return detail::finish(detail::run(std::forward<Call>(call)));
  }
  template <class Call> static outcome<void> multiply(sizes found, shape s, Call &&call) {
    if (!fits(s.m, s.k, found.a) || !fits(s.k, s.n, found.b) || !fits(s.m, s.n, found.c))
      return detail::finish(result<void>(mismatch()));
    return detail::finish(detail::run(std::forward<Call>(call)));
  }
  template <class Call> static outcome<void> named(std::string_view type_name, Call &&call) {
    const auto name = detail::terminated("the name of a type", type_name);
    if (!name)
      return detail::finish(result<void>(name.error()));
    return detail::finish(detail::run([&](infer_error **e) { return call(name->c_str(), e); }));
  }
  detail::handle<infer_kernels, infer_kernels_free> handle_;
};

/// What happened between two snapshots of the same engine.
inline outcome<infer_stats> stats_delta(const infer_stats &later, const infer_stats &earlier) {
  return detail::finish(detail::get(infer_stats INFER_STATS_INIT, [&](infer_stats *out, infer_error **e) {
    return infer_stats_delta(&later, &earlier, out, e);
  }));
}
/// The sum of the snapshots of two engines.
inline outcome<infer_stats> stats_merge(const infer_stats &one, const infer_stats &other) {
  return detail::finish(detail::get(
      infer_stats(one), [&](infer_stats *out, infer_error **e) { return infer_stats_merge(out, &other, e); }));
}
/// About the value that the share `q` of all values does not exceed: 0.5 is the median, 1 the maximum.
inline outcome<double> histogram_quantile(const infer_histogram &histogram, double q) {
  return detail::finish(detail::get(
      0.0, [&](double *out, infer_error **e) { return infer_histogram_quantile(&histogram, q, out, e); }));
}
/// What came between two histograms of the same engine and kind.
inline outcome<infer_histogram> histogram_delta(const infer_histogram &later, const infer_histogram &earlier) {
  return detail::finish(detail::get(infer_histogram INFER_HISTOGRAM_INIT, [&](infer_histogram *out, infer_error **e) {
    return infer_histogram_delta(&later, &earlier, out, e);
  }));
}
/// The sum of the histograms of two engines.
inline outcome<infer_histogram> histogram_merge(const infer_histogram &one, const infer_histogram &other) {
  return detail::finish(detail::get(infer_histogram(one), [&](infer_histogram *out, infer_error **e) {
    return infer_histogram_merge(out, &other, e);
  }));
}

// ---- Definitions that are longer than a few lines ----

namespace detail {

/// A conversation as the arrays C wants.
struct conversation {
  std::vector<const char *> roles;
  std::vector<const char *> contents;
  std::vector<std::size_t> lengths;

  static result<conversation> of(span<const message> messages) {
    conversation c;
    for (const message &m : messages) {
      // A role is given NUL-terminated: one with a NUL inside would be cut off.
      if (m.role.find('\0') != std::string::npos)
        return error(status::invalid_argument, "the role of a message must not contain a NUL byte");
      c.roles.push_back(m.role.c_str());
      c.contents.push_back(m.content.data());
      c.lengths.push_back(m.content.size());
    }
    return result<conversation>(std::move(c));
  }
};

} // namespace detail

inline request_options &request_options::messages(span<const message> conversation) {
  const auto c = detail::conversation::of(conversation);
  if (!c)
    return done(c.error());
  return apply([&](infer_error **e) {
    return infer_request_options_set_messages(get(), c->roles.data(), c->contents.data(), c->lengths.data(),
                                              c->roles.size(), e);
  });
}

inline outcome<completion> request::collect() {
  completion all;
  for (;;) {
    const auto found = read(current_, forever);
    if (!found)
      return detail::finish(result<completion>(found.error()));
    if (*found != poll::event)
      return detail::finish(result<completion>(std::move(all)));
    if (const auto reason = current_.error())
      return detail::finish(result<completion>(*reason));
    all.text += current_.text();
    const auto append = [](auto &values, auto more) { values.insert(values.end(), more.begin(), more.end()); };
    append(all.tokens, current_.tokens());
    append(all.logprobs, current_.logprobs());
    append(all.prompt_logprobs, current_.prompt_logprobs());
    append(all.embedding, current_.embedding());
    if (current_.finished()) {
      all.finish = current_.finish();
      all.stop = current_.stop();
      all.prompt_tokens = current_.prompt_tokens();
      all.generated_tokens = current_.generated_tokens();
    }
  }
}

inline outcome<model_info> model::info() const {
  const auto raw = detail::get(infer_model_info INFER_MODEL_INFO_INIT, [&](infer_model_info *out, infer_error **e) {
    return infer_model_get_info(get(), out, e);
  });
  if (!raw)
    return detail::finish(result<model_info>(raw.error()));
  return detail::finish(result<model_info>(model_info{
      raw->n_vocab, raw->n_embd, raw->n_layers, raw->n_heads, raw->n_kv_heads, raw->context_length,
      raw->has_chat_template != 0, raw->n_parameters, raw->weight_bytes, raw->architecture, raw->name,
      raw->description}));
}

inline outcome<std::vector<std::string_view>> model::metadata_keys() const {
  std::vector<std::string_view> keys;
  for (;;) {
    const char *key = nullptr;
    std::size_t len = 0;
    const auto found = detail::wait(
        [&](infer_error **e) { return infer_model_metadata_at(get(), keys.size(), &key, &len, e); });
    if (!found)
      return detail::finish(result<std::vector<std::string_view>>(found.error()));
    if (*found != poll::event)
      return detail::finish(result<std::vector<std::string_view>>(std::move(keys)));
    keys.emplace_back(key, len);
  }
}

inline outcome<std::optional<std::string>> model::metadata(std::string_view key) const {
  using answer = result<std::optional<std::string>>;
  auto found =
      detail::copy_text([&](char *buffer, std::size_t capacity, std::size_t *needed, infer_error **e) {
        return infer_model_metadata_get(get(), key.data(), key.size(), buffer, capacity, needed, e);
      });
  if (found)
    return detail::finish(answer(std::move(*found)));
  if (found.error().code() == status::not_found)
    return detail::finish(answer(std::nullopt));
  return detail::finish(answer(found.error()));
}

inline outcome<std::optional<std::uint32_t>> model::special_token(infer::special_token kind) const {
  using answer = result<std::optional<std::uint32_t>>;
  const auto found = detail::get(std::uint32_t{0}, [&](std::uint32_t *out, infer_error **e) {
    return infer_model_special_token(get(), static_cast<std::uint32_t>(kind), out, e);
  });
  if (found)
    return detail::finish(answer(*found));
  if (found.error().code() == status::not_found)
    return detail::finish(answer(std::nullopt));
  return detail::finish(answer(found.error()));
}

inline outcome<bool> model::is_end_of_generation(std::uint32_t id) const {
  const auto found = detail::get(std::uint32_t{0}, [&](std::uint32_t *out, infer_error **e) {
    return infer_model_is_end_of_generation(get(), id, out, e);
  });
  return detail::finish(found ? result<bool>(*found != 0) : result<bool>(found.error()));
}

inline outcome<std::string> model::apply_chat_template(span<const message> conversation, std::uint32_t flags) const {
  const auto c = detail::conversation::of(conversation);
  if (!c)
    return detail::finish(result<std::string>(c.error()));
  return text([&](char *buffer, std::size_t capacity, std::size_t *needed, infer_error **e) {
    return infer_model_apply_chat_template(get(), c->roles.data(), c->contents.data(), c->lengths.data(),
                                           c->roles.size(), flags, buffer, capacity, needed, e);
  });
}

inline outcome<std::vector<request>> engine::submit_batch(span<const request_options> options) const {
  using answer = result<std::vector<request>>;
  std::vector<const infer_request_options *> raw_options;
  for (const request_options &one : options) {
    if (one.failure() != nullptr)
      return detail::finish(answer(*one.failure()));
    raw_options.push_back(one.get());
  }
  std::vector<infer_request *> raw(options.size(), nullptr);
  std::vector<request> requests;
  // Nothing may fail between the moment the requests exist and the moment they are owned.
  requests.reserve(options.size());
  const auto found = detail::run([&](infer_error **e) {
    return infer_engine_submit_batch(get(), raw_options.data(), raw_options.size(), raw.data(), e);
  });
  if (!found)
    return detail::finish(answer(found.error()));
  for (infer_request *one : raw)
    requests.emplace_back(one);
  return detail::finish(answer(std::move(requests)));
}

inline outcome<completion> engine::generate(const request_options &options) const {
#ifdef INFER_NO_EXCEPTIONS
  auto submitted = submit(options);
  return submitted ? submitted->collect() : result<completion>(submitted.error());
#else
  return submit(options).collect();
#endif
}

inline outcome<std::vector<std::uint64_t>> engine::wait(timeout limit, std::size_t capacity) const {
  using answer = result<std::vector<std::uint64_t>>;
  std::vector<infer_request *> ready(capacity, nullptr);
  std::size_t n = 0;
  const auto found = detail::run([&](infer_error **e) {
    return infer_engine_wait(get(), limit.milliseconds(), ready.data(), ready.size(), &n, e);
  });
  if (!found)
    return detail::finish(answer(found.error()));
  std::vector<std::uint64_t> ids;
  for (std::size_t i = 0; i < n; i++)
    ids.push_back(infer_request_id(ready[i]));
  return detail::finish(answer(std::move(ids)));
}

inline outcome<bool> engine::drain(timeout limit) const {
  const auto found =
      detail::wait([&](infer_error **e) { return infer_engine_drain(get(), limit.milliseconds(), e); });
  return detail::finish(found ? result<bool>(*found == poll::event) : result<bool>(found.error()));
}

inline outcome<bool> engine::step() const {
  const auto found = detail::get(std::uint32_t{0}, [&](std::uint32_t *out, infer_error **e) {
    return infer_engine_step(get(), out, e);
  });
  return detail::finish(found ? result<bool>(*found != 0) : result<bool>(found.error()));
}

/// An element type of keys and values.
enum class kv_type : std::uint32_t {
  f32 = INFER_KV_F32,
  f16 = INFER_KV_F16,
  bf16 = INFER_KV_BF16,
  q8 = INFER_KV_Q8,
};

/// Options of a key/value cache.
class kv_cache_options
    : public detail::options<kv_cache_options, infer_kv_cache_options, infer_kv_cache_options_new,
                             infer_kv_cache_options_free, infer_kv_cache_options_set> {
public:
  /// What is stored for each token; it has to be set.
  kv_cache_options &shape(std::uint32_t n_layers, std::uint32_t n_kv_heads, std::uint32_t head_dim) {
    return set("n_layers", n_layers).set("n_kv_heads", n_kv_heads).set("head_dim", head_dim);
  }
};

/// Keys and values of a range of positions of one layer as they lie in memory, until it is destroyed.
class kv_view {
public:
  /// An empty handle.
  kv_view() noexcept = default;
  /// Takes over a C handle.
  explicit kv_view(infer_kv_view *raw) noexcept : handle_(raw) {}

  /// The parts in each block: type, strides and addresses.
  outcome<std::vector<infer_kv_block>> blocks() const {
    using answer = result<std::vector<infer_kv_block>>;
    std::vector<infer_kv_block> all;
    for (;;) {
      infer_kv_block block = INFER_KV_BLOCK_INIT;
      const auto found =
          detail::wait([&](infer_error **e) { return infer_kv_view_block(get(), all.size(), &block, e); });
      if (!found)
        return detail::finish(answer(found.error()));
      if (*found == poll::end)
        return detail::finish(answer(std::move(all)));
      all.push_back(block);
    }
  }
  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_kv_view *get() const noexcept { return handle_.get(); }

private:
  detail::handle<infer_kv_view, infer_kv_view_free> handle_;
};

/// Keeps a sealed prefix in memory until it is destroyed.
class kv_pin {
public:
  /// An empty handle.
  kv_pin() noexcept = default;
  /// Takes over a C handle.
  explicit kv_pin(infer_kv_pin *raw) noexcept : handle_(raw) {}

  /// Tokens of the prefix; 0 where nothing was found.
  std::size_t length() const noexcept { return infer_kv_pin_length(get()); }
  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_kv_pin *get() const noexcept { return handle_.get(); }

private:
  detail::handle<infer_kv_pin, infer_kv_pin_free> handle_;
};

/// A sequence of tokens of a key/value cache. Reading is const and may go on beside one writer.
///
/// Keys and values are token by token, in it head by head. Their spans have to have as many elements as the tokens need;
/// where they do not, the call fails with status::invalid_argument.
class kv_sequence {
public:
  /// An empty handle.
  kv_sequence() noexcept = default;
  /// Takes over a C handle.
  explicit kv_sequence(infer_kv_seq *raw) noexcept : handle_(raw) {}

  /// Tokens that can be read.
  std::size_t length() const noexcept { return infer_kv_seq_length(get()); }
  /// Bytes of the keys of one token and layer, and of its values; 0 for a type that is neither f32 nor the cache's.
  std::size_t token_bytes(kv_type type = kv_type::f32) const noexcept {
    return infer_kv_seq_token_bytes(get(), static_cast<std::uint32_t>(type));
  }

  /// A sequence with the same tokens, which shares every block.
  outcome<kv_sequence> fork() const {
    return detail::finish(detail::create<kv_sequence, infer_kv_seq>(
        [&](infer_kv_seq **out, infer_error **e) { return infer_kv_seq_fork(get(), out, e); }));
  }
  /// Forgets all tokens from position `length` on.
  outcome<void> truncate(std::size_t length) {
    return detail::finish(detail::run([&](infer_error **e) { return infer_kv_seq_truncate(get(), length, e); }));
  }

  /// Stores one token of a layer.
  outcome<void> store(std::uint32_t layer, std::size_t position, span<const float> keys, span<const float> values) {
    return sized(1, kv_type::f32, 4 * keys.size(), 4 * values.size(), [&](infer_error **e) {
      return infer_kv_cache_store(get(), layer, position, keys.data(), values.data(), e);
    });
  }
  /// Stores n tokens of a layer.
  outcome<void> store_batch(std::uint32_t layer, std::size_t position, std::size_t n, span<const float> keys,
                            span<const float> values) {
    return store_as(kv_type::f32, layer, position, n, keys, values);
  }
  /// Stores n tokens of a layer given in the type of the cache.
  outcome<void> store_batch(kv_type type, std::uint32_t layer, std::size_t position, std::size_t n,
                            span<const std::uint8_t> keys, span<const std::uint8_t> values) {
    return store_as(type, layer, position, n, keys, values);
  }
  /// Makes n more tokens readable; every layer has to have them.
  outcome<void> advance(std::size_t n) {
    return detail::finish(detail::run([&](infer_error **e) { return infer_kv_cache_advance(get(), n, e); }));
  }
  /// How many tokens to give to a store_batch(), measured when it is first asked for.
  outcome<std::size_t> optimal_batch() const {
    return detail::finish(detail::get(std::size_t{0}, [&](std::size_t *out, infer_error **e) {
      return infer_kv_cache_optimal_batch(get(), out, e);
    }));
  }

  /// Copies n tokens of a layer.
  outcome<void> fetch(std::uint32_t layer, std::size_t position, std::size_t n, span<float> keys,
                      span<float> values) const {
    return fetch_as(kv_type::f32, layer, position, n, keys, values);
  }
  /// Copies n tokens of a layer in the type of the cache.
  outcome<void> fetch(kv_type type, std::uint32_t layer, std::size_t position, std::size_t n,
                      span<std::uint8_t> keys, span<std::uint8_t> values) const {
    return fetch_as(type, layer, position, n, keys, values);
  }
  /// n tokens of a layer as they lie in memory.
  outcome<kv_view> view(std::uint32_t layer, std::size_t position, std::size_t n) const {
    return detail::finish(detail::create<kv_view, infer_kv_view>([&](infer_kv_view **out, infer_error **e) {
      return infer_kv_cache_view(get(), layer, position, n, out, e);
    }));
  }
  /// Says which tokens these are, from the first on: full blocks are found by them from now on.
  outcome<void> seal(span<const std::uint32_t> tokens) {
    return detail::finish(detail::run(
        [&](infer_error **e) { return infer_kv_cache_seal(get(), tokens.data(), tokens.size(), e); }));
  }

  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_kv_seq *get() const noexcept { return handle_.get(); }

private:
  /// Calls when both arrays have the bytes of n tokens; the library says what is wrong with a type.
  template <class Call>
  outcome<void> sized(std::size_t n, kv_type type, std::size_t keys, std::size_t values, Call &&call) const {
    const std::size_t bytes = token_bytes(type);
    if (bytes != 0 && (keys != values || keys % bytes != 0 || keys / bytes != n))
      return detail::finish(
          result<void>(error(status::invalid_argument, "the lengths of the arrays do not fit the number of tokens")));
    return detail::finish(detail::run(std::forward<Call>(call)));
  }
  template <class T>
  outcome<void> store_as(kv_type type, std::uint32_t layer, std::size_t position, std::size_t n, span<const T> keys,
                         span<const T> values) {
    return sized(n, type, sizeof(T) * keys.size(), sizeof(T) * values.size(), [&](infer_error **e) {
      return infer_kv_cache_store_batch(get(), layer, position, n, static_cast<std::uint32_t>(type), keys.data(),
                                        values.data(), e);
    });
  }
  template <class T>
  outcome<void> fetch_as(kv_type type, std::uint32_t layer, std::size_t position, std::size_t n, span<T> keys,
                         span<T> values) const {
    return sized(n, type, sizeof(T) * keys.size(), sizeof(T) * values.size(), [&](infer_error **e) {
      return infer_kv_cache_fetch(get(), layer, position, n, static_cast<std::uint32_t>(type), keys.data(),
                                  values.data(), e);
    });
  }

  detail::handle<infer_kv_seq, infer_kv_seq_free> handle_;
};

/// A cache of keys and values for programs with an attention of their own.
class kv_cache {
public:
  /// An empty handle.
  kv_cache() noexcept = default;
  /// Takes over a C handle.
  explicit kv_cache(infer_kv_cache *raw) noexcept : handle_(raw) {}

  static outcome<kv_cache> create(const kv_cache_options &options) {
    if (options.failure() != nullptr)
      return detail::finish(result<kv_cache>(*options.failure()));
    return detail::finish(detail::create<kv_cache, infer_kv_cache>([&](infer_kv_cache **out, infer_error **e) {
      return infer_kv_cache_create(options.get(), out, e);
    }));
  }

  /// An empty sequence; what it seals is found below the same salt only.
  outcome<kv_sequence> open(std::string_view salt = {}) const {
    return detail::finish(detail::create<kv_sequence, infer_kv_seq>([&](infer_kv_seq **out, infer_error **e) {
      return infer_kv_seq_open(get(), salt.data(), salt.size(), out, e);
    }));
  }
  /// A sequence that begins with the longest sealed prefix of the tokens, which may be empty.
  outcome<kv_sequence> lookup(span<const std::uint32_t> tokens, std::string_view salt = {}) const {
    return detail::finish(detail::create<kv_sequence, infer_kv_seq>([&](infer_kv_seq **out, infer_error **e) {
      return infer_kv_cache_lookup(get(), salt.data(), salt.size(), tokens.data(), tokens.size(), out, e);
    }));
  }
  /// Keeps the longest sealed prefix of the tokens in memory.
  outcome<kv_pin> pin(span<const std::uint32_t> tokens, std::string_view salt = {}) const {
    return detail::finish(detail::create<kv_pin, infer_kv_pin>([&](infer_kv_pin **out, infer_error **e) {
      return infer_kv_cache_pin(get(), salt.data(), salt.size(), tokens.data(), tokens.size(), out, e);
    }));
  }
  /// A snapshot of the counters.
  outcome<infer_kv_stats> stats() const {
    infer_kv_stats empty = INFER_KV_STATS_INIT;
    return detail::finish(detail::get(
        empty, [&](infer_kv_stats *out, infer_error **e) { return infer_kv_cache_stats(get(), out, e); }));
  }

  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The C handle, which stays owned by this object.
  infer_kv_cache *get() const noexcept { return handle_.get(); }

private:
  detail::handle<infer_kv_cache, infer_kv_cache_free> handle_;
};

} // inline namespace

} // namespace infer

#endif // INFER_HPP
