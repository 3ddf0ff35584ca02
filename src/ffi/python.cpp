// Python's pending exception, where this is loaded into Python.
#include "python.h"

#include <dlfcn.h>

namespace tf {
namespace {

// The functions of the interpreter in this process; all of them are in its stable ABI.
struct Python {
  int (*is_initialized)();
  int (*is_finalizing)();  // null in old ones
  int (*ensure)();
  void (*release)(int);
  void (*fetch)(void**, void**, void**);
  void (*restore)(void*, void*, void*);
  void (*decref)(void*);
  void* (*type_name)(void*, const char*);
  void* (*str)(void*);
  const char* (*utf8)(void*);
  void (*clear)();

  // Null if there is no interpreter, or it is on its way out.
  static const Python* running() noexcept {
    static const Python python = find();
    const bool runs = python.ensure && python.is_initialized && python.is_initialized() != 0;
    return runs && !(python.is_finalizing && python.is_finalizing()) ? &python : nullptr;
  }

 private:
  template <typename F>
  static void look_up(F& f, const char* name, const char* older = nullptr) noexcept {
    f = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
    if (!f && older) f = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, older));
  }

  static Python find() noexcept {
    Python p{};
    look_up(p.is_initialized, "Py_IsInitialized");
    look_up(p.is_finalizing, "Py_IsFinalizing", "_Py_IsFinalizing");
    look_up(p.ensure, "PyGILState_Ensure");
    look_up(p.release, "PyGILState_Release");
    look_up(p.fetch, "PyErr_Fetch");
    look_up(p.restore, "PyErr_Restore");
    look_up(p.decref, "Py_DecRef");
    look_up(p.type_name, "PyObject_GetAttrString");
    look_up(p.str, "PyObject_Str");
    look_up(p.utf8, "PyUnicode_AsUTF8");
    look_up(p.clear, "PyErr_Clear");
    return p;
  }
};

class Gil {
 public:
  explicit Gil(const Python& python)
      : python_(python), state_(python.ensure()) {}
  ~Gil() { python_.release(state_); }
  Gil(const Gil&) = delete;
  Gil& operator=(const Gil&) = delete;

 private:
  const Python& python_;
  const int state_;
};

std::string text_of(const Python& python, void* text) {
  const char* const utf8 = text ? python.utf8(text) : nullptr;
  std::string out = utf8 ? utf8 : "";
  if (!utf8) python.clear();
  python.decref(text);
  return out;
}

}  // namespace

PythonError PythonError::take() noexcept {
  PythonError error;
  if (const Python* const python = Python::running()) {
    const Gil gil(*python);
    python->fetch(&error.type_, &error.value_, &error.trace_);
  }
  return error;
}

void PythonError::restore() noexcept {
  const Python* const python = type_ ? Python::running() : nullptr;
  if (!python) return;
  const Gil gil(*python);
  python->restore(type_, value_, trace_);
  type_ = value_ = trace_ = nullptr;
}

PythonError::~PythonError() {
  const Python* const python = type_ ? Python::running() : nullptr;
  if (!python) return;  // a process that ends needs no memory back
  const Gil gil(*python);
  for (void* object : {type_, value_, trace_})
    if (object) python->decref(object);
}

std::string PythonError::text() const {
  const Python* const python = type_ ? Python::running() : nullptr;
  if (!python) return {};
  const Gil gil(*python);
  const std::string type = text_of(*python, python->type_name(type_, "__name__"));
  return value_ ? type + ": " + text_of(*python, python->str(value_)) : type;
}

}  // namespace tf
