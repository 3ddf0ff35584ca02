// libtorch's own reverse mode.
#include "guard.h"
#include "node_ptr.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

using tf::guarded;

using Tensors = std::vector<at::Tensor>;

Tensors copy_handles(const at::Tensor* const* handles, size_t n) {
  Tensors out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) out.push_back(*handles[i]);
  return out;
}

}  // namespace

// Whoever adds to a leaf's .grad is its AccumulateGrad, and holds the node's mutex.
class GradLock {
 public:
  explicit GradLock(const at::Tensor& leaf)
      : node_(leaf.is_leaf() ? torch::autograd::impl::grad_accumulator(leaf) : nullptr) {
    if (node_) lock_ = std::unique_lock<std::mutex>(Access::mutex_of(*node_));
  }

 private:
  struct Access : torch::autograd::Node {
    static std::mutex& mutex_of(Node& node) { return node.*(&Access::mutex_); }
  };
  tf::NodePtr node_;
  std::unique_lock<std::mutex> lock_;
};

at::Tensor* tf_grad(const at::Tensor* leaf) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&]() -> at::Tensor* {
    const GradLock lock(*leaf);
    const at::Tensor& grad = leaf->grad();
    return grad.defined() ? new at::Tensor(grad) : nullptr;
  });
}

bool tf_set_grad(const at::Tensor* leaf, const at::Tensor* grad) noexcept {
  return guarded(false, [&] {
    at::Tensor was = *grad;  // what was there is dropped without the lock
    const GradLock lock(*leaf);
    std::swap(leaf->mutable_grad(), was);
    return true;
  });
}

at::Tensor* tf_other_handle(const at::Tensor* t) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    namespace impl = torch::autograd::impl;
    at::Tensor other = t->detach();
    if (t->requires_grad()) impl::set_gradient_edge(other, impl::gradient_edge(*t));
    return new at::Tensor(std::move(other));
  });
}

bool tf_has_hooks(const at::Tensor* leaf) noexcept {
  return guarded(false, [&] {
    namespace impl = torch::autograd::impl;
    return !impl::hooks(*leaf).empty() || impl::post_acc_grad_hooks(*leaf) != nullptr;
  });
}

// Some derivatives (that of sgn, say) are libtorch's zeros without memory, of
// which the data cannot be read.
static at::Tensor with_memory(const at::Tensor& t) {
  return t._is_zerotensor() ? at::zeros(t.sizes(), t.options()) : t;
}

bool tf_run_pass(const at::Tensor* const* outputs, const at::Tensor* const* seeds, size_t n_outputs,
                 const at::Tensor* const* inputs, size_t n_inputs, bool retain_graph,
                 bool create_graph, at::Tensor** grads) noexcept {
  return guarded(false, [&] {
    const Tensors y = copy_handles(outputs, n_outputs), x = copy_handles(inputs, n_inputs);
    const Tensors dy = copy_handles(seeds, n_outputs);
    if (!grads) {
      torch::autograd::backward(y, dy, retain_graph, create_graph, x);
      return true;
    }
    const Tensors found =
        torch::autograd::grad(y, x, dy, retain_graph, create_graph, /*allow_unused=*/true);
    for (size_t i = 0; i < n_inputs; ++i)
      grads[i] = found[i].defined() ? new at::Tensor(with_memory(found[i])) : nullptr;
    return true;
  });
}

namespace {

using torch::autograd::AccumulateGrad;
using torch::autograd::Edge;
using torch::autograd::Node;

// Stands before the AccumulateGrad of a parameter. A pass that asks for the gradient at a
// tap gets it before the parameter's hooks, which are for the sum of all such parts.
struct Tap : Node {
  explicit Tap(const at::Tensor& parameter)
      : Node({torch::autograd::impl::gradient_edge(parameter)}) {
    add_input_metadata(parameter);
  }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    return std::move(grads);
  }
  std::string name() const override { return "TapBackward"; }
};

// Every node behind some tensors, and the way from the nodes to the leaves' taps.
class Walk {
 public:
  Walk(at::Tensor* (*tap)(void*, at::Tensor*), void* data)
      : tap_(tap), data_(data) {}

  void from(at::Tensor& output) {
    namespace impl = torch::autograd::impl;
    Edge edge = impl::gradient_edge(output);
    if (visit(edge, nullptr)) impl::set_gradient_edge(output, edge);
    while (!todo_.empty()) {
      Node* const node = todo_.back();
      todo_.pop_back();
      // No method sets an edge of a node that has a consumer. A tap is no deeper than the
      // consumers of its leaf, so their depths stay true.
      for (const Edge& next : node->next_edges()) visit(const_cast<Edge&>(next), node);
    }
  }

 private:
  // Returns whether it leads the edge of `from` to a tap, which may be `from` itself.
  bool visit(Edge& edge, const Node* from) {
    Node* const node = edge.function.get();
    if (!node) return false;
    auto* const leaf = dynamic_cast<AccumulateGrad*>(node);
    if (!leaf) {
      if (seen_.insert(node).second) todo_.push_back(node);
      return false;
    }
    auto [found, fresh] = taps_.try_emplace(node);
    if (fresh) {
      const std::unique_ptr<at::Tensor> tap(tap_(data_, new at::Tensor(leaf->variable)));
      if (tap) found->second = torch::autograd::impl::gradient_edge(*tap);
    }
    if (!found->second.is_valid() || found->second.function.get() == from) return false;
    edge = found->second;
    return true;
  }

  at::Tensor* (*const tap_)(void*, at::Tensor*);
  void* const data_;
  std::unordered_set<Node*> seen_;
  std::vector<Node*> todo_;
  std::unordered_map<Node*, Edge> taps_;  // by the leaf's node
};

}  // namespace

at::Tensor* tf_tap(const at::Tensor* parameter, const at::Tensor* known) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    namespace impl = torch::autograd::impl;
    const Edge edge = impl::gradient_edge(*parameter);
    // A parameter that was converted has a new node.
    if (known && known->grad_fn() && known->grad_fn()->next_edge(0) == edge)
      return new at::Tensor(*known);
    at::Tensor tap = parameter->detach();
    if (edge.is_valid()) impl::set_gradient_edge(tap, {tf::hold(new Tap(*parameter)), 0});
    return new at::Tensor(std::move(tap));
  });
}

bool tf_graph_leaves(at::Tensor* const* outputs, size_t n_outputs,
                     at::Tensor* (*tap)(void*, at::Tensor*), void* data) noexcept {
  return guarded(false, [&] {
    Walk walk(tap, data);
    for (size_t i = 0; i < n_outputs; ++i) walk.from(*outputs[i]);
    return true;
  });
}
