// Rust's ops above autograd: plain tensors go straight to Rust; where a mode or a
// transformation looks on (fake tensors, torch.compile, torch.func), forward and
// backward are ops of their own that it sees, and a node here joins them.
#include "dispatcher.h"
#include "plan.h"
#include "saving_node.h"
#include "values.h"
#include "shim.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <vector>

namespace tf {
namespace {

using c10::DispatchKey;
using torch::autograd::edge_list;
using torch::autograd::Node;
using torch::autograd::variable_list;

// Dispatch keys below autograd whose modes must see the op.
constexpr c10::DispatchKeySet kWatched(
    {DispatchKey::Python, DispatchKey::PythonTLSSnapshot, DispatchKey::Functionalize,
     DispatchKey::FuncTorchGradWrapper, DispatchKey::FuncTorchBatched,
     DispatchKey::FuncTorchVmapMode, DispatchKey::FuncTorchDynamicLayerFrontMode,
     DispatchKey::FuncTorchDynamicLayerBackMode, DispatchKey::Conjugate, DispatchKey::Negative,
     DispatchKey::ZeroTensor});

// A tensor of the same shape, dtype and device that holds no memory.
at::Tensor stand_in(const at::Tensor& t) {
  return at::empty({}, t.options()).expand_symint(t.sym_sizes());
}

struct DispatchNode : SavingNode {
  DispatchNode(OpPtr of, Name function, edge_list&& edges, Plan plan)
      : SavingNode(std::move(edges), of->rust.errors, plan.second_order()),
        registered(std::move(of)),
        function(function),
        plan(std::move(plan)) {}

  Name op() const override { return function; }

  variable_list apply(variable_list&& dy) override {
    const size_t n = num_outputs();
    if (none_defined(dy)) return variable_list(n);
    const bool recorded = is_recorded();
    const bool once = recorded && second_order == TF_ONCE;
    edge_list behind;
    if (once) behind = edges_behind(dy);
    Stack stack = seeds(std::move(dy));
    c10::List<bool> needs;
    for (size_t i = 0; i < n; ++i) needs.push_back(task_should_compute_output(i));
    unpack_onto(stack, needs, recorded);
    registered->backward->callBoxed(&stack);
    variable_list grads = flat(stack);
    if (once) refuse(grads, behind);
    return grads;
  }

  // The gradients of the outputs, in the shape of the schema's returns. Missing ones
  // are filled in here, where the shapes of the outputs are known even if they are
  // symbols. A list has no holes.
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

  // Puts what was saved, the plan, the needs and the op's arguments onto the stack.
  void unpack_onto(Stack& stack, const c10::List<bool>& needs, bool recorded) {
    c10::List<at::Tensor> tensors;
    variable_list inputs;
    unpack(recorded, [&](size_t i, at::Tensor&& t) {
      if (i < plan.n_saved())
        tensors.push_back(std::move(t));
      else
        inputs.push_back(std::move(t));
    });
    stack.emplace_back(std::move(tensors));
    stack.emplace_back(plan.ints);
    stack.emplace_back(needs);
    size_t i = 0;
    const auto next = [&](const at::Tensor&) { return inputs.at(i++); };
    for (const IValue& arg : args) stack.push_back(map_tensors(arg, next));
  }

  const OpPtr registered;
  const Name function;
  const Plan plan;
  std::vector<ptrdiff_t> lengths;  // of the outputs; -1 for a single tensor
  Stack args;                      // with some tensor wherever there was one
};

// An argument as a node may hold it for good: each of its tensors is one without
// memory and history.
IValue emptied(const IValue& arg) {
  return map_tensors(arg, [](const at::Tensor&) { return at::empty({0}, at::kCPU); });
}

c10::List<bool> needs_of(const variable_list& x) {
  c10::List<bool> needs;
  for (const at::Tensor& t : x) needs.push_back(t.defined() && t.requires_grad());
  return needs;
}

// The saved tensor of a source.
at::Tensor saved_tensor(const Plan::Source& source, const variable_list& x, const variable_list& y,
                        const c10::List<at::Tensor>& others) {
  switch (source.kind) {
    case TF_INPUT:
      return x.at(source.index);
    case TF_OUTPUT:
    case TF_CONSTANT_OUTPUT:
      return y.at(source.index);
    default:
      TORCH_CHECK(source.index < others.size(), "a plan names a tensor that is not there");
      return others.get(source.index);
  }
}

// Saves what the plan says, and behind it the inputs: those that backward uses, and
// stand-ins for the others.
void save(DispatchNode& node, const variable_list& x, const variable_list& y,
          const c10::List<at::Tensor>& others) {
  const Plan& plan = node.plan;
  std::vector<bool> is_used(x.size(), plan.second_order() == TF_RECOMPUTED);
  for (size_t i = 0; i < plan.n_saved(); ++i) {
    const Plan::Source source = plan.source(i);
    const bool input = source.kind == TF_INPUT;
    const at::Tensor t = saved_tensor(source, x, y, others);
    const bool intermediate =
        source.kind == TF_INTERMEDIATE && torch::autograd::isDifferentiableType(t.scalar_type());
    node.save(t, source.kind == TF_OUTPUT,
              input ? static_cast<ptrdiff_t>(source.index) : ptrdiff_t{-1}, intermediate);
    if (input) is_used[source.index] = true;
  }
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i].defined())
      node.save(is_used[i] ? x[i] : stand_in(x[i]), false,
                is_used[i] ? static_cast<ptrdiff_t>(i) : ptrdiff_t{-1}, false);
}

