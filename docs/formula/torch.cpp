// The two ops in PyTorch's C++: kernels on TensorIterator, and tensor operators where a
// second derivative is wanted. C++'s autograd::Function has no forward mode.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/native/TensorIterator.h>
#include <ATen/native/cpu/Loops.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// op: softplus
at::TensorIterator softplus_loop(const Tensor& x) {
  return at::TensorIteratorConfig()
      .add_owned_output(Tensor())
      .add_owned_const_input(x)
      .promote_inputs_to_common_dtype(true)
      .promote_integer_inputs_to_float(true)
      .cast_common_dtype_to_outputs(true)
      .build();
}

Tensor softplus_cpu(const Tensor& x) {
  auto loop = softplus_loop(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, loop.common_dtype(), "softplus", [&] {
    at::native::cpu_kernel(loop, [](scalar_t element) -> scalar_t {
      const at::opmath_type<scalar_t> x = element;
      return std::max(x, decltype(x)(0)) + std::log1p(std::exp(-std::abs(x)));
    });
  });
  return loop.output();
}

Tensor softplus_meta(const Tensor& x) { return softplus_loop(x).output(); }

at::TensorIterator softplus_backward_loop(const Tensor& x, const Tensor& dy) {
  return at::TensorIteratorConfig()
      .add_owned_output(Tensor())
      .add_owned_const_input(x)
      .add_owned_const_input(dy)
      .promote_inputs_to_common_dtype(true)
      .cast_common_dtype_to_outputs(true)
      .build();
}

Tensor softplus_backward_cpu(const Tensor& x, const Tensor& dy) {
  auto loop = softplus_backward_loop(x, dy);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, loop.common_dtype(), "softplus", [&] {
    at::native::cpu_kernel(loop, [](scalar_t element, scalar_t dy) -> scalar_t {
      const at::opmath_type<scalar_t> x = element;
      return dy / (1 + std::exp(-x));
    });
  });
  return loop.output();
}

Tensor softplus_backward_meta(const Tensor& x, const Tensor& dy) {
  return softplus_backward_loop(x, dy).output();
}

struct Softplus : Function<Softplus> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    ctx->save_for_backward({x});
    const at::AutoDispatchBelowADInplaceOrView below;
    static auto op = c10::Dispatcher::singleton()
                         .findSchemaOrThrow("by_hand_cpp::softplus", "")
                         .typed<Tensor(const Tensor&)>();
    return op.call(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto x = ctx->get_saved_variables()[0];
    if (at::GradMode::is_enabled()) return {dy[0] * x.sigmoid()};
    static auto op = c10::Dispatcher::singleton()
                         .findSchemaOrThrow("by_hand_cpp::_softplus_backward", "")
                         .typed<Tensor(const Tensor&, const Tensor&)>();
    return {op.call(x, dy[0])};
  }
};

TORCH_LIBRARY(by_hand_cpp, m) {
  m.def("softplus(Tensor x) -> Tensor");
  m.def("_softplus_backward(Tensor x, Tensor dy) -> Tensor");
}
TORCH_LIBRARY_IMPL(by_hand_cpp, CPU, m) {
  m.impl("softplus", softplus_cpu);
  m.impl("_softplus_backward", softplus_backward_cpu);
}
TORCH_LIBRARY_IMPL(by_hand_cpp, Meta, m) {
  m.impl("softplus", softplus_meta);
  m.impl("_softplus_backward", softplus_backward_meta);
}
TORCH_LIBRARY_IMPL(by_hand_cpp, Autograd, m) {
  m.impl("softplus", [](const Tensor& x) { return Softplus::apply(x); });
}

// op: gate
at::TensorIterator gate_loop(const Tensor& a, const Tensor& b, const Tensor& c) {
  return at::TensorIteratorConfig()
      .add_owned_output(Tensor())
      .add_owned_const_input(a)
      .add_owned_const_input(b)
      .add_owned_const_input(c)
      .promote_inputs_to_common_dtype(true)
      .promote_integer_inputs_to_float(true)
      .cast_common_dtype_to_outputs(true)
      .build();
}

Tensor gate_cpu(const Tensor& a, const Tensor& b, const Tensor& c, double scale) {
  auto loop = gate_loop(a, b, c);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, loop.common_dtype(), "gate", [&] {
    using number = at::opmath_type<scalar_t>;
    at::native::cpu_kernel(loop, [k = number(scale)](scalar_t x, scalar_t y, scalar_t z) -> scalar_t {
      const number a = x, b = y, c = z;
      return std::tanh(a * b + c) / (1 + std::exp(c - a)) + k * std::exp(-b * b) * c;
    });
  });
  return loop.output();
}

