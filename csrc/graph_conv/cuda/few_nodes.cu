// Launches the kernels for few nodes.
#include <algorithm>
#include <limits>

#include "common/cuda_utils.h"
#include "graph_conv/cuda/few_nodes.h"
#include "graph_conv/cuda/few_nodes_backward.cuh"
#include "graph_conv/cuda/plan.h"

namespace dgcn::graph_conv {
namespace {

/// Calls visit(types, NodeCount) for the dtype and K of the inputs. float64 never comes here: see has_few_nodes().
template <typename Visit>
void for_kernel(const GraphConvInputs& inputs, bool channels_last, Visit visit) {
  const int64_t image_pixels = inputs.x.size(2) * inputs.x.size(3);
  const int64_t most_tiles = inputs.batch() * ((image_pixels + cuda::kFewNodesThreads - 1) / cuda::kFewNodesThreads);
  DGCN_CHECK(most_tiles <= std::numeric_limits<int>::max(), "x must have at most 2**31 - 1 tiles of 128 pixels, got ",
             most_tiles);
  for_dtype(inputs.x.scalar_type(), [&](auto types) {
    if constexpr (sizeof(typename decltype(types)::T) <= 4)
      cuda::for_node_count(static_cast<int>(inputs.nodes()), channels_last, [&](auto nodes) { visit(types, nodes); });
  });
}

}  // namespace

void few_nodes_forward(const GraphConvInputs& inputs, const cuda::TileLayout& layout, const Tensor& x,
                       const std::optional<Tensor>& residual, const Tensor& y, const std::optional<Tensor>& gate) {
  for_kernel(inputs, layout.channels_last, [&](auto types, auto nodes) {
    using T = typename decltype(types)::T;
    constexpr int kMost = decltype(nodes)::most;
    constexpr bool kAny = decltype(nodes)::any;
    const DeviceIndex device = x.get_device_index();
    const DeviceLimits& limits = device_limits(device);
    const int64_t kept = cuda::FewNodesMatrices::size(layout.nodes) * int64_t{sizeof(float)};
    if (layout.channels_last) {
      if constexpr (cuda::has_tile_kernel(nodes)) {
        const cuda::LaunchPlan plan =
            cuda::plan_few_nodes_tiles<T>(layout, inputs.batch(), cuda::kThreadPixels<kMost>, residual ? 2 : 1, kept,
                                          cuda::kFewNodesTileBlocks, limits);
        const cuda::CudaForwardArguments<T, float> arguments{
            plan.layout, inputs.params<float>(), const_data<T>(x),  const_data<T>(residual),
            data<T>(y),  data<uint32_t>(gate),   inputs.per_sample, inputs.relu,
            nullptr};
        launch_with_max_shared(&cuda::few_nodes_tile_forward_kernel<T, kMost, kAny>, plan.blocks, plan.threads,
                               plan.shared_bytes, device, arguments);
      }
      return;
    }
    const int64_t slots = int64_t{cuda::kFewNodesBlocks} * limits.multiprocessors;
    const cuda::PixelTiles tiles =
        cuda::cut_for_forward(inputs.batch(), layout.image_pixels, cuda::kThreadPixels<kMost>, slots);
    const cuda::FewNodesForwardArguments<T> arguments{
        tiles,      inputs.params<float>(), const_data<T>(x),  const_data<T>(residual),
        data<T>(y), data<uint32_t>(gate),   inputs.per_sample, inputs.relu};
    launch(&cuda::few_nodes_forward_kernel<T, kMost, kAny>, std::min<int64_t>(tiles.count, slots),
           cuda::kFewNodesThreads, kept, device, arguments);
  });
}

PartialGradients few_nodes_backward(const GraphConvInputs& inputs, const cuda::TileLayout& layout, const Tensor& grad_y,
                                    const Tensor& x, const std::optional<Tensor>& gate,
                                    const std::optional<Tensor>& grad_x, bool need_params) {
  PartialGradients partial{};
  for_kernel(inputs, layout.channels_last, [&](auto types, auto nodes) {
    using T = typename decltype(types)::T;
    constexpr int kMost = decltype(nodes)::most;
    constexpr bool kAny = decltype(nodes)::any;
    constexpr int kBlocks = cuda::kFewNodesBackwardBlocks<T, kMost>;
    const DeviceIndex device = x.get_device_index();
    const DeviceLimits& limits = device_limits(device);
    const GraphParams<float> params = inputs.params<float>();
    const auto allocate_partial = [&](int64_t blocks) {
      partial = {allocate<float>(x, need_params ? blocks * cuda::partial_size(params) : 0), blocks};
    };
    if (layout.channels_last) {
      if constexpr (cuda::has_tile_kernel(nodes)) {
        using Outer = cuda::OuterProduct<T, kMost, cuda::kFewNodesThreads>;
        const cuda::LaunchPlan plan = cuda::plan_few_nodes_tiles<T>(
            layout, inputs.batch(), 1, 2, cuda::FewNodesGradients<T, Outer>::bytes(layout.nodes), kBlocks, limits);
        allocate_partial(plan.blocks);
        const cuda::CudaBackwardArguments<T, float> arguments{plan.layout,
                                                              params,
                                                              const_data<T>(grad_y),
                                                              const_data<T>(x),
                                                              const_data<uint32_t>(gate),
                                                              data<T>(grad_x),
                                                              data<float>(partial.memory),
                                                              inputs.per_sample,
                                                              plan.parts,
                                                              nullptr};
        launch_with_max_shared(&cuda::few_nodes_tile_backward_kernel<T, kMost, kAny>, plan.blocks, plan.threads,
                               plan.shared_bytes, device, arguments);
      }
      return;
    }
    constexpr int kTilePixels = cuda::kPlanePixels * cuda::kFewNodesThreads;
    const int64_t tiles_per_image = (layout.image_pixels + kTilePixels - 1) / kTilePixels;
    const int64_t tiles = inputs.batch() * tiles_per_image;
    allocate_partial(std::min<int64_t>(tiles, int64_t{kBlocks} * limits.multiprocessors));
    const cuda::FewNodesBackwardArguments<T> arguments{
        layout.image_pixels,         static_cast<int>(tiles_per_image),
        static_cast<int>(tiles),     params,
        const_data<T>(grad_y),       need_params ? const_data<T>(x) : nullptr,
        const_data<uint32_t>(gate),  data<T>(grad_x),
        data<float>(partial.memory), inputs.per_sample};
    using Outer = cuda::OuterProduct<T, kMost, kTilePixels>;
    launch_with_max_shared(&cuda::few_nodes_backward_kernel<T, kMost, kAny>, partial.blocks, cuda::kFewNodesThreads,
                           cuda::FewNodesGradients<T, Outer>::bytes(layout.nodes), device, arguments);
  });
  return partial;
}

}  // namespace dgcn::graph_conv
