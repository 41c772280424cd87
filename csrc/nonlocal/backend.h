// The interface between the operators (nonlocal.cpp) and the backends that compute them on a CPU or a GPU. Legend:
// nonlocal.h.
#pragma once

#include "common/tensors.h"
#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal {

template <typename Stored>
FeatureView<const Stored> const_view(const Tensor& features) {
  const Sizes strides = features.strides();
  return {const_data<Stored>(features), strides[0], strides[1], strides[2]};
}

template <typename Stored>
FeatureView<Stored> view(const Tensor& features) {
  const Sizes strides = features.strides();
  return {data<Stored>(features), strides[0], strides[1], strides[2]};
}

/// The arguments that relu_affinity_forward and relu_affinity_backward share.
struct AffinityInputs {
  const Tensor &a, &b, &g;

  int64_t images() const { return g.size(0); }
  int64_t channels() const { return g.size(1); }
  int64_t positions() const { return g.size(2); }
  FeatureShape shape() const { return {images(), channels(), positions()}; }
};

/// What relu_affinity_backward returns. A gradient that is not needed has shape [0].
struct AffinityGradients {
  bool need_keys, need_g;
  Tensor a, b, g;
};

/// What forward can save for backward on CUDA. kernels.cuh explains both.
struct AffinitySaved {
  Tensor order;   ///< int32 [B, 2N]: the items of an image, sorted
  Tensor states;  ///< float64 [B, chunks + 1, C, 2]: the state in which each chunk of the descending scan starts
};

/// The computation on one kind of device. Arguments have been checked, outputs are allocated, and g has elements.
struct AffinityBackend {
  void (*forward)(const AffinityInputs& inputs, const Tensor& y, const AffinitySaved* wanted);  // null: not wanted
  void (*backward)(const AffinityInputs& inputs, const AffinitySaved* known, const Tensor& grad_y,
                   const AffinityGradients& gradients);      // null: not known
  AffinitySaved (*new_saved)(const AffinityInputs& inputs);  // null: this device saves nothing
};

extern const AffinityBackend kCpuBackend, kCudaBackend;

}  // namespace dgcn::nonlocal
