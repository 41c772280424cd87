// What the CUDA backends on the LibTorch stable ABI need for a launch: types, the current stream, and checked calls.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "common/checks.h"
#include "common/device_limits.h"

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

/// Throws where a call of the CUDA runtime has failed. This library has a runtime of its own: what torch clears is the
/// last error of another, and the next launch here would report this one again.
#define DGCN_CUDA_CHECK(call)                                \
  do {                                                       \
    const cudaError_t dgcn_error = (call);                   \
    if (dgcn_error != cudaSuccess) (void)cudaGetLastError(); \
    STD_CUDA_CHECK(dgcn_error);                              \
  } while (false)

/// Asks the driver once for each device.
inline const DeviceLimits& device_limits(DeviceIndex device) {
  static std::mutex mutex;
  static std::map<DeviceIndex, DeviceLimits> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    DGCN_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
    return value;
  };
  return known[device] = {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                          attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
}

/// Launches kernel(arguments...) on the current stream of `device`, which must be the current device, with at most 48
/// KB of shared memory a block. What the blocks of an SM leave unused is L1 cache.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, DeviceIndex device,
            const Arguments&... arguments) {
  DGCN_CHECK(blocks <= std::numeric_limits<int>::max(), "a kernel needs ", blocks,
             " blocks, more than a GPU can start");
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, current_stream(device)>>>(arguments...);
  DGCN_CUDA_CHECK(cudaGetLastError());
}

/// Lets the kernel have all the shared memory of a block and of an SM, once for each kernel and device. The limit is
/// the device's and not what a launch needs: it belongs to the kernel, which another thread may launch with more. The
/// carve-out makes room for as many blocks at a time as fit.
inline void allow_max_shared(const void* kernel, DeviceIndex device) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, DeviceIndex>> allowed;
  const int limit = static_cast<int>(device_limits(device).block_shared_bytes);
  const std::lock_guard lock(mutex);
  if (allowed.count({kernel, device}) != 0) return;
  DGCN_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
  DGCN_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                       static_cast<int>(cudaSharedmemCarveoutMaxShared)));
  allowed.insert({kernel, device});
}

/// The same with all the shared memory that a block can have.
template <typename... Parameters, typename... Arguments>
void launch_with_max_shared(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
                            DeviceIndex device, const Arguments&... arguments) {
  allow_max_shared(reinterpret_cast<const void*>(kernel), device);
  launch(kernel, blocks, threads, shared_bytes, device, arguments...);
}

}  // namespace dgcn
