// The launches of few_nodes.cu, which is compiled apart from backend.cu: its kernels take the compiler a minute.
#pragma once

#include <optional>

#include "graph_conv/backend.h"
#include "graph_conv/cuda/tiles.cuh"

namespace dgcn::graph_conv {

/// Memory for `size` numbers of type A. Absent if that is 0: even an empty tensor costs microseconds.
template <typename A>
std::optional<Tensor> allocate(const Tensor& like, int64_t size) {
  if (size == 0) return std::nullopt;
  return torch::stable::new_empty(like, {size}, sizeof(A) == 8 ? ScalarType::Double : ScalarType::Float);
}

/// Parameter gradients of each block [blocks, partial_size(params)]; absent if they are not needed.
struct PartialGradients {
  std::optional<Tensor> memory;
  int64_t blocks;
};

/// All features have the layout `layout`. `gate`: absent if it is not wanted.
void few_nodes_forward(const GraphConvInputs& inputs, const cuda::TileLayout& layout, const Tensor& x,
                       const std::optional<Tensor>& residual, const Tensor& y, const std::optional<Tensor>& gate);

/// `gate`: absent without ReLU. `grad_x`: absent if it is not needed.
PartialGradients few_nodes_backward(const GraphConvInputs& inputs, const cuda::TileLayout& layout, const Tensor& grad_y,
                                    const Tensor& x, const std::optional<Tensor>& gate,
                                    const std::optional<Tensor>& grad_x, bool need_params);

}  // namespace dgcn::graph_conv
