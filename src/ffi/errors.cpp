// Errors on their way across the border.
#include "guard.h"
#include "shim.h"
#include <algorithm>
#include <cstddef>
#include <typeinfo>
#include "layout.h"  // static_asserts, which build.rs writes from layout.rs

using tf::guarded;

namespace tf {

const char kHere = 0;

namespace {

struct Failure {
  std::string text;
  std::exception_ptr rust;  // a RustError, or null
};

// This thread's failure, null if it was taken. A plain pointer, because destructors of
// other thread-locals may call the shim after one of this would have run.
Failure*& untaken() noexcept {
  thread_local Failure* failure = nullptr;
  return failure;
}

void forget() noexcept { delete std::exchange(untaken(), nullptr); }

// Returns what is kept of an exception; `foreign` if it is neither Rust's nor libtorch's.
Failure told(const std::exception_ptr& thrown, bool& foreign) {
  try {
    std::rethrow_exception(thrown);
  } catch (const RustError& e) {
    return {e.what(), thrown};
  } catch (const c10::Error& e) {
    return {e.what_without_backtrace(), nullptr};
  } catch (const std::exception& e) {
    foreign = true;
    return {e.what(), nullptr};
  } catch (...) {
    foreign = true;
    return {"a C++ exception that is not a std::exception", nullptr};
  }
}

template <typename E>
void throw_if(const c10::Error& e, const std::string& text) {
  if (dynamic_cast<const E*>(&e)) throw E(text, c10::Backtrace());
}

}  // namespace

void rethrow_without_frames(const c10::Error& e) {
  // Text of other exceptions, which may be inside of this one, has the same parts.
  std::string text = e.what_without_backtrace();
  text.resize(std::min(text.find("\nException raised from "), text.size()));
  const size_t backends = text.find(" is only available for these backends:");
  // The sentence begins with the op's name in quotes.
  if (backends != std::string::npos) text.resize(std::min(text.rfind(" '", backends), backends));
  throw_if<c10::NotImplementedError>(e, text);
  throw_if<c10::IndexError>(e, text);
  throw_if<c10::ValueError>(e, text);
  throw_if<c10::TypeError>(e, text);
  throw_if<c10::LinAlgError>(e, text);
  throw_if<c10::OutOfMemoryError>(e, text);
  if (typeid(e) == typeid(c10::Error)) throw c10::Error(text, c10::Backtrace());
  throw;  // a class with more in it than a text
}

void keep_failure(const std::exception_ptr& thrown) noexcept {
  bool foreign = false;
  Failure failure = told(thrown, foreign);
  if (foreign) {
    // Left pending, it would make Python fail at the next call that succeeds.
    PythonError pending = PythonError::take();
    if (failure.text.empty()) failure.text = pending.text();
    if (Foreign* const scope = Foreign::innermost()) {
      scope->text_ = failure.text;
      scope->exception_ = thrown;
      scope->pending_ = std::move(pending);
    }
  }
  delete std::exchange(untaken(), new Failure(std::move(failure)));
}

void Foreign::rethrow(const std::string& text) {
  const size_t n = text_.size();
  if (!exception_ || text.size() < n || text.compare(text.size() - n, n, text_) != 0) return;
  pending_.restore();
  std::rethrow_exception(std::exchange(exception_, nullptr));
}

}  // namespace tf

void* tf_take_error() noexcept {
  const auto* const failure = tf::untaken();
  if (!failure || !failure->rust) return nullptr;
  try {
    std::rethrow_exception(failure->rust);
  } catch (const tf::RustError& e) {
    return e.take();
  } catch (...) {
    return nullptr;
  }
}

const char* tf_last_error() noexcept {
  const auto* const failure = tf::untaken();
  return failure ? failure->text.c_str() : "";
}

void tf_forget_error() noexcept { tf::forget(); }

void tf_take_python_error(void (*take)(void*, const char*, size_t), void* data) noexcept {
  const std::string text = tf::PythonError::take().text();
  if (!text.empty()) take(data, text.data(), text.size());
}

bool tf_try(void (*body)(void*), void* data) {
  std::exception_ptr thrown;
  try {
    body(data);
    return true;
  } catch (...) {
    thrown = std::current_exception();
    if (!thrown) throw;  // not C++'s
  }
  tf::keep_failure(thrown);
  return false;
}
