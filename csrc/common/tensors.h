// New tensors, and the data of tensors.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/shim_utils.h>

#include <optional>

#include "common/checks.h"

namespace dgcn {

/// An uninitialised tensor with the dtype and device of `like`. Calls the shim, as torch::stable::empty_like and
/// new_empty go through the dispatcher, which costs 1 µs a tensor.
inline Tensor new_strided(const Tensor& like, Sizes sizes, Sizes strides) {
  int32_t dtype, device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  dtype, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

/// An uninitialised tensor with the shape, memory format, dtype and device of `like`.
inline Tensor new_like(const Tensor& like) {
  return like.is_contiguous() ? new_strided(like, like.sizes(), like.strides()) : torch::stable::empty_like(like);
}

/// The gradient of `input`, uninitialised; shape [0] if it is not needed.
inline Tensor new_gradient(const Tensor& input, bool needed) {
  return needed ? new_like(input) : new_strided(input, {0}, {1});
}

/// The data of a tensor, or null if it is absent.
template <typename T>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
const T* const_data(const std::optional<Tensor>& tensor) {
  return tensor ? const_data<T>(*tensor) : nullptr;
}
template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}
template <typename T>
T* data(const std::optional<Tensor>& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

}  // namespace dgcn
