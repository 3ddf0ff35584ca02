// The base of both kinds of node that run a Rust Function: the Function's
// name, saved tensors, and the refusals that stand where a derivative would be lost.
#pragma once

#include "guard.h"
#include "node_ptr.h"
#include "refusal.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace tf {

struct SavingNode : OwnNode {
  using edge_list = torch::autograd::edge_list;
  using variable_list = torch::autograd::variable_list;

  SavingNode(edge_list&& edges, const tf_callbacks* callbacks, tf_second_order second_order)
      : OwnNode(std::move(edges)), callbacks(callbacks), second_order(second_order) {}

  ~SavingNode() override {
    if (saved) drop_in_turn(std::move(*saved));
  }

  // The Function's name.
  virtual Name op() const = 0;

  std::string name() const override {
    const Name name = op();
    return std::string(name.text, name.len) + "Backward";
  }

  void release_variables() override {
    freed.store(true, std::memory_order_release);
    if (!saved) return;
    std::vector<Saved> released;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      released.swap(*saved);
    }
    drop_in_turn(std::move(released));  // without the lock: that may run user code
  }

  // Saves a tensor. `input` is its position among the inputs, or -1. The history of
  // an `intermediate` is not known. An output that `is_changed_view` has another node as
  // its history, which holds this one: it must not be held in turn.
  void save(const at::Tensor& t, bool is_output, ptrdiff_t input, bool intermediate,
            bool is_changed_view = false) {
    if (!saved) saved = std::make_unique<std::vector<Saved>>();
    saved->push_back({torch::autograd::SavedVariable(t, is_output, is_changed_view), version_of(t),
                      static_cast<int32_t>(input), is_output, intermediate});
  }

  // Calls put(i, t) with a handle of each saved tensor, with its history.
  template <typename Put>
  void unpack(bool recorded, Put&& put) {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    if (saved) lock.lock();
    if (freed) {
      const Name name = op();
      throw RustError(callbacks, callbacks->graph_freed(name.text, name.len));
    }
    for (size_t i = 0; saved && i < saved->size(); ++i) put(i, unpack_one(i, recorded));
  }

  // Whether the pass that runs is recorded, as under create_graph.
  static bool is_recorded() { return c10::AutogradState::get_tls_state().get_grad_mode(); }

  static bool none_defined(const variable_list& dy) {
    return std::none_of(dy.begin(), dy.end(), [](const at::Tensor& t) { return t.defined(); });
  }

  // Returns where a gradient goes on to from what this node returns for `dy`.
  edge_list edges_behind(const variable_list& dy) const {
    edge_list edges = next_edges();
    const edge_list seeds = torch::autograd::collect_next_edges(dy);
    edges.insert(edges.end(), seeds.begin(), seeds.end());
    return edges;
  }

  // Makes the gradients of an op that is differentiable once refuse a second time.
  void refuse(variable_list& grads, const edge_list& behind) const {
    for (at::Tensor& grad : grads)
      if (grad.defined()) grad = refused(grad, edge_list(behind), -1);
  }

  // What `t` comes from leads to the refusal too: where a pullback of torch.func runs after
  // its level has ended, that is the history at an outer one.
  at::Tensor refused(const at::Tensor& t, edge_list&& edges, ptrdiff_t position) const {
    if (t.requires_grad()) edges.push_back(torch::autograd::impl::gradient_edge(t));
    return refusing(other_handle(t), std::move(edges), callbacks, op(), position);
  }

  // The fields are few and close together: the speed of small ops needs small nodes.
  const tf_callbacks* callbacks;

 private:
  struct Saved {
    torch::autograd::SavedVariable variable;
    uint32_t version;
    int32_t input;
    bool output, intermediate;
  };

  // Drops saved tensors, and after them those of nodes that this drops: a saved tensor that is
  // neither input nor output may hold a graph, whose nodes save others.
  static void drop_in_turn(std::vector<Saved>&& saved) {
    using All = std::vector<std::vector<Saved>>;
    // Those that wait for the present ones; a bare pointer needs no destructor at thread end.
    static thread_local All* waiting = nullptr;
    if (waiting) return waiting->push_back(std::move(saved));
    All all;
    waiting = &all;
    for (std::vector<Saved> present = std::move(saved);; all.pop_back()) {
      present.clear();
      if (all.empty()) break;
      present = std::move(all.back());
    }
    waiting = nullptr;
  }

  at::Tensor unpack_one(size_t i, bool recorded) {
    const Saved& kept = (*saved)[i];
    check_version(kept, i);
    // Without an owner, libtorch refuses a captured tensor that was detached in place.
    at::Tensor t = kept.variable.unpack(kept.output || kept.input >= 0 ? getptr() : nullptr);
    if (!recorded) return detached_leaf(std::move(t));
    if (kept.intermediate && second_order == TF_THROUGH_SAVED)
      return refused(t, edge_list(next_edges()), static_cast<ptrdiff_t>(i));
    return kept.input < 0 ? t : with_history(std::move(t), next_edge(kept.input));
  }

  // A leaf without its place in the graph: the user's backward could make a pass that
  // would add to its .grad, once more than the pass that runs. Tensors of torch.func's
  // levels stay, since they hold the history of the outer ones.
  static at::Tensor detached_leaf(at::Tensor t) {
    const bool leaf = t.defined() && t.requires_grad() && t.is_leaf();
    return leaf && !t.key_set().has(c10::DispatchKey::FuncTorchGradWrapper) ? t.detach() : t;
  }

  // libtorch checks the version too, but cannot name the tensor.
  void check_version(const Saved& kept, size_t i) const {
    const auto raw = kept.variable.get_raw_data();
    if (!raw || !raw->defined()) return;
    const uint32_t version = version_of(*raw);
    if (version == kept.version) return;
    const Name name = op();
    throw RustError(callbacks,
                    callbacks->saved_changed(name.text, name.len, i, kept.version, version));
  }

  // A saved input with the history that it had when it was saved, whatever became of
  // its tensor (detach_, requires_grad_): a SavedVariable holds the tensor itself.
  // Tensors of torch.func's levels keep theirs.
  static at::Tensor with_history(at::Tensor t, const torch::autograd::Edge& edge) {
    namespace impl = torch::autograd::impl;
    if (!edge.is_valid() || t.key_set().has(c10::DispatchKey::FuncTorchGradWrapper)) return t;
    if (impl::gradient_edge(t) == edge) return t;
    at::Tensor restored = t.detach();
    impl::set_gradient_edge(restored, edge);
    return restored;
  }

  std::unique_ptr<std::vector<Saved>> saved;  // null, for good, if nothing is saved

 public:
  const tf_second_order second_order;

 private:
  std::atomic<bool> freed{false};
};

}  // namespace tf
