// The CPU backend of the graph convolution: memory and threads. kernels.cpp computes.
#include "graph_conv/backend.h"

#include <algorithm>
#include <memory>

#include "common/cpu_backend.h"
#include "common/instruction_set.h"
#include "graph_conv/cpu/kernels.h"

namespace dgcn::graph_conv {
namespace {

MapShape map_shape(const Tensor& x) { return {x.size(0), static_cast<int>(x.size(1)), x.size(2), x.size(3)}; }

template <typename Stored>
MapView<const Stored> const_view(const Tensor& map) {
  const Sizes strides = map.strides();
  return {const_data<Stored>(map), strides[0], strides[1], strides[2], strides[3]};
}

template <typename Stored>
MapView<Stored> view(const Tensor& map) {
  const Sizes strides = map.strides();
  return {data<Stored>(map), strides[0], strides[1], strides[2], strides[3]};
}

/// The K×K matrices of every sample, computed by the constructor, and their memory.
template <typename T>
class OwnedMatrices : public SampleMatrices<T> {
 public:
  template <typename Stored>
  OwnedMatrices(const GraphConvKernels<Stored>& kernels, const GraphConvInputs& inputs) {
    const int64_t K = inputs.nodes(), samples = inputs.samples(), size = samples * K * K;
    memory_.reset(new T[5 * size]);
    SampleMatrices<T>::operator=(
        {&memory_[0], &memory_[size], &memory_[2 * size], &memory_[3 * size], &memory_[4 * size]});
    parallel_for(samples, K * K * (K + 16),
                 [&](int64_t begin, int64_t end) { kernels.compute_matrices(inputs.params<T>(), *this, begin, end); });
  }

 private:
  std::unique_ptr<T[]> memory_;
};

template <typename Stored>
void forward(const GraphConvKernels<Stored>& kernels, const GraphConvInputs& inputs,
             const std::optional<Tensor>& residual, const Tensor& y) {
  using T = typename Accumulation<Stored>::type;
  const int64_t K = inputs.nodes();
  const MapShape shape = map_shape(inputs.x);
  const PixelTiling tiling(shape, inputs.per_sample, 2 * kTileUnit);
  const OwnedMatrices<T> matrices(kernels, inputs);
  CpuForwardArguments<Stored> arguments{};
  arguments.shape = shape;
  arguments.x = const_view<Stored>(inputs.x);
  if (residual) arguments.residual = const_view<Stored>(*residual);
  arguments.y = view<Stored>(y);
  arguments.m = matrices.m;
  arguments.m_transposed = matrices.m_transposed;
  arguments.bias = inputs.params<T>().bias;
  arguments.relu = inputs.relu;
  parallel_for(tiling.tiles(), K * K * tiling.capacity(),
               [&](int64_t begin, int64_t end) { kernels.forward(arguments, tiling, begin, end); });
}

/// out[e] = Σ_sample in[sample·stride + e], in the order of the samples.
template <typename T>
void sum_samples(const T* in, int64_t samples, int64_t stride, const Tensor& out) {
  T* sum = data<T>(out);
  const int64_t size = out.numel();
  std::fill_n(sum, size, T(0));
  for (int64_t sample = 0; sample < samples; ++sample)
    for (int64_t e = 0; e < size; ++e) sum[e] += in[sample * stride + e];
}

template <typename Stored>
void backward(const GraphConvKernels<Stored>& kernels, const GraphConvInputs& inputs, const Tensor& grad_y,
              const std::optional<Tensor>& y, const GraphConvGradients& gradients) {
  using T = typename Accumulation<Stored>::type;
  const int64_t K = inputs.nodes(), samples = inputs.samples(), partial_size = K * K + K;
  const MapShape shape = map_shape(inputs.x);
  // As large as L2 allows for g and x: at the end of a tile, the lanes of each of the K² sums of dM are added up.
  const int64_t tile_units = std::clamp<int64_t>((1 << 17) / kTileUnit / K, 1, 5);
  const PixelTiling tiling(shape, inputs.per_sample, tile_units * kTileUnit);
  const OwnedMatrices<T> matrices(kernels, inputs);
  const std::unique_ptr<T[]> partial(new T[tiling.chunks() * partial_size]);
  const GraphParams<T> params = inputs.params<T>();

  CpuBackwardArguments<Stored> arguments{};
  arguments.shape = shape;
  arguments.grad_y = const_view<Stored>(grad_y);
  arguments.x = const_view<Stored>(inputs.x);
  if (y) arguments.y = const_view<Stored>(*y);
  if (gradients.need_x) arguments.grad_x = view<Stored>(gradients.x);
  arguments.m = matrices.m;
  arguments.m_transposed = matrices.m_transposed;
  arguments.bias = params.bias;
  arguments.relu = inputs.relu;
  arguments.need_params = gradients.need_params;
  arguments.partial = partial.get();
  parallel_for(tiling.chunks(), 2 * K * K * tiling.capacity() * (tiling.tiles() / tiling.chunks()),
               [&](int64_t begin, int64_t end) { kernels.backward(arguments, tiling, begin, end); });
  if (!gradients.need_params) return;

  parallel_for(samples, 2 * K * K * K, [&](int64_t begin, int64_t end) {
    kernels.parameter_gradients(params, matrices, partial.get(), tiling.chunks_per_sample(), begin, end);
  });
  sum_samples(matrices.effective, samples, K * K, gradients.edge_weight);
  if (inputs.weight) sum_samples(matrices.m, samples, K * K, gradients.weight);
  if (inputs.bias)
    sum_samples(partial.get() + K * K, samples, tiling.chunks_per_sample() * partial_size, gradients.bias);
}

template <typename T>
void sample_adjacency(const Tensor& adjacency, const Tensor& seed, uint32_t first_sample, const Tensor& draw) {
  const int64_t K = adjacency.size(0);
  GraphParams<T> params{};
  params.adjacency = const_data<T>(adjacency);
  params.seed = const_data<int64_t>(seed);
  params.first_sample = first_sample;
  params.nodes = static_cast<int>(K);
  T* out = data<T>(draw);
  parallel_for(draw.numel() / (K * K), K * K * 8, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) effective_adjacency(out + n * K * K, params, static_cast<uint32_t>(n), 0, 1);
  });
}

}  // namespace

const GraphConvBackend kCpuBackend{
    [](const GraphConvInputs& inputs, const std::optional<Tensor>& residual, const Tensor& y,
       const std::optional<Tensor>&) {
      for_dtype(kernels_for<GraphConvKernelTable>(instruction_set()), y.scalar_type(),
                [&](const auto& kernels) { forward(kernels, inputs, residual, y); });
    },
    [](const GraphConvInputs& inputs, const Tensor& grad_y, const std::optional<Tensor>& y,
       const GraphConvGradients& gradients) {
      for_dtype(kernels_for<GraphConvKernelTable>(instruction_set()), grad_y.scalar_type(),
                [&](const auto& kernels) { backward(kernels, inputs, grad_y, y, gradients); });
    },
    [](const Tensor& adjacency, const Tensor& seed, uint32_t first_sample, const Tensor& draw) {
      if (draw.scalar_type() == ScalarType::Double)
        sample_adjacency<double>(adjacency, seed, first_sample, draw);
      else
        sample_adjacency<float>(adjacency, seed, first_sample, draw);
    }};

}  // namespace dgcn::graph_conv
