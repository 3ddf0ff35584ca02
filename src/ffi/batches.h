// A loop over a batch of tensors, whichever of libtorch's two kinds it is of.
#pragma once

#include "dispatcher.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>

#include <optional>
#include <utility>
#include <vector>

namespace tf {

// The innermost batch dimension of a tensor.
struct Batch {
  at::Tensor value;  // a tensor that has this dimension among its own
  int64_t dim;
  int64_t level;  // of nested batches; the innermost has the highest
};

template <typename Kind>
at::Tensor joined(std::vector<at::Tensor>&& parts, int64_t level) {
  if (!parts[0].defined()) return at::Tensor();
  return Kind::make(at::stack(parts), level);
}

// Result `i` of every call, as one tensor with a batch dimension.
template <typename Kind>
IValue join(const std::vector<Stack>& all, size_t i, int64_t level) {
  const IValue& first = all[0][i];
  if (first.isTensor()) {
    std::vector<at::Tensor> parts;
    for (const Stack& one : all) parts.push_back(one[i].toTensor());
    return joined<Kind>(std::move(parts), level);
  }
  if (!first.isTensorList()) return first;
  c10::List<at::Tensor> list;
  for (size_t k = 0; k < first.toListRef().size(); ++k) {
    std::vector<at::Tensor> parts;
    for (const Stack& one : all) parts.push_back(one[i].toListRef()[k].toTensor());
    list.push_back(joined<Kind>(std::move(parts), level));
  }
  return list;
}

// Calls an op for each element of the innermost batch. `Kind` knows the batched tensors.
template <typename Kind>
Stack loop(const Op& op, const c10::OperatorHandle& handle, const Stack& args) {
  int64_t level = -1, size = 0;
  visit_all(args, [&](const at::Tensor& t) {
    const auto batch = t.defined() ? Kind::of(t) : std::nullopt;
    if (!batch || batch->level < level) return;
    level = batch->level;
    // A tracer that has a symbol for it gets a loop of the number that it stands for.
    size = batch->value.sym_size(batch->dim).guard_int(__FILE__, __LINE__);
  });
  if (level < 0) {
    Stack stack = args;
    handle.callBoxed(&stack);
    return stack;
  }
  TORCH_CHECK(!op.mutates, op.name, ": vmap of an op that changes its arguments in place");
  TORCH_CHECK(size > 0, op.name, ": vmap over a batch of 0 is not possible");
  std::vector<Stack> all;
  for (int64_t b = 0; b < size; ++b) {
    const auto slice = [&](const at::Tensor& t) {
      const auto batch = Kind::of(t);
      return batch && batch->level == level ? batch->value.select(batch->dim, b) : t;
    };
    Stack one;
    for (const IValue& arg : args) one.push_back(map_tensors(arg, slice));
    handle.callBoxed(&one);
    all.push_back(std::move(one));
  }
  Stack out;
  for (size_t i = 0; i < all[0].size(); ++i) out.push_back(join<Kind>(all, i, level));
  return out;
}

}  // namespace tf
