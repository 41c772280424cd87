// The non-local layer on the CPU: the operators, the keys of every image, the division into blocks of channels, and the
// threads. The arithmetic is in kernels_impl.h.
#include "nonlocal/operator.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "common/cpu_kernels.h"
#include "nonlocal/cpu/kernels.h"
#include "registration.h"

namespace dgcn::nonlocal {
namespace {

const CpuKernelSet& kernel_set() {
#if defined(__x86_64__)
  if (cpu_capability() == CpuCapability::avx512) return kAvx512Kernels;
  if (cpu_capability() == CpuCapability::avx2) return kAvx2Kernels;
#endif
  return kPortableKernels;
}

/// Runs body(begin, end) over [0, count) in parallel, if that is worth a thread: `cost` is one item's elements.
template <typename Body>
void parallel_for(int64_t count, int64_t cost, const Body& body) {
  constexpr int64_t kWorthAThread = 1 << 14;  // ~20 µs
  if (count > 0)
    torch::stable::parallel_for(0, count, std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, cost)), body);
}

/// The keys of every image, sorted and paired, and the memory behind them. `backward`: the way from b to a is wanted too.
template <typename T>
class Pairings {
 public:
  Pairings(const Inputs& inputs, bool backward) : pairings_(inputs.images()) {
    const int64_t positions = inputs.positions(), sides = 2 * inputs.images();
    keys_.reset(new double[sides * positions]);
    indices_.reset(new int32_t[3 * sides * positions]);
    parallel_for(sides, 8 * positions, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        int32_t* indices = &indices_[3 * index * positions];
        side(index) = {{&keys_[index * positions], indices, indices + positions}, indices + 2 * positions};
        const Tensor& keys = index % 2 == 0 ? inputs.a : inputs.b;
        sort_keys(static_cast<const T*>(keys.const_data_ptr()) + index / 2 * positions, positions, side(index).keys);
      }
    });
    const int64_t step = backward ? 1 : 2;  // a of an image is followed by b
    parallel_for(sides / step, 8 * positions, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin * step; index < end * step; index += step)
        count_meetings(side(index).keys.key, side(index ^ 1).keys.key, positions, side(index).met);
    });
  }

  const Pairing* data() const { return pairings_.data(); }

 private:
  Side& side(int64_t index) { return index % 2 == 0 ? pairings_[index / 2].a : pairings_[index / 2].b; }

  std::vector<Pairing> pairings_;
  std::unique_ptr<double[]> keys_;
  std::unique_ptr<int32_t[]> indices_;
};

/// out[n] of every image = Σ over its blocks of shares[block, slot of n], in order.
template <typename T>
void sum_shares(const double* shares, int64_t blocks_per_image, const SortedKeys& keys, int64_t positions, T* out) {
  for (int64_t slot = 0; slot < positions; ++slot) {
    double sum = 0;
    for (int64_t block = 0; block < blocks_per_image; ++block) sum += shares[block * positions + slot];
    out[keys.position[slot]] = static_cast<T>(sum);
  }
}

template <typename Stored>
void forward(const CpuKernels<Stored>& kernels, const Inputs& inputs, int64_t blocks_per_image, const Tensor& y) {
  const Pairings<typename Accumulation<Stored>::type> pairings(inputs, false);
  const ForwardArguments<Stored> arguments{inputs.shape(), pairings.data(), read<Stored>(inputs.g), write<Stored>(y)};
  parallel_for(inputs.images() * blocks_per_image, inputs.positions() * kernel_set().block_channels,
               [&](int64_t begin, int64_t end) { kernels.forward(arguments, begin, end); });
}

template <typename Stored>
void backward(const CpuKernels<Stored>& kernels, const Inputs& inputs, int64_t blocks_per_image, const Tensor& grad_y,
              bool need_keys, bool need_g, const Gradients& gradients) {
  using T = typename Accumulation<Stored>::type;
  const int64_t positions = inputs.positions(), images = inputs.images(), blocks = images * blocks_per_image;
  const Pairings<T> pairings(inputs, true);
  const std::unique_ptr<double[]> shares(need_keys ? new double[2 * blocks * positions] : nullptr);
  BackwardArguments<Stored> arguments{inputs.shape(), pairings.data(), read<Stored>(inputs.g), read<Stored>(grad_y), {},
                                      nullptr,        nullptr};
  if (need_g) arguments.grad_g = write<Stored>(gradients.g);
  if (need_keys) {
    arguments.grad_a = shares.get();
    arguments.grad_b = shares.get() + blocks * positions;
  }
  parallel_for(blocks, 2 * positions * kernel_set().block_channels,
               [&](int64_t begin, int64_t end) { kernels.backward(arguments, begin, end); });
  if (!need_keys) return;
  parallel_for(2 * images, positions * blocks_per_image, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / 2;
      const bool is_a = index % 2 == 0;
      const Side& side = is_a ? pairings.data()[image].a : pairings.data()[image].b;
      const double* of_image = (is_a ? arguments.grad_a : arguments.grad_b) + image * blocks_per_image * positions;
      T* out = static_cast<T*>((is_a ? gradients.a : gradients.b).mutable_data_ptr()) + image * positions;
      sum_shares(of_image, blocks_per_image, side.keys, positions, out);
    }
  });
}

int64_t blocks_per_image(const Inputs& inputs) {
  return (inputs.channels() + kernel_set().block_channels - 1) / kernel_set().block_channels;
}

Tensor relu_affinity_forward(const Tensor& a, const Tensor& b, const Tensor& g) {
  const Inputs inputs{a, b, g};
  inputs.check();
  const Tensor y = torch::stable::empty_like(g);
  if (y.numel() == 0) return y;
  with_kernels(kernel_set(), g.scalar_type(),
               [&](const auto& kernels) { forward(kernels, inputs, blocks_per_image(inputs), y); });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> relu_affinity_backward(const Tensor& grad_y, const Tensor& a, const Tensor& b,
                                                          const Tensor& g, bool need_keys, bool need_g) {
  const Inputs inputs{a, b, g};
  inputs.check();
  inputs.check_grad_y(grad_y);
  const Gradients gradients(inputs, need_keys, need_g);
  if (inputs.images() > 0 && inputs.positions() > 0 && (need_keys || need_g))
    with_kernels(kernel_set(), g.scalar_type(), [&](const auto& kernels) {
      backward(kernels, inputs, blocks_per_image(inputs), grad_y, need_keys, need_g, gradients);
    });
  return {gradients.a, gradients.b, gradients.g};
}

STABLE_TORCH_LIBRARY_IMPL(dgcn, CPU, m) {
  if (!owns_operators()) return;
  m.impl("relu_affinity_forward", TORCH_BOX(&relu_affinity_forward));
  m.impl("relu_affinity_backward", TORCH_BOX(&relu_affinity_backward));
}

}  // namespace
}  // namespace dgcn::nonlocal
