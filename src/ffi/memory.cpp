// The memory of tensors, for the kernel module.
#include "guard.h"
#include "shim.h"

#include <ATen/EmptyTensor.h>
#include <ATen/TracerMode.h>
#include <ATen/core/Tensor.h>
#include <c10/core/AutogradState.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace {

using tf::guarded;

// What a plain dense CPU tensor has; any other key changes what its memory
// means, or says that there is none.
bool is_plain(const at::Tensor& t) {
  using c10::DispatchKey;
  static const uint64_t plain =
      c10::DispatchKeySet({DispatchKey::CPU, DispatchKey::AutogradCPU,
                           DispatchKey::ADInplaceOrView,
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
  if (keys.has(DispatchKey::Conjugate) || keys.has(DispatchKey::Negative))
    return TF_LAZY;
  return TF_NO_DATA;
}

// Another handle can have made the storage smaller. The last element of the
// contiguous is the `count`th.
bool in_storage(const at::Tensor& t, bool contiguous) {
  int64_t last = t.storage_offset() + t.numel() - 1;
  if (!contiguous) {
    last = t.storage_offset();
    for (int64_t i = 0; i < t.dim(); ++i)
      last += (t.sizes()[i] - 1) * t.strides()[i];
  }
  const auto bytes = static_cast<uint64_t>(last + 1) * t.itemsize();
  return bytes <= t.storage().nbytes();
}

bool may_be_followed(const at::Tensor& t) {
  return t.unsafeGetTensorImpl()->autograd_meta() != nullptr;
}

bool is_recorded(const at::Tensor& t) {
  return may_be_followed(t) && c10::GradMode::is_enabled() && t.requires_grad();
}

bool has_tangent(const at::Tensor& t) {
  return may_be_followed(t) &&
         c10::AutogradState::get_tls_state().get_fw_grad_mode() &&
         t._fw_grad(/*level=*/0).defined();
}

constexpr size_t kHugePage = size_t{2} << 20;

// Most of the time of filling fresh memory goes into the page faults. Huge
// pages have a 512th of them.
void advise_huge_pages(void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  const auto start = reinterpret_cast<uintptr_t>(data);
  const auto from = (start + kHugePage - 1) / kHugePage * kHugePage;
  const auto to = (start + bytes) / kHugePage * kHugePage;
  // Only advice: where it is not taken, everything works as without it.
  if (from < to)
    madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// libtorch's allocator is posix_memalign, which for small tensors costs more
// than all the rest: up to kSmall bytes plain malloc is used.
constexpr size_t kSmall = size_t{64} << 10;
// Up to so many bytes no alignment is worth the room for it.
constexpr size_t kTiny = 512;

// More than kSmall where that is not known to be enough.
size_t small_bytes(at::IntArrayRef sizes, at::ScalarType type) {
  size_t bytes = c10::elementSize(type);
  for (const int64_t size : sizes) {
    if (size > static_cast<int64_t>(kSmall)) return kSmall + 1;
    bytes *= static_cast<size_t>(size);
    if (bytes > kSmall) return kSmall + 1;
  }
  return bytes;
}

at::DataPtr small_data(size_t bytes) {
  const size_t spare = bytes > kTiny ? c10::gAlignment - 1 : 0;
  void* const block = std::malloc(bytes + spare > 0 ? bytes + spare : 1);
  if (!block) throw std::bad_alloc();
  const auto start = reinterpret_cast<uintptr_t>(block) + spare;
  void* const data = spare ? reinterpret_cast<void*>(start - start % c10::gAlignment) : block;
  return {data, block, &std::free, at::kCPU};
}

at::TensorBase small_tensor(at::IntArrayRef sizes, at::ScalarType type,
                            size_t bytes, void** data) {
  auto memory = small_data(bytes);
  *data = memory.get();
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), bytes, std::move(memory),
      c10::GetCPUAllocator(), /*resizable=*/true);
  auto tensor = at::detail::make_tensor_base<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
      c10::scalarTypeToTypeMeta(type));
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return tensor;
}

