// Errors on their way across the border.
#include "guard.h"
#include "shim.h"
#include <cstddef>
#include "layout.h"  // static_asserts, which build.rs writes from layout.rs

using tf::guarded;

void* tf_take_error() noexcept {
  const std::exception_ptr held = std::exchange(tf::last_failure().rust, nullptr);
  if (!held) return nullptr;
  try {
    std::rethrow_exception(held);
  } catch (const tf::RustError& e) {
    return e.take();
  } catch (...) {
    return nullptr;
  }
}

const char* tf_last_error() noexcept { return tf::last_failure().text.c_str(); }

bool tf_try(void (*body)(void*), void* data) {
  try {
    body(data);
    return true;
  } catch (...) {
    if (!std::current_exception()) throw;  // not C++'s
    return guarded(false, []() -> bool { throw; });
  }
}
