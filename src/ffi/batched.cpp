// Rust's ops at a level of torch.func.vmap: a loop over the batch, or the op's own
// formulas on the batched tensors if it says that they can take them.
#include "dispatcher.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <vector>

namespace tf {
namespace {

namespace functorch = at::functorch;

// Whether an outer level, or plain autograd, may differentiate the result.
bool may_be_differentiated(const at::Tensor& t) {
  if (const auto* batched = functorch::maybeGetBatchedImpl(t))
    return may_be_differentiated(batched->value());
  return t.key_set().has(c10::DispatchKey::FuncTorchGradWrapper) || t.requires_grad() ||
         t._fw_grad(/*level=*/0).defined();
}

struct Batched : OpKernel {
  Batched(OpPtr op, tf_kernel kernel)
      : OpKernel(std::move(op)), kernel(kernel) {}

  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
    const Stack args = take(*stack, handle.schema().arguments().size());
    const size_t own = kernel == TF_BACKWARD ? args.size() - op->n_args() : 0;
    bool formulas = !op->mutates && op->facts(Values(args).slice(own, op->n_args())).batches;
    // Inside the op nothing is recorded, for no level.
    visit_all(args,
              [&](const at::Tensor& t) { formulas &= !t.defined() || !may_be_differentiated(t); });
    const tf_kernel above = kernel == TF_BACKWARD ? TF_BACKWARD_ABOVE : kernel;
    if (formulas) return give(*stack, op->call(above, args));
    give(*stack, loop(handle, args));
  }

  Stack loop(const c10::OperatorHandle& handle, const Stack& args) const {
    const c10::impl::ExcludeDispatchKeyGuard below(c10::DispatchKey::FuncTorchBatched);
    // The level that runs is the innermost, which has the highest number.
    int64_t level = -1, size = 0;
    visit_all(args, [&](const at::Tensor& t) {
      const auto* batched = t.defined() ? functorch::maybeGetBatchedImpl(t) : nullptr;
      if (!batched || batched->level() < level) return;
      level = batched->level();
      size = batched->value().size(batched->bdim());
    });
    if (level < 0) {
      Stack stack = args;
      handle.callBoxed(&stack);
      return stack;
    }
    TORCH_CHECK(!op->mutates, op->name, ": vmap of an op that changes its arguments in place");
    TORCH_CHECK(size > 0, op->name, ": vmap over a batch of 0 is not possible");
    std::vector<Stack> all;
    for (int64_t b = 0; b < size; ++b) {
      const auto slice = [&](const at::Tensor& t) {
        const auto* batched = functorch::maybeGetBatchedImpl(t);
        return batched && batched->level() == level ? batched->value().select(batched->bdim(), b)
                                                    : t;
      };
      Stack one;
      for (const IValue& arg : args) one.push_back(map_tensors(arg, slice));
      handle.callBoxed(&one);
      all.push_back(std::move(one));
    }
    Stack out;
    for (size_t i = 0; i < all[0].size(); ++i) out.push_back(join(all, i, level));
    return out;
  }

  // Result `i` of every call, as one tensor with a batch dimension.
  static IValue join(const std::vector<Stack>& all, size_t i, int64_t level) {
    const IValue& first = all[0][i];
    if (first.isTensor()) {
      std::vector<at::Tensor> parts;
      for (const Stack& one : all) parts.push_back(one[i].toTensor());
      return batch(std::move(parts), level);
    }
    if (!first.isTensorList()) return first;
    c10::List<at::Tensor> list;
    for (size_t k = 0; k < first.toListRef().size(); ++k) {
      std::vector<at::Tensor> parts;
      for (const Stack& one : all) parts.push_back(one[i].toListRef()[k].toTensor());
      list.push_back(batch(std::move(parts), level));
    }
    return list;
  }

  static at::Tensor batch(std::vector<at::Tensor>&& parts, int64_t level) {
    if (!parts[0].defined()) return at::Tensor();
    return functorch::makeBatched(at::stack(parts), 0, level);
  }

  tf_kernel kernel;
};

}  // namespace

c10::KernelFunction batched_of(const OpPtr& op, tf_kernel kernel) {
  return c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<Batched>(op, kernel));
}

}  // namespace tf
