// The versions of libtorch that the shim is written for, how each holds a node of its
// graphs, the one thing here in which they differ, and the base of the nodes.
#pragma once

#include <c10/util/Exception.h>
#include <torch/csrc/autograd/function.h>
#include <torch/version.h>

#include <string>

#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR < 11 || TORCH_VERSION_MINOR > 13
#error "tch-function needs libtorch 2.11, 2.12 or 2.13; see the README, section libtorch"
#endif

namespace tf {

#if TORCH_VERSION_MINOR >= 13

template <typename T>
using Held = c10::intrusive_ptr<T>;

using WeakNodePtr = c10::weak_intrusive_ptr<torch::autograd::Node>;

template <typename T>
Held<T> hold(T* fresh) {
  return Held<T>::unsafe_steal_from_new(fresh);
}

#else

template <typename T>
using Held = std::shared_ptr<T>;

using WeakNodePtr = std::weak_ptr<torch::autograd::Node>;

// Uses libtorch's deleter, which frees a long graph without recursion.
template <typename T>
Held<T> hold(T* fresh) {
  return Held<T>(fresh, torch::autograd::deleteNode);
}

#endif

using NodePtr = Held<torch::autograd::Node>;

// The base of the nodes here.
struct OwnNode : torch::autograd::Node {
  using Node::Node;

  // Compiled autograd (of Python) asks each node of a graph before it runs any.
  void compiled_args(torch::autograd::CompiledNodeArgs&) const override {
    throw c10::NotImplementedError(
        name() + ": compiled autograd does not trace the backward of a Function in Rust; call "
                 "backward() outside of it",
        c10::Backtrace());
  }
};

}  // namespace tf
