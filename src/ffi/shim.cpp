#include "guard.h"
#include "node_ptr.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/zeros.h>
#include <c10/core/AutogradState.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <unordered_set>
#include <utility>
#include <vector>

namespace {

using tf::guarded;
using tf::version_of;

using torch::autograd::AutogradMeta;

const AutogradMeta* autograd_meta(const at::TensorBase& t) {
  return static_cast<const AutogradMeta*>(
      t.unsafeGetTensorImpl()->autograd_meta());
}

bool describe(const at::Tensor& t, tf_meta& out) {
  const at::TensorImpl& impl = *t.unsafeGetTensorImpl();
  if (!t.defined()) {
    out = tf_meta{};
    out.dtype = -1;
    return true;
  }
  const bool symbolic = impl.has_symbolic_sizes_strides();
  const auto sizes = symbolic ? c10::IntArrayRef() : impl.sizes();
  const auto device = impl.device();
  const AutogradMeta* meta = autograd_meta(t);
  const bool by_itself = meta && meta->AutogradMeta::requires_grad();
  const bool as_view = meta && !by_itself && meta->requires_grad();
  out = {sizes.data(),
         sizes.size(),
         &impl,
         version_of(t),
         static_cast<int8_t>(t.scalar_type()),
         static_cast<int8_t>(device.type()),
         device.index(),
         by_itself || as_view,
         as_view,
         symbolic};
  return true;
}

// Whether it is worth while to ask libtorch, which takes its time over views.
bool may_have_tangent(const at::Tensor& t) {
  const AutogradMeta* meta = autograd_meta(t);
  if (!meta || meta->fw_grad_) return meta != nullptr;
  if (!meta->is_view_) return false;
  const auto* view =
      static_cast<const torch::autograd::DifferentiableViewMeta*>(meta);
  if (!view->has_fw_view()) return false;
  const AutogradMeta* base = autograd_meta(view->get_forward_view().base_);
  return base && (base->fw_grad_ || base->is_view_);
}

bool is_unique(const at::Tensor& t) {
  return t.use_count() == 1 && t.has_storage() && t.storage().use_count() == 1;
}

bool may_hold_sum(const at::Tensor& t) {
  return is_unique(t) && t.is_non_overlapping_and_dense() && !t.requires_grad();
}

bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.device() == b.device() &&
         a.layout() == b.layout() && a.sizes() == b.sizes();
}

// Below this length the kernel's set-up costs more than the sum itself.
constexpr int64_t kShort = 256;

template <typename T>
void add_elements(at::Tensor& sum, const at::Tensor& term) {
  T* to = sum.mutable_data_ptr<T>();
  const T* from = term.const_data_ptr<T>();
  for (int64_t i = 0, n = sum.numel(); i < n; ++i) to[i] += from[i];
}

bool add_short(at::Tensor& sum, const at::Tensor& term) {
  if (!sum.is_cpu() || sum.numel() > kShort || !sum.is_contiguous() ||
      !term.is_contiguous() || term.is_neg() || sum.is_neg() ||
      sum.layout() != at::kStrided)
    return false;
  if (sum.scalar_type() == at::kFloat)
    add_elements<float>(sum, term);
  else if (sum.scalar_type() == at::kDouble)
    add_elements<double>(sum, term);
  else
    return false;
  return true;
}

void add_in_place(at::Tensor& sum, const at::Tensor& term) {
  if (!add_short(sum, term)) sum.add_(term);
}

using Tensors = std::vector<at::Tensor>;

Tensors copy_handles(const at::Tensor* const* handles, size_t n) {
  Tensors out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) out.push_back(*handles[i]);
  return out;
}

}  // namespace

bool tf_describe(const at::Tensor* t, tf_meta* out) noexcept {
  return guarded(false, [&] { return describe(*t, *out); });
}

bool tf_describe_input(const at::Tensor* t, tf_meta* out,
                       bool* has_tangent) noexcept {
  return guarded(false, [&] {
    *has_tangent = t->defined() && may_have_tangent(*t) &&
                   t->_fw_grad(/*level=*/0).defined();
    return describe(*t, *out);
  });
}

uint32_t tf_version(const at::Tensor* t) noexcept {
  return t->defined() ? version_of(*t) : 0u;  // throws nothing
}

bool tf_grad_enabled() noexcept { return c10::GradMode::is_enabled(); }

bool tf_set_grad_enabled(bool enabled) noexcept {
  auto& state = c10::AutogradState::get_tls_state();
  const bool was = state.get_grad_mode();
  state.set_grad_mode(enabled);
  return was;
}

at::Tensor* tf_zeros(const int64_t* sizes, size_t dim, int8_t dtype,
                     int8_t device_type, int8_t device_index) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    const at::Device device(static_cast<at::DeviceType>(device_type),
                            device_index);
    const auto options = at::TensorOptions()
                             .dtype(static_cast<at::ScalarType>(dtype))
                             .device(device);
    return new at::Tensor(at::zeros(at::IntArrayRef(sizes, dim), options));
  });
}

