// The CUDA backend of the graph convolution: layouts, memory and launches. kernels.cuh computes.
#include <algorithm>
#include <limits>

#include "common/cuda_utils.h"
#include "graph_conv/backend.h"
#include "graph_conv/cuda/few_nodes.h"
#include "graph_conv/cuda/kernels.cuh"
#include "graph_conv/cuda/plan.h"

namespace dgcn::graph_conv {
namespace {

bool is_dense(const Tensor& features, bool channels_last) {
  constexpr int kOrders[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};  // dimensions of [B, K, H, W], the innermost first
  int64_t stride = 1;
  for (const int dimension : kOrders[channels_last]) {
    const int64_t size = features.size(dimension);
    if (size != 1 && features.stride(dimension) != stride) return false;
    stride *= size;
  }
  return true;
}

/// The memory format that all features of a call have in the kernels: that of x if it is NCHW or channels_last, else
/// NCHW.
class CommonFormat {
 public:
  explicit CommonFormat(const Tensor& x) : channels_last_(!is_dense(x, false) && is_dense(x, true)) {}

  /// `features` themselves if they have this format, else a copy.
  Tensor input(const Tensor& features) {
    using torch::headeronly::MemoryFormat;
    if (is_dense(features, channels_last_)) return record_alignment(features);
    return record_alignment(
        torch::stable::contiguous(features, channels_last_ ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous));
  }

  std::optional<Tensor> input(const std::optional<Tensor>& features) {
    if (!features) return std::nullopt;
    return input(*features);
  }

  /// What the kernels write: `output` itself if it has this format, else new memory, which copy_back() copies.
  Tensor output(const Tensor& output) {
    return record_alignment(is_dense(output, channels_last_) ? output
                                                             : torch::stable::new_empty(output, output.sizes()));
  }

  static void copy_back(Tensor output, const Tensor& written) {
    if (output.const_data_ptr() != written.const_data_ptr()) torch::stable::copy_(output, written);
  }

  /// The layout from which a plan starts. Call this after input() and output() for all features: it needs their
  /// alignment.
  cuda::TileLayout tile_layout(const GraphConvInputs& inputs) const {
    cuda::TileLayout layout{};
    layout.nodes = static_cast<int>(inputs.nodes());
    layout.image_pixels = inputs.x.size(2) * inputs.x.size(3);
    layout.channels_last = channels_last_;
    layout.aligned = aligned_;
    const int64_t most_tiles = inputs.batch() * ((layout.image_pixels + cuda::kPixelUnit - 1) / cuda::kPixelUnit);
    DGCN_CHECK(most_tiles <= std::numeric_limits<int>::max(), "x must have at most 2**31 - 1 tiles of ",
               cuda::kPixelUnit, " pixels, got ", most_tiles);
    return layout;
  }

 private:
  /// Returns `features`; notes whether they are aligned.
  Tensor record_alignment(Tensor features) {
    aligned_ = aligned_ && reinterpret_cast<uintptr_t>(features.const_data_ptr()) % 16 == 0;
    return features;
  }

