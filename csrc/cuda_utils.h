// What a CUDA operator on the LibTorch stable ABI needs at a launch: the current stream, and checked calls.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

// A CPU-only torch lacks these, and nothing calls them there: weak, so that the same shared object loads all the same.
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

namespace dgcn {

using torch::stable::accelerator::DeviceGuard;
using torch::stable::accelerator::DeviceIndex;

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

/// Launches kernel(arguments...) on the current stream of `device`, which must be the current device.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, DeviceIndex device,
            const Arguments&... arguments) {
  // All that there is rather than `shared_bytes`: the limit belongs to the kernel, and another thread may be about to
  // launch it with more. The carve-out makes room for as many blocks at a time as fit.
  const int limit = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      static_cast<int>(cudaSharedmemCarveoutMaxShared)));
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, current_stream(device)>>>(arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace dgcn
