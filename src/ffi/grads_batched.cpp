// Rust's ops on a batch of gradients, as torch.autograd.grad(is_grads_batched=True) makes it:
// a loop. Apart from batched.cpp, since libtorch's headers for both kinds of batches clash.
#include "batches.h"
#include "dispatcher.h"

#include <ATen/LegacyBatchedTensorImpl.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace tf {
namespace {

struct OfGradients {
  static std::optional<Batch> of(const at::Tensor& t) {
    const auto* batched = at::maybeGetBatchedImpl(t);
    if (!batched) return std::nullopt;
    const at::BatchDim own = batched->bdims().back();
    at::BatchDims outer;
    for (const at::BatchDim& b : batched->bdims().slice(0, batched->bdims().size() - 1))
      outer.emplace_back(b.level(), b.dim());
    return Batch{outer.empty() ? batched->value() : at::makeBatched(batched->value(), outer),
                 public_dim(own.dim(), outer), own.level()};
  }
  static at::Tensor make(at::Tensor t, int64_t level) {
    return at::addBatchDim(std::move(t), level, 0);
  }

 private:
  // The dimension as a tensor with the outer batches counts.
  static int64_t public_dim(int64_t dim, const at::BatchDims& outer) {
    return dim - std::count_if(outer.begin(), outer.end(),
                               [&](const at::BatchDim& b) { return b.dim() < dim; });
  }
};

struct GradsBatched : OpKernel {
  using OpKernel::OpKernel;
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
    const Stack args = take(*stack, handle.schema().arguments().size());
    give(*stack, loop<OfGradients>(*op, handle, args));
  }
};

}  // namespace

c10::KernelFunction grads_batched_of(const OpPtr& op) { return kernel_of<GradsBatched>(op); }

}  // namespace tf