  bool channels_last_;
  bool aligned_ = true;
};

/// The plan of plan_function(plan, layout, batch, limits), one of the functions of plan.h. Throws if there is none.
template <typename PlanFunction>
cuda::LaunchPlan make_plan(PlanFunction plan_function, const cuda::TileLayout& layout, const GraphConvInputs& inputs) {
  const DeviceLimits& limits = device_limits(inputs.x.get_device_index());
  cuda::LaunchPlan plan;
  DGCN_CHECK(plan_function(plan, layout, inputs.batch(), limits),
             "x must have so few nodes K that 16 pixels fit into the ", limits.block_shared_bytes,
             " bytes of shared memory of this GPU, got K = ", inputs.nodes());
  return plan;
}

void forward(const GraphConvInputs& inputs, const std::optional<Tensor>& residual, const Tensor& y,
             const std::optional<Tensor>& gate) {
  const Tensor& x = inputs.x;
  const DeviceGuard guard(x.get_device_index());
  CommonFormat format(x);
  const Tensor x_read = format.input(x), y_written = format.output(y);
  const std::optional<Tensor> residual_read = format.input(residual);
  const cuda::TileLayout layout = format.tile_layout(inputs);
  for_dtype(x.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    if (cuda::has_few_nodes<T>(layout))
      return few_nodes_forward(inputs, layout, x_read, residual_read, y_written, gate);
    make_plan(&cuda::plan_backward<T, A>, layout, inputs);  // so that forward refuses a K that backward would refuse
    const cuda::LaunchPlan plan = make_plan(&cuda::plan_forward<T, A>, layout, inputs);
    const std::optional<Tensor> workspace = allocate<A>(x, plan.workspace);
    const cuda::CudaForwardArguments<T, A> arguments{
        plan.layout,        inputs.params<A>(),   const_data<T>(x_read), const_data<T>(residual_read),
        data<T>(y_written), data<uint32_t>(gate), inputs.per_sample,     inputs.relu,
        data<A>(workspace)};
    launch_with_max_shared(
        plan.matrices_in_shared ? &cuda::forward_kernel<T, A, true> : &cuda::forward_kernel<T, A, false>, plan.blocks,
        plan.threads, plan.shared_bytes, x.get_device_index(), arguments);
  });
  CommonFormat::copy_back(y, y_written);
}

/// ReLU's gate, computed again.
Tensor compute_gate(const GraphConvInputs& inputs) {
  const Tensor gate = new_gate(inputs);
  forward(inputs, std::nullopt, new_like(inputs.x), gate);
  return gate;
}

void backward(const GraphConvInputs& inputs, const Tensor& grad_y, const std::optional<Tensor>& given_gate,
              const GraphConvGradients& gradients) {
  const Tensor& x = inputs.x;
  const DeviceGuard guard(x.get_device_index());
  CommonFormat format(x);
  const Tensor grad_y_read = format.input(grad_y), x_read = format.input(x);
  std::optional<Tensor> grad_x_written, gate;
  if (gradients.need_x) grad_x_written = format.output(gradients.x);
  if (inputs.relu) gate = given_gate ? *given_gate : compute_gate(inputs);
  const cuda::TileLayout layout = format.tile_layout(inputs);
  for_dtype(x.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const GraphParams<A> params = inputs.params<A>();
    const int64_t size = cuda::partial_size(params);
    PartialGradients partial{};
    if (cuda::has_few_nodes<T>(layout)) {
      partial = few_nodes_backward(inputs, layout, grad_y_read, x_read, gate, grad_x_written, gradients.need_params);
    } else {
      const cuda::LaunchPlan plan = make_plan(&cuda::plan_backward<T, A>, layout, inputs);
      const std::optional<Tensor> workspace = allocate<A>(x, plan.workspace);
      partial = {allocate<A>(x, gradients.need_params ? plan.blocks * size : 0), plan.blocks};
      const cuda::CudaBackwardArguments<T, A> arguments{plan.layout,
                                                        params,
                                                        const_data<T>(grad_y_read),
                                                        const_data<T>(x_read),
                                                        const_data<uint32_t>(gate),
                                                        data<T>(grad_x_written),
                                                        data<A>(partial.memory),
                                                        inputs.per_sample,
                                                        plan.parts,
                                                        data<A>(workspace)};
      launch_with_max_shared(
          plan.matrices_in_shared ? &cuda::backward_kernel<T, A, true> : &cuda::backward_kernel<T, A, false>,
          plan.blocks, plan.threads, plan.shared_bytes, x.get_device_index(), arguments);
    }
    if (!gradients.need_params) return;
    const cuda::ReduceArguments<A> reduce{data<A>(partial.memory),
                                          partial.blocks,
                                          size,
                                          data<A>(gradients.edge_weight),
                                          inputs.weight ? data<A>(gradients.weight) : nullptr,
                                          inputs.bias ? data<A>(gradients.bias) : nullptr,
                                          params.nodes};
    launch(&cuda::reduce_kernel<A>, (size + cuda::kReduceEntries - 1) / cuda::kReduceEntries, cuda::kReduceThreads,
           cuda::kReduceThreads * sizeof(A), x.get_device_index(), reduce);
  });
  if (gradients.need_x) CommonFormat::copy_back(gradients.x, *grad_x_written);
}

void sample_adjacency(const Tensor& adjacency, const Tensor& seed, uint32_t first_sample, const Tensor& draw) {
  const DeviceGuard guard(adjacency.get_device_index());
  for_dtype(adjacency.scalar_type(), [&](auto types) {
    using A = typename decltype(types)::A;
    GraphParams<A> params{};
    params.adjacency = const_data<A>(adjacency);
    params.seed = const_data<int64_t>(seed);
    params.first_sample = first_sample;
    params.nodes = static_cast<int>(adjacency.size(0));
    const int64_t samples = draw.numel() / adjacency.numel();
    launch(&cuda::sample_kernel<A>, std::min(samples, cuda::kMostSampleBlocks), cuda::kSampleThreads, 0,
           adjacency.get_device_index(), data<A>(draw), samples, params);
  });
}

}  // namespace

const GraphConvBackend kCudaBackend{forward, backward, sample_adjacency};

}  // namespace dgcn::graph_conv
