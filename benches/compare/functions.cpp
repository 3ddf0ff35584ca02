// The contenders in C++: libtorch's own op, and torch::autograd::Function.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Identity : Function<Identity> {
  static Tensor forward(AutogradContext*, const Tensor& x) { return x; }
  static variable_list backward(AutogradContext*, const variable_list& dy) {
    return {dy[0]};
  }
};

struct Sine : Function<Sine> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    ctx->save_for_backward({x});
    return x.sin();
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto x = ctx->get_saved_variables()[0];
    return {dy[0] * x.cos()};
  }
};

using Op = Tensor (*)(const Tensor&);

// In compare.py's order.
const Op ops[] = {
    [](const Tensor& x) { return at::alias(x); },
    [](const Tensor& x) { return Identity::apply(x); },
    [](const Tensor& x) { return x.sin(); },
    [](const Tensor& x) { return Sine::apply(x); },
};

Tensor leaf() { return at::ones({4}).set_requires_grad(true); }

}  // namespace

extern "C" {

// `n` times the op, one after the other, and back; gives the sum of the gradient.
double cpp_chain(uint32_t op, uint32_t n) {
  const Tensor x = leaf();
  Tensor y = x;
  for (uint32_t i = 0; i < n; ++i) y = ops[op](y);
  const Tensor dx = torch::autograd::grad({y}, {x}, {at::ones_like(y)})[0];
  return dx.sum().item<double>();
}

// `n` times the op on one tensor, with nothing recorded.
void cpp_unrecorded(uint32_t op, uint32_t n) {
  const Tensor x = leaf();
  const at::NoGradGuard unrecorded;
  for (uint32_t i = 0; i < n; ++i) ops[op](x);
}
}
