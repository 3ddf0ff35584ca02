// Ops of a tensor and a number. tch's own panic where libtorch throws.
#include "guard.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/add.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/div.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/where.h>

namespace {

at::Tensor computed(tf_scalar_op op, const at::Tensor& x, const at::Scalar& c) {
  switch (op) {
    case TF_ADD:
      return at::add(x, c);
    case TF_SUB:
      return at::sub(x, c);
    case TF_RSUB:
      return at::rsub(x, c);
    case TF_MUL:
      return at::mul(x, c);
    case TF_DIV:
      return at::div(x, c);
    case TF_POW:
      return at::pow(x, c);
  }
  TORCH_CHECK(false, "there is no such op");
}

at::Scalar scalar(double c, bool integer) {
  return integer ? at::Scalar(static_cast<int64_t>(c)) : at::Scalar(c);
}

}  // namespace

at::Tensor* tf_with_scalar(tf_scalar_op op, const at::Tensor* x, double c, bool integer) noexcept {
  return tf::guarded(static_cast<at::Tensor*>(nullptr),
                     [&] { return new at::Tensor(computed(op, *x, scalar(c, integer))); });
}

at::Tensor* tf_where_else(const at::Tensor* condition, const at::Tensor* x, double c,
                          bool integer) noexcept {
  return tf::guarded(static_cast<at::Tensor*>(nullptr), [&] {
    return new at::Tensor(at::where(*condition, *x, scalar(c, integer)));
  });
}

at::Tensor* tf_masked_fill(const at::Tensor* x, const at::Tensor* mask, double c,
                           bool integer) noexcept {
  return tf::guarded(static_cast<at::Tensor*>(nullptr), [&] {
    return new at::Tensor(at::masked_fill(*x, *mask, scalar(c, integer)));
  });
}

at::Tensor* tf_clamp(const at::Tensor* x, double least, double greatest) noexcept {
  return tf::guarded(static_cast<at::Tensor*>(nullptr), [&] {
    return new at::Tensor(at::clamp(*x, at::Scalar(least), at::Scalar(greatest)));
  });
}

int8_t tf_result_type(const at::Tensor* const* x, size_t n) noexcept {
  return tf::guarded(int8_t{-1}, [&] {
    at::native::ResultTypeState state;
    for (size_t i = 0; i < n; ++i) state = at::native::update_result_type_state(*x[i], state);
    return static_cast<int8_t>(at::native::result_type(state));
  });
}
