// The K×K matrices that a block of kernels.cuh builds for itself: S, and M as operands of products. Legend:
// graph_conv.h.
#pragma once

#include <cstdint>

#include "graph_conv/cuda/tiles.cuh"
#include "graph_conv/graph_conv.h"

namespace dgcn::cuda {

// Elements of an operand, of a matrix, and of (dM, db), such that what follows is aligned to pieces.
__host__ __device__ constexpr int64_t operand_size(int nodes) {
  return round_up(int64_t{nodes} * operand_pitch(nodes), 4);
}
__host__ __device__ constexpr int64_t matrix_size(int nodes) { return round_up(int64_t{nodes} * nodes, 4); }
__host__ __device__ constexpr int64_t gradient_size(int nodes) { return round_up(int64_t{nodes} * nodes + nodes, 4); }

template <typename A>
__device__ void clear(A* values, int64_t count) {
  for (int64_t e = threadIdx.x; e < count; e += blockDim.x) values[e] = 0;
}

/// operand [K, pitch] = matrix [K, K] or its transpose, padded with zeros.
template <typename A>
__device__ void make_operand(A* operand, const A* matrix, int nodes, bool transpose) {
  const int pitch = operand_pitch(nodes);
  for (int e = threadIdx.x; e < nodes * pitch; e += blockDim.x) {
    const int row = e / pitch, column = e % pitch;
    operand[e] = column >= nodes ? A(0) : transpose ? matrix[column * nodes + row] : matrix[row * nodes + column];
  }
}

/// output(o, c, Σ_k operand_ko · input(k, c)) for all o, c < K.
template <typename A, typename Input, typename Output>
__device__ void matrix_product(const A* operand, int nodes, Input input, Output output) {
  product<kMatrixOutputs, 1, 4, A>(
      operand, nodes, nodes, 1, input,
      [&](int o, const ColumnsOf<1>& column, const A(&sum)[1]) { output(o, column.offset[0], sum[0]); });
}

/// Starts to fetch `count` numbers, which are there after wait_for_loads(); zeros where there is no parameter.
template <bool kShared, typename A>
__device__ void fetch(A* copy, const A* parameter, int count) {
  for (int e = threadIdx.x; e < count; e += blockDim.x)
    if (kShared && parameter != nullptr)
      __pipeline_memcpy_async(copy + e, parameter + e, sizeof(A));
    else
      copy[e] = parameter == nullptr ? A(0) : parameter[e];
}

/// Up to here a block fetches W_d, A and W all at once: when they are needed, one trip to memory would follow another.
constexpr int kMostFetchedNodes = 64;
__host__ __device__ constexpr int64_t copy_size(int nodes) {
  return nodes <= kMostFetchedNodes ? matrix_size(nodes) : 0;
}

/// The place of a parameter [K, K], or null, after wait_for_loads(): `copy`, if it is fetched.
template <bool kShared, typename A>
__device__ const A* fetch_matrix(A* copy, const A* parameter, int nodes) {
  if (nodes > kMostFetchedNodes || parameter == nullptr) return parameter;
  fetch<kShared>(copy, parameter, nodes * nodes);
  return copy;
}

/// M = P·W of image `sample` as an operand: `from_x` [k, j] = M_jk leads from x to y, `from_grad_y` [j, k] = M_jk from
/// grad_y to grad_x. Either may be null; both must have been cleared. `s` and `effective`, matrices, become S and the
/// adjacency in effect. `weight` comes from fetch_matrix(), and waits are left to this function. `scratch`: an operand and
/// a copy_size(); `effective` may be in the place of the operand, and is lost then.
template <bool kShared, typename A>
__device__ void fold(A* from_x, A* from_grad_y, A* s, A* effective, const A* weight, A* scratch,
                     const GraphParams<A>& params, int64_t sample) {
  const int K = params.nodes, pitch = operand_pitch(K);
  GraphParams<A> fetched = params;
  fetched.edge_weight = fetch_matrix<kShared>(scratch + operand_size(K), params.edge_weight, K);
  fetched.adjacency = fetch_matrix<kShared>(effective, params.adjacency, K);
  if (params.seed != nullptr) {
    int64_t* const seed = reinterpret_cast<int64_t*>(s);  // S comes when it has done its work
    fetch<kShared>(seed, params.seed, 1);
    fetched.seed = seed;
  }
  wait_for_loads();
  effective_adjacency(effective, fetched, static_cast<uint32_t>(sample), threadIdx.x, blockDim.x);
  __syncthreads();
  row_softmax(s, effective, fetched, threadIdx.x, blockDim.x);
  __syncthreads();
  if (weight == nullptr) {  // M = P
    if (from_x != nullptr) make_operand(from_x, s, K, params.mode.target);
    if (from_grad_y != nullptr) make_operand(from_grad_y, s, K, !params.mode.target);
  } else if (from_x != nullptr || from_grad_y != nullptr) {
    A* const p = scratch;  // [t, j] = P_jt
    make_operand(p, s, K, params.mode.target);
    __syncthreads();
    matrix_product(
        p, K, [&](int t, int k) { return weight[t * K + k]; },
        [&](int j, int k, A m) {
          if (from_x != nullptr) from_x[k * pitch + j] = m;
          if (from_grad_y != nullptr) from_grad_y[j * pitch + k] = m;
        });
  }
  __syncthreads();
}

}  // namespace dgcn::cuda
