// The CPU backend of the non-local layer: the keys of every image, memory and threads. kernels.cpp computes.
#include "nonlocal/backend.h"

#include <memory>
#include <vector>

#include "common/cpu_backend.h"
#include "common/instruction_set.h"
#include "nonlocal/cpu/kernels.h"
#include "nonlocal/cpu/ranked_keys.h"

namespace dgcn::nonlocal {
namespace {

/// Cost of sorting or scanning one element, in multiplications: see parallel_for().
constexpr int64_t kElementCost = 64;

/// The keys of every image, ranked by the constructor, and their memory.
template <typename T>
class BatchKeys {
 public:
  /// `backward`: fills `active` of the keys b as well.
  BatchKeys(const AffinityInputs& inputs, bool backward) : images_(inputs.images()) {
    const int64_t positions = inputs.positions();
    const int64_t sides = 2 * inputs.images();  // a and b of image 0, a and b of image 1, …
    keys_.reset(new double[sides * positions]);
    indices_.reset(new int32_t[3 * sides * positions]);
    parallel_for(sides, 8 * positions * kElementCost, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        int32_t* indices = &indices_[3 * index * positions];
        side(index) = {&keys_[index * positions], indices, indices + positions, indices + 2 * positions};
        const T* keys = const_data<T>(index % 2 == 0 ? inputs.a : inputs.b) + index / 2 * positions;
        rank_keys(keys, positions, side(index));
      }
    });
    const int64_t step = backward ? 1 : 2;
    parallel_for(sides / step, 8 * positions * kElementCost, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin * step; index < end * step; index += step)
        count_active(side(index), side(index ^ 1), positions);
    });
  }

  const ImageKeys* data() const { return images_.data(); }
  RankedKeys& side(int64_t index) { return index % 2 == 0 ? images_[index / 2].a : images_[index / 2].b; }

 private:
  std::vector<ImageKeys> images_;
  std::unique_ptr<double[]> keys_;
  std::unique_ptr<int32_t[]> indices_;
};

template <typename Stored>
int64_t blocks_of_image(const AffinityKernels<Stored>& kernels, const AffinityInputs& inputs) {
  return (inputs.channels() + kernels.block_channels - 1) / kernels.block_channels;
}

template <typename Stored>
void forward(const AffinityKernels<Stored>& kernels, const AffinityInputs& inputs, const Tensor& y) {
  const BatchKeys<typename Accumulation<Stored>::type> keys(inputs, false);
  const AffinityForwardArguments<Stored> arguments{inputs.shape(), keys.data(), const_view<Stored>(inputs.g),
                                                   view<Stored>(y)};
  parallel_for(inputs.images() * blocks_of_image(kernels, inputs),
               inputs.positions() * kernels.block_channels * kElementCost,
               [&](int64_t begin, int64_t end) { kernels.forward(arguments, begin, end); });
}

template <typename Stored>
void backward(const AffinityKernels<Stored>& kernels, const AffinityInputs& inputs, const Tensor& grad_y,
              const AffinityGradients& gradients) {
  using T = typename Accumulation<Stored>::type;
  const int64_t positions = inputs.positions(), image_blocks = blocks_of_image(kernels, inputs);
  const int64_t blocks = inputs.images() * image_blocks;
  BatchKeys<T> keys(inputs, true);
  const std::unique_ptr<double[]> block_gradients(gradients.need_keys ? new double[2 * blocks * positions] : nullptr);
  AffinityBackwardArguments<Stored> arguments{};
  arguments.shape = inputs.shape();
  arguments.keys = keys.data();
  arguments.g = const_view<Stored>(inputs.g);
  arguments.grad_y = const_view<Stored>(grad_y);
  if (gradients.need_g) arguments.grad_g = view<Stored>(gradients.g);
  if (gradients.need_keys) {
    arguments.grad_a = block_gradients.get();
    arguments.grad_b = block_gradients.get() + blocks * positions;
  }
  parallel_for(blocks, 2 * positions * kernels.block_channels * kElementCost,
               [&](int64_t begin, int64_t end) { kernels.backward(arguments, begin, end); });
  if (!gradients.need_keys) return;

  parallel_for(2 * inputs.images(), positions * image_blocks * kElementCost, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / 2;
      const bool is_a = index % 2 == 0;
      const double* parts = (is_a ? arguments.grad_a : arguments.grad_b) + image * image_blocks * positions;
      T* out = data<T>(is_a ? gradients.a : gradients.b) + image * positions;
      for (int64_t rank = 0; rank < positions; ++rank) {
        double sum = 0;
        for (int64_t block = 0; block < image_blocks; ++block) sum += parts[block * positions + rank];
        out[keys.side(index).position[rank]] = static_cast<T>(sum);
      }
    }
  });
}

}  // namespace

const AffinityBackend kCpuBackend{
    [](const AffinityInputs& inputs, const Tensor& y, const AffinitySaved*) {
      for_dtype(kernels_for<AffinityKernelTable>(instruction_set()), y.scalar_type(),
                [&](const auto& kernels) { forward(kernels, inputs, y); });
    },
    [](const AffinityInputs& inputs, const AffinitySaved*, const Tensor& grad_y, const AffinityGradients& gradients) {
      for_dtype(kernels_for<AffinityKernelTable>(instruction_set()), grad_y.scalar_type(),
                [&](const auto& kernels) { backward(kernels, inputs, grad_y, gradients); });
    },
    nullptr};

}  // namespace dgcn::nonlocal
