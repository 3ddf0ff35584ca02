// Storages that a kernel works on: held, and not to be resized meanwhile.
#include "guard.h"
#include "lasting_mutex.h"
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/impl/COW.h>

#include <mutex>
#include <unordered_map>
#include <utility>

namespace {

using StoragePtr = c10::intrusive_ptr<c10::StorageImpl>;

// The storages of all kernels that run, on all threads. A storage may be pinned more than
// once, so its own flag is not enough to know when it may be resized again.
class Pins {
 public:
  void add(c10::StorageImpl& storage) {
    const std::lock_guard<std::mutex> lock(tf::lasting_mutex<Pins>());
    const auto [entry, fresh] = pinned_.try_emplace(&storage);
    if (fresh) entry->second.was_resizable = storage.resizable();
    ++entry->second.count;
    storage.set_resizable(false);
  }

  void remove(c10::StorageImpl& storage) noexcept {
    const std::lock_guard<std::mutex> lock(tf::lasting_mutex<Pins>());
    const auto entry = pinned_.find(&storage);
    if (--entry->second.count > 0) return;
    // What another thread has moved to shared memory meanwhile has no allocator.
    if (entry->second.was_resizable && storage.allocator()) storage.set_resizable(true);
    pinned_.erase(entry);
  }

  static Pins& all() {
    static Pins* const pins = new Pins;  // threads may outlive the statics
    return *pins;
  }

 private:
  struct Pinned {
    size_t count = 0;
    bool was_resizable = false;
  };
  std::unordered_map<c10::StorageImpl*, Pinned> pinned_;
};

struct Pin {
  explicit Pin(StoragePtr held)
      : storage(std::move(held)) {
    // Who writes to memory that is shared until then moves away from it; the clone keeps it.
    if (c10::impl::cow::is_cow_data_ptr(storage->data_ptr()))
      shared = c10::impl::cow::lazy_clone_storage(*storage);
    Pins::all().add(*storage);
  }
  ~Pin() { Pins::all().remove(*storage); }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

  StoragePtr storage;
  StoragePtr shared;
};

}  // namespace

bool tf_pin(const at::Tensor* t, void** pin) noexcept {
  return tf::guarded(false, [&] {
    *pin = nullptr;
    if (t->defined() && t->has_storage())
      *pin = new Pin(StoragePtr::reclaim_copy(t->storage().unsafeGetStorageImpl()));
    return true;
  });
}

void tf_unpin(void* pin) noexcept { delete static_cast<Pin*>(pin); }
