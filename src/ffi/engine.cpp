// libtorch's own reverse mode.
#include "guard.h"
#include "lasting_mutex.h"
#include "node_ptr.h"
#include "shim.h"
#include "zeros.h"

#include <ATen/core/Tensor.h>
#include <ATen/SequenceNumber.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/functions/tensor.h>
#include <torch/csrc/autograd/variable.h>

#include <unistd.h>

#include <algorithm>
#include <deque>
#include <iterator>
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

// Whoever adds to a leaf's .grad is its AccumulateGrad, and holds the node's mutex: maybe
// on this thread, where it calls a hook that runs after it.
class GradLock {
 public:
  explicit GradLock(const at::Tensor& leaf)
      : node_(leaf.is_leaf() ? torch::autograd::impl::grad_accumulator(leaf) : nullptr) {
    if (!node_) return;
    std::mutex& mutex = Access::mutex_of(*node_);
    // Of glibc's mutex, which names its owner: only this thread writes its own number.
    const auto owner = __atomic_load_n(&mutex.native_handle()->__data.__owner, __ATOMIC_RELAXED);
    if (owner != gettid()) lock_ = std::unique_lock<std::mutex>(mutex);
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

at::Tensor* tf_with_same_history(const at::Tensor* t) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    namespace impl = torch::autograd::impl;
    at::Tensor other = t->detach();
    if (t->requires_grad()) impl::set_gradient_edge(other, impl::gradient_edge(*t));
    return new at::Tensor(std::move(other));
  });
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
      grads[i] = found[i].defined() ? new at::Tensor(tf::with_memory(found[i])) : nullptr;
    return true;
  });
}

namespace {

using torch::autograd::AccumulateGrad;
using torch::autograd::Edge;
using torch::autograd::Node;

// Stands before the AccumulateGrad of a parameter. A pass that asks for the gradient at a
// tap gets it before the parameter's hooks, which are for the sum of all such parts.
struct Tap : tf::OwnNode {
  explicit Tap(const at::Tensor& parameter)
      : OwnNode({torch::autograd::impl::gradient_edge(parameter)}) {
    add_input_metadata(parameter);
  }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    return std::move(grads);
  }
  std::string name() const override { return "TapBackward"; }
};

// The living tap of each parameter's AccumulateGrad. A tap may outlive the Var that asked
// for it, in a graph that somebody keeps, so the next Var must find that one.
class Taps {
 public:
  static tf::NodePtr of(const at::Tensor& parameter, const Node* leaf) {
    static Taps& taps = *new Taps;  // threads may outlive the statics
    if (tf::NodePtr known = taps.find(leaf)) return known;
    // Nodes are made and dropped without the lock: in anomaly mode that runs Python.
    tf::NodePtr fresh = tf::hold(new Tap(parameter));
    std::vector<tf::WeakNodePtr> dead;
    const std::lock_guard<std::mutex> lock(mutex());
    tf::WeakNodePtr& place = taps.place_of(leaf, dead);
    if (tf::NodePtr other = place.lock()) return other;  // another thread was first
    dead.push_back(std::move(place));
    place = tf::WeakNodePtr(fresh);
    return fresh;
  }

 private:
  static std::mutex& mutex() { return tf::lasting_mutex<Taps>(); }

  tf::NodePtr find(const Node* leaf) {
    const std::lock_guard<std::mutex> lock(mutex());
    const auto known = known_.find(leaf);
    return known == known_.end() ? tf::NodePtr() : known->second.lock();
  }

  // The place of a leaf's tap. Moves dead ones away when there are many.
  tf::WeakNodePtr& place_of(const Node* leaf, std::vector<tf::WeakNodePtr>& dead) {
    if (known_.size() >= limit_) {
      for (auto tap = known_.begin(); tap != known_.end();) {
        const bool gone = tap->second.expired();
        if (gone) dead.push_back(std::move(tap->second));
        tap = gone ? known_.erase(tap) : std::next(tap);
      }
      limit_ = std::max(kLimit, 2 * known_.size());
    }
    return known_.try_emplace(leaf, tf::NodePtr()).first->second;
  }

  static constexpr size_t kLimit = 64;
  std::unordered_map<const Node*, tf::WeakNodePtr> known_;
  size_t limit_ = kLimit;
};

// Every node behind some tensors, and the way from the nodes to the leaves' taps. Only
// nodes that this thread has recorded since `start` are led to taps: nobody else has seen
// them yet, while other threads may run any older node.
class Walk {
 public:
  explicit Walk(uint64_t start)
      : start_(start) {}

