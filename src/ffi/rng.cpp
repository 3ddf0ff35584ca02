// The states of libtorch's random number generators.
#include "guard.h"
#include "shim.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstring>
#include <mutex>

namespace {

const at::Generator& generator(int8_t device_type, int8_t device_index) {
  const at::Device device(static_cast<at::DeviceType>(device_type), device_index);
  return at::globalContext().defaultGenerator(device);
}

}  // namespace

bool tf_rng_state(int8_t device_type, int8_t device_index, void (*take)(void*, const uint8_t*, size_t),
                  void* data) noexcept {
  return tf::guarded(false, [&] {
    at::Generator of = generator(device_type, device_index);
    const std::lock_guard<std::mutex> lock(of.mutex());
    const at::Tensor state = of.get_state();
    take(data, state.const_data_ptr<uint8_t>(), static_cast<size_t>(state.numel()));
    return true;
  });
}

bool tf_set_rng_state(int8_t device_type, int8_t device_index, const uint8_t* bytes,
                      size_t n) noexcept {
  return tf::guarded(false, [&] {
    const at::Tensor state = at::detail::empty_cpu({static_cast<int64_t>(n)}, at::kByte);
    std::memcpy(state.mutable_data_ptr<uint8_t>(), bytes, n);
    at::Generator of = generator(device_type, device_index);
    const std::lock_guard<std::mutex> lock(of.mutex());
    of.set_state(state);
    return true;
  });
}
