// Backward for few nodes. Other nodes: kernels.cuh. Legend: graph_conv.h.
//
// As in few_nodes.cuh a thread has a few pixels: their g and the sums of grad_x stay in its registers. dM adds up
// products of all pixels, which no thread has alone. So every thread leaves its g and x in rows of shared memory, one
// for each node, where the pixels start at a multiple of 16 bytes whatever their place in the image is. The block adds
// them to dM. In channels_last the features come and go through further shared memory, as in forward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "graph_conv/cuda/few_nodes.cuh"
#include "graph_conv/cuda/gradients.cuh"
#include "graph_conv/cuda/outer_product.cuh"

namespace dgcn::graph_conv::cuda {

constexpr int kPlanePixels = 2;  ///< of a thread in NCHW; in channels_last, which needs more shared memory, it has one

/// Blocks of an SM, so that dM and the sums of a thread's pixels fit into registers. Tensor cores need fewer of them.
template <typename T, int Nodes>
constexpr int kFewNodesBackwardBlocks = sizeof(T) == 4 && Nodes > 17 ? 2 : 3;

template <typename T>
struct FewNodesBackwardArguments {
  int64_t image_pixels;        ///< N = H·W
  int tiles_per_image, tiles;  ///< of kPlanePixels pixels a thread
  GraphParams<float> params;
  const T* grad_y;
  const T* x;            ///< null: not needed
  const uint32_t* gate;  ///< null: without ReLU
  T* grad_x;             ///< null: not needed
  float* partial;        ///< [blocks, partial_size(params)]; null: not needed
  bool per_sample;
};

/// grad_x = Mᵀ g at the pixels of a thread, a block's width apart. Leaves g and x in rows of shared memory, to whose
/// first pixel of the thread `g_row` and `x_row` point. Only the first `present` pixels exist: the others leave zeros.
/// With `kFull` all do. `gate`: at the first pixel, or null. x and grad_x: null if they are not needed. grad_x may
/// overwrite grad_y.
template <typename Outer, int Nodes, bool kAny, int Pixels, bool kFull, typename T, typename Input, typename Output>
__device__ void backward_pixels(const float* m, int nodes, T* g_row, T* x_row, Input grad_y, Input x,
                                const uint32_t* gate, Output grad_x, int present) {
  const int pitch = quad_pitch(kAny ? nodes : Nodes);
  const auto is_present = [&](int p) { return kFull || p < present; };
  [[maybe_unused]] constexpr int kUnroll = kFull ? Nodes : 8;  // predicates take registers
  if (x.at != nullptr) {
    DGCN_UNROLL(kUnroll)
    for (int k = 0; k < Nodes; ++k) {
      if (kAny && k >= nodes) break;
      DGCN_UNROLL()
      for (int p = 0; p < Pixels; ++p) {
        T* const to = x_row + k * Outer::kPitch + p * kFewNodesThreads;
        if constexpr (sizeof(T) == 4 && kFull && std::is_same_v<Input, PlaneCursor<const T>>)
          __pipeline_memcpy_async(to, &x[p], sizeof(T));
        else
          *to = is_present(p) ? x[p] : static_cast<T>(0.0F);
      }
      x.next();
    }
  }

  uint32_t bits[Pixels];
  DGCN_UNROLL()
  for (int p = 0; p < Pixels; ++p) {
    bits[p] = ~0U;
    if (gate != nullptr && is_present(p)) bits[p] = gate[p * kFewNodesThreads];
  }
  PixelSums<Nodes, Pixels> sums;
  DGCN_UNROLL(kUnroll)
  for (int j = 0; j < Nodes; ++j) {
    if (kAny && j >= nodes) break;
    float value[Pixels];
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p) {
      T g = static_cast<T>(0.0F);
      if (is_present(p)) g = grad_y[p];
      if ((bits[p] >> j & 1U) == 0) g = static_cast<T>(0.0F);
      g_row[j * Outer::kPitch + p * kFewNodesThreads] = g;
      value[p] = static_cast<float>(g);
    }
    grad_y.next();
    sums.template add<kAny>(m + j * pitch, nodes, value);
  }
  if (grad_x.at == nullptr) return;
  DGCN_UNROLL()
  for (int k = 0; k < Nodes; ++k) {
    if (kAny && k >= nodes) break;
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p)
      if (is_present(p)) grad_x[p] = static_cast<T>(sums.values[k][p]);
    grad_x.next();
  }
}

/// What a block has in shared memory: M, S, the adjacency, W and (dM, db), which stay. Then the rows of g and of x,
/// which share their place with what is computed before and after a tile.
template <typename T, typename Outer>
struct FewNodesGradients {
  float *m, *s, *effective, *weight_copy, *gradients, *scratch;
  T *g, *x;
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

  /// Before the first tile of a sample.
  __device__ void begin(const float* weight, const GraphParams<float>& params, int64_t sample) {
    compute_matrices<true, float>(nullptr, m, quad_pitch(params.nodes), s, effective, weight, scratch, params, sample);
    outer = Outer();
    Outer::prepare(x, params.nodes);
  }

  /// After its last tile in this block: stores the parameter gradients in `partial`, or adds them to it.
  __device__ void end(float* partial, const float* weight, const GraphParams<float>& params) {
    outer.store(scratch, params.nodes);
    __syncthreads();
    sum_slices(gradients, scratch, params.nodes, Outer::kSlices);
    parameter_gradients(partial, add, gradients, s, effective, weight, scratch, params);
    add = true;
  }
};