Tensor gate_meta(const Tensor& a, const Tensor& b, const Tensor& c, double) {
  return gate_loop(a, b, c).output();
}

using Three = std::tuple<Tensor, Tensor, Tensor>;

at::TensorIterator gate_backward_loop(
    const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& dy) {
  return at::TensorIteratorConfig()
      .add_owned_output(Tensor())
      .add_owned_output(Tensor())
      .add_owned_output(Tensor())
      .add_owned_const_input(a)
      .add_owned_const_input(b)
      .add_owned_const_input(c)
      .add_owned_const_input(dy)
      .promote_inputs_to_common_dtype(true)
      .cast_common_dtype_to_outputs(true)
      .build();
}

Three gate_backward_cpu(
    const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& dy, double scale) {
  auto loop = gate_backward_loop(a, b, c, dy);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, loop.common_dtype(), "gate", [&] {
    using number = at::opmath_type<scalar_t>;
    const auto slopes = [k = number(scale)](scalar_t x, scalar_t y, scalar_t z, scalar_t dy) {
      const number a = x, b = y, c = z;
      const number t = std::tanh(a * b + c), s = 1 / (1 + std::exp(c - a));
      const number dt = 1 - t * t, ds = s * (1 - s), e = k * std::exp(-b * b);
      return std::make_tuple(
          scalar_t(dy * (dt * b * s + t * ds)),
          scalar_t(dy * (dt * a * s - 2 * e * b * c)),
          scalar_t(dy * (dt * s - t * ds + e)));
    };
    at::native::cpu_kernel_multiple_outputs(loop, slopes);
  });
  return {loop.output(0), loop.output(1), loop.output(2)};
}

Three gate_backward_meta(
    const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& dy, double) {
  const auto loop = gate_backward_loop(a, b, c, dy);
  return {loop.output(0), loop.output(1), loop.output(2)};
}

struct Gate : Function<Gate> {
  static Tensor forward(
      AutogradContext* ctx, const Tensor& a, const Tensor& b, const Tensor& c, double scale) {
    ctx->save_for_backward({a, b, c});
    ctx->saved_data["scale"] = scale;
    const at::AutoDispatchBelowADInplaceOrView below;
    static auto op = c10::Dispatcher::singleton()
                         .findSchemaOrThrow("by_hand_cpp::gate", "")
                         .typed<decltype(gate_cpu)>();
    return op.call(a, b, c, scale);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto a = saved[0], b = saved[1], c = saved[2], dy = grads[0];
    const auto scale = ctx->saved_data["scale"].toDouble();
    if (at::GradMode::is_enabled()) {
      const auto t = (a * b + c).tanh(), s = (a - c).sigmoid();
      const auto dt = 1 - t * t, ds = s * (1 - s), e = scale * (-b * b).exp();
      const auto da = dt * b * s + t * ds;
      const auto db = dt * a * s - 2 * e * b * c;
      const auto dc = dt * s - t * ds + e;
      return {dy * da, dy * db, dy * dc, Tensor()};
    }
    static auto op = c10::Dispatcher::singleton()
                         .findSchemaOrThrow("by_hand_cpp::_gate_backward", "")
                         .typed<decltype(gate_backward_cpu)>();
    const auto [da, db, dc] = op.call(a, b, c, dy, scale);
    return {da, db, dc, Tensor()};
  }
};

TORCH_LIBRARY_FRAGMENT(by_hand_cpp, m) {
  m.def("gate(Tensor a, Tensor b, Tensor c, float scale) -> Tensor");
  m.def(
      "_gate_backward(Tensor a, Tensor b, Tensor c, Tensor dy, float scale) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(by_hand_cpp, CPU, m) {
  m.impl("gate", gate_cpu);
  m.impl("_gate_backward", gate_backward_cpu);
}
TORCH_LIBRARY_IMPL(by_hand_cpp, Meta, m) {
  m.impl("gate", gate_meta);
  m.impl("_gate_backward", gate_backward_meta);
}
TORCH_LIBRARY_IMPL(by_hand_cpp, Autograd, m) {
  m.impl("gate", [](const Tensor& a, const Tensor& b, const Tensor& c, double scale) {
    return Gate::apply(a, b, c, scale);
  });
}

}  // namespace
