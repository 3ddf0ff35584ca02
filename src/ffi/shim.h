// The border between Rust and libtorch. Every function except tf_try is noexcept: a
// C++ exception becomes a text in tf_last_error() and a failure value.
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

// The facts about a tensor that the checks need, read in one call. `sizes` points
// into the tensor and is valid while the tensor lives and is not resized.
struct tf_meta {
  const int64_t* sizes;
  size_t dim;
  const void* identity;  // equal for handles of one tensor
  uint32_t version;      // the in-place counter; 0 for inference tensors
  int8_t dtype;          // c10::ScalarType; -1 when undefined
  int8_t device_type;
  int8_t device_index;
  bool requires_grad;
  bool only_as_view;  // requires a gradient because what it views does
  bool symbolic;      // its sizes are symbols, while torch.compile traces; no `sizes`
  bool zero;          // libtorch's zeros without memory
  bool is_inference;  // made in inference mode: has no in-place counter
  bool python;        // a tensor of Python's, such as a fake one
};

// The text of this thread's last failure; valid until its next failure, and until it is
// forgotten.
const char* tf_last_error() noexcept;
void tf_forget_error() noexcept;

// False (with an error) for tensors that have no sizes, such as nested ones.
// `has_tangent`, if not null, is set if a forward-mode tangent is attached.
bool tf_describe(const at::Tensor* t, tf_meta* out, bool* has_tangent) noexcept;
uint32_t tf_version(const at::Tensor* t) noexcept;
// Sets libtorch's grad mode on this thread; returns what it was.
bool tf_set_grad_enabled(bool enabled) noexcept;

// New handles, owned by the caller; null on failure.
at::Tensor* tf_zeros(const int64_t* sizes, size_t dim, int8_t dtype, int8_t device_type,
                     int8_t device_index) noexcept;

// True when this handle is the only one to the tensor and to its storage.
bool tf_is_unique(const at::Tensor* t) noexcept;

// True for leaves of libtorch's that require a gradient, and views of such.
bool tf_in_leaf(const at::Tensor* t) noexcept;

// True when both lie in the same memory, in whichever parts of it.
bool tf_shares_storage(const at::Tensor* a, const at::Tensor* b) noexcept;

// *sum += term, of one shape, dtype and device. Writes into *sum or reuses `term`'s
// memory only where their handle is the sole one; otherwise *sum becomes a new tensor.
bool tf_accumulate(at::Tensor* sum, const at::Tensor* term) noexcept;

// A new handle to zeros in memory like `t`.
at::Tensor* tf_zeros_like(const at::Tensor* t) noexcept;

// A new handle to `grad` as a leaf's gradient: of the leaf's strides, and held by nobody
// else if `grad` is the only handle to it.
at::Tensor* tf_as_leaf_gradient(const at::Tensor* leaf, const at::Tensor* grad) noexcept;

// True if both show the same elements of the same memory, with one dtype.
bool tf_same_data(const at::Tensor* a, const at::Tensor* b) noexcept;

// The .grad of a leaf of libtorch's, whichever thread adds to it meanwhile. Reading
// gives a new handle, null if there is none; setting an undefined one removes it.
at::Tensor* tf_grad(const at::Tensor* leaf) noexcept;
bool tf_set_grad(const at::Tensor* leaf, const at::Tensor* grad) noexcept;

// A pass of libtorch's engine. Writes one new handle per input to `grads`, null if no
// gradient flows; or adds to the leaves, if `grads` is null. Undefined seeds are zeros.
bool tf_run_pass(const at::Tensor* const* outputs, const at::Tensor* const* seeds, size_t n_outputs,
                 const at::Tensor* const* inputs, size_t n_inputs, bool retain_graph,
                 bool create_graph, at::Tensor** grads) noexcept;

// A new handle to a tensor that stands for a parameter: its gradient is the one that
// reaches the parameter, before the parameter's hooks. While one lives, all calls return
// its place in the graph; and `known` itself, if that is one.
at::Tensor* tf_tap(const at::Tensor* parameter, const at::Tensor* known) noexcept;

// The number that the next node gets which this thread records.
uint64_t tf_next_sequence_number() noexcept;

// Calls `tap(data, leaf, alone)` with a new, owned handle for every leaf that requires a
// gradient in the graphs behind `outputs`, each leaf once. If it returns a new handle to
// the leaf's tap, the nodes that this thread has recorded from number `start` on lead to
// that tap from now on; none does if it is `alone`, since an older node leads to the leaf.
bool tf_graph_leaves(at::Tensor* const* outputs, size_t n_outputs, uint64_t start,
                     at::Tensor* (*tap)(void*, at::Tensor*, bool), void* data) noexcept;

