// The graph convolution on the CPU: the operators, and the threads. The arithmetic on pixels is in
// kernels_impl.h, that on the K×K matrices in graph_conv.h.
#include "graph_conv/operator.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>

#include "common/cpu_kernels.h"
#include "graph_conv/cpu/kernels.h"
#include "registration.h"

namespace dgcn {
namespace {

const CpuKernelSet& kernel_set() {
#if defined(__x86_64__)
  if (cpu_capability() == CpuCapability::avx512) return kAvx512Kernels;
  if (cpu_capability() == CpuCapability::avx2) return kAvx2Kernels;
#endif
  return kPortableKernels;
}

/// Runs body(begin, end) over [0, count) in parallel, if that is worth a thread: `cost` is one item's multiplications.
template <typename Body>
void parallel_for(int64_t count, int64_t cost, const Body& body) {
  constexpr int64_t kWorthAThread = 1 << 20;  // ~20 µs
  if (count > 0) torch::stable::parallel_for(0, count, std::max<int64_t>(1, kWorthAThread / cost), body);
}

FeatureShape feature_shape(const Tensor& x) { return {x.size(0), static_cast<int>(x.size(1)), x.size(2), x.size(3)}; }

template <typename Stored>
Features<const Stored> read(const Tensor& features) {
  const Sizes strides = features.strides();
  return {static_cast<const Stored*>(features.const_data_ptr()), strides[0], strides[1], strides[2], strides[3]};
}

template <typename Stored>
Features<Stored> write(const Tensor& features) {
  const Sizes strides = features.strides();
  return {static_cast<Stored*>(features.mutable_data_ptr()), strides[0], strides[1], strides[2], strides[3]};
}

template <typename T>
void check_probabilities(const T* adjacency, int64_t K) {
  bool valid = true;
  for (int64_t e = 0; e < K * K; ++e) valid &= T(0) <= adjacency[e] && adjacency[e] <= T(1);
  if (valid) return;
  for (int64_t e = 0; e < K * K; ++e)
    DGCN_CHECK(T(0) <= adjacency[e] && adjacency[e] <= T(1), "adjacency must be in [0, 1], got ", adjacency[e], " at [",
               e / K, ", ", e % K, "]");
}

/// The K×K matrices of every sample, filled in, and the memory behind them.
template <typename Stored, typename T = typename Accumulation<Stored>::type>
struct MixingStorage : Mixing<T> {
  MixingStorage(const CpuKernels<Stored>& kernels, const GraphConvInputs& inputs) {
    const int64_t K = inputs.nodes(), samples = inputs.samples(), size = samples * K * K;
    memory.reset(new T[5 * size]);
    Mixing<T>::operator=({&memory[0], &memory[size], &memory[2 * size], &memory[3 * size], &memory[4 * size]});
    parallel_for(samples, K * K * (K + 16),
                 [&](int64_t begin, int64_t end) { kernels.mix(inputs.params<T>(), *this, begin, end); });
  }

