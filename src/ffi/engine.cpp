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

#include <mutex>
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
      : node_(torch::autograd::impl::gradient_edge(leaf).function) {
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

bool tf_graph_leaves(const at::Tensor* const* outputs, size_t n_outputs,
                     void (*visit)(void*, at::Tensor*), void* data) noexcept {
  return guarded(false, [&] {
    using torch::autograd::AccumulateGrad;
    using torch::autograd::Node;
    std::unordered_set<Node*> seen;
    std::vector<Node*> todo;
    const auto reach = [&](Node* node) {
      if (node && seen.insert(node).second) todo.push_back(node);
    };
    // An output that is a leaf itself has a node only while it is held.
    std::vector<tf::NodePtr> roots;
    for (size_t i = 0; i < n_outputs; ++i) {
      roots.push_back(torch::autograd::impl::gradient_edge(*outputs[i]).function);
      reach(roots.back().get());
    }
    while (!todo.empty()) {
      Node* node = todo.back();
      todo.pop_back();
      if (auto* leaf = dynamic_cast<AccumulateGrad*>(node))
        visit(data, new at::Tensor(leaf->variable));
      for (const auto& edge : node->next_edges()) reach(edge.function.get());
    }
    return true;
  });
}