// --- A tensor and a number ----------------------------------------------------

enum tf_scalar_op : uint8_t {
  TF_ADD = 0,
  TF_SUB,
  TF_RSUB,
  TF_MUL,
  TF_DIV,
  TF_POW
};

// New handles; null on failure. `integer`: `c` is an integer for libtorch's rules of
// dtypes.
at::Tensor* tf_with_scalar(tf_scalar_op op, const at::Tensor* x, double c, bool integer) noexcept;
at::Tensor* tf_where_else(const at::Tensor* condition, const at::Tensor* x, double c,
                          bool integer) noexcept;
at::Tensor* tf_masked_fill(const at::Tensor* x, const at::Tensor* mask, double c,
                           bool integer) noexcept;
// The dtype in which libtorch's ops compute with these tensors together.
int8_t tf_result_type(const at::Tensor* const* x, size_t n) noexcept;
at::Tensor* tf_clamp(const at::Tensor* x, double least, double greatest) noexcept;

// --- A Rust Function as a node of libtorch's autograd ---------------------

// The callbacks of a node. `state` is the recorded Function; an `error` is owned
// by its holder and ends in drop_error.
struct tf_callbacks {
  // Gradients of the inputs: one new handle each in `grads`, null where none
  // flows. Takes the handles in `dy` (null where no gradient came) and in
  // `saved`. Null on success, else an error.
  void* (*backward)(const void* state, at::Tensor** dy, size_t n_dy, at::Tensor** saved,
                    size_t n_saved, const bool* needs, size_t n_inputs, at::Tensor** grads);
  // The op's name: static, of the length that is written.
  const char* (*name)(const void* state, size_t* len);
  // Errors of the engine's own, in Rust's words.
  void* (*graph_freed)(const char* op, size_t op_len);
  void* (*saved_changed)(const char* op, size_t op_len, size_t position, uint32_t saved,
                         uint32_t found);
  void* (*no_second_order)(const char* op, size_t op_len, ptrdiff_t position);
  // Valid until the error is dropped.
  const char* (*error_text)(void* error);
  void (*drop_error)(void* error);
  // Ends the state's life; its memory is the node's.
  void (*drop_state)(void* state);
  size_t state_size;
  size_t state_align;
};

// The way in which a node is differentiated itself.
enum tf_second_order : uint8_t {
  TF_THROUGH_SAVED = 0,  // through saved inputs and outputs; others refuse
  TF_RECOMPUTED = 1,     // backward builds its saved tensors anew
  TF_ONCE = 2            // refuses
};

struct tf_output {
  at::Tensor* tensor;  // null where absent; gets its history in place or is
                       // replaced
  bool differentiable;
};

struct tf_saved {
  const at::Tensor* tensor;
  bool constant;  // declared to be one
};

struct tf_recording {
  const tf_callbacks* callbacks;
  const at::Tensor* const* inputs;  // null where an optional one is absent
  size_t n_inputs;
  const size_t* dirty;  // positions of inputs
  size_t n_dirty;
  const tf_output* outputs;
  size_t n_outputs;
  const tf_saved* saved;
  size_t n_saved;
  tf_second_order second_order;
  const void* state;  // copied into the node: a Rust value that may be moved
};

// Makes the outputs' history a new node. `taken`: the state is the node's, which
// it may be on failure too.
bool tf_record(const tf_recording* what, bool* taken) noexcept;

// A new handle to the values of `t` that refuses to be differentiated further,
// in the words of no_second_order, where the gradient would go on to `leaves`.
// `position`: of a saved tensor; -1 for an op that is differentiable once, -2 for a tangent.
at::Tensor* tf_refuse(const at::Tensor* t, const at::Tensor* const* leaves, size_t n_leaves,
                      const tf_callbacks* callbacks, const char* op, size_t op_len,
                      ptrdiff_t position) noexcept;

// A new handle to the values of `t` whose derivatives are zero, though libtorch follows
// it.
at::Tensor* tf_constant(const at::Tensor* t) noexcept;

// A new handle to a tensor of the values, the history and the in-place counter of `t`.
at::Tensor* tf_with_same_history(const at::Tensor* t) noexcept;

// Calls take(data, text, length) with the exception that Python code left pending on this
// thread, if there is one, and clears it.
void tf_take_python_error(void (*take)(void*, const char*, size_t), void* data) noexcept;

// Marks the tensor as changed in place.
bool tf_bump_version(const at::Tensor* t) noexcept;

