// The K×K half of the graph convolution (Eq. 7, 8), shared by the CPU and CUDA kernels and free of torch.
//
//   y = act( P W x + b ) (+ residual)      S = row_softmax(W_d ⊙ A)      P = Sᵀ ("source": X·S, the paper)  or  S
//   ("target")
//
//   K          nodes = channels of x
//   x, y       [B, K, H, W]   features; a pixel is one (h, w) of one image, N = H·W of them per image
//   W_d        [K, K]         edge_weight
//   A          [K, K]         adjacency in [0, 1]; "effective": A itself without a seed, else the 0/1 draw from
//   Bernoulli(A) S, P       [K, K]         row-stochastic mixing matrix, and the orientation in which it is applied W,
//   b       [K, K], [K]    weight and bias of the 1×1 convolution; W may be null, which stands for the identity M [K,
//   K]         folded matrix P·W: the only one that meets the pixels, y = act(M x + b)
//
// Matrices are row-major and dense. Work is divided by (begin, step): a thread of a CUDA block passes (rank, block
// size), the CPU (0, 1). Where a V is asked for, it is either T or a vector of adjacent columns.
#pragma once

#include <cmath>
#include <cstring>

#include "../philox.h"

namespace dgcn {

/// Which reading of Eq. 8, and which orientation.
struct GraphMode {
  bool mask;    ///< absent edges have logit −∞ ("mask") rather than 0 ("literal")
  bool target;  ///< P = S rather than Sᵀ
};

/// The parameters of one call as the kernels see them; `seed` points to a single int64, on the device for CUDA.
template <typename T>
struct GraphParams {
  const T* edge_weight;  ///< [K, K]
  const T* adjacency;    ///< [K, K]
  const T* weight;       ///< [K, K] or null
  const T* bias;         ///< [K] or null
  const int64_t* seed;   ///< null: the adjacency is used as given
  int nodes;             ///< K
  GraphMode mode;
};

/// effective [K, K] = A, or the draw from Bernoulli(A) that belongs to image `sample`. Divided by groups of four edges.
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
      const Philox4 bits = edge_bits(*params.seed, static_cast<uint32_t>(quad), sample);
      for (int lane = 0; lane < count; ++lane)
        out[lane] = edge_present(bits.word[lane], probability[lane]) ? T(1) : T(0);
    }
  }
}

/// S = row_softmax(W_d ⊙ effective), Eq. 8; `s` may be `effective` itself. A row in which no edge is present under
/// "mask" becomes zeros. Divided by rows.
template <typename T>
DGCN_HOST_DEVICE void row_softmax(T* s, const T* effective, const GraphParams<T>& params, int begin, int step) {
  const int K = params.nodes;
  const bool mask = params.mode.mask;
  for (int row = begin; row < K; row += step) {
    const T* a = effective + row * K;
    const T* w_d = params.edge_weight + row * K;
    T* out = s + row * K;
    T maximum = -static_cast<T>(INFINITY);
    for (int j = 0; j < K; ++j) {
      const T logit = w_d[j] * a[j];
      if (!(mask && a[j] == T(0)) && logit > maximum) maximum = logit;
    }
    T sum = 0;
    for (int j = 0; j < K; ++j) {
      out[j] = mask && a[j] == T(0) ? T(0) : std::exp(w_d[j] * a[j] - maximum);
      sum += out[j];
    }
    const T scale = sum == T(0) ? T(0) : T(1) / sum;
    for (int j = 0; j < K; ++j) out[j] *= scale;
  }
}

/// Σ_t a[t·a_stride] · (b[t·b_stride], and for a vector V its right neighbours), summed in the order of t.
template <typename V, typename T>
DGCN_HOST_DEVICE V inner_product(const T* a, int a_stride, const T* b, int b_stride, int count) {
  V sum{};
  for (int t = 0; t < count; ++t) {
    V value;
    memcpy(&value, b + t * b_stride, sizeof(V));
    sum += a[t * a_stride] * value;
  }
  return sum;
}

/// M_rc = Σ_t P_rt W_tc. `weight` must not be null.
template <typename V, typename T>
DGCN_HOST_DEVICE V folded(const T* s, const T* weight, int K, GraphMode mode, int r, int c) {
  return mode.target ? inner_product<V>(s + r * K, 1, weight + c, K, K) : inner_product<V>(s + r, K, weight + c, K, K);
}

/// M_rc = P_rc: the folded matrix where there is no weight.
template <typename T>
DGCN_HOST_DEVICE T folded(const T* s, int K, GraphMode mode, int r, int c) {
  return mode.target ? s[r * K + c] : s[c * K + r];
}

/// dW_tc = Σ_r P_rt dM_rc.
template <typename V, typename T>
DGCN_HOST_DEVICE V weight_gradient(const T* s, const T* grad_m, int K, GraphMode mode, int t, int c) {
  return mode.target ? inner_product<V>(s + t, K, grad_m + c, K, K) : inner_product<V>(s + t * K, 1, grad_m + c, K, K);
}

/// dP_rt = Σ_c dM_rc W_tc, with W_tc at weight[t·row_stride + c·column_stride]; a vector V of adjacent t therefore
/// needs W transposed (row_stride 1). Without a weight, dP = dM.
template <typename V, typename T>
DGCN_HOST_DEVICE V mixing_gradient(const T* grad_m, const T* weight, int row_stride, int column_stride, int K, int r,
                                   int t) {
  return inner_product<V>(grad_m + r * K, 1, weight + t * row_stride, column_stride, K);
}

/// dW_d = A_eff ⊙ dL, where dL_ij = S_ij (dS_ij − Σ_l S_il dS_il) goes back through the softmax. Absent edges and empty
/// rows of "mask" have S = 0, hence no gradient. `grad_p` is dP; `out` may be `effective` or `grad_p` for "target", and
/// `effective` only for "source". Divided by rows.
template <typename T>
DGCN_HOST_DEVICE void edge_weight_gradient(T* out, const T* s, const T* grad_p, const T* effective, int K,
                                           GraphMode mode, int begin, int step) {
  for (int i = begin; i < K; i += step) {
    const T* grad_s = mode.target ? grad_p + i * K : grad_p + i;  // dS = dP or dPᵀ
    const int stride = mode.target ? 1 : K;
    T mean = 0;
    for (int j = 0; j < K; ++j) mean += s[i * K + j] * grad_s[j * stride];
    for (int j = 0; j < K; ++j) out[i * K + j] = effective[i * K + j] * s[i * K + j] * (grad_s[j * stride] - mean);
  }
}

}  // namespace dgcn
