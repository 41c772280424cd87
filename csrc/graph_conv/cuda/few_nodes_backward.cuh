// Backward for few nodes. Other nodes: kernels.cuh. Legend: graph_conv.h.
//
// As in few_nodes.cuh a thread has a few pixels: the sums of their grad_x stay in its registers. dM adds up products of
// all pixels, which no thread has alone. So every thread moves its g and x from the tile, where rows of NCHW start
// anywhere, to rows that start at a multiple of 16 bytes, one for each node. From there the block adds them to dM: by
// then the tile has been overwritten with grad_x and stored, and the next one is on its way.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "graph_conv/cuda/few_nodes.cuh"
#include "graph_conv/cuda/gradients.cuh"
#include "graph_conv/cuda/outer_product.cuh"

namespace dgcn::graph_conv::cuda {

/// Pixels of a thread, as many as shared memory has room for.
template <typename T, int Nodes>
constexpr int kBackwardPixels = sizeof(T) == 4 && Nodes > 17 ? 1 : 2;

/// Blocks that fit into an SM, for their registers and shared memory. Tensor cores need fewer registers for dM.
template <typename T, int Nodes>
constexpr int kBackwardBlocks = sizeof(T) == 2 && Nodes <= 17 ? 3 : 2;

/// grad_x = Mᵀ g at the pixels of a thread, which overwrites grad_y. Leaves g and x in rows of shared memory, to whose
/// first pixel of the thread `g_row` and `x_row` point; x only if `need_x`. The gate of pixel p is bits[p]: 0 beyond
/// the image, where the rows get zeros.
template <typename Outer, int Nodes, bool kAny, int Pixels, typename T, typename Features>
__device__ void backward_pixels(const float* m, int nodes, T* g_row, T* x_row, Features grad_y, Features x, bool need_x,
                                const uint32_t (&bits)[Pixels], int present) {
  const int pitch = quad_pitch(kAny ? nodes : Nodes);
  PixelSums<Nodes, Pixels> sums;
  // Several nodes are read before the first is written: for the compiler each store could change what is read next.
  constexpr int kBatch = 8;
  DGCN_UNROLL()
  for (int first = 0; first < Nodes; first += kBatch) {
    if (kAny && first >= nodes) break;
    const auto for_each = [&](auto visit) {
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i) {
        DGCN_UNROLL()
        for (int p = 0; p < Pixels; ++p)
          if (first + i < Nodes && !(kAny && first + i >= nodes)) visit(i, p);
      }
    };
    const T zero = static_cast<T>(0.0F);
    T values[kBatch][Pixels];
    if (need_x) {
      for_each([&](int i, int p) { values[i][p] = p < present ? x(first + i, p) : zero; });
      for_each([&](int i, int p) { x_row[(first + i) * Outer::kPitch + p * kFewNodesThreads] = values[i][p]; });
    }
    for_each([&](int i, int p) { values[i][p] = (bits[p] >> (first + i) & 1U) == 0 ? zero : grad_y(first + i, p); });
    for_each([&](int i, int p) { g_row[(first + i) * Outer::kPitch + p * kFewNodesThreads] = values[i][p]; });
    DGCN_UNROLL()
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= Nodes || (kAny && first + i >= nodes)) break;
      float g[Pixels];
      DGCN_UNROLL()
      for (int p = 0; p < Pixels; ++p) g[p] = static_cast<float>(values[i][p]);
      sums.template add<kAny>(m + (first + i) * pitch, nodes, g);
    }
  }
  DGCN_UNROLL()
  for (int k = 0; k < Nodes; ++k) {
    if (kAny && k >= nodes) break;
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p) grad_y(k, p) = static_cast<T>(sums.values[k][p]);
  }
}

/// What a block has in shared memory: M, S, the adjacency, W and (dM, db), which stay. Then the rows of g and of x,
/// which share their place with what is computed before and after a tile.
template <typename T, typename Outer>
struct FewNodesGradients {
  float *m, *s, *effective, *weight_copy, *gradients, *scratch;
  T *g, *x;
  const float* weight = nullptr;
  GraphParams<float> fetched{};
  Outer outer;
  bool add = false;  ///< to the partial gradients

  __device__ FewNodesGradients(unsigned char* shared_memory, int nodes)
      : m(reinterpret_cast<float*>(shared_memory)),
        s(m + nodes * quad_pitch(nodes)),
        effective(s + matrix_size(nodes)),
        weight_copy(effective + matrix_size(nodes)),
        gradients(weight_copy + copy_size(nodes)),
        scratch(gradients + gradient_size(nodes)),
        g(reinterpret_cast<T*>(scratch)),
        x(g + Outer::kGradRows * Outer::kPitch) {}

