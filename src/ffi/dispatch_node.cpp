// Rust's ops above autograd: plain tensors go straight to Rust; where a mode or a
// transformation looks on (fake tensors, torch.compile, torch.func), forward and
// backward are ops of their own that it sees, and a node here joins them.
#include "dispatcher.h"
#include "guard.h"
#include "node_ptr.h"
#include "refusal.h"
#include "shim.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace tf {
namespace {

using c10::DispatchKey;
using torch::autograd::edge_list;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Whoever looks on from below autograd.
constexpr c10::DispatchKeySet kWatched(
    {DispatchKey::Python, DispatchKey::PythonTLSSnapshot, DispatchKey::Functionalize,
     DispatchKey::FuncTorchGradWrapper, DispatchKey::FuncTorchBatched,
     DispatchKey::FuncTorchVmapMode, DispatchKey::FuncTorchDynamicLayerFrontMode,
     DispatchKey::FuncTorchDynamicLayerBackMode, DispatchKey::Conjugate,
     DispatchKey::Negative, DispatchKey::ZeroTensor});

// What forward says of what backward will need: a head, whether each output is
// differentiable, and where each saved tensor comes from. `plan.rs` writes it.
struct Plan {
  enum Kind { kInput, kOutput, kIntermediate, kConstant, kConstantOutput };
  struct Source {
    Kind kind;
    size_t index;  // of the input, the output, or in the list of intermediates
  };

  explicit Plan(const IValue& value) : ints(value.toIntVector()) {}
  tf_second_order second_order() const { return static_cast<tf_second_order>(ints[0]); }
  bool materialize() const { return ints[1] != 0; }
  size_t n_outputs() const { return static_cast<size_t>(ints[2]); }
  bool differentiable(size_t output) const { return ints[3 + output] != 0; }
  size_t n_saved() const { return ints.size() - 3 - n_outputs(); }
  Source source(size_t i) const {
    const int64_t code = ints[3 + n_outputs() + i];
    return {static_cast<Kind>(code % 8), static_cast<size_t>(code / 8)};
  }

  std::vector<int64_t> ints;
};

// The tensors of values that hold nothing else, undefined where absent.
variable_list flat(Values values) {
  variable_list out;
  for (const IValue& value : values) {
    if (value.isNone()) out.emplace_back();
    visit_tensors(value, [&](const at::Tensor& t) { out.push_back(t); });
  }
  return out;
}

// The input tensors of an op, position by position.
variable_list inputs_of(const Op& op, const Stack& args) {
  Stack held;
  for (size_t i = 0; i < args.size(); ++i)
    if (holds_tensors(op.schema.arguments()[i])) held.push_back(args[i]);
  return flat(held);
}

bool requires_grad(Values values) {
  bool found = false;
  visit_all(values, [&](const at::Tensor& t) { found |= t.defined() && t.requires_grad(); });
  return found;
}

bool has_tangents(Values values) {
  bool found = false;
  visit_all(values, [&](const at::Tensor& t) {
    found |= t.defined() && t._fw_grad(/*level=*/0).defined();
  });
  return found;
}

// A tensor of the same shape, dtype and device that holds no memory.
at::Tensor stand_in(const at::Tensor& t) {
  return at::empty({}, t.options()).expand_symint(t.sym_sizes());
}

struct DispatchNode : Node {
  DispatchNode(OpPtr op, edge_list&& edges, Plan plan)
      : Node(std::move(edges)), op(std::move(op)), plan(std::move(plan)) {}

  std::string name() const override { return op->name + "Backward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    saved.clear();
    inputs.clear();
    freed = true;
  }

  variable_list apply(variable_list&& dy) override {
    const size_t n = num_outputs();
    if (std::none_of(dy.begin(), dy.end(), [](const at::Tensor& t) { return t.defined(); }))
      return variable_list(n);
    const bool recorded = c10::GradMode::is_enabled();
    Stack stack = seeds(std::move(dy));
    c10::List<bool> needs;
    for (size_t i = 0; i < n; ++i) needs.push_back(task_should_compute_output(i));
    unpack(stack, needs, recorded && plan.second_order() == TF_THROUGH_SAVED);
    edge_list lost;
    if (recorded && plan.second_order() == TF_ONCE)
      lost = torch::autograd::collect_next_edges(flat(stack));
    op->backward->callBoxed(&stack);
    variable_list grads = flat(stack);
    for (at::Tensor& grad : grads)
      if (!lost.empty() && grad.defined()) grad = refuse(other_handle(grad), lost, -1);
    return grads;
  }

  // The gradients of the outputs, in the shape of the schema's returns. A list
  // has no holes.
  Stack seeds(variable_list&& dy) {
    const auto fill = [&](size_t k) {
      if (!dy[k].defined() && plan.differentiable(k)) dy[k] = input_metadata(k).zeros_like();
    };
    Stack stack;
    size_t k = 0;
    for (const ptrdiff_t length : lengths) {
      if (length < 0) {
        if (plan.materialize()) fill(k);
        stack.emplace_back(dy[k].defined() ? std::optional(std::move(dy[k])) : std::nullopt);
        ++k;
        continue;
      }
      c10::List<at::Tensor> list;
      for (ptrdiff_t i = 0; i < length; ++i, ++k) {
        fill(k);
        list.push_back(std::move(dy[k]));
      }
      stack.emplace_back(std::move(list));
    }
    return stack;
  }