// Makes a node the history of what the forward op returned.
void record(const OpPtr& op, Name function, Stack& results, const Stack& args) {
  const variable_list x = inputs_of(*op, args);
  const auto node = hold(
      new DispatchNode(op, function, torch::autograd::collect_next_edges(x), Plan(results.back())));
  const Plan& plan = node->plan;
  variable_list y;
  for (size_t i = 0; i < op->n_outputs(); ++i) {
    const bool list = !results[i].isTensor();
    node->lengths.push_back(list ? static_cast<ptrdiff_t>(results[i].toListRef().size()) : -1);
    visit_tensors(results[i], [&](const at::Tensor& t) {
      if (t.defined() && plan.differentiable(y.size()))
        torch::autograd::set_history(t, node);
      else
        node->add_input_metadata(Node::undefined_input());
      y.push_back(t);
    });
  }
  IValue& others = results[results.size() - 2];
  save(*node, x, y, others.toTensorList());
  for (const IValue& arg : args) node->args.push_back(emptied(arg));
  // An outer level that differentiates what this saved must not lose the way through
  // it.
  size_t i = 0;
  const auto lost = [&](const at::Tensor& t) {
    const size_t position = i++;
    for (size_t s = 0; s < plan.n_saved(); ++s) {
      const Plan::Source source = plan.source(s);
      if (source.kind == TF_INTERMEDIATE && source.index == position &&
          torch::autograd::isDifferentiableType(t.scalar_type()))
        return node->refused(t, edge_list(node->next_edges()), static_cast<ptrdiff_t>(s));
    }
    return t;
  };
  others = map_tensors(others, lost);
}

// Sets the outputs' tangents to those that the op's jvp makes.
void set_tangents(const OpPtr& op, Stack& results, const Stack& args) {
  // An input without a tangent has an undefined one: Rust fills it in.
  const auto tangent = [](const at::Tensor& t) { return t._fw_grad(/*level=*/0); };
  const auto primal = [](const at::Tensor& t) { return t._fw_primal(/*level=*/0); };
  const Plan plan(results.back());
  const variable_list x = inputs_of(*op, args);
  const variable_list y = flat(Values(results).slice(0, op->n_outputs()));
  const auto others = results[results.size() - 2].toTensorList();
  c10::List<at::Tensor> saved;
  for (size_t i = 0; i < plan.n_saved(); ++i)
    saved.push_back(primal(saved_tensor(plan.source(i), x, y, others)));
  Stack values;
  for (size_t i = 0; i < args.size(); ++i)
    if (holds_tensors(op->schema.arguments()[i])) values.push_back(map_tensors(args[i], tangent));
  for (size_t i = 0; i < op->n_outputs(); ++i) values.push_back(results[i]);
  values.emplace_back(std::move(saved));
  values.emplace_back(plan.ints);
  values.emplace_back(needs_of(x));
  for (const IValue& arg : args) values.push_back(map_tensors(arg, primal));
  const variable_list dy = flat(op->call(TF_JVP, values));
  for (size_t k = 0; k < y.size(); ++k)
    if (dy[k].defined()) y[k]._set_fw_grad(dy[k], /*level=*/0, /*is_inplace_op=*/false);
}

void call_below(const c10::OperatorHandle& handle, Stack* stack) {
  const at::AutoDispatchBelowADInplaceOrView below;
  handle.callBoxed(stack);
}

