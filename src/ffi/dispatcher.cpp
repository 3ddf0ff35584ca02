// Rust's ops in libtorch's dispatcher: definitions, arguments and results, and
// the kernels below autograd.
#include "values.h"
#include "dispatcher.h"
#include "guard.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/enum_tag.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <optional>
#include <vector>

namespace tf {
namespace {

struct Below : OpKernel {
  Below(OpPtr op, tf_kernel kernel)
      : OpKernel(std::move(op)), kernel(kernel) {}
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
    const Stack args = take(*stack, handle.schema().arguments().size());
    give(*stack, op->compute(kernel, args));
  }
  tf_kernel kernel;
};

at::Tag tag_of(tf_op_tag tag) {
  switch (tag) {
    case TF_NONDETERMINISTIC_SEEDED:
      return at::Tag::nondeterministic_seeded;
    case TF_NONDETERMINISTIC_BITWISE:
      return at::Tag::nondeterministic_bitwise;
    case TF_DYNAMIC_OUTPUT_SHAPE:
      return at::Tag::dynamic_output_shape;
    case TF_DATA_DEPENDENT_OUTPUT:
      return at::Tag::data_dependent_output;
    case TF_POINTWISE:
      return at::Tag::pointwise;
    case TF_FLEXIBLE_LAYOUT:
      return at::Tag::flexible_layout;
    case TF_NEEDS_FIXED_STRIDE_ORDER:
      return at::Tag::needs_fixed_stride_order;
    case TF_NEEDS_EXACT_STRIDES:
      return at::Tag::needs_exact_strides;
    case TF_NEEDS_CONTIGUOUS_STRIDES:
      return at::Tag::needs_contiguous_strides;
    case TF_CUDAGRAPH_UNSAFE:
      return at::Tag::cudagraph_unsafe;
  }
  TORCH_CHECK(false, "there is no such tag");
}

using c10::Argument;
using c10::FunctionSchema;

std::vector<Argument> unaliased(const std::vector<Argument>& from) {
  std::vector<Argument> out;
  for (const Argument& a : from) out.emplace_back(a.name(), a.type(), a.real_type(), a.N());
  return out;
}

bool is_list(const Argument& a) { return a.type()->kind() == c10::TypeKind::ListType; }

const auto& tensor_type() { return c10::TensorType::get(); }
c10::TypePtr list_of(c10::TypePtr type) { return c10::ListType::create(std::move(type)); }
c10::TypePtr optional_tensor() { return c10::OptionalType::create(tensor_type()); }

std::string inner_name(const FunctionSchema& of, const char* suffix) {
  const std::string& name = of.name();  // ns::name
  const size_t at = name.find("::") + 2;
  return name.substr(0, at) + "_" + name.substr(at) + suffix;
}

// (arguments, needs) -> (outputs, saved intermediates, plan)
FunctionSchema forward_schema(const FunctionSchema& of) {
  auto args = unaliased(of.arguments());
  args.emplace_back("tf_needs", list_of(c10::BoolType::get()));
  auto returns = unaliased(of.returns());
  returns.emplace_back("", list_of(tensor_type()));
  returns.emplace_back("", list_of(c10::IntType::get()));
  return FunctionSchema(inner_name(of, "_forward"), of.overload_name(), args, returns);
}

// (gradients, saved, plan, needs, arguments) -> gradients of the tensor arguments
FunctionSchema backward_schema(const FunctionSchema& of) {
  std::vector<Argument> args, returns;
  for (size_t i = 0; i < of.returns().size(); ++i)
    args.emplace_back("tf_grad" + std::to_string(i),
                      is_list(of.returns()[i]) ? list_of(tensor_type()) : optional_tensor());
  args.emplace_back("tf_saved", list_of(tensor_type()));
  args.emplace_back("tf_plan", list_of(c10::IntType::get()));
  args.emplace_back("tf_needs", list_of(c10::BoolType::get()));
  for (Argument& a : unaliased(of.arguments())) args.push_back(std::move(a));
  for (const Argument& a : of.arguments())
    if (holds_tensors(a))
      returns.emplace_back("", is_list(a) ? list_of(tensor_type()) : tensor_type());
  return FunctionSchema(inner_name(of, "_backward"), of.overload_name(), args, returns);
}

// The definitions of one namespace. They are undone in the order in which they
// were made, reversed.
struct Library {
  // Of the op that is being defined.
  std::vector<at::Tag> tags;

  ~Library() {
    while (!held.empty()) held.pop_back();
  }
  std::vector<c10::RegistrationHandleRAII> held;

  void define(FunctionSchema schema, const OpPtr& op, tf_kernel kernel) {
    auto& dispatcher = c10::Dispatcher::singleton();
    const auto name = schema.operator_name();
    held.push_back(
        dispatcher.registerDef(std::move(schema), "tch-function", tags));
    const auto impl = [&](c10::DispatchKey key, c10::KernelFunction function) {
      held.push_back(dispatcher.registerImpl(name, key, std::move(function), std::nullopt, nullptr,
                                             "tch-function"));
    };
    impl(c10::DispatchKey::CompositeExplicitAutograd,
         kernel_of<Below>(op, kernel));
    impl(c10::DispatchKey::Autograd, autograd_of(op, kernel));
    impl(c10::DispatchKey::FuncTorchBatched, batched_of(op, kernel));
    impl(c10::DispatchKey::Batched, grads_batched_of(op));
  }
};

}  // namespace

