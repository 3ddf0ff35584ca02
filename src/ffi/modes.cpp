// Modes of libtorch's that belong to a thread.
#include "guard.h"
#include "shim.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/AutogradState.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <iterator>
#include <optional>
#include <string>

// Declared in ATen/autocast_mode.h, which takes four times as long to compile as all
// the rest here.
namespace at::autocast {
TORCH_API bool is_autocast_enabled(at::DeviceType device_type);
TORCH_API void set_autocast_enabled(at::DeviceType device_type, bool enabled);
TORCH_API at::ScalarType get_autocast_dtype(at::DeviceType device_type);
TORCH_API void set_autocast_dtype(at::DeviceType device_type, at::ScalarType dtype);
TORCH_API void clear_cache();
TORCH_API int increment_nesting();
TORCH_API int decrement_nesting();
}  // namespace at::autocast

namespace {

using tf::guarded;

constexpr at::DeviceType kDevices[] = {at::kCPU, at::kCUDA, at::kMPS};

std::optional<c10::DispatchKey> autocast_key(at::DeviceType device) {
  switch (device) {
    case at::kCPU:
      return c10::DispatchKey::AutocastCPU;
    case at::kCUDA:
      return c10::DispatchKey::AutocastCUDA;
    case at::kMPS:
      return c10::DispatchKey::AutocastMPS;
    default:
      return std::nullopt;
  }
}

}  // namespace

bool tf_grad_enabled() noexcept { return c10::GradMode::is_enabled(); }

bool tf_set_grad_enabled(bool enabled) noexcept {
  auto& state = c10::AutogradState::get_tls_state();
  const bool was = state.get_grad_mode();
  state.set_grad_mode(enabled);
  return was;
}

bool tf_enter_autocast(int8_t device_type, int8_t dtype, tf_autocast* was) noexcept {
  return guarded(false, [&] {
    namespace autocast = at::autocast;
    const auto device = static_cast<at::DeviceType>(device_type);
    *was = {device_type, static_cast<int8_t>(autocast::get_autocast_dtype(device)),
            autocast::is_autocast_enabled(device)};
    autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
    autocast::set_autocast_enabled(device, true);
    tf_begin_autocast();
    return true;
  });
}

void tf_exit_autocast(tf_autocast was) noexcept {
  const auto device = static_cast<at::DeviceType>(was.device_type);
  at::autocast::set_autocast_enabled(device, was.enabled);
  at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(was.dtype));
  tf_end_autocast();
}

bool tf_autocast_knows(const char* op, int8_t device_type) noexcept {
  return guarded(false, [&] {
    const std::string name = op;
    const size_t dot = name.find('.');
    const std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    const auto found = c10::Dispatcher::singleton().findOp(
        c10::OperatorName("aten::" + name.substr(0, dot), overload));
    const auto key = autocast_key(static_cast<at::DeviceType>(device_type));
    return found && key && found->hasKernelForDispatchKey(*key);
  });
}

int8_t tf_autocast_dtype(int8_t device_type) noexcept {
  return guarded(int8_t{6}, [&] {
    return static_cast<int8_t>(
        at::autocast::get_autocast_dtype(static_cast<at::DeviceType>(device_type)));
  });
}

bool tf_is_autocast_on() noexcept {
  const auto off = c10::impl::tls_local_dispatch_key_set().excluded_;
  return (c10::autocast_dispatch_keyset - off).raw_repr() != 0;
}

uint64_t tf_autocast_state() noexcept {
  uint64_t state = 0;
  for (size_t i = 0; i < std::size(kDevices); ++i) {
    const auto dtype = static_cast<uint8_t>(at::autocast::get_autocast_dtype(kDevices[i]));
    state |= uint64_t{dtype} << (32 + 8 * i);
    if (at::autocast::is_autocast_enabled(kDevices[i]))
      state |= uint64_t{1} << static_cast<uint32_t>(kDevices[i]);
  }
  return state;
}

void tf_set_autocast_state(uint64_t state) noexcept {
  for (size_t i = 0; i < std::size(kDevices); ++i) {
    const bool enabled = (state >> static_cast<uint32_t>(kDevices[i]) & 1u) != 0;
    at::autocast::set_autocast_enabled(kDevices[i], enabled);
    const auto dtype = static_cast<uint8_t>(state >> (32 + 8 * i));
    if (dtype != 0 && dtype < static_cast<uint8_t>(at::ScalarType::NumOptions))
      at::autocast::set_autocast_dtype(kDevices[i], static_cast<at::ScalarType>(dtype));
  }
}

void tf_begin_autocast() noexcept { at::autocast::increment_nesting(); }

void tf_end_autocast() noexcept {
  // The cache keeps weights that were cast.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
}

bool tf_is_mode_on() noexcept { return c10::impl::TorchDispatchModeTLS::any_modes_set(); }

bool tf_is_inference_mode() noexcept { return c10::InferenceMode::is_enabled(); }

void* tf_enter_inference_mode(bool enabled) noexcept { return new c10::InferenceMode(enabled); }

void tf_exit_inference_mode(void* mode) noexcept { delete static_cast<c10::InferenceMode*>(mode); }
