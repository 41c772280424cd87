// What a CUDA operator on the LibTorch stable ABI needs at a launch: types, the current stream, and checked calls.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include "common/checks.h"

// A CPU-only torch lacks these, and nothing calls them there: weak, so that the same shared object loads all the same.
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

namespace dgcn {

using torch::stable::accelerator::DeviceGuard;
using torch::stable::accelerator::DeviceIndex;

template <typename Stored, typename Accumulated>
struct Types {
  using T = Stored;
  using A = Accumulated;
};

/// Calls `body` with the types of features of this dtype.
template <typename Body>
void with_types(ScalarType dtype, Body body) {
  if (dtype == ScalarType::Double) return body(Types<double, double>{});
  if (dtype == ScalarType::Float) return body(Types<float, float>{});
  if (dtype == ScalarType::BFloat16) return body(Types<__nv_bfloat16, float>{});
  return body(Types<__half, float>{});
}

inline cudaStream_t current_stream(DeviceIndex device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

inline int device_attribute(cudaDeviceAttr attribute, DeviceIndex device) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

/// Launches kernel(arguments...) on the current stream of `device`, which must be the current device. A block has 48 KB of
/// shared memory at most; what the blocks of an SM do not take is cache.
template <typename... Parameters, typename... Arguments>
void launch_plain(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, DeviceIndex device,
                  const Arguments&... arguments) {
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, current_stream(device)>>>(arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

/// The same with as much shared memory as there is.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, DeviceIndex device,
            const Arguments&... arguments) {
  // All that there is rather than `shared_bytes`: the limit belongs to the kernel, and another thread may be about to
  // launch it with more. The carve-out makes room for as many blocks at a time as fit.
  const int limit = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      static_cast<int>(cudaSharedmemCarveoutMaxShared)));
  launch_plain(kernel, blocks, threads, shared_bytes, device, arguments...);
}

}  // namespace dgcn
