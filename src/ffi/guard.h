// The errors of the shim, and how they cross the border: a C++ exception
// becomes a text, and an error of Rust's travels through libtorch's engine
// inside an exception.
#pragma once

#include "shim.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace tf {

// An error of Rust's on its way through C++. Copies share it, and the first
// who asks takes it; the text stays.
class RustError : public std::runtime_error {
 public:
  RustError(const tf_callbacks* callbacks, void* error)
      : std::runtime_error(callbacks->error_text(error)),
        held_(std::make_shared<Held>(callbacks, error)) {}

  void* take() const noexcept { return std::exchange(held_->error, nullptr); }

 private:
  struct Held {
    Held(const tf_callbacks* c, void* e)
        : callbacks(c), error(e) {}
    ~Held() {
      if (error) callbacks->drop_error(error);
    }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    const tf_callbacks* callbacks;
    void* error;
  };
  std::shared_ptr<Held> held_;
};

// This thread's last failure.
struct Failure {
  std::string text;
  std::exception_ptr rust;     // a RustError, or null
  std::exception_ptr foreign;  // neither Rust's nor libtorch's: Python's, say
};
inline Failure& last_failure() {
  thread_local Failure failure;
  return failure;
}

// The one place where a C++ exception becomes a failure value.
template <typename R, typename F>
R guarded(R failure_value, F&& body) noexcept {
  try {
    return body();
  } catch (const RustError& e) {
    last_failure() = {e.what(), std::current_exception(), nullptr};
  } catch (const c10::Error& e) {
    last_failure() = {e.what_without_backtrace(), nullptr, nullptr};
  } catch (const std::exception& e) {
    last_failure() = {e.what(), nullptr, std::current_exception()};
  } catch (...) {
    last_failure() = {"a C++ exception that is not a std::exception", nullptr,
                      std::current_exception()};
  }
  return failure_value;
}

// The in-place counter.
inline uint32_t version_of(const at::Tensor& t) {
  const auto& counter = t.unsafeGetTensorImpl()->version_counter();
  return counter.enabled() ? counter.current_version() : 0;  // inference: off
}

}  // namespace tf
