// Hooks on tensors and nodes of libtorch's autograd that call Rust.
#include "guard.h"
#include "lasting_mutex.h"
#include "node_ptr.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

using torch::autograd::FunctionPostHook;
using torch::autograd::FunctionPreHook;
using tf::NodePtr;
using torch::autograd::variable_list;

// Owns a hook of Rust's.
struct RustHook {
  explicit RustHook(const tf_hook& what)
      : what(what) {}
  ~RustHook() { what.drop(what.state); }
  RustHook(const RustHook&) = delete;
  RustHook& operator=(const RustHook&) = delete;
  const tf_hook what;
};

using RustHookPtr = std::shared_ptr<const RustHook>;

// The nodes whose hooks run on this thread, one inside the other.
class Running {
 public:
  Running()
      : node_(torch::autograd::get_current_node()), outer_(innermost) {
    innermost = this;
  }
  ~Running() { innermost = outer_; }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  static bool is(const NodePtr& node) {
    if (torch::autograd::get_current_node() == node) return true;
    for (const Running* at = innermost; at; at = at->outer_)
      if (at->node_ == node) return true;
    return false;
  }

 private:
  static thread_local Running* innermost;
  const NodePtr node_;
  Running* const outer_;
};
thread_local Running* Running::innermost = nullptr;

// Hooks of Rust's that stand beside each other in one of libtorch's lists. Passes go
// through that list without a lock, so only the first of them is put into it; the others
// come and go here.
class Hooks {
 public:
  void add(RustHookPtr hook) {
    const std::lock_guard<std::mutex> lock(mutex_);
    hooks_.push_back(std::move(hook));
  }
  void remove(const RustHook* hook) {
    RustHookPtr removed;  // dropped without the lock: that runs user code
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto at = std::find_if(hooks_.begin(), hooks_.end(),
                                 [&](const RustHookPtr& known) { return known.get() == hook; });
    if (at == hooks_.end()) return;
    removed = std::move(*at);
    hooks_.erase(at);
  }
  bool is_empty() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return hooks_.empty();
  }

  // `grads` after the hooks.
  variable_list run(const variable_list& grads, const variable_list& seen) const {
    const Running running;
    variable_list changed = grads;
    for (const RustHookPtr& hook : copy()) {  // they may add and remove hooks
      std::vector<at::Tensor*> handles;
      for (at::Tensor& grad : changed) handles.push_back(&grad);
      std::vector<const at::Tensor*> others;
      for (const at::Tensor& t : seen) others.push_back(&t);
      const tf_hook& what = hook->what;
      void* error =
          what.call(what.state, handles.data(), handles.size(), others.data(), others.size());
      if (error) throw tf::RustError(what.callbacks, error);
    }
    return changed;
  }

 private:
  std::vector<RustHookPtr> copy() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return hooks_;
  }

  mutable std::mutex mutex_;
  std::vector<RustHookPtr> hooks_;
};
using HooksPtr = std::shared_ptr<Hooks>;

// Hooks of a tensor, as libtorch keeps them.
struct TensorHook {
  at::TensorBase operator()(const at::TensorBase& grad) const {
    const HooksPtr held = hooks;  // libtorch may let go of this meanwhile
    return held->run({at::Tensor(grad)}, {})[0];
  }
  HooksPtr hooks;
};

struct PreHook : FunctionPreHook {
  explicit PreHook(HooksPtr hooks)
      : hooks(std::move(hooks)) {}
  variable_list operator()(const variable_list& grads) override { return hooks->run(grads, {}); }
  const HooksPtr hooks;
};

struct PostHook : FunctionPostHook {
  explicit PostHook(HooksPtr hooks)
      : hooks(std::move(hooks)) {}
  variable_list operator()(const variable_list& grad_inputs,
                           const variable_list& grad_outputs) override {
    return hooks->run(grad_inputs, grad_outputs);
  }
  const HooksPtr hooks;
};

const HooksPtr* ours(const std::function<at::TensorBase(const at::TensorBase&)>& hook) {
  const auto* own = hook.target<TensorHook>();
  return own ? &own->hooks : nullptr;
}
const HooksPtr* ours(const std::unique_ptr<FunctionPreHook>& hook) {
  const auto* own = dynamic_cast<const PreHook*>(hook.get());
  return own ? &own->hooks : nullptr;
}
const HooksPtr* ours(const std::unique_ptr<FunctionPostHook>& hook) {
  const auto* own = dynamic_cast<const PostHook*>(hook.get());
  return own ? &own->hooks : nullptr;
}

