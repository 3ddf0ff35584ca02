// The arguments of an op: as Rust reads them, and what they hold.
#pragma once

#include "dispatcher.h"
#include "shim.h"

#include <ATen/core/Tensor.h>

#include <forward_list>
#include <vector>

namespace tf {

// Borrows its values from IValues, which must outlive it.
class Borrowed {
 public:
  explicit Borrowed(Values from) {
    values_.reserve(from.size());
    for (const IValue& value : from) values_.push_back(borrow(value));
  }
  const tf_value* data() const { return values_.data(); }
  size_t size() const { return values_.size(); }

 private:
  tf_value borrow(const IValue& v) {
    tf_value out{};
    if (v.isNone()) {
      out.tag = TF_NONE;
    } else if (v.isTensor()) {
      out.tag = v.toTensor().defined() ? TF_TENSOR_VALUE : TF_NONE;
      out.data = &v.toTensor();
    } else if (v.isInt() || v.isSymInt()) {
      out.tag = TF_INT;
      out.i = integer(v);
    } else if (v.isDouble()) {
      out.tag = TF_FLOAT;
      out.f = v.toDouble();
    } else if (v.isBool()) {
      out.tag = TF_BOOL;
      out.i = v.toBool();
    } else if (v.isString()) {
      out.tag = TF_TEXT;
      out.data = v.toStringRef().data();
      out.len = v.toStringRef().size();
    } else if (v.isTensorList() || v.isOptionalTensorList()) {
      out.tag = TF_TENSORS;
      list(out, tensors_, v, [](const IValue& item) {
        return item.isTensor() && item.toTensor().defined() ? &item.toTensor() : nullptr;
      });
    } else if (v.isIntList() || v.isSymIntList()) {
      out.tag = TF_INTS;
      list(out, ints_, v, integer);
    } else if (v.isDoubleList()) {
      out.tag = TF_FLOATS;
      list(out, floats_, v, [](const IValue& item) { return item.toDouble(); });
    } else if (v.isBoolList()) {
      out.tag = TF_BOOLS;
      list(out, ints_, v, [](const IValue& item) { return int64_t{item.toBool()}; });
    } else {
      out.tag = TF_OTHER;
    }
    return out;
  }

  // Rust's ints are plain: a symbolic one is fixed to its value.
  static int64_t integer(const IValue& v) {
    return v.isInt() ? v.toInt() : v.toSymInt().guard_int(__FILE__, __LINE__);
  }

  template <typename T, typename F>
  static void list(tf_value& out, std::forward_list<std::vector<T>>& store, const IValue& v,
                   F&& item) {
    std::vector<T>& items = store.emplace_front();
    for (const IValue& value : v.toListRef()) items.push_back(item(value));
    out.data = items.data();
    out.len = items.size();
  }

  c10::SmallVector<tf_value, 8> values_;
  std::forward_list<std::vector<const at::Tensor*>> tensors_;
  std::forward_list<std::vector<int64_t>> ints_;
  std::forward_list<std::vector<double>> floats_;
};

// The tensors of values that hold nothing else, undefined where absent.
inline std::vector<at::Tensor> flat(Values values) {
  std::vector<at::Tensor> out;
  for (const IValue& value : values) {
    if (value.isNone()) out.emplace_back();
    visit_tensors(value, [&](const at::Tensor& t) { out.push_back(t); });
  }
  return out;
}

// The input tensors of an op, position by position.
inline std::vector<at::Tensor> inputs_of(const Op& op, const Stack& args) {
  Stack held;
  for (size_t i = 0; i < args.size(); ++i)
    if (holds_tensors(op.schema.arguments()[i])) held.push_back(args[i]);
  return flat(held);
}

inline bool requires_grad(Values values) {
  bool found = false;
  visit_all(values, [&](const at::Tensor& t) { found |= t.defined() && t.requires_grad(); });
  return found;
}

inline bool has_tangents(Values values) {
  bool found = false;
  visit_all(values, [&](const at::Tensor& t) {
    found |= t.defined() && t._fw_grad(/*level=*/0).defined();
  });
  return found;
}

}  // namespace tf
