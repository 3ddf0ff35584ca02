// The list that goes from the forward op of a registered op to its backward op.
#pragma once

#include "shim.h"

#include <ATen/core/ivalue.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

namespace tf {

// A list of integers: a head, whether each output is
// differentiable, and the source of each saved tensor. `plan.rs` writes it.
struct Plan {
  // Kind of second derivatives, whether gradients are materialised, autocast, number of outputs.
  static constexpr size_t kHead = 4;

  struct Source {
    tf_source kind;
    size_t index;  // of the input, the output, or in the list of intermediates
  };

  explicit Plan(const c10::IValue& value)
      : ints(value.toIntVector()) {
    const bool whole = ints.size() >= kHead && ints[0] >= 0 && ints[0] <= TF_ONCE && ints[3] >= 0 &&
                       static_cast<size_t>(ints[3]) <= ints.size() - kHead;
    TORCH_CHECK(whole && std::all_of(ints.begin(), ints.end(), [](int64_t i) { return i >= 0; }),
                "a forward op returned a plan that is not one");
  }
  tf_second_order second_order() const { return static_cast<tf_second_order>(ints[0]); }
  bool materialize() const { return ints[1] != 0; }
  size_t n_outputs() const { return static_cast<size_t>(ints[3]); }
  bool differentiable(size_t output) const { return ints.at(kHead + output) != 0; }
  size_t n_saved() const { return ints.size() - kHead - n_outputs(); }
  Source source(size_t i) const {
    const int64_t code = ints[kHead + n_outputs() + i];
    return {static_cast<tf_source>(code % TF_SOURCES), static_cast<size_t>(code / TF_SOURCES)};
  }

  std::vector<int64_t> ints;
};

}  // namespace tf
