// Work on libtorch's own intra-op threads.
#include "shim.h"

#include <ATen/Parallel.h>
#include <c10/util/ParallelGuard.h>
#include <dlfcn.h>

// at::parallel_for is a header over OpenMP, and makes threads only where its
// user is compiled with OpenMP: with clang, that is another library with
// threads of its own. So this file calls the entry point that libtorch's own
// code calls, by the name that libgomp and libomp both have; whichever library
// libtorch is loaded with answers.
namespace {

using Region = void (*)(void*);
using Parallel = void (*)(Region, void*, unsigned threads, unsigned flags);

Parallel find_parallel() noexcept {
  return reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
}

struct Job {
  Region body;
  void* data;
};

void run(void* job) {
  const c10::ParallelGuard guard(true);
  static_cast<Job*>(job)->body(static_cast<Job*>(job)->data);
}

}  // namespace

size_t tf_threads() noexcept {
  at::internal::lazy_init_num_threads();
  if (at::in_parallel_region()) return 1;
  return static_cast<size_t>(at::get_num_threads());
}

void tf_parallel(void (*body)(void*), void* data) noexcept {
  static const Parallel parallel = find_parallel();
  at::internal::lazy_init_num_threads();  // on this thread too
  Job job{body, data};
  if (parallel && !at::in_parallel_region())
    parallel(run, &job, /*threads=*/0, /*flags=*/0);
  else
    run(&job);
}
