// The part of the border that is the dispatcher's. Include shim.h.
#pragma once

extern "C" {

// --- The dispatcher ---------------------------------------------------------

// An argument of an op. Lists and texts are borrowed for the call.
enum tf_tag : uint8_t {
  TF_NONE = 0,
  TF_TENSOR_VALUE,  // `data` is an at::Tensor*
  TF_TENSORS,       // an array of at::Tensor*, null where absent
  TF_INT,
  TF_FLOAT,
  TF_BOOL,
  TF_TEXT,
  TF_INTS,
  TF_FLOATS,
  TF_BOOLS,  // an array of int64_t
  TF_OTHER
};

struct tf_value {
  tf_tag tag;
  size_t len;
  const void* data;
  int64_t i;
  double f;
};

// A kernel of an op; `Kernel` in dispatcher.rs says what each receives and returns.
// What PyTorch's compiler may assume of an op.
enum tf_op_tag : uint8_t {
  TF_NONDETERMINISTIC_SEEDED = 0,
  TF_NONDETERMINISTIC_BITWISE,
  TF_DYNAMIC_OUTPUT_SHAPE,
  TF_DATA_DEPENDENT_OUTPUT,
  TF_POINTWISE,
  TF_FLEXIBLE_LAYOUT,
  TF_NEEDS_FIXED_STRIDE_ORDER,
  TF_NEEDS_EXACT_STRIDES,
  TF_NEEDS_CONTIGUOUS_STRIDES,
  TF_CUDAGRAPH_UNSAFE
};

enum tf_kernel : uint8_t {
  TF_APPLY = 0, TF_FORWARD = 1, TF_BACKWARD = 2, TF_JVP = 3, TF_BACKWARD_ABOVE = 4, TF_CAST = 5
};

// The place of a saved tensor, as the forward op's plan has it.
enum tf_source : uint8_t {
  TF_INPUT = 0,
  TF_OUTPUT = 1,
  TF_INTERMEDIATE = 2,  // in the list of those that are neither
  TF_CONSTANT = 3,      // in the same list
  TF_CONSTANT_OUTPUT = 4,
  TF_SOURCES = 8  // a plan writes index * TF_SOURCES + source
};

// The facts about the Function that the arguments of a call make.
struct tf_facts {
  const char* name;  // static
  size_t name_len;
  bool batches;  // its formulas run on tensors that vmap has batched
  bool casts;    // it wants its inputs in another dtype under autocast
};

struct tf_op {
  const tf_callbacks* errors;
  void* state;  // owned by the registration
  // Null on success, else an error. `no_formula` says that the backward runs a
  // kernel of its own, which libtorch cannot record.
  void* (*call)(const void* state, tf_kernel kernel, const tf_value* values, size_t n,
                void* results, bool* no_formula);
  // Writes the facts; leaves them alone if no Function can be made of `args`.
  void (*facts)(const void* state, const tf_value* args, size_t n, tf_facts* out);
  void (*drop)(void* state);
};

// The next result of a call; takes the handles.
void tf_give_tensor(void* results, at::Tensor* t) noexcept;
void tf_give_tensors(void* results, at::Tensor* const* t, size_t n) noexcept;
void tf_give_ints(void* results, const int64_t* ints, size_t n) noexcept;

// Calls `visit` for each argument and return of a schema. False (with an error)
// for a text that is not a schema.
bool tf_read_schema(const char* schema,
                    void (*visit)(void* data, bool is_return, const char* name, const char* type,
                                  bool is_written),
                    void* data) noexcept;

// A namespace of ops, which is this library's alone; null on failure.
void* tf_open_library(const char* ns) noexcept;
// Defines an op and its inner forward and backward ops. Takes the op.
bool tf_define(void* library, const char* ns, const char* schema, const tf_op* op,
               const tf_op_tag* tags, size_t n_tags) noexcept;
// Takes every definition back. A library that is not closed stays for good.
void tf_close_library(void* library) noexcept;

// Keeps the shared object that `address` lies in until the process ends.
void tf_stay_loaded(const void* address) noexcept;
// Raises RuntimeError in a Python process, on its main thread, if that is this
// one; prints the message on another. Does nothing elsewhere.
void tf_raise_in_python(const char* message) noexcept;

}  // extern "C"
