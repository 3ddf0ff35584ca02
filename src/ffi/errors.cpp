// Errors on their way across the border.
#include "guard.h"
#include "shim.h"
#include <cstddef>
#include "layout.h"  // static_asserts, which build.rs writes from layout.rs

using tf::guarded;

namespace tf {

const char kHere = 0;

namespace {

struct Failure {
  std::string text;
  std::exception_ptr rust;     // a RustError, or null
  std::exception_ptr foreign;  // neither Rust's nor libtorch's
};

// This thread's failure, null if it was taken. A plain pointer, because destructors of
// other thread-locals may call the shim after one of this would have run.
Failure*& untaken() noexcept {
  thread_local Failure* failure = nullptr;
  return failure;
}

void forget() noexcept { delete std::exchange(untaken(), nullptr); }

Failure told(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const RustError& e) {
    return {e.what(), thrown, nullptr};
  } catch (const c10::Error& e) {
    return {e.what_without_backtrace(), nullptr, nullptr};
  } catch (const std::exception& e) {
    return {e.what(), nullptr, thrown};
  } catch (...) {
    return {"a C++ exception that is not a std::exception", nullptr, thrown};
  }
}

}  // namespace

void keep_failure(const std::exception_ptr& thrown) noexcept {
  Failure failure = told(thrown);
  if (failure.foreign) {
    // Left pending, it would make Python fail at the next call that succeeds.
    PythonError pending = PythonError::take();
    if (failure.text.empty()) failure.text = pending.text();
    if (Foreign* const scope = Foreign::innermost()) {
      scope->text_ = failure.text;
      scope->exception_ = std::move(failure.foreign);
      scope->pending_ = std::move(pending);
    }
  }
  forget();
  untaken() = new Failure(std::move(failure));
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