// Runs the forward op below this level and records it, or sets tangents, at this one.
// Null if this level has nothing to do.
std::optional<Stack> forward(const OpPtr& op, const tf_facts& facts, const Stack& args) {
  const bool recorded = c10::GradMode::is_enabled() && requires_grad(args);
  const bool dual = has_tangents(args);
  if (!recorded && !dual) return std::nullopt;
  TORCH_CHECK(op->forward, op->name,
              ": it changes an argument in place, and its gradient is "
              "not there under torch.compile, torch.func or a mode of PyTorch's; register a "
              "form that returns a new tensor, or call it under no_grad");
  // Copies the lists, since libtorch's fallback for lazily negated tensors puts other
  // tensors into the lists that it is given.
  Stack results;
  const auto same = [](const at::Tensor& t) { return t; };
  for (const IValue& arg : args) results.push_back(map_tensors(arg, same));
  results.emplace_back(needs_of(inputs_of(*op, args)));
  call_below(*op->forward, &results);
  if (recorded) record(op, {facts.name, facts.name_len}, results, args);
  if (dual) set_tangents(op, results, args);
  return results;
}

// The op itself.
struct Public : OpKernel {
  using OpKernel::OpKernel;
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack) {
    if (!is_watched(keys)) {
      Stack results = op->call(TF_APPLY, torch::jit::last(*stack, op->n_args()));
      torch::jit::drop(*stack, op->n_args());
      return give(*stack, std::move(results));
    }
    Stack args = take(*stack, op->n_args());
    const tf_facts facts = op->facts(args);
    if (facts.casts) op->cast_inputs(args);
    if (auto results = forward(op, facts, args)) {
      results->resize(op->n_outputs());
      return give(*stack, *std::move(results));
    }
    give(*stack, std::move(args));
    call_below(handle, stack);
  }
};

// The forward op of a registered op, at an outer level of torch.func.
struct Forward : OpKernel {
  using OpKernel::OpKernel;
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
    Stack args = take(*stack, op->n_args() + 1);
    const IValue needs = std::move(args.back());
    args.pop_back();
    if (auto results = forward(op, op->facts(args), args)) {
      const Plan plan(results->back());
      for (size_t i = 0; i < plan.n_saved(); ++i)
        TORCH_CHECK(!has_tangents(args) || plan.source(i).kind != TF_INTERMEDIATE, op->name,
                    ": it saves a tensor that is neither an input nor an output, so forward mode "
                    "over reverse mode does not go through it; use reverse mode twice");
      return give(*stack, *std::move(results));
    }
    give(*stack, std::move(args));
    stack->push_back(needs);
    call_below(handle, stack);
  }
};

// The backward op. If it may be differentiated itself, libtorch records what
// the user's backward does, unless that is differentiable once.
struct Backward : OpKernel {
  using OpKernel::OpKernel;
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
    const size_t n = handle.schema().arguments().size();
    const auto args = torch::jit::last(*stack, n);
    const bool recorded = c10::GradMode::is_enabled() && requires_grad(args);
    if (!recorded && !has_tangents(args)) return call_below(handle, stack);
    const bool once = Plan(args.at(op->n_outputs() + 1)).second_order() == TF_ONCE;
    std::optional<Stack> results;
    if (!once || !recorded)
      results = op->try_call(TF_BACKWARD_ABOVE, args,
                             [&](bool no_formula) { return no_formula && recorded; });
    if (results) {
      torch::jit::drop(*stack, n);
      return give(*stack, *std::move(results));
    }
    // Or the backward is a kernel: its results are right, and refuse to be differentiated.
    const edge_list edges = torch::autograd::collect_next_edges(flat(args));
    const tf_facts facts = op->facts(args.slice(n - op->n_args()));
    call_below(handle, stack);
    results = take(*stack, handle.schema().returns().size());
    const auto refused = [&](const at::Tensor& t) {
      return refusing(t, edge_list(edges), op->rust.errors, {facts.name, facts.name_len}, -1);
    };
    for (IValue& result : *results) result = map_tensors(result, refused);
    give(*stack, *std::move(results));
  }
};

}  // namespace

bool is_watched(c10::DispatchKeySet keys) { return !(keys & kWatched).empty(); }

c10::KernelFunction autograd_of(const OpPtr& op, tf_kernel kernel) {
  switch (kernel) {
    case TF_FORWARD:
      return kernel_of<Forward>(op);
    case TF_BACKWARD:
      return kernel_of<Backward>(op);
    default:
      return kernel_of<Public>(op);
  }
}

}  // namespace tf
