// The interface between the operators (graph_conv.cpp) and the backends that compute them on a CPU or a GPU. Legend:
// graph_conv.h.
#pragma once

#include <optional>

#include "common/tensors.h"
#include "graph_conv/graph_conv.h"

namespace dgcn::graph_conv {

/// The arguments that graph_conv_forward and graph_conv_backward share.
struct GraphConvInputs {
  const Tensor &x, &edge_weight, &adjacency;
  const std::optional<Tensor>&weight, &bias, &seed;
  bool per_sample;       ///< one draw per image; false without a seed
  int64_t first_sample;  ///< number of the first image; has no effect unless per_sample
  GraphMode mode;
  bool relu;

  int64_t batch() const { return x.size(0); }
  int64_t nodes() const { return x.size(1); }
  /// Number of graphs: one for the whole batch, or one per image.
  int64_t samples() const { return per_sample ? batch() : 1; }

  /// T: the dtype of the parameters, and of all arithmetic.
  template <typename T>
  GraphParams<T> params() const {
    return {const_data<T>(edge_weight), const_data<T>(adjacency),
            const_data<T>(weight),      const_data<T>(bias),
            const_data<int64_t>(seed),  static_cast<uint32_t>(per_sample ? first_sample : 0),
            static_cast<int>(nodes()),  mode};
  }
};

/// Memory for ReLU's gate, see graph_conv.h: int32 [B, words, H, W].
inline Tensor new_gate(const GraphConvInputs& inputs) {
  const Tensor& x = inputs.x;
  return torch::stable::new_empty(x, {x.size(0), gate_words(x.size(1)), x.size(2), x.size(3)}, ScalarType::Int);
}

/// What graph_conv_backward returns. A gradient that is not needed has shape [0].
struct GraphConvGradients {
  bool need_x, need_params;
  Tensor x, edge_weight, weight, bias;
};

/// The computation on one kind of device. Arguments have been checked, outputs are allocated, and x has elements.
struct GraphConvBackend {
  /// gate: memory for ReLU's gate (see new_gate()), or absent. On a GPU only.
  void (*forward)(const GraphConvInputs& inputs, const std::optional<Tensor>& residual, const Tensor& y,
                  const std::optional<Tensor>& gate);
  /// gate: where ReLU passes the gradient. On a GPU that of forward; on a CPU the y of a forward without a residual,
  /// where it is not ≤ 0. Absent: computed again from x.
  void (*backward)(const GraphConvInputs& inputs, const Tensor& grad_y, const std::optional<Tensor>& gate,
                   const GraphConvGradients& gradients);
  /// draw [K, K] or [batch, K, K] ~ Bernoulli(adjacency), of the images from `first_sample`.
  void (*sample_adjacency)(const Tensor& adjacency, const Tensor& seed, uint32_t first_sample, const Tensor& draw);
};

extern const GraphConvBackend kCpuBackend, kCudaBackend;

}  // namespace dgcn::graph_conv
