// The graph convolution on CUDA: the operators and their launches. The kernels are in kernels.cuh.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "common/cuda_utils.h"
#include "graph_conv/cuda/kernels.cuh"
#include "graph_conv/cuda/plan.h"
#include "graph_conv/operator.h"
#include "registration.h"

namespace dgcn {
namespace {

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
T* data(const std::optional<Tensor>& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

template <typename T>
const T* const_data(const std::optional<Tensor>& tensor) {
  return tensor ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

/// Memory for `size` numbers of the accumulation dtype; nothing for none, since even that costs microseconds.
std::optional<Tensor> allocate(const GraphConvInputs& inputs, int64_t size) {
  if (size == 0) return std::nullopt;
  return torch::stable::new_empty(inputs.x, {size}, inputs.accumulation_dtype());
}

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

/// The one layout that all features of a call have in the kernels: that of x if it is NCHW or channels_last, else NCHW.
class Layout {
 public:
  explicit Layout(const Tensor& x) : channels_last_(!is_dense(x, false) && is_dense(x, true)) {}

  /// `features` themselves if they have this layout, else a packed copy.
  Tensor read(const Tensor& features) {
    using torch::headeronly::MemoryFormat;
    return note(is_dense(features, channels_last_)
                    ? features
                    : torch::stable::contiguous(
                          features, channels_last_ ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous));
  }

  std::optional<Tensor> read(const std::optional<Tensor>& features) {
    if (!features) return std::nullopt;
    return read(*features);
  }

  /// Memory for `output`: its own if it has this layout, else packed memory, which finish() copies.
  Tensor write(const Tensor& output) {
    return note(is_dense(output, channels_last_) ? output : torch::stable::new_empty(output, output.sizes()));
  }

  static void finish(Tensor output, const Tensor& written) {
    if (output.const_data_ptr() != written.const_data_ptr()) torch::stable::copy_(output, written);
  }

  /// What a plan starts from; to be asked for when all features are read.
  cuda::Tiling features(const GraphConvInputs& inputs) const {
    cuda::Tiling tiling{};
    tiling.nodes = static_cast<int>(inputs.nodes());
    tiling.image_pixels = inputs.x.size(2) * inputs.x.size(3);
    tiling.channels_last = channels_last_;
    tiling.aligned = aligned_;
    return tiling;
  }

 private:
  Tensor note(Tensor features) {
    aligned_ = aligned_ && reinterpret_cast<uintptr_t>(features.const_data_ptr()) % 16 == 0;
    return features;
  }

  bool channels_last_;
  bool aligned_ = true;
};

/// make(plan, features, batch, limits), or a clear error.
template <typename Make>
cuda::Plan make_plan(Make make, const Layout& layout, const GraphConvInputs& inputs) {
  const DeviceIndex device = inputs.x.get_device_index();
  const cuda::DeviceLimits limits{device_attribute(cudaDevAttrMultiProcessorCount, device),
                                  device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                                  device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device)};
  cuda::Plan plan;
  DGCN_CHECK(make(plan, layout.features(inputs), inputs.batch(), limits),
             "x must have so few nodes K that 16 pixels fit ", "into the ", limits.block_shared_bytes,
             " bytes of shared memory of this GPU, got K = ", inputs.nodes());
  return plan;
}

Tensor graph_conv_forward(const Tensor& x, const Tensor& edge_weight, const Tensor& adjacency,
                          const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& residual, const std::optional<Tensor>& seed, bool per_sample,
                          bool mask, bool target, bool relu) {
  const GraphConvInputs inputs{x, edge_weight, adjacency, weight, bias, seed, per_sample && seed, {mask, target}, relu};
  inputs.check();
  if (residual) inputs.check_features("residual", *residual);
  const Tensor y = torch::stable::empty_like(x);
  if (x.numel() == 0) return y;

  const DeviceGuard guard(x.get_device_index());
  Layout layout(x);
  const Tensor x_read = layout.read(x), y_written = layout.write(y);
  const std::optional<Tensor> residual_read = layout.read(residual);
  with_types(x.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const cuda::Plan plan = make_plan(&cuda::plan_forward<T, A>, layout, inputs);
    const std::optional<Tensor> workspace = allocate(inputs, plan.workspace);
    const cuda::ForwardArguments<T, A> arguments{plan.tiling,
                                                 inputs.params<A>(),
                                                 const_data<T>(x_read),
                                                 const_data<T>(residual_read),
                                                 data<T>(y_written),
                                                 inputs.per_sample,
                                                 relu,
                                                 data<A>(workspace)};
    launch(plan.matrices_in_shared ? &cuda::forward_kernel<T, A, true> : &cuda::forward_kernel<T, A, false>,
           plan.blocks, plan.threads, plan.shared_bytes, x.get_device_index(), arguments);
  });
  Layout::finish(y, y_written);
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> graph_conv_backward(
    const Tensor& grad_y, const Tensor& x, const std::optional<Tensor>& y, const Tensor& edge_weight,
    const Tensor& adjacency, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& seed, bool per_sample, bool mask, bool target, bool relu, bool need_x,
    bool need_params) {
  const GraphConvInputs inputs{x, edge_weight, adjacency, weight, bias, seed, per_sample && seed, {mask, target}, relu};
  inputs.check();
  inputs.check_features("grad_y", grad_y);
  if (y) inputs.check_features("y", *y);
  GraphConvGradients gradients(inputs, need_x, need_params);
  if (x.numel() == 0)
    for (Tensor* gradient : {&gradients.edge_weight, &gradients.weight, &gradients.bias})
      torch::stable::zero_(*gradient);
  if (x.numel() == 0 || !(need_x || need_params))
    return {gradients.x, gradients.edge_weight, gradients.weight, gradients.bias};

  const DeviceGuard guard(x.get_device_index());
  Layout layout(x);
  const Tensor grad_y_read = layout.read(grad_y), x_read = layout.read(x),
               grad_x_written = need_x ? layout.write(gradients.x) : gradients.x;
  const std::optional<Tensor> y_read = layout.read(y);
  with_types(x.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const cuda::Plan plan = make_plan(&cuda::plan_backward<T, A>, layout, inputs);
    const GraphParams<A> params = inputs.params<A>();
    const int64_t size = need_params ? cuda::partial_size(params) : 0;
    const std::optional<Tensor> workspace = allocate(inputs, plan.workspace),
                                partial = allocate(inputs, plan.blocks * size);
    const cuda::BackwardArguments<T, A> arguments{plan.tiling,
                                                  params,
                                                  const_data<T>(grad_y_read),
                                                  const_data<T>(x_read),
                                                  const_data<T>(y_read),
                                                  need_x ? data<T>(grad_x_written) : nullptr,
                                                  data<A>(partial),
                                                  inputs.per_sample,
                                                  relu,
                                                  plan.parts,
                                                  data<A>(workspace)};
    launch(plan.matrices_in_shared ? &cuda::backward_kernel<T, A, true> : &cuda::backward_kernel<T, A, false>,
           plan.blocks, plan.threads, plan.shared_bytes, x.get_device_index(), arguments);
    if (!need_params) return;
    const cuda::ReduceArguments<A> reduce{data<A>(partial),
                                          plan.blocks,
                                          size,
                                          data<A>(gradients.edge_weight),
                                          weight ? data<A>(gradients.weight) : nullptr,
                                          bias ? data<A>(gradients.bias) : nullptr,
                                          params.nodes};
    launch(&cuda::reduce_kernel<A>, (size + cuda::kReduceEntries - 1) / cuda::kReduceEntries, cuda::kReduceThreads,
           cuda::kReduceThreads * sizeof(A), x.get_device_index(), reduce);
  });
  if (need_x) Layout::finish(gradients.x, grad_x_written);
  return {gradients.x, gradients.edge_weight, gradients.weight, gradients.bias};
}

Tensor sample_adjacency(const Tensor& adjacency, const Tensor& seed, std::optional<int64_t> batch) {
  const Tensor draw = check_sample_adjacency(adjacency, seed, batch);
  if (draw.numel() == 0) return draw;
  const DeviceGuard guard(adjacency.get_device_index());
  with_types(adjacency.scalar_type(), [&](auto types) {
    using A = typename decltype(types)::A;
    GraphParams<A> params{};
    params.adjacency = const_data<A>(adjacency);
    params.seed = const_data<int64_t>(seed);
    params.nodes = static_cast<int>(adjacency.size(0));
    const int64_t samples = batch.value_or(1);
    launch(&cuda::sample_kernel<A>, std::min(samples, cuda::kMostSampleBlocks), cuda::kSampleThreads, 0,
           adjacency.get_device_index(), data<A>(draw), samples, params);
  });
  return draw;
}

STABLE_TORCH_LIBRARY_IMPL(dgcn, CUDA, m) {
  if (!owns_operators()) return;
  m.impl("graph_conv_forward", TORCH_BOX(&graph_conv_forward));
  m.impl("graph_conv_backward", TORCH_BOX(&graph_conv_backward));
  m.impl("sample_adjacency", TORCH_BOX(&sample_adjacency));
}

}  // namespace
}  // namespace dgcn
