// libtorch's zeros without memory, and zeros with it.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace tf {

inline at::Tensor zeros_like(const at::Tensor& t) {
  return at::zeros_symint(t.sym_sizes(), t.options());
}

// Some derivatives of libtorch's (that of sgn, say) are zeros without memory, which a
// kernel cannot read.
inline at::Tensor with_memory(at::Tensor t) {
  return t._is_zerotensor() ? zeros_like(t) : std::move(t);
}

}  // namespace tf
