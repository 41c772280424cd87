// Launches the kernels for few nodes.
#include "common/cuda_utils.h"
#include "graph_conv/cuda/few_nodes.h"
#include "graph_conv/cuda/few_nodes_backward.cuh"
#include "graph_conv/cuda/plan.h"

namespace dgcn::graph_conv {
namespace {

/// Calls visit(types, NodeCount, channels_last) for the dtype, K and layout. float64 never comes here: see
/// has_few_nodes().
template <typename Visit>
void for_kernel(const GraphConvInputs& inputs, bool channels_last, Visit visit) {
  for_dtype(inputs.x.scalar_type(), [&](auto types) {
    if constexpr (sizeof(typename decltype(types)::T) <= 4)
      cuda::for_node_count(static_cast<int>(inputs.nodes()), channels_last,
                           [&](auto nodes, auto layout) { visit(types, nodes, layout); });
  });
}

}  // namespace

void few_nodes_forward(const GraphConvInputs& inputs, const cuda::TileLayout& layout, const Tensor& x,
                       const std::optional<Tensor>& residual, const Tensor& y, const std::optional<Tensor>& gate) {
  for_kernel(inputs, layout.channels_last, [&](auto types, auto nodes, auto channels_last) {
    using T = typename decltype(types)::T;
    constexpr int kMost = decltype(nodes)::most;
    const DeviceIndex device = x.get_device_index();
    const cuda::LaunchPlan plan =
        cuda::plan_few_nodes_forward<T, kMost>(layout, inputs.batch(), residual.has_value(), device_limits(device));
    const cuda::CudaForwardArguments<T, float> arguments{
        plan.layout, inputs.params<float>(), const_data<T>(x),  const_data<T>(residual),
        data<T>(y),  data<uint32_t>(gate),   inputs.per_sample, inputs.relu,
        nullptr};
    launch_with_max_shared(&cuda::few_nodes_forward_kernel<T, kMost, decltype(nodes)::any, channels_last.value>,
                           plan.blocks, plan.threads, plan.shared_bytes, device, arguments);
  });
}

PartialGradients few_nodes_backward(const GraphConvInputs& inputs, const cuda::TileLayout& layout, const Tensor& grad_y,
                                    const Tensor& x, const std::optional<Tensor>& gate,
                                    const std::optional<Tensor>& grad_x, bool need_params) {
  PartialGradients partial{};
  for_kernel(inputs, layout.channels_last, [&](auto types, auto nodes, auto channels_last) {
    using T = typename decltype(types)::T;
    constexpr int kMost = decltype(nodes)::most;
    const DeviceIndex device = x.get_device_index();
    const GraphParams<float> params = inputs.params<float>();
    const cuda::LaunchPlan plan =
        cuda::plan_few_nodes_backward<T, kMost>(layout, inputs.batch(), device_limits(device));
    partial = {allocate<float>(x, need_params ? plan.blocks * cuda::partial_size(params) : 0), plan.blocks};
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
    launch_with_max_shared(&cuda::few_nodes_backward_kernel<T, kMost, decltype(nodes)::any, channels_last.value>,
                           plan.blocks, plan.threads, plan.shared_bytes, device, arguments);
  });
  return partial;
}

}  // namespace dgcn::graph_conv