  std::unique_ptr<T[]> memory;
};

template <typename Stored, typename T = typename Accumulation<Stored>::type>
void forward(const CpuKernels<Stored>& kernels, const GraphConvInputs& inputs, const std::optional<Tensor>& residual,
             const Tensor& y) {
  const int64_t K = inputs.nodes();
  check_probabilities(static_cast<const T*>(inputs.adjacency.const_data_ptr()), K);
  const FeatureShape shape = feature_shape(inputs.x);
  const Tiling tiling(shape, inputs.per_sample, 2 * kTileUnit);
  if (tiling.tiles() == 0) return;
  const MixingStorage mixing(kernels, inputs);
  ForwardArguments<Stored> arguments{
      shape,      read<Stored>(inputs.x), {}, write<Stored>(y), mixing.m, mixing.m_transposed, inputs.params<T>().bias,
      inputs.relu};
  if (residual) arguments.residual = read<Stored>(*residual);
  parallel_for(tiling.tiles(), K * K * tiling.capacity(),
               [&](int64_t begin, int64_t end) { kernels.forward(arguments, tiling, begin, end); });
}

/// out[e] = Σ over samples of in[sample·stride + e], in order.
template <typename T>
void sum_samples(const T* in, int64_t samples, int64_t stride, const Tensor& out) {
  T* sum = static_cast<T*>(out.mutable_data_ptr());
  const int64_t size = out.numel();
  std::fill_n(sum, size, T(0));
  for (int64_t sample = 0; sample < samples; ++sample)
    for (int64_t e = 0; e < size; ++e) sum[e] += in[sample * stride + e];
}

template <typename Stored, typename T = typename Accumulation<Stored>::type>
void backward(const CpuKernels<Stored>& kernels, const GraphConvInputs& inputs, const Tensor& grad_y,
              const std::optional<Tensor>& y, bool need_x, bool need_params, const GraphConvGradients& gradients) {
  const int64_t K = inputs.nodes();
  const FeatureShape shape = feature_shape(inputs.x);
  // The long way from the sums of a block to dM should be worth it, and g and x stay in L2.
  const int64_t tile_units = std::clamp<int64_t>((1 << 17) / kTileUnit / K, 1, 5);
  const Tiling tiling(shape, inputs.per_sample, tile_units * kTileUnit);
  const int64_t samples = tiling.tiles() == 0 ? 0 : inputs.samples(), partial_size = K * K + K;
  const MixingStorage mixing(kernels, inputs);
  const std::unique_ptr<T[]> partial(new T[tiling.chunks() * partial_size]);
  const GraphParams<T> params = inputs.params<T>();

  BackwardArguments<Stored> arguments{
      shape,       read<Stored>(grad_y), read<Stored>(inputs.x), {}, {}, mixing.m, mixing.m_transposed, params.bias,
      inputs.relu, need_params,          partial.get()};
  if (y) arguments.y = read<Stored>(*y);
  if (need_x) arguments.grad_x = write<Stored>(gradients.x);
  if (tiling.chunks() > 0)
    parallel_for(tiling.chunks(), 2 * K * K * tiling.capacity() * (tiling.tiles() / tiling.chunks()),
                 [&](int64_t begin, int64_t end) { kernels.backward(arguments, tiling, begin, end); });
  if (!need_params) return;

  parallel_for(samples, 2 * K * K * K, [&](int64_t begin, int64_t end) {
    kernels.parameter_gradients(params, mixing, partial.get(), tiling.chunks_per_sample(), begin, end);
  });
  sum_samples(mixing.effective, samples, K * K, gradients.edge_weight);
  if (inputs.weight) sum_samples(mixing.m, samples, K * K, gradients.weight);
  if (inputs.bias)
    sum_samples(partial.get() + K * K, samples, tiling.chunks_per_sample() * partial_size, gradients.bias);
}

Tensor graph_conv_forward(const Tensor& x, const Tensor& edge_weight, const Tensor& adjacency,
                          const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& residual, const std::optional<Tensor>& seed, bool per_sample,
                          bool mask, bool target, bool relu) {
  const GraphConvInputs inputs{x, edge_weight, adjacency, weight, bias, seed, per_sample && seed, {mask, target}, relu};
  inputs.check();
  if (residual) inputs.check_features("residual", *residual);
  const Tensor y = new_like(x);
  with_kernels(kernel_set(), x.scalar_type(), [&](const auto& kernels) { forward(kernels, inputs, residual, y); });
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
  const GraphConvGradients gradients(inputs, need_x, need_params);
  with_kernels(kernel_set(), x.scalar_type(),
               [&](const auto& kernels) { backward(kernels, inputs, grad_y, y, need_x, need_params, gradients); });
  return {gradients.x, gradients.edge_weight, gradients.weight, gradients.bias};
}

Tensor sample_adjacency(const Tensor& adjacency, const Tensor& seed, std::optional<int64_t> batch) {
  const Tensor draw = check_sample_adjacency(adjacency, seed, batch);
  const auto sample = [&](auto zero) {
    using T = decltype(zero);
    const T* probabilities = static_cast<const T*>(adjacency.const_data_ptr());
    T* out = static_cast<T*>(draw.mutable_data_ptr());
    const int64_t K = adjacency.size(0);
    check_probabilities(probabilities, K);
    GraphParams<T> params{};
    params.adjacency = probabilities;
    params.seed = static_cast<const int64_t*>(seed.const_data_ptr());
    params.nodes = static_cast<int>(K);
    parallel_for(batch.value_or(1), K * K * 8, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        effective_adjacency(out + n * K * K, params, static_cast<uint32_t>(n), 0, 1);
    });
  };
  if (adjacency.scalar_type() == ScalarType::Double)
    sample(double{});
  else
    sample(float{});
  return draw;
}

STABLE_TORCH_LIBRARY_IMPL(dgcn, CPU, m) {
  if (!owns_operators()) return;
  m.impl("graph_conv_forward", TORCH_BOX(&graph_conv_forward));
  m.impl("graph_conv_backward", TORCH_BOX(&graph_conv_backward));
  m.impl("sample_adjacency", TORCH_BOX(&sample_adjacency));
}

}  // namespace
}  // namespace dgcn
