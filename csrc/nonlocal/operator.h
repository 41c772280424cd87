// What the CPU and CUDA operators have in common: the inputs, what is checked of them, the outputs. Legend: nonlocal.h.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <limits>

#include "common/checks.h"
#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal {

template <typename Stored>
Features<const Stored> read(const Tensor& features) {
  const Sizes strides = features.strides();
  return {static_cast<const Stored*>(features.const_data_ptr()), strides[0], strides[1], strides[2]};
}

template <typename Stored>
Features<Stored> write(const Tensor& features) {
  const Sizes strides = features.strides();
  return {static_cast<Stored*>(features.mutable_data_ptr()), strides[0], strides[1], strides[2]};
}

/// The arguments that relu_affinity_forward and relu_affinity_backward share.
struct Inputs {
  const Tensor &a, &b, &g;

  int64_t images() const { return g.size(0); }
  int64_t channels() const { return g.size(1); }
  int64_t positions() const { return g.size(2); }
  Shape shape() const { return {images(), channels(), positions()}; }

  void check() const {
    DGCN_CHECK(g.dim() == 3, "g must have shape [B, C, N], got ", to_string(g.sizes()));
    const ScalarType dtype = g.scalar_type();
    DGCN_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float || dtype == ScalarType::BFloat16 ||
                   dtype == ScalarType::Half,
               "g must be float64, float32, bfloat16 or float16, got ", torch::headeronly::toString(dtype));
    constexpr int64_t kMostPositions = std::numeric_limits<int32_t>::max();  // positions are numbered with an int32
    DGCN_CHECK(positions() <= kMostPositions, "g must have at most ", kMostPositions, " positions, got ", positions());
    check_keys("a", a);
    check_keys("b", b);
  }

  /// grad_y, which goes with g.
  void check_grad_y(const Tensor& grad_y) const {
    check_shape("grad_y", grad_y, g.sizes());
    check_dtype("grad_y", grad_y, g.scalar_type());
    check_same_device("grad_y", grad_y, "g", g);
  }

 private:
  void check_keys(const char* name, const Tensor& keys) const {
    check_shape(name, keys, {images(), positions()});
    check_dtype(name, keys, g.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
    check_contiguous(name, keys);
    check_same_device(name, keys, "g", g);
  }
};

/// What relu_affinity_backward returns; a gradient that is not wanted has shape [0].
struct Gradients {
  Tensor a, b, g;

  Gradients(const Inputs& inputs, bool need_keys, bool need_g)
      : a(like(inputs.a, need_keys)), b(like(inputs.b, need_keys)), g(like(inputs.g, need_g)) {}

 private:
  static Tensor like(const Tensor& input, bool needed) {
    return needed ? torch::stable::empty_like(input) : torch::stable::new_empty(input, {0});
  }
};

}  // namespace dgcn::nonlocal