// The Rust error behind this thread's last failure, if there was one and
// it was not taken yet; the caller owns it.
void* tf_take_error() noexcept;

bool tf_grad_enabled() noexcept;

// Forward mode has one level in a process, level 0. Entering it fails while it
// is entered already.
bool tf_enter_dual_level() noexcept;
void tf_exit_dual_level() noexcept;

// Sets whether libtorch's ops pass tangents on, on this thread; returns what it
// was.
bool tf_set_forward_mode(bool enabled) noexcept;

// A new handle to the tensor's forward-mode tangent, null where it has none.
at::Tensor* tf_tangent(const at::Tensor* t) noexcept;
bool tf_set_tangent(const at::Tensor* t, const at::Tensor* tangent) noexcept;

// --- Hooks ------------------------------------------------------------------

struct tf_hook {
  const tf_callbacks* callbacks;  // for its errors
  const void* state;
  // May put other tensors into `grads`, which may be undefined. A node's post
  // hook sees the gradients of its outputs too. Null on success, else an error.
  void* (*call)(const void* state, at::Tensor* const* grads, size_t n_grads,
                const at::Tensor* const* seen, size_t n_seen);
  void (*drop)(const void* state);
};

// Puts a hook on the gradient of a tensor. Takes the hook, on failure too. Returns a
// handle, which the caller owns; null on failure.
void* tf_register_hook(const at::Tensor* t, const tf_hook* what) noexcept;

// Whether hooks run on the gradient of a leaf. One that was removed does not run.
bool tf_has_hooks(const at::Tensor* leaf) noexcept;

// The node that made a tensor, which the caller owns; null if there is none.
void* tf_grad_fn(const at::Tensor* t) noexcept;
void tf_drop_node(void* node) noexcept;

// Puts a hook on a node, `before` it runs on what it gets, or after it ran on what it
// returns. Takes the hook, on failure too.
void* tf_register_node_hook(const void* node, bool before, const tf_hook* what) noexcept;

// Removes a hook; a pass that runs may still call it.
void tf_remove_hook(const void* registered) noexcept;
void tf_drop_registered(void* registered) noexcept;

// Makes `to` a handle of the tensor of `from`.
void tf_assign(at::Tensor* to, const at::Tensor* from) noexcept;

// Calls take(data, name, length).
void tf_node_name(const void* node, void (*take)(void*, const char*, size_t),
                  void* data) noexcept;

// --- Modes ------------------------------------------------------------------

struct tf_autocast {
  int8_t device_type;
  int8_t dtype;
  bool enabled;
};

// Turns autocast on for a type of device; `was` is what it was before.
bool tf_enter_autocast(int8_t device_type, int8_t dtype, tf_autocast* was) noexcept;
void tf_exit_autocast(tf_autocast was) noexcept;

// Whether libtorch converts the inputs of its op of this name ("pow.Tensor_Scalar") under
// autocast for this type of device; and the dtype of autocast there.
bool tf_autocast_knows(const char* op, int8_t device_type) noexcept;
int8_t tf_autocast_dtype(int8_t device_type) noexcept;

bool tf_is_autocast_on() noexcept;
// Whether a mode of Python's sees every op.
bool tf_is_mode_on() noexcept;
// What autocast is on this thread: a bit for each type of device for which it is on, and
// above 32 bits a byte for the dtype of each device that has it. A byte of 0 leaves the
// dtype as it is.
uint64_t tf_autocast_state() noexcept;
void tf_set_autocast_state(uint64_t state) noexcept;
// Keeps what autocast has cast until the outermost region ends.
void tf_begin_autocast() noexcept;
void tf_end_autocast() noexcept;

bool tf_is_inference_mode() noexcept;
void* tf_enter_inference_mode(bool enabled) noexcept;
void tf_exit_inference_mode(void* mode) noexcept;

// --- Random numbers -----------------------------------------------------------

// Calls `take` with the state of a device's default generator, and sets it.
bool tf_rng_state(int8_t device_type, int8_t device_index,
                  void (*take)(void*, const uint8_t*, size_t), void* data) noexcept;
bool tf_set_rng_state(int8_t device_type, int8_t device_index, const uint8_t* bytes,
                      size_t n) noexcept;

// --- C++ exceptions in Rust's own callbacks ---------------------------------

// Runs body(data). False if it let a C++ exception through. A Rust panic goes
// on to the caller, so this one is not noexcept.
bool tf_try(void (*body)(void*), void* data);

}  // extern "C"

#include "dispatcher_shim.h"
#include "memory_shim.h"
