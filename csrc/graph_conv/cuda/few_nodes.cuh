// Forward for few nodes in NCHW, where the features of a pixel fit into the registers of one thread. Part of
// kernels.cuh; legend: graph_conv.h.
//
// A thread has kThreadPixels pixels, a block's width apart, and all their sums. So a warp accesses neighbours in memory
// wherever a row starts, features need no shared memory, and the only operand that is read again and again is M: one
// access of 16 bytes, the same for the whole warp, feeds four rows of all pixels of a thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "graph_conv/cuda/matrices.cuh"

namespace dgcn::graph_conv::cuda {

constexpr int kFewNodesThreads = 128;
constexpr int kFewNodesBlocks = 4;  ///< of an SM in forward

/// Pixels of a thread, so that the sums of `Nodes` nodes fit into registers.
template <int Nodes>
constexpr int kThreadPixels = Nodes <= 17 ? 4 : 3;

/// K as a constant, which unrolls all loops; or with `any` the most that it can be.
template <int Most, bool Any>
struct NodeCount {
  static constexpr int most = Most;
  static constexpr bool any = Any;
};
constexpr int kFewNodes = 24;

/// Calls visit(NodeCount) for K ≤ kFewNodes. CrowdPose has 14 keypoints, MPII 16, COCO 17; 19 and 21 are those of COCO
/// with feet and of a hand.
template <typename Visit>
void for_node_count(int nodes, Visit visit) {
  switch (nodes) {
    case 14:
      return visit(NodeCount<14, false>());
    case 16:
      return visit(NodeCount<16, false>());
    case 17:
      return visit(NodeCount<17, false>());
    case 19:
      return visit(NodeCount<19, false>());
    case 21:
      return visit(NodeCount<21, false>());
    default:
      return visit(NodeCount<kFewNodes, true>());
  }
}

struct alignas(16) Quad {
  float values[4];
};

/// The pitch of M [K (in), pitch (out)] in shared memory: rows start at multiples of 16 bytes.
__host__ __device__ constexpr int quad_pitch(int nodes) { return static_cast<int>(round_up(nodes, 4)); }

/// How the pixels of a batch are cut into tiles, which a block computes one after the other. In a full tile a thread has
/// all of its pixels. The rest of an image is cut into narrow tiles, as wide as a block, in which it has one.
struct PixelTiles {
  int64_t image_pixels;  ///< N = H·W
  int full_per_image;    ///< 0 where full tiles would be too few for all SMs
  int per_image, count;  ///< of both kinds, in an image and in the batch
};

template <typename T>
struct FewNodesForwardArguments {
  PixelTiles tiles;
  GraphParams<float> params;
  const T* x;
  const T* residual;  ///< or null
  T* y;               ///< null: not wanted
  uint32_t* gate;     ///< ReLU's gate; null: not wanted
  bool per_sample, relu;
};

/// Σ_k M_jk v_k of a few pixels, for all j < Nodes.
template <int Nodes, int Pixels>
struct PixelSums {
  float values[Nodes][Pixels];

  __device__ PixelSums() {
    DGCN_UNROLL()
    for (int j = 0; j < Nodes; ++j) {
      DGCN_UNROLL()
      for (int p = 0; p < Pixels; ++p) values[j][p] = 0;
    }
  }

  /// Adds the products of `value` with a row of quads in shared memory.
  template <bool kAny>
  __device__ void add(const float* row, int nodes, const float (&value)[Pixels]) {
    DGCN_UNROLL()
    for (int first = 0; first < Nodes; first += 4) {
      if (kAny && first >= nodes) break;
      const Quad quad = *reinterpret_cast<const Quad*>(row + first);
      DGCN_UNROLL()
      for (int i = 0; i < 4; ++i) {
        DGCN_UNROLL()
        for (int p = 0; p < Pixels; ++p)
          if (first + i < Nodes) values[first + i][p] += quad.values[i] * value[p];
      }
    }
  }
};

/// The larger number, or NaN if one of them is NaN.
__device__ inline float max_or_nan(float a, float b) {
#if defined(__CUDA_ARCH__)
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));  // one instruction
  return larger;
#else
  return a < b || b != b ? b : a;
#endif
}