bool tf_is_unique(const at::Tensor* t) noexcept {
  return guarded(false, [&] { return is_unique(*t); });
}

bool tf_shares_storage(const at::Tensor* a, const at::Tensor* b) noexcept {
  return guarded(false, [&] {
    return a->is_same(*b) || (a->has_storage() && b->has_storage() &&
                              a->storage().is_alias_of(b->storage()));
  });
}

bool tf_in_leaf(const at::Tensor* t) noexcept {
  return guarded(false, [&] {
    const at::TensorBase& base = t->is_view() ? t->_base() : *t;
    return base.is_leaf() && base.requires_grad();
  });
}

bool tf_accumulate(at::Tensor* sum, const at::Tensor* term) noexcept {
  return guarded(false, [&] {
    const c10::NoGradGuard no_grad;
    if (!same_layout(*sum, *term)) {
      // libtorch adds sparse to strided, not strided to sparse.
      const bool strided = sum->layout() == at::kStrided;
      *sum = strided ? at::add(*sum, *term) : at::add(*term, *sum);
    } else if (may_hold_sum(*sum)) {
      add_in_place(*sum, *term);
    } else if (may_hold_sum(*term)) {
      at::Tensor out = *term;
      add_in_place(out, *sum);
      *sum = std::move(out);
    } else {
      *sum = at::add(*sum, *term);
    }
    return true;
  });
}

bool tf_set_grad(const at::Tensor* leaf, const at::Tensor* grad) noexcept {
  return guarded(false, [&] {
    leaf->mutable_grad() = *grad;
    return true;
  });
}

// Some derivatives (that of sgn, say) are libtorch's zeros without memory, of
// which nobody can read the data.
static at::Tensor with_memory(const at::Tensor& t) {
  return t._is_zerotensor() ? at::zeros(t.sizes(), t.options()) : t;
}

bool tf_grad(const at::Tensor* const* outputs, const at::Tensor* const* seeds,
             size_t n_outputs, const at::Tensor* const* inputs,
             size_t n_inputs, bool retain_graph, bool create_graph,
             at::Tensor** grads) noexcept {
  return guarded(false, [&] {
    const Tensors found = torch::autograd::grad(
        copy_handles(outputs, n_outputs), copy_handles(inputs, n_inputs),
        copy_handles(seeds, n_outputs), retain_graph, create_graph,
        /*allow_unused=*/true);
    for (size_t i = 0; i < n_inputs; ++i)
      grads[i] = found[i].defined() ? new at::Tensor(with_memory(found[i])) : nullptr;
    return true;
  });
}

bool tf_backward(const at::Tensor* const* outputs,
                 const at::Tensor* const* seeds, size_t n_outputs,
                 const at::Tensor* const* inputs, size_t n_inputs,
                 bool retain_graph, bool create_graph) noexcept {
  return guarded(false, [&] {
    torch::autograd::backward(copy_handles(outputs, n_outputs),
                              copy_handles(seeds, n_outputs), retain_graph,
                              create_graph, copy_handles(inputs, n_inputs));
    return true;
  });
}

bool tf_enter_dual_level() noexcept {
  return guarded(false, [] {
    torch::autograd::ForwardADLevel::get_next_idx();
    return true;
  });
}

void tf_exit_dual_level() noexcept {
  guarded(false, [] {
    torch::autograd::ForwardADLevel::release_idx(/*idx=*/0);
    return true;
  });
}

bool tf_set_forward_mode(bool enabled) noexcept {
  auto& state = c10::AutogradState::get_tls_state();
  const bool was = state.get_fw_grad_mode();
  state.set_fw_grad_mode(enabled);
  return was;
}

at::Tensor* tf_tangent(const at::Tensor* t) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&]() -> at::Tensor* {
    if (!t->defined()) return nullptr;
    const at::Tensor& tangent = t->_fw_grad(/*level=*/0);
    return tangent.defined() ? new at::Tensor(tangent) : nullptr;
  });
}

bool tf_set_tangent(const at::Tensor* t, const at::Tensor* tangent) noexcept {
  return guarded(false, [&] {
    t->_set_fw_grad(*tangent, /*level=*/0, /*is_inplace_op=*/false);
    return true;
  });
}

bool tf_bump_version(const at::Tensor* t) noexcept {
  return guarded(false, [&] {
    if (!t->is_inference()) t->unsafeGetTensorImpl()->bump_version();
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
    // An output that is a leaf itself has a node only while somebody holds it.
    std::vector<tf::NodePtr> roots;
    for (size_t i = 0; i < n_outputs; ++i) {
      roots.push_back(
          torch::autograd::impl::gradient_edge(*outputs[i]).function);
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

bool tf_try(void (*body)(void*), void* data) {
  try {
    body(data);
    return true;
  } catch (...) {
    if (!std::current_exception()) throw;  // not C++'s
    return guarded(false, []() -> bool { throw; });
  }
}
