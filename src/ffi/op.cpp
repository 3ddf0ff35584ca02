// What the kernels of a Rust op run, and how: with which dispatch keys, and on what sizes.
#include "dispatcher.h"
#include "python.h"
#include "shim.h"
#include "values.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/alias.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <optional>
#include <utility>
#include <vector>

namespace tf {
namespace {

bool is_symbolic(const at::Tensor& t) {
  return t.defined() && t.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

// A tensor without data whose sizes are the ones that the symbols have now.
at::Tensor specialised(const at::Tensor& t) {
  if (!is_symbolic(t)) return t;
  const auto plain = [](c10::SymIntArrayRef symbols) {
    std::vector<int64_t> out;
    for (const c10::SymInt& s : symbols) out.push_back(s.guard_int(__FILE__, __LINE__));
    return out;
  };
  return at::empty_strided(plain(t.sym_sizes()), plain(t.sym_strides()), t.options());
}

// Whether no tensor wraps another one, and the schema is that of a function: what runs
// on such values may record, as outside of ops.
bool are_plain(const Op& op, Values values, c10::DispatchKeySet excluded) {
  // A fake tensor is a plain one inside of its mode.
  const auto ignored = excluded & c10::python_ks;
  bool plain = !op.mutates && !c10::InferenceMode::is_enabled();
  visit_all(values, [&](const at::Tensor& t) {
    const auto keys = t.defined() ? t.key_set() - ignored : c10::DispatchKeySet();
    plain &= !is_watched(keys) && !keys.has(c10::DispatchKey::Batched);
  });
  return plain;
}

// Whether a tensor is one of a level of torch.func. libtorch's rules for batches make views
// of what is inside, which must not be counted a second time.
bool are_of_levels(Values values) {
  bool found = false;
  visit_all(values, [&](const at::Tensor& t) {
    const auto keys = t.defined() ? t.key_set() : c10::DispatchKeySet();
    found |= keys.has_any(c10::DispatchKeySet({c10::DispatchKey::FuncTorchBatched,
                                               c10::DispatchKey::FuncTorchGradWrapper}));
  });
  return found;
}

// Lets user code run as above autograd, whose keys are excluded below it: the checks of
// the context rest on the versions of tensors, and a pass of the code's own on records.
class AsAbove {
 public:
  AsAbove(const Op& op, Values values) {
    const auto local = c10::impl::tls_local_dispatch_key_set();
    if ((local.excluded_ & kAutograd).empty() || are_of_levels(values)) return;
    const auto counted = are_plain(op, values, local.excluded_)
                             ? kAutograd
                             : c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView);
    guard_.emplace(local.included_, local.excluded_ - counted);
  }

 private:
  static constexpr auto kAutograd = c10::autograd_dispatch_keyset_with_ADInplaceOrView;
  std::optional<c10::impl::ForceDispatchKeyGuard> guard_;
};

// The results as code below autograd makes them: without histories, and no views.
Stack as_below(const Op& op, Stack&& results, Values args) {
  if (op.mutates) return std::move(results);
  const at::AutoDispatchBelowADInplaceOrView below;
  const auto bare = [&](const at::Tensor& t) {
    bool given = !t.is_view() && !t.requires_grad();
    visit_all(args, [&](const at::Tensor& arg) { given |= t.is_same(arg); });
    return given ? t : at::alias(t);
  };
  for (IValue& result : results) result = map_tensors(result, bare);
  return std::move(results);
}

}  // namespace

void* Op::run(tf_kernel kernel, Values values, Stack& results, bool& no_formula) const {
  const AsAbove above(*this, values);
  const Borrowed borrowed(values);
  const Unlocked unlocked;
  void* const error =
      rust.call(rust.state, kernel, borrowed.data(), borrowed.size(), &results, &no_formula);
  // tch's calls turn an exception of Python's into an `Err`, and leave it pending.
  PythonError::take();
  return error;
}

Stack Op::compute(tf_kernel kernel, Values values) const {
  const c10::NoGradGuard unrecorded;
  const c10::AutoFwGradMode untangented(false);
  bool symbolic = false;
  visit_all(values, [&](const at::Tensor& t) { symbolic |= is_symbolic(t); });
  if (!symbolic) return as_below(*this, call(kernel, values), values);
  // Code that asks for sizes has none while they are symbols.
  std::optional<Stack> results = try_call(kernel, values, [](bool) { return true; });
  if (results) return as_below(*this, *std::move(results), values);
  Stack plain;
  for (const IValue& value : values) plain.push_back(map_tensors(value, specialised));
  return as_below(*this, call(kernel, plain), plain);
}

tf_facts Op::facts(Values args) const {
  const Borrowed borrowed(args);
  tf_facts facts{name.data(), name.size(), false, false};
  rust.facts(rust.state, borrowed.data(), borrowed.size(), &facts);
  return facts;
}

void Op::cast_inputs(Stack& args) const {
  Stack converted = call(TF_CAST, args);
  size_t next = 0;
  for (size_t i = 0; i < args.size(); ++i)
    if (holds_tensors(schema.arguments()[i])) {
      IValue& value = converted.at(next++);
      const bool absent = value.isTensor() && !value.toTensor().defined();
      if (!absent) args[i] = std::move(value);
    }
}

}  // namespace tf
