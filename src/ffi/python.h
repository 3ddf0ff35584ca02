// Python's pending exception, where this is loaded into Python. The interpreter's symbols
// are looked up, because nothing here may depend on Python.
#pragma once

#include <string>
#include <utility>

namespace tf {

// An exception that Python code raised, taken from this thread.
class PythonError {
 public:
  PythonError() = default;
  ~PythonError();
  PythonError(PythonError&& other) noexcept { swap(other); }
  PythonError& operator=(PythonError&& other) noexcept {
    swap(other);
    return *this;
  }

  // Takes the exception that is pending on this thread; empty if there is none.
  static PythonError take() noexcept;

  // Makes it pending again.
  void restore() noexcept;

  // "Type: message"; empty if there is none.
  std::string text() const;

 private:
  void swap(PythonError& other) noexcept {
    std::swap(type_, other.type_);
    std::swap(value_, other.value_);
    std::swap(trace_, other.trace_);
  }

  void* type_ = nullptr;
  void* value_ = nullptr;
  void* trace_ = nullptr;
};

}  // namespace tf
