// Forward for few nodes, where all features of a pixel fit into the registers of one thread. Other nodes: kernels.cuh.
// Legend: graph_conv.h.
//
// A thread has kThreadPixels pixels, a block's width apart, and all their sums. The only operand that is read again and
// again is M: one access of 16 bytes, the same for the whole warp, feeds four rows of all pixels of a thread.
//   - NCHW: a warp reads and writes neighbours in device memory wherever a row starts, without shared memory.
//   - channels_last: neighbours in memory are the nodes of a pixel. A tile passes through shared memory in accesses of
//     16 bytes, and a thread overwrites its own pixels there.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "graph_conv/cuda/kernels.cuh"

namespace dgcn::graph_conv::cuda {

constexpr int kFewNodesThreads = 128;
constexpr int kFewNodesBlocks = 4;      ///< of an SM in forward, in NCHW
constexpr int kFewNodesTileBlocks = 3;  ///< and in channels_last

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
/// with feet and of a hand. In channels_last only K = 17 has kernels of its own: each takes the compiler seconds.
template <typename Visit>
void for_node_count(int nodes, bool channels_last, Visit visit) {
  if (nodes == 17) return visit(NodeCount<17, false>());
  if (!channels_last) {
    if (nodes == 14) return visit(NodeCount<14, false>());
    if (nodes == 16) return visit(NodeCount<16, false>());
    if (nodes == 19) return visit(NodeCount<19, false>());
    if (nodes == 21) return visit(NodeCount<21, false>());
  }
  visit(NodeCount<kFewNodes, true>());
}
template <int Most, bool Any>
constexpr bool has_tile_kernel(NodeCount<Most, Any>) {
  return Any || Most == 17;
}

struct alignas(16) Quad {
  float values[4];
};

/// The pitch of M [K (in), pitch (out)] in shared memory: rows start at multiples of 16 bytes.
__host__ __device__ constexpr int quad_pitch(int nodes) { return static_cast<int>(round_up(nodes, 4)); }

/// How the pixels of a batch are cut into tiles, which a block computes one after the other. In a full tile a thread
/// has all of its pixels. The rest of an image is cut into narrow tiles, as wide as a block, in which it has one.
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
  T* y;
  uint32_t* gate;  ///< ReLU's gate; null: not wanted
  bool per_sample, relu;
};

/// Goes through the nodes of a thread's pixels. `at` is null for features that are absent.
template <typename T, typename PixelStep, typename NodeStep>
struct PixelCursor {
  T* at;                 ///< the first pixel at the current node
  PixelStep pixel_step;  ///< elements from one of the thread's pixels to the next
  NodeStep node_step;    ///< and from node to node

  __device__ T& operator[](int pixel) const { return at[pixel * pixel_step]; }
  __device__ void next() { at += node_step; }
};

using BlockWidth = std::integral_constant<int, kFewNodesThreads>;
using One = std::integral_constant<int, 1>;

/// In device memory in NCHW.
template <typename T>
using PlaneCursor = PixelCursor<T, BlockWidth, int64_t>;
/// In a tile in shared memory in channels_last.
template <typename T>
using TileCursor = PixelCursor<T, int, One>;

template <typename T>
__device__ PlaneCursor<T> plane_cursor(T* features, int64_t first, int64_t image_pixels) {
  return {features == nullptr ? nullptr : features + first, {}, image_pixels};
}
template <typename T>
__device__ TileCursor<T> tile_cursor(T* features, int pixel_step) {
  return {features, pixel_step * kFewNodesThreads, {}};
}

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

/// y = act(M x + b) (+ residual) and ReLU's gate at `Pixels` pixels, a block's width apart. y may overwrite x. `gate`
/// points to the first pixel; beyond the first `present` it is not written. `nodes` is K; `Nodes` its value, or with
/// `kAny` the most that it can be.
template <int Nodes, bool kAny, int Pixels, typename Input, typename Output>
__device__ void forward_pixels(const float* m_transposed, const float* bias, int nodes, Input x, Input residual,
                               Output y, uint32_t* gate, int present, bool relu) {
  const int pitch = kAny ? quad_pitch(nodes) : quad_pitch(Nodes);
  PixelSums<Nodes, Pixels> sums;
  DGCN_UNROLL()
  for (int k = 0; k < Nodes; ++k) {
    if (kAny && k >= nodes) break;
    float value[Pixels];
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p) value[p] = static_cast<float>(x[p]);
    x.next();
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
        if (add_residual) value += static_cast<float>(residual[p]);
        y[p] = static_cast<std::decay_t<decltype(y[p])>>(value);
      }
      y.next();
      if (add_residual) residual.next();
    }
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p)
      if (keep_gate && p < present) gate[p * kFewNodesThreads] = bits[p];
  };
  // Separate code for each: what is not wanted costs no instructions.
  if (residual.at == nullptr && gate == nullptr)
    store(std::false_type(), std::false_type());
  else if (residual.at == nullptr)
    store(std::false_type(), std::true_type());
  else if (gate == nullptr)
    store(std::true_type(), std::false_type());
  else
    store(std::true_type(), std::true_type());
}

/// What a block keeps: M and b, and what compute_matrices() needs.
struct FewNodesMatrices {
  float *m_transposed, *bias, *s, *weight_copy, *scratch;

  __device__ FewNodesMatrices(unsigned char* shared_memory, int nodes)
      : m_transposed(reinterpret_cast<float*>(shared_memory)),
        bias(m_transposed + nodes * quad_pitch(nodes)),
        s(bias + round_up(nodes, 4)),
        weight_copy(s + matrix_size(nodes)),
        scratch(weight_copy + copy_size(nodes)) {}

