// Python's pending exception, where this is loaded into Python. The interpreter's symbols
// are looked up, because nothing here may depend on Python.
#pragma once

#include <string>
#include <utility>

namespace tf {

// Without the interpreter's lock, if this thread has it: libtorch's engine refuses to run
// with it, and PyTorch's Python dispatcher holds it while an op runs.
class Unlocked {
 public:
  Unlocked() noexcept;
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  void* thread_ = nullptr;  // null if it had no lock
};

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