/// y = act(M x + b) (+ residual) and ReLU's gate at `Pixels` pixels, a block's width apart. `x`, `residual`, `y` and
/// `gate` point to the first. `nodes` is K; `Nodes` its value, or with `kAny` the most that it can be.
template <int Nodes, bool kAny, int Pixels, typename T>
__device__ void forward_pixels(const float* m_transposed, const float* bias, int nodes, const T* x, const T* residual,
                               T* y, uint32_t* gate, int64_t stride, bool relu) {
  const int pitch = kAny ? quad_pitch(nodes) : quad_pitch(Nodes);
  PixelSums<Nodes, Pixels> sums;
  DGCN_UNROLL()
  for (int k = 0; k < Nodes; ++k) {
    if (kAny && k >= nodes) break;
    float value[Pixels];
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p) value[p] = static_cast<float>(x[p * kFewNodesThreads]);
    x += stride;
    sums.template add<kAny>(m_transposed + k * pitch, nodes, value);
  }

  const float least = relu ? 0.0F : -INFINITY;
  const auto store = [&](auto add_residual, auto keep_gate) {
    uint32_t bits[Pixels] = {};
    DGCN_UNROLL()
    for (int j = 0; j < Nodes; ++j) {
      if (kAny && j >= nodes) break;
      DGCN_UNROLL()
      for (int p = 0; p < Pixels; ++p) {
        float value = sums.values[j][p] + bias[j];  // last: a large bias first would round off small products
        if (keep_gate && !(value <= 0.0F)) bits[p] |= 1U << j;
        value = max_or_nan(value, least);
        if (add_residual) value += static_cast<float>(residual[p * kFewNodesThreads]);
        y[p * kFewNodesThreads] = static_cast<T>(value);
      }
      y += stride;
      if (add_residual) residual += stride;
    }
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p)
      if (keep_gate) gate[p * kFewNodesThreads] = bits[p];
  };
  // Separate code for each: what is not wanted costs no instructions.
  if (residual == nullptr && gate == nullptr)
    store(std::false_type(), std::false_type());
  else if (residual == nullptr)
    store(std::false_type(), std::true_type());
  else if (gate == nullptr)
    store(std::true_type(), std::false_type());
  else
    store(std::true_type(), std::true_type());
}

/// Bytes of shared memory: M and b, then what compute_matrices() needs.
__host__ __device__ constexpr int64_t few_nodes_forward_bytes(int nodes) {
  return (nodes * quad_pitch(nodes) + round_up(nodes, 4) + matrix_size(nodes) + operand_size(nodes) +
          2 * copy_size(nodes)) *
         int64_t{sizeof(float)};
}

template <typename T>
__device__ T* shifted(T* start, int64_t elements) {
  return start == nullptr ? nullptr : start + elements;
}

template <typename T, int Nodes, bool kAny>
__global__ void __launch_bounds__(kFewNodesThreads, kFewNodesBlocks)
    few_nodes_forward_kernel(const __grid_constant__ FewNodesForwardArguments<T> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const GraphParams<float>& params = arguments.params;
  const PixelTiles& tiles = arguments.tiles;
  const int K = kAny ? params.nodes : Nodes, pitch = quad_pitch(K);
  float* const m_transposed = reinterpret_cast<float*>(shared_memory);
  float* const bias = m_transposed + K * pitch;
  float* const s = bias + round_up(K, 4);
  float* const weight_copy = s + matrix_size(K);
  float* const scratch = weight_copy + copy_size(K);

  fetch<true>(bias, params.bias, K);
  const float* const weight = fetch_matrix<true>(weight_copy, params.weight, K);
  const BlockTiles range(tiles.count);
  const int begin = static_cast<int>(range.begin), end = static_cast<int>(range.end);
  for (int index = begin; index < end; ++index) {
    const int image = index / tiles.per_image, tile = index % tiles.per_image;
    if (index == begin || (arguments.per_sample && tile == 0)) {
      __syncthreads();  // the tile before still needs its matrices
      compute_matrices<true, float>(m_transposed, nullptr, pitch, s, scratch, weight, scratch, params,
                                    arguments.per_sample ? image : 0);
    }
    constexpr int kPixels = kThreadPixels<Nodes>;
    const bool is_full = tile < tiles.full_per_image;
    const int narrow_tiles_before = is_full ? tile * kPixels : tiles.full_per_image * (kPixels - 1) + tile;
    const int64_t pixel = int64_t{narrow_tiles_before} * kFewNodesThreads + threadIdx.x;
    const int64_t first = int64_t{image} * K * tiles.image_pixels + pixel;
    const auto compute = [&](auto pixels) {
      forward_pixels<Nodes, kAny, decltype(pixels)::value>(
          m_transposed, bias, K, arguments.x + first, shifted(arguments.residual, first), arguments.y + first,
          shifted(arguments.gate, image * tiles.image_pixels + pixel), tiles.image_pixels, arguments.relu);
    };
    if (is_full)
      compute(std::integral_constant<int, kPixels>());
    else if (pixel < tiles.image_pixels)
      compute(std::integral_constant<int, 1>());
  }
}

}  // namespace dgcn::graph_conv::cuda
