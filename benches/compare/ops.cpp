// The op of ops.py, registered from C++ as the tutorials do it.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor sine(const Tensor& x) { return x.sin(); }

struct Sine : torch::autograd::Function<Sine> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x});
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("cpp_compare::sine", "").typed<decltype(sine)>();
    return op.call(x);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto x = ctx->get_saved_variables()[0];
    return {dy[0] * x.cos()};
  }
};

Tensor sine_autograd(const Tensor& x) { return Sine::apply(x); }

}  // namespace

TORCH_LIBRARY(cpp_compare, m) { m.def("sine(Tensor x) -> Tensor"); }
TORCH_LIBRARY_IMPL(cpp_compare, CPU, m) { m.impl("sine", sine); }
TORCH_LIBRARY_IMPL(cpp_compare, Autograd, m) { m.impl("sine", sine_autograd); }