  // What was saved, the plan, and the op's arguments.
  void unpack(Stack& stack, const c10::List<bool>& needs, bool refuse_intermediates) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (freed)
      throw RustError(op->rust.errors,
                      op->rust.errors->graph_freed(op->name.data(), op->name.size()));
    c10::List<at::Tensor> tensors;
    for (size_t i = 0; i < saved.size(); ++i) {
      const at::Tensor t = saved[i].unpack(getptr());
      const bool lost = refuse_intermediates && plan.source(i).kind == Plan::kIntermediate;
      tensors.push_back(lost ? refuse(other_handle(t), next_edges(), static_cast<ptrdiff_t>(i)) : t);
    }
    stack.emplace_back(std::move(tensors));
    stack.emplace_back(plan.ints);
    stack.emplace_back(needs);
    size_t i = 0;
    const auto kept = [&](const at::Tensor&) { return inputs[i++].unpack(getptr()); };
    for (const IValue& arg : args) stack.push_back(map_tensors(arg, kept));
  }

  at::Tensor refuse(at::Tensor t, edge_list edges, ptrdiff_t position) const {
    return refusing(std::move(t), std::move(edges), op->rust.errors, {op->name.data(), op->name.size()},
                    position);
  }

  const OpPtr op;
  const Plan plan;
  std::vector<ptrdiff_t> lengths;  // of the outputs; -1 for a single tensor
  Stack args;                      // with some tensor wherever there was one
  std::vector<SavedVariable> inputs;  // for those places: inputs, or stand-ins
  std::vector<SavedVariable> saved;
  bool freed = false;
};

// Where the op's arguments were tensors, what a node may hold for good: some
// tensor without memory and history.
IValue emptied(const IValue& arg) {
  return map_tensors(arg, [](const at::Tensor&) { return at::empty({0}, at::kCPU); });
}

c10::List<bool> needs_of(const variable_list& x) {
  c10::List<bool> needs;
  for (const at::Tensor& t : x) needs.push_back(t.defined() && t.requires_grad());
  return needs;
}

// Makes a node the history of what the forward op gave.
void record(const OpPtr& op, Stack& results, const Stack& args) {
  const variable_list x = inputs_of(*op, args);
  const Plan plan(results.back());
  const auto intermediates = results[results.size() - 2].toTensorList();
  const auto node = hold(new DispatchNode(op, torch::autograd::collect_next_edges(x), plan));
  size_t k = 0;
  const auto with_history = [&](const at::Tensor& t) {
    at::Tensor y = t;
    if (plan.differentiable(k++))
      torch::autograd::set_history(y, node);
    else
      node->add_input_metadata(Node::undefined_input());
    return y;
  };
  variable_list y;
  for (size_t i = 0; i < op->n_outputs(); ++i) {
    const bool list = !results[i].isTensor();
    node->lengths.push_back(list ? static_cast<ptrdiff_t>(results[i].toListRef().size()) : -1);
    results[i] = map_tensors(results[i], with_history);
    visit_tensors(results[i], [&](const at::Tensor& t) { y.push_back(t); });
  }
  std::vector<bool> is_saved(x.size(), plan.second_order() == TF_RECOMPUTED);
  for (size_t i = 0; i < plan.n_saved(); ++i) {
    const auto [kind, index] = plan.source(i);
    const bool output = kind == Plan::kOutput || kind == Plan::kConstantOutput;
    const at::Tensor t = kind == Plan::kInput ? x[index]
                         : output             ? y[index]
                                              : intermediates.get(index);
    node->saved.emplace_back(t, kind == Plan::kOutput);
    if (kind == Plan::kInput) is_saved[index] = true;
  }
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i].defined()) node->inputs.emplace_back(is_saved[i] ? x[i] : stand_in(x[i]), false);
  for (const IValue& arg : args) node->args.push_back(emptied(arg));
  // Whoever differentiates what this saved must not lose the way through it.
  size_t i = 0;
  const auto lost = [&](const at::Tensor& t) {
    const size_t position = i++;
    for (size_t s = 0; s < plan.n_saved(); ++s) {
      const auto [kind, index] = plan.source(s);
      if (kind == Plan::kIntermediate && index == position &&
          torch::autograd::isDifferentiableType(t.scalar_type()))
        return node->refuse(t, node->next_edges(), static_cast<ptrdiff_t>(s));
    }
    return t;
  };
  IValue& kept = results[results.size() - 2];
  kept = map_tensors(kept, lost);
}

