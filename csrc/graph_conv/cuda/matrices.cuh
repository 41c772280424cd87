// The K×K matrices that each block of kernels.cuh computes: S, and M as an operand of products. Legend: graph_conv.h.
#pragma once

#include <cstdint>

#include "graph_conv/cuda/tiles.cuh"
#include "graph_conv/graph_conv.h"

namespace dgcn::graph_conv::cuda {

// Elements of an operand, of a matrix, and of (dM, db), rounded up so that what follows is aligned to 16 bytes.
__host__ __device__ constexpr int64_t operand_size(int nodes) {
  return round_up(int64_t{nodes} * operand_pitch(nodes), 4);
}
__host__ __device__ constexpr int64_t matrix_size(int nodes) { return round_up(int64_t{nodes} * nodes, 4); }
__host__ __device__ constexpr int64_t gradient_size(int nodes) { return round_up(int64_t{nodes} * nodes + nodes, 4); }

constexpr int kWarp = 32;

/// Index in ReLU's gate [B, words, H, W] of the first pixel of an image in one word.
__host__ __device__ constexpr int64_t gate_index(int64_t words, int64_t image_pixels, int64_t image, int64_t word) {
  return (image * words + word) * image_pixels;
}

/// The threads of a warp as lanes of row_softmax() and edge_weight_gradient(): a row for each warp of the block.
struct WarpLanes {
  int first = threadIdx.x % kWarp;
  static constexpr int step = kWarp;
  static constexpr unsigned kAll = ~0u;

  template <typename T>
  __device__ T largest(T value) const {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const T other = __shfl_xor_sync(kAll, value, mask);
      value = other > value ? other : value;
    }
    return value;
  }
  __device__ double sum(double value) const {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(kAll, value, mask);
    return value;
  }
};

template <typename Number>
__device__ void clear(Number* values, int64_t count) {
  for (int64_t e = threadIdx.x; e < count; e += blockDim.x) values[e] = 0;
}

/// operand [K, pitch] = matrix [K, K] or its transpose, padded with zeros.
template <typename A>
__device__ void make_operand(A* operand, int pitch, const A* matrix, int nodes, bool transpose) {
  for (int e = threadIdx.x; e < nodes * pitch; e += blockDim.x) {
    const int row = e / pitch, column = e % pitch;
    operand[e] = column >= nodes ? A(0) : transpose ? matrix[column * nodes + row] : matrix[row * nodes + column];
  }
}

/// output(o, c, Σ_k operand_ko · input(k, c)) for all o, c < K.
template <typename A, typename Input, typename Output>
__device__ void matrix_product(const A* operand, int nodes, Input input, Output output) {
  product<kMatrixOutputs, 1, 4, A>(operand, nodes, nodes, 1, input,
                                   [&](int first, const ThreadColumns<1>& column, const A(&sum)[kMatrixOutputs][1]) {
                                     DGCN_UNROLL()
                                     for (int o = 0; o < kMatrixOutputs; ++o)
                                       if (first + o < nodes) output(first + o, column.number[0], sum[o][0]);
                                   });
}

/// Starts to copy `count` numbers; wait_for_loads() completes it. Zeros if `parameter` is null. Only copies to shared
/// memory can be asynchronous.
template <bool kShared, typename A>
__device__ void fetch(A* copy, const A* parameter, int count) {
  for (int e = threadIdx.x; e < count; e += blockDim.x)
    if (kShared && parameter != nullptr)
      __pipeline_memcpy_async(copy + e, parameter + e, sizeof(A));
    else
      copy[e] = parameter == nullptr ? A(0) : parameter[e];
}

/// Up to this K, a block fetches W_d, A and W at once. For larger K it reads them from device memory where it needs
/// them.
constexpr int kMostFetchedNodes = 64;
__host__ __device__ constexpr int64_t copy_size(int nodes) {
  return nodes <= kMostFetchedNodes ? matrix_size(nodes) : 0;
}

/// Where a parameter [K, K] (or null) can be read after wait_for_loads(): in `copy` if K allows it, else where it was.
template <bool kShared, typename A>
__device__ const A* fetch_matrix(A* copy, const A* parameter, int nodes) {
  if (nodes > kMostFetchedNodes || parameter == nullptr) return parameter;
  fetch<kShared>(copy, parameter, nodes * nodes);
  return copy;
}

/// Starts to copy what compute_matrices() reads to where it reads it, and returns params that point there. `s`,
/// `effective` and `scratch` are those of compute_matrices().
template <bool kShared, typename A>
__device__ GraphParams<A> fetch_parameters(A* s, A* effective, A* scratch, const GraphParams<A>& params) {
  const int K = params.nodes;
  GraphParams<A> fetched = params;
  fetched.edge_weight = fetch_matrix<kShared>(scratch + operand_size(K), params.edge_weight, K);
  fetched.adjacency = fetch_matrix<kShared>(effective, params.adjacency, K);
  if (params.seed != nullptr) {
    int64_t* const seed = reinterpret_cast<int64_t*>(s);  // read before S is written
    fetch<kShared>(seed, params.seed, 1);
    fetched.seed = seed;
  }
  return fetched;
}

/// Computes M = P·W of image `sample` as operands of that pitch: `m_transposed` for y = M x, `m` for grad_x = Mᵀ g.
/// Either may be null. With a weight their padding is not written. Also computes `s` and `effective`, the adjacency or
/// the draw from it. `fetched` and `weight` are the results of fetch_parameters() and fetch_matrix(), after
/// wait_for_loads(). `scratch` has room for an operand and copy_size() elements. `effective` may begin where `scratch`
/// does, if the caller does not need it: the operand overwrites it.
template <bool kShared, typename A>
__device__ void compute_matrices(A* m_transposed, A* m, int pitch, A* s, A* effective, const A* weight, A* scratch,
                                 const GraphParams<A>& fetched, int64_t sample) {
  const int K = fetched.nodes;
  effective_adjacency(effective, fetched, static_cast<uint32_t>(sample), threadIdx.x, blockDim.x);
  __syncthreads();
  row_softmax(s, effective, fetched, threadIdx.x / kWarp, blockDim.x / kWarp, WarpLanes());
  __syncthreads();
  if (weight == nullptr) {  // M = P
    if (m_transposed != nullptr) make_operand(m_transposed, pitch, s, K, fetched.mode.target);
    if (m != nullptr) make_operand(m, pitch, s, K, !fetched.mode.target);
  } else if (m_transposed != nullptr || m != nullptr) {
    A* const p = scratch;  // [t, j] = P_jt
    make_operand(p, operand_pitch(K), s, K, fetched.mode.target);
    __syncthreads();
    matrix_product(
        p, K, [&](int t, int k) { return weight[t * K + k]; },
        [&](int j, int k, A value) {
          if (m_transposed != nullptr) m_transposed[k * pitch + j] = value;
          if (m != nullptr) m[j * pitch + k] = value;
        });
  }
  __syncthreads();
}

}  // namespace dgcn::graph_conv::cuda
