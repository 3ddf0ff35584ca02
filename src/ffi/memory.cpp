// The memory of tensors, for the kernel module.
#include "guard.h"
#include "large_memory.h"
#include "shim.h"
#include "small_memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/TracerMode.h>
#include <ATen/core/Tensor.h>
#include <c10/core/AutogradState.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

namespace {

using tf::guarded;

// The keys of a plain dense CPU tensor; any other key changes what its memory
// means, or says that there is none.
bool is_plain(const at::Tensor& t) {
  using c10::DispatchKey;
  static const uint64_t plain =
      c10::DispatchKeySet({DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::ADInplaceOrView,
                           DispatchKey::AutocastCPU})
          .raw_repr();
  return (t.key_set().raw_repr() & ~plain) == 0;
}

tf_unfit why_not_plain(const at::Tensor& t) {
  using c10::DispatchKey;
  const auto keys = t.key_set();
  if (t.is_meta() || keys.has(DispatchKey::Python)) return TF_NO_DATA;
  if (!t.is_cpu()) return TF_OTHER_DEVICE;
  if (t.is_quantized()) return TF_QUANTISED;
  if (t.layout() != at::kStrided) return TF_NOT_STRIDED;
  if (keys.has(DispatchKey::Conjugate) || keys.has(DispatchKey::Negative)) return TF_LAZY;
  return TF_NO_DATA;
}

// Another handle can have made the storage smaller. The last element of the
// contiguous is the `count`th.
bool in_storage(const at::Tensor& t, bool contiguous) {
  const auto room = static_cast<int64_t>(t.storage().nbytes() / t.itemsize());
  if (contiguous) return t.storage_offset() <= room && t.numel() <= room - t.storage_offset();
  int64_t last = t.storage_offset();
  for (int64_t i = 0; i < t.dim(); ++i) {
    int64_t step;
    if (__builtin_mul_overflow(t.sizes()[i] - 1, t.strides()[i], &step) ||
        __builtin_add_overflow(last, step, &last))
      return false;
  }
  return last < room;
}

// Whether sums and products of sizes and strides in bytes are exact, those too that lead
// to no element.
bool is_countable(const at::Tensor& t) {
  int64_t all = 0;
  for (int64_t i = 0; i < t.dim(); ++i) {
    int64_t step;
    if (t.strides()[i] < 0 ||
        __builtin_mul_overflow(std::max<int64_t>(t.sizes()[i], 1), t.strides()[i], &step) ||
        __builtin_mul_overflow(step, static_cast<int64_t>(t.itemsize()), &step) ||
        __builtin_add_overflow(all, step, &all))
      return false;
  }
  return true;
}

// To its elements' size; complex ones, of which there are no kernels, to a part.
bool is_aligned(const at::Tensor& t, const void* data) {
  const size_t size = std::min(t.itemsize(), sizeof(double));
  return reinterpret_cast<uintptr_t>(data) % size == 0;
}

bool may_be_followed(const at::Tensor& t) {
  return t.unsafeGetTensorImpl()->autograd_meta() != nullptr;
}

bool is_recorded(const at::Tensor& t) {
  return may_be_followed(t) && c10::GradMode::is_enabled() && t.requires_grad();
}

bool has_tangent(const at::Tensor& t) {
  return may_be_followed(t) && c10::AutogradState::get_tls_state().get_fw_grad_mode() &&
         t._fw_grad(/*level=*/0).defined();
}

// Up to this many bytes, alignment is not worth the room for it.
constexpr size_t kTiny = 512;
// Up to this many bytes malloc is used: libtorch's allocator is posix_memalign,
// which for small tensors costs more than all the rest.
constexpr size_t kSmall = size_t{64} << 10;

// Malloc's block, aligned; what malloc gave stands before it.
struct AlignedMemory {
  static void* take(size_t bytes) {
    static_assert(c10::gAlignment >= alignof(std::max_align_t) + sizeof(void*));
    void* const block = std::malloc(c10::gAlignment + bytes);
    if (!block) throw std::bad_alloc();
    const auto end = reinterpret_cast<uintptr_t>(block) + c10::gAlignment;
    void* const data = reinterpret_cast<void*>(end - end % c10::gAlignment);
    static_cast<void**>(data)[-1] = block;
    return data;
  }
  static void give(void* data) noexcept { std::free(static_cast<void**>(data)[-1]); }
};

// The context of a DataPtr is the data, which libtorch wants of memory that is
// to be copied on write.
template <class Memory>
at::DataPtr from(size_t bytes) {
  void* const data = Memory::take(bytes);
  return {data, data, &Memory::give, at::kCPU};
}

// Memory that is reported to the profiler, as libtorch's own is.
template <class Memory>
struct Reported {
  static void* take(size_t bytes) {
    void* const data = Memory::take(bytes);
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return data;
  }
  static void give(void* data) noexcept {
    c10::profiledCPUMemoryReporter().Delete(data);
    Memory::give(data);
  }
};

at::DataPtr new_data(size_t bytes) try {
  if (bytes <= kTiny) return from<tf::SmallMemory>(bytes);
  if (bytes <= kSmall) return from<Reported<AlignedMemory>>(bytes);
  if (bytes >= tf::LargeMemory::kLeast) return from<Reported<tf::LargeMemory>>(bytes);
  return c10::GetCPUAllocator()->allocate(bytes);
} catch (const std::bad_alloc&) {
  TORCH_CHECK(false, "no memory for a new tensor of ", bytes, " bytes");
}

// One of libtorch's classes, in SmallMemory: its destructor is virtual, so
// that the last owner gives the memory back to where it is from.
template <class Base>
class Small final : public Base {
 public:
  using Base::Base;
  static_assert(std::has_virtual_destructor_v<Base>);
  static void* operator new(size_t size) { return tf::SmallMemory::take(size); }
  static void operator delete(void* object) { tf::SmallMemory::give(object); }
};

using TensorPtr = c10::intrusive_ptr<c10::TensorImpl>;

// Makes a tensor without sizes.
TensorPtr tensor_of(size_t bytes, at::ScalarType type, void** data) {
  auto memory = new_data(bytes);
  *data = memory.get();
  c10::intrusive_ptr<c10::StorageImpl> storage = c10::make_intrusive<Small<c10::StorageImpl>>(
      c10::StorageImpl::use_byte_size_t(), bytes, std::move(memory), c10::GetCPUAllocator(),
      /*resizable=*/true);
  return c10::make_intrusive<Small<c10::TensorImpl>>(c10::Storage(std::move(storage)),
                                                     c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                     c10::scalarTypeToTypeMeta(type));
}

at::Tensor* new_contiguous(at::IntArrayRef sizes, at::ScalarType type, void** data) {
  const auto bytes = at::detail::computeStorageNbytesContiguous(sizes, c10::elementSize(type));
  auto tensor = tensor_of(bytes, type, data);
  tensor->set_sizes_contiguous(sizes);
  return new at::Tensor(std::move(tensor));
}

at::Tensor* new_strided(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type,
                        void** data) {
  const auto bytes = at::detail::computeStorageNbytes(sizes, strides, c10::elementSize(type));
  auto tensor = tensor_of(bytes, type, data);
  tensor->set_sizes_and_strides(sizes, strides);
  return new at::Tensor(std::move(tensor));
}

bool is_one_element(const at::Tensor& t) {
  for (const int64_t stride : t.strides())
    if (stride != 0) return false;
  return true;
}

// Whether a kernel can read `t` without further looks: its shape is that of
// `first`, and it is contiguous or `one` element seen again and again.
bool fits(const at::Tensor& t, const at::Tensor& first, at::ScalarType type, const void** data,
          bool* one) {
  if (!t.defined() || !is_plain(t) || t.scalar_type() != type || t.sizes() != first.sizes())
    return false;
  const bool contiguous = t.is_contiguous();
  *one = !contiguous;
  if (!contiguous && (&t == &first || !is_one_element(t))) return false;
  if (is_recorded(t) || has_tangent(t) || !t.has_storage()) return false;
  *data = t.const_data_ptr();
  return *data && in_storage(t, contiguous);
}

}  // namespace

