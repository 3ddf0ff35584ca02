// The errors of the shim, and how they cross the border: a C++ exception
// becomes a text, and an error of Rust's travels through libtorch's engine
// inside an exception.
#pragma once

#include "python.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace tf {

// An address that no other shared object has.
extern const char kHere;

// Another shared object of the process may hold another build of this crate. C++ tells
// types apart by their names, so each build has a name of its own for this one.
inline namespace TF_BUILD {

// An error of Rust's on its way through C++. Copies share it, and the first
// who asks takes it; the text stays.
class RustError : public std::runtime_error {
 public:
  RustError(const tf_callbacks* callbacks, void* error)
      : std::runtime_error(callbacks->error_text(error)),
        held_(std::make_shared<Held>(callbacks, error)) {}

  // Null if it was taken, and for an error of another shared object with the same build.
  void* take() const noexcept {
    return held_->home == &kHere ? std::exchange(held_->error, nullptr) : nullptr;
  }

 private:
  struct Held {
    Held(const tf_callbacks* c, void* e)
        : callbacks(c), error(e) {}
    ~Held() {
      if (error) callbacks->drop_error(error);
    }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    const char* const home = &kHere;
    const tf_callbacks* callbacks;
    void* error;
  };
  std::shared_ptr<Held> held_;
};

}  // namespace TF_BUILD

// The last exception in this scope that is neither Rust's nor libtorch's: Python's, say.
// A scope lives on the stack of who may throw the exception again. So none is left for
// the end of a thread or of the process, when Python may be gone.
class Foreign {
 public:
  Foreign()
      : outer_(std::exchange(innermost(), this)) {}
  ~Foreign() { innermost() = outer_; }
  Foreign(const Foreign&) = delete;
  Foreign& operator=(const Foreign&) = delete;

  // Throws the exception that an error with this text tells of, if there is one.
  void rethrow(const std::string& text);

 private:
  friend void keep_failure(const std::exception_ptr& thrown) noexcept;
  static Foreign*& innermost() {
    thread_local Foreign* scope = nullptr;
    return scope;
  }

  Foreign* const outer_;
  std::string text_;
  std::exception_ptr exception_;
  PythonError pending_;
};

// Keeps an exception as this thread's failure, until it is taken or another one comes.
// Call it outside every handler: what it drops may call Rust.
void keep_failure(const std::exception_ptr& thrown) noexcept;

// The one place where a C++ exception becomes a failure value.
template <typename R, typename F>
R guarded(R failure_value, F&& body) noexcept {
  std::exception_ptr thrown;
  try {
    return body();
  } catch (...) {
    thrown = std::current_exception();
  }
  keep_failure(thrown);
  return failure_value;
}

// Throws libtorch's error again, of the same class and with its text alone.
[[noreturn]] void rethrow_without_frames(const c10::Error& e);

// Runs what C++ code that shows errors whole calls: pybind11, say, which calls ops for
// Python, shows C++ frames and lists of backends, thousands of characters.
template <typename F>
auto without_frames(F&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const c10::Error& e) {
    rethrow_without_frames(e);
  }
}

// The in-place counter.
inline uint32_t version_of(const at::Tensor& t) {
  const auto& counter = t.unsafeGetTensorImpl()->version_counter();
  return counter.enabled() ? counter.current_version() : 0;  // inference: off
}

}  // namespace tf
