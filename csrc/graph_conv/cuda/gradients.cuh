// From dM and db of each block to the gradients of W_d, W and b. Part of kernels.cuh; legend: graph_conv.h.
#pragma once

#include <cstdint>

#include "graph_conv/cuda/matrices.cuh"

namespace dgcn::graph_conv::cuda {

/// gradients = (dM, db): the sum over the slices of `totals`, in order and in double, which costs nothing here.
template <typename A>
__device__ void sum_slices(A* gradients, const A* totals, int nodes, int slices) {
  const int size = nodes * nodes + nodes;
  for (int e = threadIdx.x; e < size; e += blockDim.x) {
    double total = 0;
    for (int slice = 0; slice < slices; ++slice) total += totals[slice * size + e];
    gradients[e] = static_cast<A>(total);
  }
  __syncthreads();
}

/// Elements of the gradients of W_d, W and b of one block, stored one after the other.
template <typename A>
__host__ __device__ int64_t partial_size(const GraphParams<A>& params) {
  const int64_t K = params.nodes;
  return K * K + (params.weight != nullptr ? K * K : 0) + (params.bias != nullptr ? K : 0);
}

/// Computes the gradients of W_d, W and b from `gradients` = (dM, db), and stores them in `partial` or, with `add`,
/// adds them to it. `s`, `effective` (overwritten) and `weight` are those of compute_matrices(). `scratch`: a matrix
/// and an operand.
template <typename A>
__device__ void parameter_gradients(A* partial, bool add, const A* gradients, const A* s, A* effective, const A* weight,
                                    A* scratch, const GraphParams<A>& params) {
  const int K = params.nodes;
  const auto store = [&](A* to, A value) { *to = value + (add ? *to : A(0)); };
  const A* grad_p = gradients;  // M = P, unless there is a weight
  A* rest = partial + K * K;
  if (weight != nullptr) {
    A* const dp = scratch;
    A* const operand = scratch + matrix_size(K);
    make_operand(operand, operand_pitch(K), s, K, !params.mode.target);  // [r, t] = P_rt
    __syncthreads();
    matrix_product(
        operand, K, [&](int r, int c) { return gradients[r * K + c]; },
        [&](int t, int c, A value) { store(rest + t * K + c, value); });  // dW_tc = Σ_r P_rt dM_rc
    __syncthreads();
    make_operand(operand, operand_pitch(K), weight, K, true);  // [c, t] = W_tc
    __syncthreads();
    matrix_product(
        operand, K, [&](int c, int r) { return gradients[r * K + c]; },
        [&](int t, int r, A value) { dp[r * K + t] = value; });  // dP_rt = Σ_c dM_rc W_tc
    __syncthreads();
    grad_p = dp;
    rest += K * K;
  }
  edge_weight_gradient(effective, s, grad_p, effective, K, params.mode, threadIdx.x / kWarp, blockDim.x / kWarp,
                       WarpLanes());
  __syncthreads();
  for (int e = threadIdx.x; e < K * K; e += blockDim.x) store(partial + e, effective[e]);
  if (params.bias != nullptr)
    for (int e = threadIdx.x; e < K; e += blockDim.x) store(rest + e, gradients[K * K + e]);
  __syncthreads();
}

/// The gradients of W_d, W and b are the sums of `partial` over the blocks. `weight` and `bias`: null if absent.
template <typename A>
struct ReduceArguments {
  const A* partial;  ///< [blocks, size]
  int64_t blocks, size;
  A* edge_weight;
  A* weight;
  A* bias;
  int nodes;
};

constexpr int kReduceEntries = 32;  // of a block; neighbours in memory, so that accesses coalesce
constexpr int kReduceThreads = 1024;

/// Sums over the blocks of backward_kernel: each thread sums a fixed share of them, then one adds the shares in order.
template <typename A>
__global__ void __launch_bounds__(kReduceThreads) reduce_kernel(const ReduceArguments<A> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  A* const sums = reinterpret_cast<A*>(shared_memory);  // [shares, kReduceEntries]
  const int lane = threadIdx.x % kReduceEntries, shares = blockDim.x / kReduceEntries;
  const int64_t entry = int64_t{blockIdx.x} * kReduceEntries + lane;
  const int64_t blocks = entry < arguments.size ? arguments.blocks : 0;
  A sum = 0;
  DGCN_UNROLL(8)
  for (int64_t block = threadIdx.x / kReduceEntries; block < blocks; block += shares)
    sum += arguments.partial[block * arguments.size + entry];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= kReduceEntries || entry >= arguments.size) return;
  for (int share = 1; share < shares; ++share) sum += sums[share * kReduceEntries + lane];

  const int64_t edges = int64_t{arguments.nodes} * arguments.nodes, rest = entry - edges;
  if (rest < 0)
    arguments.edge_weight[entry] = sum;
  else if (arguments.weight == nullptr)
    arguments.bias[rest] = sum;
  else if (rest < edges)
    arguments.weight[rest] = sum;
  else
    arguments.bias[rest - edges] = sum;
}

}  // namespace dgcn::graph_conv::cuda