at::Tensor* new_contiguous(at::IntArrayRef sizes, at::ScalarType type,
                           void** data) {
  const size_t bytes = small_bytes(sizes, type);
  if (bytes <= kSmall)
    return new at::Tensor(small_tensor(sizes, type, bytes, data));
  auto base = at::detail::empty_cpu(sizes, type);
  *data = base.mutable_data_ptr();
  if (base.nbytes() >= 2 * kHugePage) advise_huge_pages(*data, base.nbytes());
  return new at::Tensor(std::move(base));
}

bool is_one_element(const at::Tensor& t) {
  for (const int64_t stride : t.strides())
    if (stride != 0) return false;
  return true;
}

// Whether a kernel can read `t` without further looks: its shape is that of
// `first`, and it is contiguous or `one` element seen again and again.
bool fits(const at::Tensor& t, const at::Tensor& first, at::ScalarType type,
          const void** data, bool* one) {
  if (!t.defined() || !is_plain(t) || t.scalar_type() != type ||
      t.sizes() != first.sizes())
    return false;
  const bool contiguous = t.is_contiguous();
  *one = !contiguous;
  if (!contiguous && (&t == &first || !is_one_element(t))) return false;
  if (is_recorded(t) || has_tangent(t) || !t.has_storage()) return false;
  *data = t.const_data_ptr();
  return *data && in_storage(t, contiguous);
}

}  // namespace

size_t tf_alike(const at::Tensor* const* x, size_t n_x, int8_t dtype,
                size_t limit, const void** data_x, bool* one_x, at::Tensor** y,
                size_t n_y, void** data_y) noexcept {
  return guarded(size_t{0}, [&]() -> size_t {
    if (at::tracer::impl::is_dispatch_enabled()) return 0;
    const auto type = static_cast<at::ScalarType>(dtype);
    for (size_t i = 0; i < n_x; ++i)
      if (!fits(*x[i], *x[0], type, &data_x[i], &one_x[i])) return 0;
    const auto count = static_cast<size_t>(x[0]->numel());
    if (count == 0 || count > limit) return 0;
    for (size_t i = 0; i < n_y; ++i)
      y[i] = new_contiguous(x[0]->sizes(), type, &data_y[i]);
    return count;
  });
}

tf_unfit tf_memory_of(const at::Tensor* t, bool written,
                      tf_memory* out) noexcept {
  return guarded(TF_FAILED, [&] {
    if (!t->defined()) return TF_UNDEFINED;
    if (!is_plain(*t)) return why_not_plain(*t);
    if (at::tracer::impl::is_dispatch_enabled()) return TF_TRACED;
    if (!t->has_storage()) return TF_NO_DATA;
    if (is_recorded(*t)) return TF_RECORDED;
    if (has_tangent(*t)) return TF_TANGENT;
    const int64_t count = t->numel();
    const void* data =
        written ? t->mutable_data_ptr() : t->const_data_ptr();
    const bool contiguous = t->is_contiguous();
    if (count > 0 && (!data || !in_storage(*t, contiguous))) return TF_NO_DATA;
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

at::Tensor* tf_empty(const int64_t* sizes, const int64_t* strides, size_t dim,
                     int8_t dtype, void** data) noexcept {
  return guarded(static_cast<at::Tensor*>(nullptr), [&] {
    const auto type = static_cast<at::ScalarType>(dtype);
    const at::IntArrayRef shape(sizes, dim);
    if (!strides) return new_contiguous(shape, type, data);
    auto base = at::detail::empty_strided_cpu(
        shape, at::IntArrayRef(strides, dim), type);
    *data = base.mutable_data_ptr();
    if (base.nbytes() >= 2 * kHugePage) advise_huge_pages(*data, base.nbytes());
    return new at::Tensor(std::move(base));
  });
}
