// Launches the kernels for few nodes in NCHW.
#include <algorithm>

#include "common/cuda_utils.h"
#include "graph_conv/cuda/few_nodes.h"
#include "graph_conv/cuda/few_nodes_backward.cuh"
#include "graph_conv/cuda/plan.h"

namespace dgcn::graph_conv {
namespace {

/// Calls visit(types, NodeCount) for the dtype and K of the inputs. float64 never comes here: see has_few_nodes().
template <typename Visit>
void for_kernel(const GraphConvInputs& inputs, Visit visit) {
  for_dtype(inputs.x.scalar_type(), [&](auto types) {
    if constexpr (sizeof(typename decltype(types)::T) <= 4)
      cuda::for_node_count(static_cast<int>(inputs.nodes()), [&](auto nodes) { visit(types, nodes); });
  });
}

}  // namespace

void few_nodes_forward(const GraphConvInputs& inputs, const Tensor& x, const std::optional<Tensor>& residual,
                       const Tensor& y, const std::optional<Tensor>& gate) {
  for_kernel(inputs, [&](auto types, auto nodes) {
    using T = typename decltype(types)::T;
    constexpr int kMost = decltype(nodes)::most;
    const DeviceIndex device = x.get_device_index();
    const int64_t slots = int64_t{cuda::kFewNodesBlocks} * device_limits(device).multiprocessors;
    const cuda::PixelTiles tiles =
        cuda::cut_for_forward(inputs.batch(), x.size(2) * x.size(3), cuda::kThreadPixels<kMost>, slots);
    const cuda::FewNodesForwardArguments<T> arguments{
        tiles,      inputs.params<float>(), const_data<T>(x),  const_data<T>(residual),
        data<T>(y), data<uint32_t>(gate),   inputs.per_sample, inputs.relu};
    launch(&cuda::few_nodes_forward_kernel<T, kMost, decltype(nodes)::any>, std::min<int64_t>(tiles.count, slots),
           cuda::kFewNodesThreads, cuda::few_nodes_forward_bytes(static_cast<int>(inputs.nodes())), device, arguments);
  });
}

PartialGradients few_nodes_backward(const GraphConvInputs& inputs, const Tensor& grad_y, const Tensor& x,
                                    const std::optional<Tensor>& gate, const std::optional<Tensor>& grad_x,
                                    bool need_params) {
  PartialGradients partial{};
  for_kernel(inputs, [&](auto types, auto nodes) {
    using T = typename decltype(types)::T;
    constexpr int kMost = decltype(nodes)::most;
    const DeviceIndex device = x.get_device_index();
    const int64_t image_pixels = x.size(2) * x.size(3);
    const int64_t tiles_per_image = (image_pixels + cuda::kOuterPixels - 1) / cuda::kOuterPixels;
    const int64_t tiles = inputs.batch() * tiles_per_image;
    partial.blocks = std::min<int64_t>(
        tiles, int64_t{cuda::kFewNodesBackwardBlocks<T, kMost>} * device_limits(device).multiprocessors);
    const GraphParams<float> params = inputs.params<float>();
    if (need_params) partial.memory = allocate<float>(x, partial.blocks * cuda::partial_size(params));
    const cuda::FewNodesBackwardArguments<T> arguments{image_pixels,
                                                       static_cast<int>(tiles_per_image),
                                                       static_cast<int>(tiles),
                                                       params,
                                                       const_data<T>(grad_y),
                                                       const_data<T>(x),
                                                       const_data<uint32_t>(gate),
                                                       data<T>(grad_x),
                                                       data<float>(partial.memory),
                                                       inputs.per_sample};
    launch_with_max_shared(
        &cuda::few_nodes_backward_kernel<T, kMost, decltype(nodes)::any>, partial.blocks, cuda::kFewNodesThreads,
        cuda::few_nodes_backward_bytes<T, kMost>(static_cast<int>(inputs.nodes())), device, arguments);
  });
  return partial;
}

}  // namespace dgcn::graph_conv