size_t tf_alike(const at::Tensor* const* x, size_t n_x, int8_t dtype, size_t limit,
                const void** data_x, bool* one_x, at::Tensor** y, size_t n_y,
                void** data_y) noexcept {
  return guarded(size_t{0}, [&]() -> size_t {
    if (at::tracer::impl::is_dispatch_enabled()) return 0;
    const auto type = static_cast<at::ScalarType>(dtype);
    for (size_t i = 0; i < n_x; ++i)
      if (!fits(*x[i], *x[0], type, &data_x[i], &one_x[i])) return 0;
    const auto count = static_cast<size_t>(x[0]->numel());
    if (count == 0 || count > limit) return 0;
    size_t made = 0;
    try {
      for (; made < n_y; ++made) y[made] = new_contiguous(x[0]->sizes(), type, &data_y[made]);
    } catch (...) {
      while (made > 0) delete y[--made];
      throw;
    }
    return count;
  });
}

tf_unfit tf_memory_of(const at::Tensor* t, bool written, tf_memory* out) noexcept {
  return guarded(TF_FAILED, [&] {
    if (!t->defined()) return TF_UNDEFINED;
    if (!is_plain(*t)) return why_not_plain(*t);
    if (at::tracer::impl::is_dispatch_enabled()) return TF_TRACED;
    if (!t->has_storage()) return TF_NO_DATA;
    if (is_recorded(*t)) return TF_RECORDED;
    if (has_tangent(*t)) return TF_TANGENT;
    if (!is_countable(*t)) return TF_BEYOND;
    const int64_t count = t->numel();
    const void* data = written ? t->mutable_data_ptr() : t->const_data_ptr();
    const bool contiguous = t->is_contiguous();
    if (count > 0 && (!data || !in_storage(*t, contiguous))) return TF_NO_DATA;
    if (!is_aligned(*t, data)) return TF_UNALIGNED;
    *out = {t->sizes().data(),
            t->strides().data(),
            static_cast<size_t>(t->dim()),
            static_cast<size_t>(count),
            data,
            static_cast<int8_t>(t->scalar_type()),
            contiguous,
            t->is_non_overlapping_and_dense()};
    return TF_FIT;
  });
}

at::Tensor* tf_empty(const int64_t* sizes, const int64_t* strides, size_t dim, int8_t dtype,
                     void** data) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    const auto type = static_cast<at::ScalarType>(dtype);
    const at::IntArrayRef shape(sizes, dim);
    return strides ? new_strided(shape, {strides, dim}, type, data)
                   : new_contiguous(shape, type, data);
  });
}

void tf_set_cache_limit(size_t bytes) noexcept { tf::LargeMemory::set_limit(bytes); }

void tf_empty_cache() noexcept { tf::LargeMemory::empty(); }
