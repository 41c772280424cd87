// Backward for few nodes in NCHW. Part of kernels.cuh; legend: graph_conv.h.
//
// As in few_nodes.cuh a thread has a few pixels: their g and the sums of grad_x stay in its registers. dM adds up
// products of all pixels, which no thread has alone. So every thread leaves its g and x in shared memory, where pixels of
// a row start at a multiple of 16 bytes whatever their place in the image is, and the block adds them to dM.
#pragma once

#include <algorithm>
#include <cstdint>

#include "graph_conv/cuda/few_nodes.cuh"
#include "graph_conv/cuda/gradients.cuh"
#include "graph_conv/cuda/outer_product.cuh"

namespace dgcn::graph_conv::cuda {

constexpr int kBackwardPixels = kOuterPixels / kFewNodesThreads;  ///< of a thread

/// Blocks of an SM, so that dM and the sums of a thread's pixels fit into registers. Tensor cores need fewer of them.
template <typename T, int Nodes>
constexpr int kFewNodesBackwardBlocks = sizeof(T) == 4 && Nodes > 17 ? 2 : 3;

template <typename T>
struct FewNodesBackwardArguments {
  int64_t image_pixels;        ///< N = H·W
  int tiles_per_image, tiles;  ///< of kOuterPixels pixels
  GraphParams<float> params;
  const T* grad_y;
  const T* x;
  const uint32_t* gate;  ///< null: without ReLU
  T* grad_x;             ///< null: not needed
  float* partial;        ///< [blocks, partial_size(params)]; null: not needed
  bool per_sample;
};

/// Numbers in shared memory: M, S, the adjacency, W and (dM, db), which stay; then the tile, which shares its place with
/// what is computed before and after it.
__host__ __device__ constexpr int64_t few_nodes_kept(int nodes) {
  return nodes * quad_pitch(nodes) + 2 * matrix_size(nodes) + copy_size(nodes) + gradient_size(nodes);
}

template <typename T, int Nodes>
constexpr int64_t few_nodes_backward_bytes(int nodes) {
  using Outer = OuterProduct<T, Nodes>;
  const int64_t tile = (Outer::kGradRows + Outer::kFeatureRows) * Outer::kPitch * int64_t{sizeof(T)};
  const int64_t matrices = operand_size(nodes) + copy_size(nodes), chain = matrix_size(nodes) + operand_size(nodes);
  const int64_t totals = Outer::kSlices * int64_t{nodes * nodes + nodes};
  const int64_t rest = std::max({matrices, chain, totals}) * int64_t{sizeof(float)};
  return few_nodes_kept(nodes) * int64_t{sizeof(float)} + std::max(tile, rest);
}

/// grad_x = Mᵀ g at the pixels of a thread, a block's width apart, the first of which is `pixel` of the image. Leaves g
/// and x in shared memory, as zeros beyond the image. `first`: index of `pixel` in node 0 of the features.
template <int Nodes, bool kAny, bool kFull, typename T>
__device__ void backward_pixels(const float* m, T* shared_g, T* shared_x, const FewNodesBackwardArguments<T>& arguments,
                                int64_t image, int64_t pixel, int64_t first) {
  using Outer = OuterProduct<T, Nodes>;
  const int nodes = kAny ? arguments.params.nodes : Nodes, pitch = quad_pitch(nodes);
  const int64_t stride = arguments.image_pixels;
  const auto is_present = [&](int p) { return kFull || pixel + p * kFewNodesThreads < stride; };
  const T* x = arguments.x + first;
  const T* grad_y = arguments.grad_y + first;

  DGCN_UNROLL(kFull ? Nodes : 8)
  for (int k = 0; k < Nodes; ++k) {
    if (kAny && k >= nodes) break;
    DGCN_UNROLL()
    for (int p = 0; p < kBackwardPixels; ++p) {
      T* const to = shared_x + k * Outer::kPitch + p * kFewNodesThreads;
      if constexpr (sizeof(T) == 4 && kFull)
        __pipeline_memcpy_async(to, x + p * kFewNodesThreads, sizeof(T));
      else
        *to = is_present(p) ? x[p * kFewNodesThreads] : static_cast<T>(0.0F);
    }
    x += stride;
  }

  uint32_t bits[kBackwardPixels];
  DGCN_UNROLL()
  for (int p = 0; p < kBackwardPixels; ++p) {
    bits[p] = ~0U;
    if (arguments.gate != nullptr && is_present(p))
      bits[p] = arguments.gate[image * stride + pixel + p * kFewNodesThreads];
  }
  PixelSums<Nodes, kBackwardPixels> sums;
  DGCN_UNROLL(kFull ? Nodes : 8)  // few tiles are not full, and predicates take registers
  for (int j = 0; j < Nodes; ++j) {
    if (kAny && j >= nodes) break;
    float value[kBackwardPixels];
    DGCN_UNROLL()
    for (int p = 0; p < kBackwardPixels; ++p) {
      T g = static_cast<T>(0.0F);
      if (is_present(p)) g = grad_y[p * kFewNodesThreads];
      if ((bits[p] >> j & 1U) == 0) g = static_cast<T>(0.0F);
      shared_g[j * Outer::kPitch + p * kFewNodesThreads] = g;
      value[p] = static_cast<float>(g);
    }
    grad_y += stride;
    sums.template add<kAny>(m + j * pitch, nodes, value);
  }
  if (arguments.grad_x == nullptr) return;
  T* grad_x = arguments.grad_x + first;
  DGCN_UNROLL()
  for (int k = 0; k < Nodes; ++k) {
    if (kAny && k >= nodes) break;
    DGCN_UNROLL()
    for (int p = 0; p < kBackwardPixels; ++p)
      if (is_present(p)) grad_x[p * kFewNodesThreads] = static_cast<T>(sums.values[k][p]);
    grad_x += stride;
  }
}

/// grad_x, and the parameter gradients of this block's tiles.
template <typename T, int Nodes, bool kAny>
__global__ void __launch_bounds__(kFewNodesThreads, (kFewNodesBackwardBlocks<T, Nodes>))
    few_nodes_backward_kernel(const __grid_constant__ FewNodesBackwardArguments<T> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  using Outer = OuterProduct<T, Nodes>;
  const GraphParams<float>& params = arguments.params;
  const int K = kAny ? params.nodes : Nodes, pitch = quad_pitch(K);
  float* const m = reinterpret_cast<float*>(shared_memory);
  float* const s = m + K * pitch;
  float* const effective = s + matrix_size(K);
  float* const weight_copy = effective + matrix_size(K);
  float* const gradients = weight_copy + copy_size(K);
  float* const scratch = gradients + gradient_size(K);
  float* const totals = scratch;
  T* const g = reinterpret_cast<T*>(scratch);
  T* const x = g + Outer::kGradRows * Outer::kPitch;

  const float* const weight = fetch_matrix<true>(weight_copy, params.weight, K);
  const BlockTiles range(arguments.tiles);
  const int begin = static_cast<int>(range.begin), end = static_cast<int>(range.end);
  Outer outer;
  bool add = false;  // to `partial`
  for (int index = begin; index < end; ++index) {
    const int image = index / arguments.tiles_per_image, tile = index % arguments.tiles_per_image;
    if (index == begin || (arguments.per_sample && tile == 0)) {
      compute_matrices<true, float>(nullptr, m, pitch, s, effective, weight, scratch, params,
                                    arguments.per_sample ? image : 0);
      outer = Outer();
      Outer::prepare(x, K);
    }
    const int64_t pixel = int64_t{tile} * kOuterPixels + threadIdx.x;
    const int64_t first = int64_t{image} * K * arguments.image_pixels + pixel;
    if (int64_t{tile + 1} * kOuterPixels <= arguments.image_pixels)
      backward_pixels<Nodes, kAny, true>(m, g + threadIdx.x, x + threadIdx.x, arguments, image, pixel, first);
    else
      backward_pixels<Nodes, kAny, false>(m, g + threadIdx.x, x + threadIdx.x, arguments, image, pixel, first);
    wait_for_loads();
    if (arguments.partial != nullptr) outer.add(g, x);
    __syncthreads();  // before the next tile or the sums of this one overwrite them
    const bool ends_sample = index + 1 == end || (arguments.per_sample && tile + 1 == arguments.tiles_per_image);
    if (arguments.partial == nullptr || !ends_sample) continue;
    outer.store(totals, K);
    __syncthreads();
    sum_slices(gradients, totals, K, Outer::kSlices);
    parameter_gradients(arguments.partial + blockIdx.x * partial_size(params), add, gradients, s, effective, weight,
                        scratch, params);
    add = true;
  }
}

}  // namespace dgcn::graph_conv::cuda
