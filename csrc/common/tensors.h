// New tensors, by way of the shim: torch::stable::empty_like and new_empty go through the dispatcher, 1 µs a tensor.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/shim_utils.h>

#include "common/checks.h"

namespace dgcn {

/// An uninitialised tensor with the dtype and device of `like`.
inline Tensor new_strided(const Tensor& like, Sizes sizes, Sizes strides) {
  int32_t dtype, device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  dtype, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

/// The same of shape [0], which stands for an output that is not wanted.
inline Tensor not_wanted(const Tensor& like) { return new_strided(like, {0}, {1}); }

/// The same with the shape and memory format of `like`.
inline Tensor new_like(const Tensor& like) {
  return like.is_contiguous() ? new_strided(like, like.sizes(), like.strides()) : torch::stable::empty_like(like);
}

}  // namespace dgcn
