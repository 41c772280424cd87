// Argument checks of the torch ops. Every message names the argument, what was required and what arrived. These guard
// the raw ops of torch.ops.dgcn; the functions of dgcn_ext/functional.py raise TypeError or ValueError instead.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

namespace dgcn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

#define DGCN_CHECK(condition, ...)                           \
  do {                                                       \
    if (C10_UNLIKELY(!(condition))) dgcn::fail(__VA_ARGS__); \
  } while (false)

inline std::string to_string(Sizes sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return '[' + text + ']';
}

inline void check_shape(const char* name, const Tensor& tensor, Sizes required) {
  DGCN_CHECK(tensor.sizes().equals(required), name, " must have shape ", to_string(required), ", got ",
             to_string(tensor.sizes()));
}

inline void check_dtype(const char* name, const Tensor& tensor, ScalarType required) {
  const ScalarType dtype = tensor.scalar_type();
  DGCN_CHECK(dtype == required, name, " must be ", torch::headeronly::toString(required), ", got ",
             torch::headeronly::toString(dtype));
}

/// Features are float64, float32, bfloat16 or float16; parameters and arithmetic are float64 or float32.
inline void check_feature_dtype(const char* name, const Tensor& features) {
  const ScalarType dtype = features.scalar_type();
  DGCN_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float || dtype == ScalarType::BFloat16 ||
                 dtype == ScalarType::Half,
             name, " must be float64, float32, bfloat16 or float16, got ", torch::headeronly::toString(dtype));
}

inline ScalarType accumulation_dtype(const Tensor& features) {
  return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_contiguous(const char* name, const Tensor& tensor) {
  DGCN_CHECK(tensor.is_contiguous(), name, " must be contiguous, got strides ", to_string(tensor.strides()));
}

/// The tensor `name` must be on the device of the argument `reference_name`.
inline void check_same_device(const char* name, const Tensor& tensor, const char* reference_name,
                              const Tensor& reference) {
  DGCN_CHECK(tensor.is_cuda() == reference.is_cuda() && tensor.get_device_index() == reference.get_device_index(), name,
             " must be on the device of ", reference_name, ", got a tensor on another");
}

}  // namespace dgcn
