// Rust's ops at a level of torch.func.vmap: a loop over the batch, or the op's own
// formulas on the batched tensors if it says that they can take them.
#include "batches.h"
#include "dispatcher.h"
#include "shim.h"

#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/core/Tensor.h>
#include <ATen/functorch/BatchedTensorImpl.h>

#include <optional>
#include <utility>

namespace tf {
namespace {

namespace functorch = at::functorch;

// Whether an outer level, or plain autograd, may differentiate the result.
bool may_be_differentiated(const at::Tensor& t) {
  namespace functional = at::functionalization::impl;
  if (const auto* batched = functorch::maybeGetBatchedImpl(t))
    return may_be_differentiated(batched->value());
  // What requires a gradient is inside the wrapper, at the level below.
  if (functional::isFunctionalTensor(t) &&
      may_be_differentiated(functional::unsafeGetFunctionalWrapper(t)->value()))
    return true;
  return t.key_set().has(c10::DispatchKey::FuncTorchGradWrapper) || t.requires_grad() ||
         t._fw_grad(/*level=*/0).defined();
}

// The batches of torch.func.vmap.
struct OfVmap {
  static std::optional<Batch> of(const at::Tensor& t) {
    const auto* batched = functorch::maybeGetBatchedImpl(t);
    if (!batched) return std::nullopt;
    return Batch{batched->value(), batched->bdim(), batched->level()};
  }
  static at::Tensor make(at::Tensor t, int64_t level) {
    return functorch::makeBatched(std::move(t), 0, level);
  }
};

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
    const c10::impl::ExcludeDispatchKeyGuard below(c10::DispatchKey::FuncTorchBatched);
    give(*stack, loop<OfVmap>(*op, handle, args));
  }

  tf_kernel kernel;
};

}  // namespace

c10::KernelFunction batched_of(const OpPtr& op, tf_kernel kernel) {
  return kernel_of<Batched>(op, kernel);
}

}  // namespace tf
