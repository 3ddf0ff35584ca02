// Hooks on tensors and nodes of libtorch's autograd that call Rust.
#include "guard.h"
#include "node_ptr.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using torch::autograd::FunctionPostHook;
using torch::autograd::FunctionPreHook;
using tf::NodePtr;
using torch::autograd::variable_list;

// Owns a hook of Rust's.
class Hook {
 public:
  explicit Hook(const tf_hook& hook)
      : hook_(hook) {}
  ~Hook() { hook_.drop(hook_.state); }
  Hook(const Hook&) = delete;
  Hook& operator=(const Hook&) = delete;

  bool is_removed() const { return hook_.is_removed(hook_.state); }

  // `grads` after the hook.
  variable_list run(const variable_list& grads, const variable_list& seen) const {
    variable_list changed = grads;
    std::vector<at::Tensor*> handles;
    for (at::Tensor& grad : changed) handles.push_back(&grad);
    std::vector<const at::Tensor*> others;
    for (const at::Tensor& t : seen) others.push_back(&t);
    void* error =
        hook_.call(hook_.state, handles.data(), handles.size(), others.data(), others.size());
    if (error) throw tf::RustError(hook_.callbacks, error);
    return changed;
  }

 private:
  tf_hook hook_;
};
using HookPtr = std::shared_ptr<Hook>;

// A hook on a tensor, as libtorch keeps it.
struct TensorHook {
  at::TensorBase operator()(const at::TensorBase& grad) const {
    return hook->run({at::Tensor(grad)}, {})[0];
  }
  HookPtr hook;
};

struct PreHook : FunctionPreHook {
  explicit PreHook(HookPtr hook)
      : hook(std::move(hook)) {}
  variable_list operator()(const variable_list& grads) override { return hook->run(grads, {}); }
  HookPtr hook;
};

struct PostHook : FunctionPostHook {
  explicit PostHook(HookPtr hook)
      : hook(std::move(hook)) {}
  variable_list operator()(const variable_list& grad_inputs,
                           const variable_list& grad_outputs) override {
    return hook->run(grad_inputs, grad_outputs);
  }
  HookPtr hook;
};

}  // namespace

bool tf_register_hook(const at::Tensor* t, const tf_hook* what) noexcept {
  const auto hook = std::make_shared<Hook>(*what);  // dropped on failure too
  return tf::guarded(false, [&] {
    // The base's own method keeps the type, which `tf_has_hooks` asks for.
    static_cast<const at::TensorBase&>(*t).register_hook(TensorHook{hook});
    return true;
  });
}

bool tf_has_hooks(const at::Tensor* leaf) noexcept {
  return tf::guarded(true, [&] {
    namespace impl = torch::autograd::impl;
    const size_t n_hooks = impl::hooks(*leaf).size();
    if (n_hooks == 0) return false;
    // C++'s hooks on one tensor are one list, which counts as one hook.
    const auto& list = impl::get_autograd_meta(*leaf)->cpp_hooks_list_;
    if (!list || n_hooks > 1) return true;
    return std::any_of(list->begin(), list->end(), [](const auto& call) {
      const auto* ours = call.template target<TensorHook>();
      return call && !(ours && ours->hook->is_removed());
    });
  });
}

bool tf_register_node_hook(const void* node, bool before, const tf_hook* what) noexcept {
  auto hook = std::make_shared<Hook>(*what);  // dropped on failure too
  return tf::guarded(false, [&] {
    const NodePtr& held = *static_cast<const NodePtr*>(node);
    // libtorch goes through the node's list of hooks, which must not grow meanwhile.
    TORCH_CHECK(torch::autograd::get_current_node() != held,
                "a hook is added to a node that runs on this thread; add it before the pass");
    if (before)
      held->add_pre_hook(std::make_unique<PreHook>(std::move(hook)));
    else
      held->add_post_hook(std::make_unique<PostHook>(std::move(hook)));
    return true;
  });
}

void* tf_grad_fn(const at::Tensor* t) noexcept {
  return tf::guarded(static_cast<void*>(nullptr), [&]() -> void* {
    if (!t->defined()) return nullptr;
    const auto& node = t->grad_fn();
    return node ? new NodePtr(node) : nullptr;
  });
}

void tf_drop_node(void* node) noexcept { delete static_cast<NodePtr*>(node); }

void tf_assign(at::Tensor* to, const at::Tensor* from) noexcept { *to = *from; }

void tf_node_name(const void* node, void (*take)(void*, const char*, size_t),
                  void* data) noexcept {
  tf::guarded(false, [&] {
    const std::string name = (*static_cast<const NodePtr*>(node))->name();
    take(data, name.data(), name.size());
    return true;
  });
}
