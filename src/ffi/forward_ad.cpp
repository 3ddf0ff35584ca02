// libtorch's forward mode.
#include "guard.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/forward_grad.h>

using tf::guarded;

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