/// For NCHW: grad_x, and the parameter gradients of this block's tiles.
template <typename T, int Nodes, bool kAny>
__global__ void __launch_bounds__(kFewNodesThreads, (kFewNodesBackwardBlocks<T, Nodes>))
    few_nodes_backward_kernel(const __grid_constant__ FewNodesBackwardArguments<T> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  constexpr int kTilePixels = kPlanePixels * kFewNodesThreads;
  using Outer = OuterProduct<T, Nodes, kTilePixels>;
  const GraphParams<float>& params = arguments.params;
  const int K = kAny ? params.nodes : Nodes;
  FewNodesGradients<T, Outer> block(shared_memory, K);
  const float* const weight = fetch_matrix<true>(block.weight_copy, params.weight, K);
  const BlockTiles range(arguments.tiles);
  const int begin = static_cast<int>(range.begin), end = static_cast<int>(range.end);
  for (int index = begin; index < end; ++index) {
    const int image = index / arguments.tiles_per_image, tile = index % arguments.tiles_per_image;
    if (index == begin || (arguments.per_sample && tile == 0))
      block.begin(weight, params, arguments.per_sample ? image : 0);
    const int64_t pixel = int64_t{tile} * kTilePixels + threadIdx.x;
    const int64_t first = int64_t{image} * K * arguments.image_pixels + pixel;
    const auto compute = [&](auto full) {
      const auto cursor = [&](auto* features) { return plane_cursor(features, first, arguments.image_pixels); };
      const int64_t rest = arguments.image_pixels - pixel + kFewNodesThreads - 1;
      backward_pixels<Outer, Nodes, kAny, kPlanePixels, decltype(full)::value>(
          block.m, K, block.g + threadIdx.x, block.x + threadIdx.x, cursor(arguments.grad_y), cursor(arguments.x),
          arguments.gate == nullptr ? nullptr : arguments.gate + image * arguments.image_pixels + pixel,
          cursor(arguments.grad_x), static_cast<int>(std::min<int64_t>(rest / kFewNodesThreads, kPlanePixels)));
    };
    if (int64_t{tile + 1} * kTilePixels <= arguments.image_pixels)
      compute(std::true_type());
    else
      compute(std::false_type());
    wait_for_loads();
    if (arguments.partial != nullptr) block.outer.add(block.g, block.x);
    __syncthreads();  // before the next tile or the sums of this one overwrite them
    const bool ends_sample = index + 1 == end || (arguments.per_sample && tile + 1 == arguments.tiles_per_image);
    if (arguments.partial != nullptr && ends_sample)
      block.end(arguments.partial + blockIdx.x * partial_size(params), weight, params);
  }
}

/// For channels_last: a block holds a tile of grad_y, which grad_x overwrites, and one of x.
template <typename T, int Nodes, bool kAny>
__global__ void __launch_bounds__(kFewNodesThreads, (kFewNodesBackwardBlocks<T, Nodes>))
    few_nodes_tile_backward_kernel(const __grid_constant__ CudaBackwardArguments<T, float> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  using Outer = OuterProduct<T, Nodes, kFewNodesThreads>;
  const GraphParams<float>& params = arguments.params;
  const TileLayout& layout = arguments.layout;
  const int K = kAny ? params.nodes : Nodes;
  FewNodesGradients<T, Outer> block(shared_memory, K);
  T* const grad_y = reinterpret_cast<T*>(shared_memory + block.bytes(K));
  T* const x = grad_y + layout.elements;
  const float* const weight = fetch_matrix<true>(block.weight_copy, params.weight, K);
  const BlockTiles range(layout.tiles);
  for (int64_t index = range.begin; index < range.end; ++index) {
    const SharedTile<T> tile(layout, index);
    load_tile(grad_y, arguments.grad_y, layout, tile);
    if (arguments.partial != nullptr) load_tile(x, arguments.x, layout, tile);
    if (index == range.begin || (arguments.per_sample && tile.first_pixel == 0))
      block.begin(weight, params, arguments.per_sample ? tile.image : 0);
    wait_for_loads();
    const int first = tile.row(0) + threadIdx.x * tile.pixel_step;
    const int64_t pixel = tile.image * layout.image_pixels + tile.first_pixel + threadIdx.x;
    const TileCursor<T> own = tile_cursor(grad_y + first, tile.pixel_step);
    backward_pixels<Outer, Nodes, kAny, 1, false>(
        block.m, K, block.g + threadIdx.x, block.x + threadIdx.x, own,
        tile_cursor(arguments.partial == nullptr ? nullptr : x + first, tile.pixel_step),
        arguments.gate == nullptr ? nullptr : arguments.gate + pixel, own, static_cast<int>(threadIdx.x) < tile.pixels);
    __syncthreads();
    if (arguments.grad_x != nullptr) store_tile(arguments.grad_x, grad_y, layout, tile);
    if (arguments.partial != nullptr) block.outer.add(block.g, block.x);
    __syncthreads();  // before the next tile or the sums of this one overwrite them
    const bool ends_sample =
        index + 1 == range.end || (arguments.per_sample && tile.first_pixel + layout.pixels >= layout.image_pixels);
    if (arguments.partial != nullptr && ends_sample)
      block.end(arguments.partial + blockIdx.x * partial_size(params), weight, params);
  }
}

}  // namespace dgcn::graph_conv::cuda