  /// Numbers of all of them.
  static __host__ __device__ constexpr int64_t size(int nodes) {
    return nodes * quad_pitch(nodes) + round_up(nodes, 4) + matrix_size(nodes) + operand_size(nodes) +
           2 * copy_size(nodes);
  }

  /// Those of image `sample`; `weight` is the result of fetch_matrix().
  __device__ void compute(const float* weight, const GraphParams<float>& params, int64_t sample) {
    compute_matrices<true, float>(m_transposed, nullptr, quad_pitch(params.nodes), s, scratch, weight, scratch, params,
                                  sample);
  }
};

/// For NCHW.
template <typename T, int Nodes, bool kAny>
__global__ void __launch_bounds__(kFewNodesThreads, kFewNodesBlocks)
    few_nodes_forward_kernel(const __grid_constant__ FewNodesForwardArguments<T> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const GraphParams<float>& params = arguments.params;
  const PixelTiles& tiles = arguments.tiles;
  const int K = kAny ? params.nodes : Nodes;
  FewNodesMatrices matrices(shared_memory, K);
  fetch<true>(matrices.bias, params.bias, K);
  const float* const weight = fetch_matrix<true>(matrices.weight_copy, params.weight, K);
  const BlockTiles range(tiles.count);
  const int begin = static_cast<int>(range.begin), end = static_cast<int>(range.end);
  for (int index = begin; index < end; ++index) {
    const int image = index / tiles.per_image, tile = index % tiles.per_image;
    if (index == begin || (arguments.per_sample && tile == 0)) {
      __syncthreads();  // the tile before still needs its matrices
      matrices.compute(weight, params, arguments.per_sample ? image : 0);
    }
    constexpr int kPixels = kThreadPixels<Nodes>;
    const bool is_full = tile < tiles.full_per_image;
    const int narrow_tiles_before = is_full ? tile * kPixels : tiles.full_per_image * (kPixels - 1) + tile;
    const int64_t pixel = int64_t{narrow_tiles_before} * kFewNodesThreads + threadIdx.x;
    const int64_t first = int64_t{image} * K * tiles.image_pixels + pixel;
    const auto compute = [&](auto pixels) {
      const auto cursor = [&](auto* features) { return plane_cursor(features, first, tiles.image_pixels); };
      forward_pixels<Nodes, kAny, decltype(pixels)::value>(
          matrices.m_transposed, matrices.bias, K, cursor(arguments.x), cursor(arguments.residual), cursor(arguments.y),
          arguments.gate == nullptr ? nullptr : arguments.gate + image * tiles.image_pixels + pixel,
          decltype(pixels)::value, arguments.relu);
    };
    if (is_full)
      compute(std::integral_constant<int, kPixels>());
    else if (pixel < tiles.image_pixels)
      compute(One());
  }
}

/// For channels_last: a block holds a tile of x, and one of the residual if there is one. A tile has as many pixels as
/// the block has threads, or kThreadPixels times as many.
template <typename T, int Nodes, bool kAny>
__global__ void __launch_bounds__(kFewNodesThreads, kFewNodesTileBlocks)
    few_nodes_tile_forward_kernel(const __grid_constant__ CudaForwardArguments<T, float> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const GraphParams<float>& params = arguments.params;
  const TileLayout& layout = arguments.layout;
  const int K = kAny ? params.nodes : Nodes;
  FewNodesMatrices matrices(shared_memory, K);
  T* const x = reinterpret_cast<T*>(reinterpret_cast<float*>(shared_memory) + FewNodesMatrices::size(K));
  T* const residual = arguments.residual == nullptr ? nullptr : x + layout.elements;
  fetch<true>(matrices.bias, params.bias, K);
  const float* const weight = fetch_matrix<true>(matrices.weight_copy, params.weight, K);
  const BlockTiles range(layout.tiles);
  const int begin = static_cast<int>(range.begin), end = static_cast<int>(range.end);
  for (int index = begin; index < end; ++index) {
    const SharedTile<T> tile(layout, index);
    load_tile(x, arguments.x, layout, tile);
    if (residual != nullptr) load_tile(residual, arguments.residual, layout, tile);
    if (index == begin || (arguments.per_sample && tile.first_pixel == 0))
      matrices.compute(weight, params, arguments.per_sample ? tile.image : 0);
    wait_for_loads();
    const auto compute = [&](auto pixels) {
      // Beyond the image a thread computes what nobody reads: the tile has room for it.
      const int first = tile.row(0) + threadIdx.x * tile.pixel_step, rest = tile.pixels - threadIdx.x;
      const TileCursor<T> own = tile_cursor(x + first, tile.pixel_step);
      const int64_t pixel = tile.image * layout.image_pixels + tile.first_pixel + threadIdx.x;
      forward_pixels<Nodes, kAny, decltype(pixels)::value>(
          matrices.m_transposed, matrices.bias, K, own,
          tile_cursor(residual == nullptr ? nullptr : residual + first, tile.pixel_step), own,
          arguments.gate == nullptr ? nullptr : arguments.gate + pixel,
          (rest + kFewNodesThreads - 1) / kFewNodesThreads, arguments.relu);
    };
    if (layout.pixels == kFewNodesThreads)
      compute(One());
    else
      compute(std::integral_constant<int, kThreadPixels<Nodes>>());
    __syncthreads();
    store_tile(arguments.y, x, layout, tile);
    __syncthreads();  // before the next tile or the next matrices overwrite this one
  }
}

}  // namespace dgcn::graph_conv::cuda
