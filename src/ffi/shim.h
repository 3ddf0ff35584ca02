// The border between Rust and libtorch. Every function is noexcept: a C++
// exception becomes a text in tch_function_last_error() and a failure value.
//
// Pointers to tensors are `at::Tensor*`, the handles that tch owns. They are
// borrowed for the length of the call unless a comment says otherwise.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {

// What the checks need to know of a tensor, read in one call. `sizes` points
// into the tensor and is valid while the tensor lives and is not resized.
struct tf_meta {
  const int64_t* sizes;
  size_t dim;
  const void* impl;  // identity: equal for handles of one tensor
  uint32_t version;  // the in-place counter; 0 for inference tensors
  int8_t dtype;      // c10::ScalarType; -1 when undefined
  int8_t device_type;
  int8_t device_index;
  bool requires_grad;
};

// The text of this thread's last failure; valid until its next failure.
const char* tf_last_error() noexcept;

// False (with an error) for tensors that have no sizes, such as nested ones.
bool tf_describe(const at::Tensor* t, tf_meta* out) noexcept;
uint32_t tf_version(const at::Tensor* t) noexcept;
// Sets libtorch's grad mode on this thread; returns what it was.
bool tf_set_grad_enabled(bool enabled) noexcept;

// New handles, owned by the caller; null on failure.
at::Tensor* tf_zeros(const int64_t* sizes, size_t dim, int8_t dtype,
                     int8_t device_type, int8_t device_index) noexcept;

// True when this handle is the only one to the tensor and to its storage.
bool tf_is_unique(const at::Tensor* t) noexcept;

// *sum += term. Writes into *sum or reuses `term`'s memory only where their
// handle is the sole one; otherwise *sum becomes a new tensor.
bool tf_accumulate(at::Tensor* sum, const at::Tensor* term) noexcept;

// Makes `grad` the .grad of a leaf of libtorch's.
bool tf_set_grad(const at::Tensor* leaf, const at::Tensor* grad) noexcept;

// torch::autograd::grad: d(outputs)/d(inputs) with seeds; one new handle per
// input in `grads`, null where no gradient flows. Undefined seeds mean zeros.
bool tf_grad(const at::Tensor* const* outputs, const at::Tensor* const* seeds,
             size_t n_outputs, const at::Tensor* const* inputs,
             size_t n_inputs, bool retain_graph, bool create_graph,
             at::Tensor** grads) noexcept;

// Calls `visit(data, handle)` with a new, owned handle for every leaf that
// requires a gradient in the graphs behind `outputs`, each leaf once.
bool tf_graph_leaves(const at::Tensor* const* outputs, size_t n_outputs,
                     void (*visit)(void*, at::Tensor*), void* data) noexcept;

}  // extern "C"
