// A Rust Function as a node of libtorch's autograd.
#include "guard.h"
#include "small_memory.h"
#include "node_ptr.h"
#include "saving_node.h"
#include "shim.h"
#include "zeros.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/alias.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <typeinfo>
#include <unordered_set>
#include <vector>

namespace {

using tf::guarded;
using tf::Name;
using tf::NodePtr;
using torch::autograd::CreationMeta;
using torch::autograd::DifferentiableViewMeta;
using torch::autograd::edge_list;
using torch::autograd::Node;
using torch::autograd::variable_list;

// Handles of three kinds in a row: some that are given to Rust, then those that
// Rust gives. They are this frame's until given, and once received.
class Handles {
 public:
  explicit Handles(size_t n)
      : handles_(n) {}
  ~Handles() {
    for (at::Tensor* t : handles_) delete t;
  }
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
  at::Tensor** from(size_t i) { return handles_.data() + i; }
  void put(size_t i, at::Tensor&& t) { handles_[i] = new at::Tensor(std::move(t)); }
  void given(size_t n) { std::fill_n(handles_.begin(), n, nullptr); }

 private:
  c10::SmallVector<at::Tensor*, 8> handles_;
};

// The state, whose size C++ does not know, lies behind the node.
struct FunctionNode : tf::SavingNode {
  FunctionNode(edge_list&& edges, const tf_recording& what)
      : SavingNode(std::move(edges), what.callbacks, what.second_order),
        n_saved(static_cast<uint32_t>(what.n_saved)) {
    std::memcpy(state(), what.state, callbacks->state_size);
  }

  ~FunctionNode() override { callbacks->drop_state(state()); }

  // Memory for a node with room for the state behind it.
  static void* operator new(size_t size, const tf_callbacks& callbacks) {
    const size_t slack = callbacks.state_align - 1;
    return tf::SmallMemory::take(size + callbacks.state_size + slack);
  }
  static void operator delete(void* node) { tf::SmallMemory::give(node); }
  static void operator delete(void* node, const tf_callbacks&) { tf::SmallMemory::give(node); }

  void* state() const {
    const size_t align = callbacks->state_align;
    const auto end = reinterpret_cast<uintptr_t>(this + 1);
    return reinterpret_cast<void*>((end + align - 1) & ~(align - 1));
  }

  Name op() const override {
    Name op{};
    op.text = callbacks->name(state(), &op.len);
    return op;
  }

  variable_list apply(variable_list&& dy) override {
    const size_t n = num_outputs();
    if (none_defined(dy)) return variable_list(n);
    const bool recorded = is_recorded();
    const bool once = recorded && second_order == TF_ONCE;
    edge_list behind;
    if (once) behind = edges_behind(dy);

    const size_t n_dy = dy.size();
    Handles handles(n_dy + n_saved + n);
    unpack(recorded, [&](size_t i, at::Tensor&& t) { handles.put(n_dy + i, std::move(t)); });
    for (size_t i = 0; i < n_dy; ++i)
      if (dy[i].defined()) handles.put(i, tf::with_memory(std::move(dy[i])));
    c10::SmallVector<bool, 8> needs;
    // A node with one input runs only if that is needed.
    for (size_t i = 0; i < n; ++i) needs.push_back(n == 1 || task_should_compute_output(i));
    at::Tensor** const found = handles.from(n_dy + n_saved);
    void* error = nullptr;
    {
      std::optional<c10::NoGradGuard> unrecorded;
      if (once) unrecorded.emplace();
      error = callbacks->backward(state(), handles.from(0), n_dy, handles.from(n_dy), n_saved,
                                  needs.data(), n, found);
    }
    handles.given(n_dy + n_saved);
    // A pass of tch's inside of it, whose `Err` it dropped, may have left one.
    tf::PythonError::take();
    if (error) throw tf::RustError(callbacks, error);

    variable_list grads(n);
    for (size_t i = 0; i < n; ++i)
      if (found[i]) grads[i] = std::move(*found[i]);
    if (once) refuse(grads, behind);
    return grads;
  }

