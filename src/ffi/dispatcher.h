// An op that Rust registered, as the dispatcher's files share it.
#pragma once

#include "guard.h"
#include "shim.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/stack.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace tf {

using c10::IValue;
using torch::jit::Stack;
using Values = c10::ArrayRef<IValue>;

// An op, as Rust defined it. Each of its kernels holds it.
struct Op {
  Op(const tf_op& rust, c10::FunctionSchema schema);
  ~Op() { rust.drop(rust.state); }
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;

  // The numbers of arguments and of outputs.
  size_t n_args() const { return schema.arguments().size(); }
  size_t n_outputs() const { return schema.returns().size(); }

  // Returns what Rust's kernel returns. Throws Rust's error.
  Stack call(tf_kernel kernel, Values values) const {
    return *try_call(kernel, values, [](bool) { return false; });
  }

  // Returns what Rust's kernel returns; null if it fails and `may_fail(no_formula)`. The
  // caller is then outside every handler, so it may call Rust again.
  template <typename F>
  std::optional<Stack> try_call(tf_kernel kernel, Values values, F&& may_fail) const {
    bool no_formula = false;
    Stack results;
    Foreign foreign;
    void* const error = run(kernel, values, results, no_formula);
    if (!error) return results;
    const RustError thrown(rust.errors, error);
    if (may_fail(no_formula)) return std::nullopt;
    foreign.rethrow(thrown.what());
    throw thrown;
  }

  // Returns what `call` does, below autograd: nothing is recorded.
  Stack compute(tf_kernel kernel, Values values) const;

  // Returns the facts about the Function that the arguments make.
  tf_facts facts(Values args) const;

  // Converts the inputs to the dtype that the op wants under autocast.
  void cast_inputs(Stack& args) const;

  tf_op rust;
  c10::FunctionSchema schema;
  bool mutates;
  // "ns::name", which errors and nodes show.
  std::string name;
  // Ops of their own, so that modes below autograd see them; an op that changes
  // its arguments has none.
  std::optional<c10::OperatorHandle> forward;
  std::optional<c10::OperatorHandle> backward;

 private:
  void* run(tf_kernel kernel, Values values, Stack& results, bool& no_formula) const;
};

bool holds_tensors(const c10::Argument& a);

// Whether a mode below autograd must see an op that is called with these keys.
bool is_watched(c10::DispatchKeySet keys);

using OpPtr = std::shared_ptr<const Op>;

struct OpKernel : c10::OperatorKernel {
  explicit OpKernel(OpPtr op)
      : op(std::move(op)) {}
  OpPtr op;
};

// A kernel whose errors are fit to be shown.
template <typename K>
struct Readable final : K {
  using K::K;
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack) {
    without_frames([&] { K::operator()(handle, keys, stack); });
  }
};

template <typename K, typename... Args>
c10::KernelFunction kernel_of(Args&&... args) {
  return c10::KernelFunction::makeFromBoxedFunctor(
      std::make_unique<Readable<K>>(std::forward<Args>(args)...));
}

// Calls `visit` with each tensor of a value, undefined where absent.
template <typename F>
void visit_tensors(const IValue& value, F&& visit) {
  static const at::Tensor absent;
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList() || value.isOptionalTensorList()) {
    for (const IValue& item : value.toListRef()) visit(item.isTensor() ? item.toTensor() : absent);
  }
}

template <typename F>
void visit_all(Values values, F&& visit) {
  for (const IValue& value : values) visit_tensors(value, visit);
}

// The values with `map` applied to each of their tensors that are defined.
template <typename F>
IValue map_tensors(const IValue& value, F&& map) {
  if (value.isTensor()) return value.toTensor().defined() ? IValue(map(value.toTensor())) : value;
  if (value.isTensorList()) {
    c10::List<at::Tensor> out;
    for (const IValue& item : value.toListRef())
      out.push_back(item.toTensor().defined() ? map(item.toTensor()) : at::Tensor());
    return out;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> out;
    for (const IValue& item : value.toListRef())
      out.push_back(item.isTensor() ? std::optional(map(item.toTensor())) : std::nullopt);
    return out;
  }
  return value;
}

// Takes the last `n` values off the stack.
inline Stack take(Stack& stack, size_t n) {
  Stack out(std::make_move_iterator(stack.end() - n), std::make_move_iterator(stack.end()));
  torch::jit::drop(stack, n);
  return out;
}

inline void give(Stack& stack, Stack&& results) {
  for (IValue& result : results) stack.push_back(std::move(result));
}

// The kernels of an op, of its forward op and of its backward op for the Autograd
// key, for a level of vmap, and for a batch of gradients (is_grads_batched).
c10::KernelFunction autograd_of(const OpPtr& op, tf_kernel kernel);
c10::KernelFunction batched_of(const OpPtr& op, tf_kernel kernel);
c10::KernelFunction grads_batched_of(const OpPtr& op);

}  // namespace tf
