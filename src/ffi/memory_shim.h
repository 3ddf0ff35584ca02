// The border for kernels: the memory of tensors, and libtorch's threads. A part of shim.h,
// whose rules hold here too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {


// A dense CPU tensor's memory. The pointers are valid while the tensor lives
// and neither it nor its storage is resized.
struct tf_memory {
  const int64_t* sizes;
  const int64_t* strides;
  size_t dim;
  size_t count;  // of elements
  const void* data;
  int8_t dtype;
  bool contiguous;
  bool dense;  // each byte of a range belongs to one element
};

// Why a kernel cannot run on a tensor.
enum tf_unfit : uint8_t {
  TF_FIT = 0,
  TF_FAILED,  // an exception; see tf_last_error
  TF_UNDEFINED,
  TF_NO_DATA,  // meta, fake, a wrapper, freed
  TF_OTHER_DEVICE,
  TF_QUANTISED,
  TF_NOT_STRIDED,
  TF_LAZY,      // conjugated or negated when read
  TF_RECORDED,  // requires a gradient, and grad mode is on
  TF_TANGENT,   // carries a forward-mode tangent
  TF_TRACED,    // libtorch writes a TorchScript graph of what is done
  TF_UNALIGNED,  // memory from outside libtorch
  TF_BEYOND      // strides that no memory has room for
};

// `written`: the memory will be written, and is the tensor's own if it was
// shared until then (copy on write).
tf_unfit tf_memory_of(const at::Tensor* t, bool written, tf_memory* out) noexcept;

// Holds the tensor's storage, which cannot be resized until the pin is given back. `pin`
// may be null where there is no storage.
bool tf_pin(const at::Tensor* t, void** pin) noexcept;
void tf_unpin(void* pin) noexcept;

// A new handle, owned by the caller, to a CPU tensor whose elements are not
// initialised; null on failure. `strides` may be null: contiguous.
at::Tensor* tf_empty(const int64_t* sizes, const int64_t* strides, size_t dim, int8_t dtype,
                     void** data) noexcept;

// Limits the bytes of freed large tensors of tf_empty and tf_alike that are kept for
// new ones, at most; and to free them.
void tf_set_cache_limit(size_t bytes) noexcept;
void tf_empty_cache() noexcept;

// The fast path for small tensors. If all inputs have one shape and `dtype`, the
// first is contiguous with 1 to `limit` elements and each other one is contiguous or
// one expanded element (`one_x`), writes their memory and `n_y` new uninitialised
// tensors (owned by the caller) and returns the element count. Otherwise returns 0.
size_t tf_alike(const at::Tensor* const* x, size_t n_x, int8_t dtype, size_t limit,
                const void** data_x, bool* one_x, at::Tensor** y, size_t n_y,
                void** data_y) noexcept;

// Returns the number of threads that a parallel region that starts here would have.
size_t tf_threads() noexcept;

// Calls `body(data)` once on each of libtorch's intra-op threads, this one
// among them, and waits for all. `body` must not throw.
void tf_parallel(void (*body)(void*), void* data) noexcept;

}  // extern "C"
