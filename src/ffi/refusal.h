// Refusals: where a derivative would silently be lost, an error.
#pragma once

#include "guard.h"
#include "node_ptr.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/alias.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <string>
#include <utility>

namespace tf {

struct Name {
  const char* text;  // static
  size_t len;
};

// Refuses when a gradient reaches it. Its edges lead to what the lost path led
// to: without them the engine would think that no pass needs it and not visit it.
struct Refusal : OwnNode {
  Refusal(torch::autograd::edge_list&& edges, const tf_callbacks* callbacks, Name op,
          ptrdiff_t position)
      : OwnNode(std::move(edges)), callbacks(callbacks), op(op), position(position) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&&) override {
    throw RustError(callbacks, callbacks->no_second_order(op.text, op.len, position));
  }

  std::string name() const override { return std::string(op.text, op.len) + "SecondBackward"; }

  const tf_callbacks* callbacks;
  Name op;
  ptrdiff_t position;
};

// The derivative of a value that is declared to be a constant: none flows on.
struct Constant : OwnNode {
  torch::autograd::variable_list apply(torch::autograd::variable_list&&) override { return {}; }
  std::string name() const override { return "ConstantBackward"; }
};

// The values of `t` in a tensor that may get another history. At a level of
// torch.func `detach` would take that of the outer ones.
inline at::Tensor other_handle(const at::Tensor& t) {
  constexpr c10::DispatchKeySet levels(
      {c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::FuncTorchBatched});
  return (t.key_set() & levels).empty() ? t.detach() : at::alias(t);
}

// Makes `t`, a tensor without another handle, refuse to be differentiated. (Once a
// level of torch.func has ended, its tensors are those of an outer one, and have
// a history there.)
inline at::Tensor refusing(at::Tensor t, torch::autograd::edge_list&& edges,
                           const tf_callbacks* callbacks, Name op, ptrdiff_t position) {
  if (t.requires_grad()) edges.push_back(torch::autograd::impl::gradient_edge(t));
  const NodePtr node = hold(new Refusal(std::move(edges), callbacks, op, position));
  torch::autograd::set_history(t, node);
  return t;
}

}  // namespace tf
