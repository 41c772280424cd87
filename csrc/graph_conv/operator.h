// What the CPU and CUDA operators have in common: the inputs, what is checked of them, the outputs. Legend:
// graph_conv.h.
#pragma once

#include <optional>

#include "common/tensors.h"
#include "graph_conv/graph_conv.h"

namespace dgcn {

inline void check_nodes(int64_t nodes) {
  constexpr int64_t kMostNodes = 1 << 15;  // the kernels number the K·K edges with an int
  DGCN_CHECK(1 <= nodes && nodes <= kMostNodes, "the number of nodes K must be in [1, ", kMostNodes, "], got ", nodes);
}

inline void check_seed(const Tensor& seed, const char* reference_name, const Tensor& reference) {
  check_shape("seed", seed, {});
  check_dtype("seed", seed, ScalarType::Long);
  check_same_device("seed", seed, reference_name, reference);
}

/// The arguments that graph_conv_forward and graph_conv_backward share.
struct GraphConvInputs {
  const Tensor &x, &edge_weight, &adjacency;
  const std::optional<Tensor>&weight, &bias, &seed;
  bool per_sample;  ///< a draw for every image: only where there is a seed
  GraphMode mode;
  bool relu;

  int64_t batch() const { return x.size(0); }
  int64_t nodes() const { return x.size(1); }
  /// One graph for the batch, or one per image.
  int64_t samples() const { return per_sample ? batch() : 1; }
  /// The dtype of the parameters, and of all arithmetic.
  ScalarType accumulation_dtype() const {
    return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }

  template <typename T>
  GraphParams<T> params() const {
    const auto data = [](const std::optional<Tensor>& tensor) -> const T* {
      return tensor ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
    };
    return {static_cast<const T*>(edge_weight.const_data_ptr()),
            static_cast<const T*>(adjacency.const_data_ptr()),
            data(weight),
            data(bias),
            seed ? static_cast<const int64_t*>(seed->const_data_ptr()) : nullptr,
            static_cast<int>(nodes()),
            mode};
  }

  void check() const {
    DGCN_CHECK(x.dim() == 4, "x must have shape [B, K, H, W], got ", to_string(x.sizes()));
    const ScalarType dtype = x.scalar_type();
    DGCN_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float || dtype == ScalarType::BFloat16 ||
                   dtype == ScalarType::Half,
               "x must be float64, float32, bfloat16 or float16, got ", torch::headeronly::toString(dtype));
    const int64_t K = nodes();
    check_nodes(K);
    check_parameter("edge_weight", edge_weight, {K, K});
    check_parameter("adjacency", adjacency, {K, K});
    if (weight) check_parameter("weight", *weight, {K, K});
    if (bias) check_parameter("bias", *bias, {K});
    if (seed) check_seed(*seed, "x", x);
  }

  /// Features that go with x: y, residual and the gradients.
  void check_features(const char* name, const Tensor& features) const {
    check_shape(name, features, x.sizes());
    check_dtype(name, features, x.scalar_type());
    check_same_device(name, features, "x", x);
  }

 private:
  void check_parameter(const char* name, const Tensor& parameter, Sizes shape) const {
    check_shape(name, parameter, shape);
    check_dtype(name, parameter, accumulation_dtype());
    check_contiguous(name, parameter);
    check_same_device(name, parameter, "x", x);
  }
};

/// What graph_conv_backward returns; a gradient that is not wanted has shape [0].
struct GraphConvGradients {
  Tensor x, edge_weight, weight, bias;

  GraphConvGradients(const GraphConvInputs& inputs, bool need_x, bool need_params)
      : x(need_x ? new_like(inputs.x) : not_wanted(inputs.x)),
        edge_weight(need_params ? new_like(inputs.edge_weight) : not_wanted(inputs.edge_weight)),
        weight(need_params && inputs.weight ? new_like(*inputs.weight) : not_wanted(inputs.edge_weight)),
        bias(need_params && inputs.bias ? new_like(*inputs.bias) : not_wanted(inputs.edge_weight)) {}
};

/// Checks the arguments of sample_adjacency; returns its output, [K, K] or [batch, K, K].
inline Tensor check_sample_adjacency(const Tensor& adjacency, const Tensor& seed, std::optional<int64_t> batch) {
  DGCN_CHECK(adjacency.dim() == 2 && adjacency.size(0) == adjacency.size(1), "adjacency must have shape [K, K], got ",
             to_string(adjacency.sizes()));
  const int64_t K = adjacency.size(0);
  check_nodes(K);
  const ScalarType dtype = adjacency.scalar_type();
  DGCN_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float, "adjacency must be float64 or float32, got ",
             torch::headeronly::toString(dtype));
  check_contiguous("adjacency", adjacency);
  check_seed(seed, "adjacency", adjacency);
  DGCN_CHECK(batch.value_or(0) >= 0, "batch must be at least 0, got ", *batch);
  return batch ? torch::stable::new_empty(adjacency, {*batch, K, K}) : torch::stable::new_empty(adjacency, {K, K});
}

}  // namespace dgcn
