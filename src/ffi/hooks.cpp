// Hooks on tensors and nodes of libtorch's autograd that call Rust.
#include "guard.h"
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

// The place of a hook in one of libtorch's lists. Passes go through the lists without a
// lock, so nothing is taken out of them: a hook that is removed leaves its place empty, for
// the next one.
class Place {
 public:
  bool is_empty() const { return !held(); }
  void fill(std::shared_ptr<RustHook> hook) {
    const std::lock_guard<std::mutex> lock(mutex_);
    hook_ = std::move(hook);
  }
  void clear() {
    std::shared_ptr<RustHook> was;  // dropped without the lock: that runs user code
    const std::lock_guard<std::mutex> lock(mutex_);
    was.swap(hook_);
  }

  // `grads` after the hook.
  variable_list run(const variable_list& grads, const variable_list& seen) const {
    const std::shared_ptr<RustHook> hook = held();  // it may remove itself
    if (!hook) return grads;
    variable_list changed = grads;
    std::vector<at::Tensor*> handles;
    for (at::Tensor& grad : changed) handles.push_back(&grad);
    std::vector<const at::Tensor*> others;
    for (const at::Tensor& t : seen) others.push_back(&t);
    const tf_hook& what = hook->what;
    void* error =
        what.call(what.state, handles.data(), handles.size(), others.data(), others.size());
    if (error) throw tf::RustError(what.callbacks, error);
    return changed;
  }

 private:
  std::shared_ptr<RustHook> held() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return hook_;
  }

  mutable std::mutex mutex_;
  std::shared_ptr<RustHook> hook_;
};
using PlacePtr = std::shared_ptr<Place>;

// A hook on a tensor, as libtorch keeps it.
struct TensorHook {
  at::TensorBase operator()(const at::TensorBase& grad) const {
    const PlacePtr held = place;  // the hook may add others, which moves this
    return held->run({at::Tensor(grad)}, {})[0];
  }
  PlacePtr place;
};

struct PreHook : FunctionPreHook {
  explicit PreHook(PlacePtr place)
      : place(std::move(place)) {}
  variable_list operator()(const variable_list& grads) override { return place->run(grads, {}); }
  const PlacePtr place;
};

struct PostHook : FunctionPostHook {
  explicit PostHook(PlacePtr place)
      : place(std::move(place)) {}
  variable_list operator()(const variable_list& grad_inputs,
                           const variable_list& grad_outputs) override {
    return place->run(grad_inputs, grad_outputs);
  }
  const PlacePtr place;
};

const PlacePtr* place_of(const std::function<at::TensorBase(const at::TensorBase&)>& hook) {
  const auto* ours = hook.target<TensorHook>();
  return ours ? &ours->place : nullptr;
}
const PlacePtr* place_of(const std::unique_ptr<FunctionPreHook>& hook) {
  const auto* ours = dynamic_cast<const PreHook*>(hook.get());
  return ours ? &ours->place : nullptr;
}
const PlacePtr* place_of(const std::unique_ptr<FunctionPostHook>& hook) {
  const auto* ours = dynamic_cast<const PostHook*>(hook.get());
  return ours ? &ours->place : nullptr;
}

// The first of the empty places at the end of a list, where a hook runs after all others;
// null if the last hook of the list is one that runs.
template <typename List>
PlacePtr free_place(const List& list) {
  PlacePtr found;
  for (auto hook = list.rbegin(); hook != list.rend(); ++hook) {
    const PlacePtr* const place = place_of(*hook);
    if (!place || !(*place)->is_empty()) break;
    found = *place;
  }
  return found;
}

// Hooks are added, and libtorch's lists of them are read, by one thread at a time.
std::unique_lock<std::mutex> only_here() {
  static std::mutex& mutex = *new std::mutex;  // threads may outlive the statics
  return std::unique_lock<std::mutex>(mutex);
}

// libtorch goes through the node's lists of hooks, which must not grow meanwhile.
void check_is_not_running(const NodePtr& node) {
  TORCH_CHECK(!node || torch::autograd::get_current_node() != node,
              "a hook is added to a node that runs on this thread; add it before the pass");
}

const std::vector<std::function<at::TensorBase(const at::TensorBase&)>>* hooks_of(
    const at::Tensor& t) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(t);
  return meta ? meta->cpp_hooks_list_.get() : nullptr;
}

}  // namespace

void* tf_register_hook(const at::Tensor* t, const tf_hook* what) noexcept {
  auto hook = std::make_shared<RustHook>(*what);  // dropped on failure too
  return tf::guarded(static_cast<void*>(nullptr), [&]() -> void* {
    if (!t->is_leaf()) check_is_not_running(t->grad_fn());
    const auto lock = only_here();
    const auto* list = hooks_of(*t);
    PlacePtr place = list ? free_place(*list) : nullptr;
    if (!place) {
      place = std::make_shared<Place>();
      // The base's own method keeps the type, which `place_of` asks for.
      static_cast<const at::TensorBase&>(*t).register_hook(TensorHook{place});
    }
    place->fill(std::move(hook));
    return new PlacePtr(std::move(place));
  });
}

bool tf_has_hooks(const at::Tensor* leaf) noexcept {
  return tf::guarded(true, [&] {
    const auto lock = only_here();
    const size_t n_hooks = torch::autograd::impl::hooks(*leaf).size();
    if (n_hooks == 0) return false;
    // C++'s hooks on one tensor are one list, which counts as one hook.
    const auto* list = hooks_of(*leaf);
    if (!list || n_hooks > 1) return true;
    return std::any_of(list->begin(), list->end(), [](const auto& hook) {
      const PlacePtr* const place = place_of(hook);
      return hook && !(place && (*place)->is_empty());
    });
  });
}

void* tf_register_node_hook(const void* node, bool before, const tf_hook* what) noexcept {
  auto hook = std::make_shared<RustHook>(*what);  // dropped on failure too
  return tf::guarded(static_cast<void*>(nullptr), [&]() -> void* {
    const NodePtr& held = *static_cast<const NodePtr*>(node);
    check_is_not_running(held);
    const auto lock = only_here();
    PlacePtr place = before ? free_place(held->pre_hooks()) : free_place(held->post_hooks());
    if (!place) {
      place = std::make_shared<Place>();
      if (before)
        held->add_pre_hook(std::make_unique<PreHook>(place));
      else
        held->add_post_hook(std::make_unique<PostHook>(place));
    }
    place->fill(std::move(hook));
    return new PlacePtr(std::move(place));
  });
}

void tf_remove_hook(const void* place) noexcept { (*static_cast<const PlacePtr*>(place))->clear(); }

void tf_drop_hook_place(void* place) noexcept { delete static_cast<PlacePtr*>(place); }

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