// Gives the outputs the tangents that the op's jvp makes.
void set_tangents(const OpPtr& op, Stack& results, const Stack& args) {
  Stack values;
  const auto tangent = [](const at::Tensor& t) {
    const at::Tensor& dx = t._fw_grad(/*level=*/0);
    return dx.defined() ? dx : at::zeros_like(t);
  };
  const auto primal = [](const at::Tensor& t) { return t._fw_primal(/*level=*/0); };
  for (size_t i = 0; i < args.size(); ++i)
    if (holds_tensors(op->schema.arguments()[i])) values.push_back(map_tensors(args[i], tangent));
  for (const IValue& result : results) values.push_back(result);
  values.emplace_back(needs_of(inputs_of(*op, args)));
  for (const IValue& arg : args) values.push_back(map_tensors(arg, primal));
  const variable_list dy = flat(op->call(TF_JVP, values));
  const variable_list y = flat(Values(results).slice(0, op->n_outputs()));
  for (size_t k = 0; k < y.size(); ++k)
    if (dy[k].defined()) y[k]._set_fw_grad(dy[k], /*level=*/0, /*is_inplace_op=*/false);
}

void call_below(const c10::OperatorHandle& handle, Stack* stack) {
  const at::AutoDispatchBelowADInplaceOrView below;
  handle.callBoxed(stack);
}

// The forward op below this level, and what this level makes of it. Null where it
// has nothing to make of it.
std::optional<Stack> forward(const OpPtr& op, const Stack& args) {
  const bool recorded = c10::GradMode::is_enabled() && requires_grad(args);
  const bool dual = has_tangents(args);
  if (!recorded && !dual) return std::nullopt;
  TORCH_CHECK(op->forward, op->name, ": it changes an argument in place, and its gradient is "
              "not there under torch.compile, torch.func or a mode of PyTorch's; register a "
              "form that returns a new tensor, or call it under no_grad");
  Stack results = args;
  results.emplace_back(needs_of(inputs_of(*op, args)));
  call_below(*op->forward, &results);
  if (recorded) record(op, results, args);
  if (dual) set_tangents(op, results, args);
  return results;
}

// The op itself.
struct Public : OpKernel {
  using OpKernel::OpKernel;
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack) {
    if ((keys & kWatched).empty()) {
      Stack results = op->call(TF_APPLY, torch::jit::last(*stack, op->n_args()));
      torch::jit::drop(*stack, op->n_args());
      return give(*stack, std::move(results));
    }
    Stack args = take(*stack, op->n_args());
    op->cast_inputs(args);
    if (auto results = forward(op, args)) {
      results->resize(op->n_outputs());
      return give(*stack, *std::move(results));
    }
    give(*stack, std::move(args));
    call_below(handle, stack);
  }
};

// Its forward op, at an outer level of torch.func.
struct Forward : OpKernel {
  using OpKernel::OpKernel;
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
    Stack args = take(*stack, op->n_args() + 1);
    const IValue needs = std::move(args.back());
    args.pop_back();
    if (auto results = forward(op, args)) {
      const Plan plan(results->back());
      for (size_t i = 0; i < plan.n_saved(); ++i)
        TORCH_CHECK(!has_tangents(args) || plan.source(i).kind != Plan::kIntermediate, op->name,
                    ": it saves a tensor that is neither an input nor an output, so forward mode "
                    "over reverse mode does not go through it; use reverse mode twice");
      return give(*stack, *std::move(results));
    }
    give(*stack, std::move(args));
    stack->push_back(needs);
    call_below(handle, stack);
  }
};

// Its backward op. Where it may be differentiated itself, libtorch records what
// the user's backward does.
struct Backward : OpKernel {
  using OpKernel::OpKernel;
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
    const size_t n = handle.schema().arguments().size();
    const auto args = torch::jit::last(*stack, n);
    const bool recorded = c10::GradMode::is_enabled() && requires_grad(args);
    if (!recorded && !has_tangents(args)) return call_below(handle, stack);
    bool no_formula = false;
    Stack results;
    try {
      results = op->call(TF_BACKWARD_ABOVE, args, &no_formula);
    } catch (const RustError&) {
      if (!no_formula || !recorded) throw;
    }
    if (no_formula) {
      const edge_list edges = torch::autograd::collect_next_edges(flat(args));
      call_below(handle, stack);
      results = take(*stack, handle.schema().returns().size());
      const auto once = [&](const at::Tensor& t) {
        return refusing(t, edge_list(edges), op->rust.errors,
                        {op->name.data(), op->name.size()}, -1);
      };
      for (IValue& result : results) result = map_tensors(result, once);
    } else {
      torch::jit::drop(*stack, n);
    }
    give(*stack, std::move(results));
  }
};

}  // namespace

c10::KernelFunction autograd_of(const OpPtr& op, tf_kernel kernel) {
  using c10::KernelFunction;
  switch (kernel) {
    case TF_FORWARD:
      return KernelFunction::makeFromBoxedFunctor(std::make_unique<Forward>(op));
    case TF_BACKWARD:
      return KernelFunction::makeFromBoxedFunctor(std::make_unique<Backward>(op));
    default:
      return KernelFunction::makeFromBoxedFunctor(std::make_unique<Public>(op));
  }
}

}  // namespace tf
