// The K×K half of the graph convolution (Eq. 7, 8), shared by the CPU and CUDA kernels and free of torch.
//
//   S = row_softmax(W_d ⊙ A)      P = Sᵀ for "source" (X·S, the paper), S for "target"      M = P W
//   y = act(M x + b) (+ residual)
//
//   K       nodes = channels of x
//   x, y    [B, K, H, W]  features; a pixel is one (h, w) of one image, N = H·W of them an image
//   W_d     [K, K]        edge_weight
//   A       [K, K]        adjacency in [0, 1]; "effective": A itself, or with a seed the 0/1 draw from Bernoulli(A)
//   S       [K, K]        row-stochastic mixing matrix
//   P       [K, K]        Sᵀ or S, which multiplies the nodes
//   W, b    [K, K], [K]   weight and bias of the 1×1 convolution; either may be null
//   M       [K, K]        the only matrix that multiplies the pixels
//
// Backward, with g = ∂L/∂y gated by ReLU (0 where M x + b ≤ 0; a NaN passes): dx = Mᵀ g, and over all pixels db = Σ g
// and dM = Σ g xᵀ. From these dW = Pᵀ dM, dP = dM Wᵀ, dS = dPᵀ or dP, and through the softmax dW_d.
//
// Matrices are row-major and dense. The matrix products are in the kernels. The functions here loop from `begin` in
// steps of `step`: a thread of a CUDA block passes (its number, block size), or its warp's among those of the block;
// the CPU passes (0, 1).
#pragma once

#include <cmath>

#include "common/philox.h"

namespace dgcn::graph_conv {

/// On a GPU ReLU's gate is kept as bits, of node k bit k % 32 of word k / 32 of a pixel, which is set where the
/// gradient passes: 4 bytes a pixel for up to 32 nodes, where y has K numbers.
DGCN_HOST_DEVICE int64_t gate_words(int64_t nodes) { return (nodes + 31) / 32; }

/// The two readings of Eq. 8, and the two directions of S.
struct GraphMode {
  bool mask;    ///< the logit of an absent edge is −∞ ("mask") instead of 0 ("literal")
  bool target;  ///< P = S instead of Sᵀ
};

/// The parameters of one call as the kernels see them; `seed` points to a single int64, on the device for CUDA.
template <typename T>
struct GraphParams {
  const T* edge_weight;   ///< [K, K]
  const T* adjacency;     ///< [K, K]
  const T* weight;        ///< [K, K] or null
  const T* bias;          ///< [K] or null
  const int64_t* seed;    ///< null: the adjacency is used as given
  uint32_t first_sample;  ///< number of the first image in the whole batch, of which a call may have a part
  int nodes;              ///< K
  GraphMode mode;
};

/// effective [K, K] = A, or the draw from Bernoulli(A) of the call's image `sample`. Loops over groups of four edges.
template <typename T>
DGCN_HOST_DEVICE void effective_adjacency(T* effective, const GraphParams<T>& params, uint32_t sample, int begin,
                                          int step) {
  const int edges = params.nodes * params.nodes;
  for (int quad = begin; quad * 4 < edges; quad += step) {
    const int count = edges - quad * 4 < 4 ? edges - quad * 4 : 4;
    const T* probability = params.adjacency + quad * 4;
    T* out = effective + quad * 4;
    if (params.seed == nullptr) {
      for (int lane = 0; lane < count; ++lane) out[lane] = probability[lane];
    } else {
      const Philox4 bits = edge_bits(*params.seed, static_cast<uint32_t>(quad), params.first_sample + sample);
      // A conversion and not a branch, which would be unpredictable.
      for (int lane = 0; lane < count; ++lane)
        out[lane] = static_cast<T>(edge_present(bits.word[lane], probability[lane]));
    }
  }
}

/// The lanes that compute a row together: lane `first` has the columns first, first + step, … On a GPU these are the
/// threads of a warp, with functions that combine what each has found; here it is one that does everything.
struct OneLane {
  static constexpr int first = 0, step = 1;

  template <typename T>
  DGCN_HOST_DEVICE_MEMBER T largest(T value) const {
    return value;
  }
  DGCN_HOST_DEVICE_MEMBER double sum(double value) const { return value; }
};

/// S = row_softmax(W_d ⊙ effective), Eq. 8. With `mask`, a row without edges is zeros. Loops over rows.
template <typename T, typename Lanes = OneLane>
DGCN_HOST_DEVICE void row_softmax(T* __restrict__ s, const T* effective, const GraphParams<T>& params, int begin,
                                  int step, const Lanes& lanes = {}) {
  const int K = params.nodes;
  const bool mask = params.mode.mask;
  for (int row = begin; row < K; row += step) {
    const T* a = effective + row * K;
    const T* w_d = params.edge_weight + row * K;
    T* __restrict__ out = s + row * K;  // __restrict__ lets exponentials overlap: none waits for a store
    T maximum = -static_cast<T>(INFINITY);
    for (int j = lanes.first; j < K; j += lanes.step) {
      const T logit = mask && a[j] == T(0) ? maximum : w_d[j] * a[j];
      maximum = logit > maximum ? logit : maximum;
    }
    maximum = lanes.largest(maximum);
    double sum = 0;  // in double, since its error scales the whole row
    for (int j = lanes.first; j < K; j += lanes.step) {
      out[j] = mask && a[j] == T(0) ? T(0) : std::exp(w_d[j] * a[j] - maximum);
      sum += out[j];
    }
    sum = lanes.sum(sum);
    const T scale = sum == 0 ? T(0) : static_cast<T>(1 / sum);
    for (int j = lanes.first; j < K; j += lanes.step) out[j] *= scale;
  }
}

/// out [K, K] = dW_d = effective ⊙ dZ. Z = W_d ⊙ effective are the logits, with dZ_ij = S_ij (dS_ij − Σ_l S_il dS_il).
/// The gradient of an absent edge is 0, as `effective` is. `grad_p` is dP. `out` may be `effective`. Loops over rows.
template <typename T, typename Lanes = OneLane>
DGCN_HOST_DEVICE void edge_weight_gradient(T* out, const T* s, const T* grad_p, const T* effective, int K,
                                           GraphMode mode, int begin, int step, const Lanes& lanes = {}) {
  for (int i = begin; i < K; i += step) {
    const T* grad_s = mode.target ? grad_p + i * K : grad_p + i;  // dS = dP or dPᵀ
    const int stride = mode.target ? 1 : K;
    double sum = 0;
    for (int j = lanes.first; j < K; j += lanes.step) sum += s[i * K + j] * grad_s[j * stride];
    const T mean = static_cast<T>(lanes.sum(sum));
    for (int j = lanes.first; j < K; j += lanes.step)
      out[i * K + j] = effective[i * K + j] * s[i * K + j] * (grad_s[j * stride] - mean);
  }
}

}  // namespace dgcn::graph_conv