  const uint32_t n_saved;
};

static_assert(alignof(FunctionNode) <= tf::SmallMemory::kAlign);

using Impls = std::unordered_set<at::TensorImpl*>;
using Returned = c10::SmallVector<const at::TensorImpl*, 4>;

edge_list edges_of(const tf_recording& what) {
  edge_list edges;
  edges.reserve(what.n_inputs);
  for (size_t i = 0; i < what.n_inputs; ++i) {
    const at::Tensor* x = what.inputs[i];
    if (x && x->requires_grad())
      edges.push_back(torch::autograd::impl::gradient_edge(*x));
    else
      edges.emplace_back();
  }
  return edges;
}

// The position of the input that `t` is, or -1.
ptrdiff_t position_of(const at::Tensor& t, const tf_recording& what) {
  for (size_t i = 0; i < what.n_inputs; ++i)
    if (what.inputs[i] && what.inputs[i]->is_same(t)) return static_cast<ptrdiff_t>(i);
  return -1;
}

bool is_input(const at::Tensor& t, const tf_recording& what) { return position_of(t, what) >= 0; }

bool is_dirty(const at::Tensor& t, const tf_recording& what) {
  return std::any_of(what.dirty, what.dirty + what.n_dirty,
                     [&](size_t i) { return what.inputs[i] && what.inputs[i]->is_same(t); });
}

bool is_output(const at::Tensor& t, const tf_output* outputs, size_t n) {
  return std::any_of(outputs, outputs + n,
                     [&](const tf_output& y) { return y.tensor && y.tensor->is_same(t); });
}

// New tensors, or one that is an input or a view; nothing else that libtorch
// has rules for.
bool outputs_are_simple(const tf_recording& what) {
  if (what.n_dirty > 0) return false;
  for (size_t i = 0; i < what.n_outputs; ++i) {
    const tf_output& y = what.outputs[i];
    if (!y.tensor || !y.differentiable) return false;
    if (what.n_outputs > 1 &&
        (y.tensor->is_view() || is_input(*y.tensor, what) || is_output(*y.tensor, what.outputs, i)))
      return false;
  }
  return true;
}

// Returns what at::alias does under no_grad, without the way through the dispatcher.
at::Tensor view_of(const at::Tensor& x) {
  namespace impl = torch::autograd::impl;
  const at::TensorImpl& data = *x.unsafeGetTensorImpl();
  const auto* view = impl::get_view_autograd_meta(x);
  const bool plain = typeid(data) == typeid(at::TensorImpl) && !data.has_symbolic_sizes_strides() &&
                     !x.is_inference();
  if (!plain || (view && !view->shared_view_info())) return at::alias(x);
  at::Tensor y = at::detail::make_tensor<at::TensorImpl>(
      at::TensorImpl::VIEW, c10::Storage(data.storage()), data.key_set(), data.dtype());
  at::TensorImpl* made = y.unsafeGetTensorImpl();
  made->set_sizes_and_strides(data.sizes(), data.strides(), data.storage_offset());
  made->set_autograd_meta(std::make_unique<DifferentiableViewMeta>(
      made,
      view ? view->get_backward_view().chain(x, y) : torch::autograd::ViewInfo(x, nullptr, nullptr),
      std::nullopt, /*shared_view_info=*/true, CreationMeta::DEFAULT));
  return y;
}

// Does what wrap_outputs does, for a simple output.
void wrap_simple(at::Tensor& y, const tf_recording& what, const NodePtr& node) {
  if (is_input(y, what)) y = view_of(y);
  torch::autograd::set_history(y, node);
  if (auto* view = torch::autograd::impl::get_view_autograd_meta(y))
    view->set_creation_meta(CreationMeta::IN_CUSTOM_FUNCTION);
}

// Inputs, views, duplicates, dirty and non-differentiable tensors among the
// outputs: libtorch's own rules for custom functions.
void wrap_outputs(const tf_recording& what, const NodePtr& node) {
  variable_list inputs;
  Impls dirty, non_differentiable;
  for (size_t i = 0; i < what.n_inputs; ++i) {
    if (what.inputs[i]) inputs.push_back(*what.inputs[i]);
  }
  for (size_t i = 0; i < what.n_dirty; ++i)
    if (const at::Tensor* x = what.inputs[what.dirty[i]]) dirty.insert(x->unsafeGetTensorImpl());
  std::vector<std::optional<at::Tensor>> raw(what.n_outputs);
  for (size_t i = 0; i < what.n_outputs; ++i) {
    if (!what.outputs[i].tensor) continue;
    raw[i] = *what.outputs[i].tensor;
    if (!what.outputs[i].differentiable) non_differentiable.insert(raw[i]->unsafeGetTensorImpl());
  }
  const auto no_jvp = [](const variable_list&, const variable_list&) {
    return variable_list();  // not called: forward mode is off by now
  };
  const auto view_as_self = [](const at::Tensor& x) { return at::alias(x); };
  const auto wrapped = torch::autograd::_wrap_outputs(
      inputs, non_differentiable, dirty, raw, node, no_jvp,
      /*to_save_if_setup_context=*/{}, view_as_self, /*pure_view=*/false);
  for (size_t i = 0; i < what.n_outputs; ++i)
    if (what.outputs[i].tensor && wrapped[i]) *what.outputs[i].tensor = *wrapped[i];
}

void save(const tf_recording& what, FunctionNode& node, const Returned& returned) {
  for (size_t i = 0; i < what.n_saved; ++i) {
    const at::Tensor& t = *what.saved[i].tensor;
    const bool output =
        std::find(returned.begin(), returned.end(), t.unsafeGetTensorImpl()) != returned.end();
    const bool is_changed_view = output && t.is_view() && !t.is_leaf() && is_dirty(t, what);
    const bool is_output = is_changed_view || t.grad_fn().get() == &node;
    const ptrdiff_t input = is_output ? -1 : position_of(t, what);
    // A tensor with a history of its own (a captured parameter) brings it.
    const bool intermediate = !output && input < 0 && !what.saved[i].constant &&
                              !t.requires_grad() &&
                              torch::autograd::isDifferentiableType(t.scalar_type());
    node.save(t, is_output, input, intermediate, is_changed_view);
  }
}

// Makes the node fail for good where saving fails: a hook on saved tensors (PyTorch's
// saved_tensors_hooks) may, once a changed input has the node as its history.
struct GiveUp {
  FunctionNode* node;
  ~GiveUp() {
    if (node) node->release_variables();
  }
};

}  // namespace

