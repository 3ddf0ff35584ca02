// Python's pending exception, where this is loaded into Python.
#include "python.h"

#include <dlfcn.h>

namespace tf {
namespace {

// The functions of the interpreter in this process. Those that are not in its stable ABI
// may be missing.
struct Python {
  int (*is_initialized)();
  int (*is_finalizing)();  // null in old ones
  void* (*thread_state)();
  int (*ensure)();
  void (*release)(int);
  // The state of the thread that has the lock, or of this thread if it has it.
  void* (*current_state)();
  void* (*save_thread)();
  void (*restore_thread)(void*);
  // Of two kinds of versions: takes the exception of a thread's state, without the lock,
  // since it is this thread's own. Null where the name is not there.
  void* (*raised_of)(void*);
  void (*fetch_of)(void*, void**, void**, void**);
  void (*set_raised)(void*);
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

  // Whether an exception may be pending on the thread that runs, whose state this is. Waits
  // for the interpreter's lock only if one is: this is asked after every node.
  bool may_be_pending(void* state) const noexcept;

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
    look_up(p.thread_state, "PyGILState_GetThisThreadState");
    look_up(p.ensure, "PyGILState_Ensure");
    look_up(p.release, "PyGILState_Release");
    look_up(p.current_state, "PyThreadState_GetUnchecked", "_PyThreadState_UncheckedGet");
    look_up(p.save_thread, "PyEval_SaveThread");
    look_up(p.restore_thread, "PyEval_RestoreThread");
    look_up(p.set_raised, "PyErr_SetRaisedException");
    if (p.set_raised)
      look_up(p.raised_of, "_PyErr_GetRaisedException");
    else
      look_up(p.fetch_of, "_PyErr_Fetch");
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

bool Python::may_be_pending(void* state) const noexcept {
  if (raised_of) {
    void* const raised = raised_of(state);
    if (!raised) return false;
    const Gil gil(*this);
    set_raised(raised);
  } else if (fetch_of) {
    void *type = nullptr, *value = nullptr, *trace = nullptr;
    fetch_of(state, &type, &value, &trace);
    if (!type) return false;
    const Gil gil(*this);
    restore(type, value, trace);
  }
  return true;
}

std::string text_of(const Python& python, void* text) {
  const char* const utf8 = text ? python.utf8(text) : nullptr;
  std::string out = utf8 ? utf8 : "";
  if (!utf8) python.clear();
  python.decref(text);
  return out;
}

}  // namespace

Unlocked::Unlocked() noexcept {
  const Python* const python = Python::running();
  if (!python || !python->current_state) return;
  // PyGILState_Check says yes always once there is a subinterpreter.
  void* const own = python->thread_state();
  if (own && python->current_state() == own) thread_ = python->save_thread();
}

Unlocked::~Unlocked() {
  const Python* const python = thread_ ? Python::running() : nullptr;
  if (python) python->restore_thread(thread_);
}

PythonError PythonError::take() noexcept {
  PythonError error;
  const Python* const python = Python::running();
  // A thread that Python does not know has nothing pending, and may run for one that holds
  // the GIL and waits.
  void* const state = python && python->thread_state ? python->thread_state() : nullptr;
  if (state && python->may_be_pending(state)) {
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