bool holds_tensors(const c10::Argument& a) {
  const std::string type = a.type()->str();
  return type == "Tensor" || type == "Tensor?" || type == "Tensor[]" || type == "Tensor?[]";
}

Op::Op(const tf_op& rust, c10::FunctionSchema schema)
    : rust(rust),
      schema(std::move(schema)),
      mutates(this->schema.is_mutable()),
      name(this->schema.name()) {}

}  // namespace tf

using tf::guarded;

void tf_give_tensor(void* results, at::Tensor* t) noexcept {
  static_cast<tf::Stack*>(results)->emplace_back(t ? std::move(*t) : at::Tensor());
  delete t;
}

void tf_give_tensors(void* results, at::Tensor* const* t, size_t n) noexcept {
  c10::List<at::Tensor> list;
  for (size_t i = 0; i < n; ++i) {
    list.push_back(t[i] ? std::move(*t[i]) : at::Tensor());
    delete t[i];
  }
  static_cast<tf::Stack*>(results)->emplace_back(std::move(list));
}

void tf_give_ints(void* results, const int64_t* ints, size_t n) noexcept {
  static_cast<tf::Stack*>(results)->emplace_back(std::vector<int64_t>(ints, ints + n));
}

bool tf_read_schema(const char* schema, void (*visit)(void*, bool, const char*, const char*, bool),
                    void* data) noexcept {
  return guarded(false, [&] {
    const auto parsed = torch::jit::parseSchema(schema);
    const auto all = [&](bool is_return, const std::vector<c10::Argument>& list) {
      for (const c10::Argument& a : list) {
        const bool is_written = a.alias_info() && a.alias_info()->isWrite();
        visit(data, is_return, a.name().c_str(), a.real_type()->str().c_str(), is_written);
      }
    };
    all(false, parsed.arguments());
    all(true, parsed.returns());
    return true;
  });
}

void* tf_open_library(const char* ns) noexcept {
  return guarded(static_cast<void*>(nullptr), [&] {
    auto library = std::make_unique<tf::Library>();
    library->held.push_back(c10::Dispatcher::singleton().registerLibrary(ns, "tch-function"));
    return static_cast<void*>(library.release());
  });
}

bool tf_define(void* library, const char* ns, const char* schema, const tf_op* rust,
               const tf_op_tag* tags, size_t n_tags) noexcept {
  return guarded(false, [&] {
    auto& in = *static_cast<tf::Library*>(library);
    in.tags = {at::Tag::pt2_compliant_tag};
    for (size_t i = 0; i < n_tags; ++i) in.tags.push_back(tf::tag_of(tags[i]));
    struct Unused {
      const tf_op* rust;
      ~Unused() {
        if (rust) rust->drop(rust->state);
      }
    } unused{rust};
    auto parsed = torch::jit::parseSchema(schema);
    TORCH_CHECK(!parsed.getNamespace().has_value(), "the name stands without its namespace");
    parsed.setNamespaceIfNotSet(ns);
    parsed.setAliasAnalysis(c10::AliasAnalysisKind::FROM_SCHEMA);
    const auto op = std::make_shared<tf::Op>(*rust, parsed);
    unused.rust = nullptr;
    if (!op->mutates) {
      auto& dispatcher = c10::Dispatcher::singleton();
      const auto forward = tf::forward_schema(parsed), backward = tf::backward_schema(parsed);
      in.define(forward, op, TF_FORWARD);
      in.define(backward, op, TF_BACKWARD);
      op->forward = dispatcher.findSchema(forward.operator_name());
      op->backward = dispatcher.findSchema(backward.operator_name());
    }
    in.define(std::move(parsed), op, TF_APPLY);
    return true;
  });
}

void tf_close_library(void* library) noexcept { delete static_cast<tf::Library*>(library); }

void tf_stay_loaded(const void* address) noexcept {
  Dl_info info;
  if (dladdr(address, &info) && info.dli_fname)
    dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

void tf_raise_in_python(const char* message) noexcept {
  using AddPendingCall = int (*)(int (*)(void*), void*);
  const auto add = reinterpret_cast<AddPendingCall>(dlsym(RTLD_DEFAULT, "Py_AddPendingCall"));
  if (!add) return;
  if (getpid() != gettid()) {
    fprintf(stderr, "%s\n", message);
    return;
  }
  // One exception for all libraries of a file: a second one would be raised elsewhere.
  static std::mutex mutex;
  static std::string texts;
  const std::lock_guard<std::mutex> lock(mutex);
  const bool first = texts.empty();
  texts += first ? message : std::string("\n") + message;
  if (!first) return;
  const auto raise = [](void*) {
    const std::lock_guard<std::mutex> lock(mutex);
    using SetString = void (*)(void*, const char*);
    const auto set = reinterpret_cast<SetString>(dlsym(RTLD_DEFAULT, "PyErr_SetString"));
    const auto type = static_cast<void**>(dlsym(RTLD_DEFAULT, "PyExc_RuntimeError"));
    if (set && type) set(*type, texts.c_str());
    texts.clear();
    return -1;
  };
  add(raise, nullptr);
}
