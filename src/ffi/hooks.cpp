// Hooks on tensors and nodes of libtorch's autograd that call Rust.
#include "guard.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using torch::autograd::FunctionPostHook;
using torch::autograd::FunctionPreHook;
using torch::autograd::variable_list;

// Owns a hook of Rust's.
class Hook {
 public:
  explicit Hook(const tf_hook& hook)
      : hook_(hook) {}
  ~Hook() { hook_.drop(hook_.state); }
  Hook(const Hook&) = delete;
  Hook& operator=(const Hook&) = delete;

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

bool tf_register_hook(const at::Tensor* t, tf_hook_place place, const tf_hook* what) noexcept {
  const auto hook = std::make_shared<Hook>(*what);  // dropped on failure too
  return tf::guarded(false, [&] {
    switch (place) {
      case TF_TENSOR:
        t->register_hook(
            [hook](const at::Tensor& grad) -> at::Tensor { return hook->run({grad}, {})[0]; });
        break;
      case TF_NODE_PRE:
        t->grad_fn()->add_pre_hook(std::make_unique<PreHook>(hook));
        break;
      case TF_NODE_POST:
        t->grad_fn()->add_post_hook(std::make_unique<PostHook>(hook));
        break;
    }
    return true;
  });
}

void tf_assign(at::Tensor* to, const at::Tensor* from) noexcept { *to = *from; }

void tf_grad_fn_name(const at::Tensor* t, void (*take)(void*, const char*, size_t),
                     void* data) noexcept {
  tf::guarded(false, [&] {
    if (!t->defined()) return false;
    if (const auto& node = t->grad_fn()) {
      const std::string name = node->name();
      take(data, name.data(), name.size());
    }
    return true;
  });
}
