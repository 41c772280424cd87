// What the CUDA backends on the LibTorch stable ABI need for a launch: types, the current stream, and checked calls.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include "common/checks.h"

// A CPU-only torch lacks these symbols. They are weak so that the same shared object loads there, where nothing calls
// them.
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

namespace dgcn {

using torch::stable::accelerator::DeviceGuard;
using torch::stable::accelerator::DeviceIndex;

/// T: the type of features; A: that of parameters and arithmetic.
template <typename Stored, typename Accumulated>
struct CudaTypes {
  using T = Stored;
  using A = Accumulated;
};

/// Calls body(CudaTypes<...>()) for features of `dtype`.
template <typename Body>
void for_dtype(ScalarType dtype, Body body) {
  if (dtype == ScalarType::Double) return body(CudaTypes<double, double>());
  if (dtype == ScalarType::Float) return body(CudaTypes<float, float>());
  if (dtype == ScalarType::BFloat16) return body(CudaTypes<__nv_bfloat16, float>());
  return body(CudaTypes<__half, float>());
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

/// Launches kernel(arguments...) on the current stream of `device`, which must be the current device, with at most 48
/// KB of shared memory a block. What the blocks of an SM leave unused is L1 cache.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, DeviceIndex device,
            const Arguments&... arguments) {
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, current_stream(device)>>>(arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

/// The same with all the shared memory that a block can have.
template <typename... Parameters, typename... Arguments>
void launch_with_max_shared(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
                            DeviceIndex device, const Arguments&... arguments) {
  // The limit is set to the maximum instead of `shared_bytes`: it belongs to the kernel, which another thread may be
  // about to launch with more. The carve-out makes room for as many blocks at a time as fit.
  const int limit = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      static_cast<int>(cudaSharedmemCarveoutMaxShared)));
  launch(kernel, blocks, threads, shared_bytes, device, arguments...);
}

}  // namespace dgcn