  static __host__ __device__ constexpr int64_t bytes(int nodes) {
    const int64_t kept = nodes * quad_pitch(nodes) + 2 * matrix_size(nodes) + copy_size(nodes) + gradient_size(nodes);
    const int64_t matrices = operand_size(nodes) + copy_size(nodes), chain = matrix_size(nodes) + operand_size(nodes);
    const int64_t totals = round_up(Outer::kSlices * int64_t{nodes * nodes + nodes}, 4);
    const int64_t rows = (Outer::kGradRows + Outer::kFeatureRows) * Outer::kPitch * int64_t{sizeof(T)};
    const int64_t shared = std::max(std::max(matrices, chain), totals) * int64_t{sizeof(float)};
    return kept * int64_t{sizeof(float)} + std::max(rows, shared);
  }

  /// Starts to load the parameters.
  __device__ void fetch(const GraphParams<float>& params) {
    weight = fetch_matrix<true>(weight_copy, params.weight, params.nodes);
    fetched = fetch_parameters<true>(s, effective, scratch, params);
    commit_loads();
  }

  /// Once they are loaded, before the first tile of a sample.
  __device__ void begin(int64_t sample) {
    compute_matrices<true, float>(nullptr, m, quad_pitch(fetched.nodes), s, effective, weight, scratch, fetched,
                                  sample);
    outer = Outer();
    Outer::prepare(x, fetched.nodes);
  }

  /// After its last tile in this block: stores the parameter gradients in `partial`, or adds them to it.
  __device__ void end(float* partial) {
    outer.store(scratch, fetched.nodes);
    __syncthreads();
    sum_slices(gradients, scratch, fetched.nodes, Outer::kSlices);
    parameter_gradients(partial, add, gradients, s, effective, weight, scratch, fetched);
    add = true;
  }
};

/// grad_x, and the parameter gradients of this block's tiles.
template <typename T, int Nodes, bool kAny, bool kChannelsLast>
__global__ void __launch_bounds__(kFewNodesThreads, (kBackwardBlocks<T, Nodes>))
    few_nodes_backward_kernel(const __grid_constant__ CudaBackwardArguments<T, float> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  constexpr int kPixels = kBackwardPixels<T, Nodes>;
  using Outer = OuterProduct<T, Nodes, kPixels * kFewNodesThreads>;
  using Features = OwnPixels<T, Nodes, kAny, kChannelsLast, kPixels>;
  const TileLayout& layout = arguments.layout;
  const GraphParams<float>& params = arguments.params;
  const bool need_params = arguments.partial != nullptr;
  const int K = kAny ? params.nodes : Nodes;
  FewNodesGradients<T, Outer> block(shared_memory, K);
  TileCopies<T, 1> copies(layout, shared_memory + block.bytes(K));
  T* const grad_y = reinterpret_cast<T*>(shared_memory + block.bytes(K) + copies.kBarrierBytes);
  T* const x = grad_y + layout.elements;
  BlockTiles tiles(layout, arguments.per_sample);
  uint32_t bits[kPixels];
  const auto load = [&] {
    if (tiles.exists()) {
      const SharedTile<T> tile(layout, tiles.image(), tiles.tile());
      copies.load(grad_y, arguments.grad_y, need_params ? arguments.x : nullptr, tile);
      DGCN_UNROLL()
      for (int p = 0; p < kPixels; ++p) {
        const int pixel = threadIdx.x + p * kFewNodesThreads;
        bits[p] = pixel >= tile.pixels ? 0U : ~0U;
        if (arguments.gate != nullptr && pixel < tile.pixels)
          bits[p] = arguments.gate[tile.image * layout.image_pixels + tile.first_pixel + pixel];
      }
    }
    copies.end_load();
  };

  block.fetch(params);
  load();
  wait_for_loads<1>();  // for the parameters
  int sample = arguments.per_sample ? tiles.image() : 0;
  block.begin(sample);
  while (tiles.exists()) {
    const SharedTile<T> tile(layout, tiles.image(), tiles.tile());
    if (arguments.per_sample && tiles.image() != sample) {
      sample = tiles.image();
      block.fetch(params);
      wait_for_loads();
      block.begin(sample);
    }
    const bool ends_sample = tiles.is_last() || (arguments.per_sample && tiles.tile() + 1 == layout.tiles_per_image);
    copies.wait();
    backward_pixels<Outer, Nodes, kAny, kPixels>(
        block.m, K, block.g + threadIdx.x, block.x + threadIdx.x, Features(grad_y, tile), Features(x, tile),
        need_params, bits, (tile.pixels - static_cast<int>(threadIdx.x) + kFewNodesThreads - 1) / kFewNodesThreads);
    copies.store(arguments.grad_x, grad_y, tile);
    tiles.next();
    load();
    if (need_params) block.outer.add(block.g, block.x);
    __syncthreads();  // before other rows or sums overwrite these
    if (need_params && ends_sample) block.end(arguments.partial + blockIdx.x * partial_size(params));
  }
}

}  // namespace dgcn::graph_conv::cuda
