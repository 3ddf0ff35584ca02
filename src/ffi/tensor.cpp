// Reads and changes tensors, below autograd.
#include "guard.h"
#include "shim.h"
#include "zeros.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/utils/grad_layout_contract.h>
#include <torch/csrc/autograd/variable.h>

#include <utility>

namespace {

using tf::guarded;
using tf::version_of;
using torch::autograd::AutogradMeta;

const AutogradMeta* autograd_meta(const at::TensorBase& t) {
  return static_cast<const AutogradMeta*>(t.unsafeGetTensorImpl()->autograd_meta());
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
         symbolic,
         impl.key_set().has(c10::DispatchKey::ZeroTensor),
         !impl.version_counter().enabled(),
         impl.key_set().has(c10::DispatchKey::Python)};
  return true;
}

// Whether it is worth while to ask libtorch, which takes its time over views.
bool may_have_tangent(const at::Tensor& t) {
  const AutogradMeta* meta = autograd_meta(t);
  if (!meta || meta->fw_grad_) return meta != nullptr;
  if (!meta->is_view_) return false;
  const auto* view = static_cast<const torch::autograd::DifferentiableViewMeta*>(meta);
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

bool is_alike(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.device() == b.device() && a.sizes() == b.sizes();
}

bool is_zero(const at::Tensor& t) { return t.key_set().has(c10::DispatchKey::ZeroTensor); }

// Below this length the kernel's set-up costs more than the sum itself.
constexpr int64_t kShort = 256;

template <typename T>
void add_elements(at::Tensor& sum, const at::Tensor& term) {
  T* to = sum.mutable_data_ptr<T>();
  const T* from = term.const_data_ptr<T>();
  for (int64_t i = 0, n = sum.numel(); i < n; ++i) to[i] += from[i];
}

bool add_short(at::Tensor& sum, const at::Tensor& term) {
  if (!sum.is_cpu() || sum.numel() > kShort || !sum.is_contiguous() || !term.is_contiguous() ||
      term.is_neg() || sum.is_neg() || sum.layout() != at::kStrided)
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

}  // namespace

bool tf_describe(const at::Tensor* t, tf_meta* out, bool* has_tangent) noexcept {
  return guarded(false, [&] {
    if (has_tangent)
      *has_tangent = t->defined() && may_have_tangent(*t) && t->_fw_grad(/*level=*/0).defined();
    return describe(*t, *out);
  });
}

uint32_t tf_version(const at::Tensor* t) noexcept {
  return t->defined() ? version_of(*t) : 0u;  // throws nothing
}

at::Tensor* tf_zeros(const int64_t* sizes, size_t dim, int8_t dtype, int8_t device_type,
                     int8_t device_index) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    const at::Device device(static_cast<at::DeviceType>(device_type), device_index);
    const auto options =
        at::TensorOptions().dtype(static_cast<at::ScalarType>(dtype)).device(device);
    return new at::Tensor(at::zeros(at::IntArrayRef(sizes, dim), options));
  });
}

bool tf_is_unique(const at::Tensor* t) noexcept {
  return guarded(false, [&] { return is_unique(*t); });
}

bool tf_shares_storage(const at::Tensor* a, const at::Tensor* b) noexcept {
  return guarded(false, [&] {
    return a->is_same(*b) ||
           (a->has_storage() && b->has_storage() && a->storage().is_alias_of(b->storage()));
  });
}

bool tf_in_leaf(const at::Tensor* t) noexcept {
  return guarded(false, [&] {
    const at::TensorBase& base = t->is_view() ? t->_base() : *t;
    // The graph of a leaf that was frozen since may still be there.
    return base.is_leaf() &&
           (base.requires_grad() || torch::autograd::impl::try_get_grad_accumulator(base));
  });
}

bool tf_accumulate(at::Tensor* sum, const at::Tensor* term) noexcept {
  return guarded(false, [&] {
    const c10::NoGradGuard no_grad;
    TORCH_CHECK(is_alike(*sum, *term), "two gradients of one tensor do not fit: one has shape ",
                sum->sizes(), ", dtype ", sum->scalar_type(), ", the other shape ", term->sizes(),
                ", dtype ", term->scalar_type(),
                "; was it resized or converted between its uses, or since the last pass?");
    if (is_zero(*term)) return true;
    if (is_zero(*sum)) {
      *sum = *term;
    } else if (sum->layout() != term->layout()) {
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

at::Tensor* tf_zeros_like(const at::Tensor* t) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr),
                 [&] { return new at::Tensor(tf::zeros_like(*t)); });
}

at::Tensor* tf_as_leaf_gradient(const at::Tensor* leaf, const at::Tensor* grad) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    const c10::NoGradGuard no_grad;
    namespace utils = torch::autograd::utils;
    if (grad->layout() != at::kStrided || leaf->layout() != at::kStrided)
      return new at::Tensor(is_unique(*grad) ? *grad : grad->clone());
    if (is_unique(*grad) && utils::obeys_layout_contract(*grad, *leaf))
      return new at::Tensor(*grad);
    return new at::Tensor(utils::clone_obey_contract(*grad, *leaf));
  });
}

bool tf_same_data(const at::Tensor* a, const at::Tensor* b) noexcept {
  return guarded(false, [&] {
    if (a->scalar_type() != b->scalar_type() || a->device() != b->device() ||
        a->layout() != b->layout() || a->sizes() != b->sizes() || a->is_conj() != b->is_conj() ||
        a->is_neg() != b->is_neg())
      return false;
    if (!a->has_storage() || !b->has_storage()) return a->has_storage() == b->has_storage();
    return a->storage().is_alias_of(b->storage()) && a->strides() == b->strides() &&
           a->storage_offset() == b->storage_offset();
  });
}

bool tf_bump_version(const at::Tensor* t) noexcept {
  return guarded(false, [&] {
    if (!t->is_inference()) t->unsafeGetTensorImpl()->bump_version();
    return true;
  });
}
