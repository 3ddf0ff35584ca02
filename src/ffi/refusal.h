// Refusals: where a derivative would silently be lost, an error.
#pragma once

#include "guard.h"
#include "node_ptr.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
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
// to: without them the engine would think that nobody needs it and not visit it.
struct Refusal : torch::autograd::Node {
  Refusal(torch::autograd::edge_list&& edges, const tf_callbacks* callbacks,
          Name op, ptrdiff_t position)
      : Node(std::move(edges)), callbacks(callbacks), op(op), position(position) {}

  torch::autograd::variable_list apply(
      torch::autograd::variable_list&&) override {
    throw RustError(callbacks,
                    callbacks->no_second_order(op.text, op.len, position));
  }

  std::string name() const override {
    return std::string(op.text, op.len) + "SecondBackward";
  }

  const tf_callbacks* callbacks;
  Name op;
  ptrdiff_t position;
};

// The values of `t`, refusing to be differentiated.
inline at::Tensor refusing(const at::Tensor& t,
                           torch::autograd::edge_list&& edges,
                           const tf_callbacks* callbacks, Name op,
                           ptrdiff_t position) {
  at::Tensor out = t.detach();
  const NodePtr node = hold(new Refusal(std::move(edges), callbacks, op, position));
  torch::autograd::set_history(out, node);
  return out;
}

}  // namespace tf