  void from(at::Tensor& output) {
    roots_.push_back(torch::autograd::impl::gradient_edge(output));
    reach(roots_.back(), true);
    while (!todo_.empty()) {
      Node* const node = todo_.back();
      todo_.pop_back();
      const bool own = is_own(*node);
      if (own && dynamic_cast<torch::autograd::CopySlices*>(node)) copies_.push_back(node);
      coming_from_tap_ = dynamic_cast<Tap*>(node) != nullptr;
      // No method sets an edge of a node that has a consumer.
      for (const Edge& edge : node->next_edges()) reach(const_cast<Edge&>(edge), own);
    }
  }

  // Calls `tap(data, leaf, alone)` for each leaf; `alone` if an older node leads to it, so
  // that it keeps its place. Then leads the edges to the taps.
  void lead(at::Tensor* (*tap)(void*, at::Tensor*, bool), void* data) {
    for (auto& [node, leaf] : leaves_) {
      const auto& variable = static_cast<AccumulateGrad*>(node)->variable;
      const std::unique_ptr<at::Tensor> found(
          tap(data, new at::Tensor(variable), leaf.has_old_consumer));
      if (!found || leaf.has_old_consumer) continue;
      const Edge edge = torch::autograd::impl::gradient_edge(*found);
      for (Edge* own : leaf.edges) *own = edge;
    }
    for (Node* node : copies_) follow(static_cast<torch::autograd::CopySlices&>(*node));
  }

  const Edge& root(size_t i) const { return roots_[i]; }

 private:
  struct Leaf {
    std::vector<Edge*> edges;  // of own nodes
    bool has_old_consumer = false;
  };

  // An op in place on a view is a node inside a node, both of which have its edges.
  static void follow(torch::autograd::CopySlices& outer) {
    if (!outer.fn) return;  // its graph was freed
    for (size_t i = 1; i < outer.num_outputs() && i < outer.fn->num_outputs(); ++i)
      outer.fn->set_next_edge(i, outer.next_edge(i));
    if (auto* inner = dynamic_cast<torch::autograd::CopySlices*>(outer.fn.get())) follow(*inner);
  }

  bool is_own(const Node& node) const {
    return node.sequence_nr() >= start_ &&
           node.thread_id() == at::RecordFunction::currentThreadId() &&
           dynamic_cast<const Tap*>(&node) == nullptr;
  }

  void reach(Edge& edge, bool own) {
    Node* const node = edge.function.get();
    if (!node) return;
    if (dynamic_cast<AccumulateGrad*>(node)) {
      Leaf& leaf = leaves_[node];
      if (own) leaf.edges.push_back(&edge);
      // A tap leads to its leaf by itself.
      else if (!coming_from_tap_) leaf.has_old_consumer = true;
      return;
    }
    if (seen_.insert(node).second) todo_.push_back(node);
  }

  const uint64_t start_;
  std::deque<Edge> roots_;  // whose addresses stay
  std::unordered_set<Node*> seen_;
  std::vector<Node*> todo_;
  std::vector<Node*> copies_;  // own nodes of ops in place on views
  std::unordered_map<Node*, Leaf> leaves_;  // by the leaf's node
  bool coming_from_tap_ = false;
};

}  // namespace

at::Tensor* tf_tap(const at::Tensor* parameter, const at::Tensor* known) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    namespace impl = torch::autograd::impl;
    const Edge edge = impl::gradient_edge(*parameter);
    if (!edge.is_valid()) return new at::Tensor(parameter->detach());
    tf::NodePtr node = Taps::of(*parameter, edge.function.get());
    if (known && known->grad_fn() == node) return new at::Tensor(*known);
    at::Tensor tap = parameter->detach();
    impl::set_gradient_edge(tap, {std::move(node), 0});
    return new at::Tensor(std::move(tap));
  });
}

uint64_t tf_next_sequence_number() noexcept { return at::sequence_number::peek(); }

bool tf_graph_leaves(at::Tensor* const* outputs, size_t n_outputs, uint64_t start,
                     at::Tensor* (*tap)(void*, at::Tensor*, bool), void* data) noexcept {
  return guarded(false, [&] {
    Walk walk(start);
    for (size_t i = 0; i < n_outputs; ++i) walk.from(*outputs[i]);
    walk.lead(tap, data);
    for (size_t i = 0; i < n_outputs; ++i)
      torch::autograd::impl::set_gradient_edge(*outputs[i], walk.root(i));
    return true;
  });
}