bool tf_record(const tf_recording* what, bool* taken) noexcept {
  return guarded(false, [&] {
    const auto node = tf::hold(new (*what->callbacks) FunctionNode(edges_of(*what), *what));
    *taken = true;
    Returned returned;
    for (size_t i = 0; what->n_saved > 0 && i < what->n_outputs; ++i)
      if (what->outputs[i].tensor)
        returned.push_back(what->outputs[i].tensor->unsafeGetTensorImpl());
    if (outputs_are_simple(*what)) {
      for (size_t i = 0; i < what->n_outputs; ++i)
        wrap_simple(*what->outputs[i].tensor, *what, node);
    } else {
      wrap_outputs(*what, node);
    }
    GiveUp unless_saved{node.get()};
    if (what->n_saved > 0) save(*what, *node, returned);
    unless_saved.node = nullptr;
    return true;
  });
}

at::Tensor* tf_constant(const at::Tensor* t) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    at::Tensor constant = tf::other_handle(*t);
    torch::autograd::set_history(constant, tf::hold(new tf::Constant));
    return new at::Tensor(std::move(constant));
  });
}

at::Tensor* tf_refuse(const at::Tensor* t, const at::Tensor* const* leaves, size_t n_leaves,
                      const tf_callbacks* callbacks, const char* op, size_t op_len,
                      ptrdiff_t position) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    edge_list edges;
    for (size_t i = 0; i < n_leaves; ++i)
      edges.push_back(torch::autograd::impl::gradient_edge(*leaves[i]));
    return new at::Tensor(
        tf::refusing(tf::other_handle(*t), std::move(edges), callbacks, {op, op_len}, position));
  });
}