// Our hooks at the end of a list, after which another one runs; null if there are none.
template <typename List>
HooksPtr last_of(const List& list) {
  const HooksPtr* const last = list.empty() ? nullptr : ours(list.back());
  return last ? *last : nullptr;
}

// A hook that was registered.
struct Registered {
  HooksPtr hooks;
  std::weak_ptr<const RustHook> hook;
};

void* registered(HooksPtr&& hooks, RustHookPtr&& hook) {
  auto handle = std::make_unique<Registered>(Registered{hooks, hook});
  hooks->add(std::move(hook));
  return handle.release();
}

// Hooks are added, and libtorch's lists of them are read, by one thread at a time.
std::unique_lock<std::mutex> only_here() {
  return std::unique_lock<std::mutex>(tf::lasting_mutex<struct HooksLock>());
}

// libtorch goes through the node's lists of hooks, which must not grow meanwhile.
void check_is_not_running(const NodePtr& node) {
  TORCH_CHECK(!node || !Running::is(node),
              "a hook is added to a node that runs on this thread; add it before the pass");
}

const std::vector<std::function<at::TensorBase(const at::TensorBase&)>>* hooks_of(
    const at::Tensor& t) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(t);
  return meta ? meta->cpp_hooks_list_.get() : nullptr;
}

}  // namespace

void* tf_register_hook(const at::Tensor* t, const tf_hook* what) noexcept {
  RustHookPtr hook = std::make_shared<RustHook>(*what);  // dropped on failure too
  return tf::guarded(static_cast<void*>(nullptr), [&]() -> void* {
    TORCH_CHECK(t->requires_grad(),
                "cannot register a hook on a tensor that doesn't require gradient");
    if (!t->is_leaf()) check_is_not_running(t->grad_fn());
    const auto lock = only_here();
    const auto* list = hooks_of(*t);
    HooksPtr hooks = list ? last_of(*list) : nullptr;
    if (!hooks) {
      hooks = std::make_shared<Hooks>();
      // The base's own method keeps the type, which `ours` asks for.
      static_cast<const at::TensorBase&>(*t).register_hook(TensorHook{hooks});
    }
    return registered(std::move(hooks), std::move(hook));
  });
}

bool tf_has_hooks(const at::Tensor* leaf) noexcept {
  return tf::guarded(true, [&] {
    if (torch::autograd::impl::hooks(*leaf).empty()) return false;
    const auto lock = only_here();
    // C++'s hooks on one tensor are one list, which counts as one hook.
    const auto* list = hooks_of(*leaf);
    if (!list || torch::autograd::impl::hooks(*leaf).size() > 1) return true;
    return std::any_of(list->begin(), list->end(), [](const auto& hook) {
      const HooksPtr* const own = ours(hook);
      return hook && !(own && (*own)->is_empty());
    });
  });
}

void* tf_register_node_hook(const void* node, bool before, const tf_hook* what) noexcept {
  RustHookPtr hook = std::make_shared<RustHook>(*what);  // dropped on failure too
  return tf::guarded(static_cast<void*>(nullptr), [&]() -> void* {
    const NodePtr& held = *static_cast<const NodePtr*>(node);
    check_is_not_running(held);
    const auto lock = only_here();
    HooksPtr hooks = before ? last_of(held->pre_hooks()) : last_of(held->post_hooks());
    if (!hooks) {
      hooks = std::make_shared<Hooks>();
      if (before)
        held->add_pre_hook(std::make_unique<PreHook>(hooks));
      else
        held->add_post_hook(std::make_unique<PostHook>(hooks));
    }
    return registered(std::move(hooks), std::move(hook));
  });
}

void tf_remove_hook(const void* registered) noexcept {
  const auto* what = static_cast<const Registered*>(registered);
  const RustHookPtr hook = what->hook.lock();
  if (hook) what->hooks->remove(hook.get());
}

void tf_drop_registered(void* registered) noexcept { delete static_cast<Registered*>(registered); }

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
