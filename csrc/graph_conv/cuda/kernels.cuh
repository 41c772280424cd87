// The kernels of the graph convolution on CUDA, free of torch: backend.cu launches them, and
// tests/cpp/test_graph_conv_cuda_emulated.cpp runs the same source on the host. Legend: graph_conv.h.
//
// Those here are for every K and dtype; up to 24 nodes of at most 32 bits take few_nodes*.cuh. Forward moves 2·K
// features a pixel for 2·K² operations, backward (reads grad_y, x and the gate, writes grad_x) 3·K for twice as many.
// With 32 nodes in float32 these are 8 and 11 operations a byte, and an H100 does 20 for each byte that it loads
// (tensor cores would only add the rounding of TF32): bandwidth still counts. Hence:
//   - Every feature crosses device memory once, in accesses of 16 bytes wherever its row starts: maps have 16n + 1
//     cells a side, so hardly any row of NCHW is aligned. Tiles pass through shared memory, 16 bytes at a time on the
//     side of device memory, single elements on the side of the arithmetic. That also makes NCHW and channels_last the
//     same to the arithmetic.
//   - S and M never leave the SM. Each block computes them, once per sample. That takes some five microseconds on an
//     H200, for all blocks at the same time, and saves a launch and a round trip through memory. At [8, 17, 81, 81] it
//     is most of the time, so all parameters are fetched at once, and no loop over them waits for memory.
//   - A block loads, computes and stores one tile after the other, without prefetching: while it computes, the other
//     blocks of its SM load. So a tile can be twice as large.
//   - Each block owns a fixed, contiguous range of tiles. The sample rarely changes within a block, and every sum has
//     one order.
//   - Parameter gradients are linear in dM, so each block accumulates its own dM over all its tiles. The second launch
//     only sums over blocks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "graph_conv/cuda/gradients.cuh"
#include "graph_conv/cuda/matrices.cuh"
#include "graph_conv/cuda/tiles.cuh"
#include "graph_conv/graph_conv.h"

namespace dgcn::graph_conv::cuda {

// ---- Forward --------------------------------------------------------------------------------------------------------

constexpr int kForwardThreads = 256;
constexpr int kForwardColumns = 4;  // of a product with pixels; see kPixelOutputs

/// Blocks whose registers must fit into an SM at the same time. Float64 is bound by arithmetic: there one block may use
/// all registers.
template <typename A>
constexpr int resident_blocks(bool shared) {
  return shared && sizeof(A) == 4 ? 2 : 1;
}

template <typename T, typename A>
struct CudaForwardArguments {
  TileLayout layout;
  GraphParams<A> params;
  const T* x;
  const T* residual;  ///< or null
  T* y;
  uint32_t* gate;  ///< ReLU's gate; null: not wanted
  bool per_sample, relu;
  A* workspace;  ///< [blocks, forward_kept + forward_scratch], if these do not fit into shared memory
};

// Elements that a block keeps while it computes tiles: M and b. Then those that only compute_matrices() needs: S, W and
// its scratch.
__host__ __device__ constexpr int64_t forward_kept(int nodes) { return operand_size(nodes) + round_up(nodes, 4); }
__host__ __device__ constexpr int64_t forward_scratch(int nodes) {
  return matrix_size(nodes) + operand_size(nodes) + 2 * copy_size(nodes);
}

/// The bits of a thread's columns, of outputs that follow each other within a word of the gate.
template <int Columns>
struct GateBits {
  uint32_t bits[Columns] = {};

  template <typename A>
  __device__ void add(int node, int column, A value) {
    if (!(value <= A(0))) bits[column] |= 1U << node % 32;
  }

  /// Adds them to the word of each pixel, of which other threads have other bits.
  __device__ void flush(uint32_t* words, const ThreadColumns<Columns>& columns) {
    DGCN_UNROLL()
    for (int c = 0; c < Columns; ++c) {
      if (c < columns.present) atomicOr(words + columns.number[c], bits[c]);
      bits[c] = 0;
    }
  }
};

/// y = act(M x + b) (+ residual), and ReLU's gate. With `kShared` the matrices are in shared memory, and the tiles
/// overwrite what only compute_matrices() needs. Without, all of these are in the workspace.
template <typename T, typename A, bool kShared>
__global__ void __launch_bounds__(kForwardThreads, resident_blocks<A>(kShared))
    forward_kernel(const CudaForwardArguments<T, A> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const TileLayout& layout = arguments.layout;
  const GraphParams<A>& params = arguments.params;
  const int K = params.nodes;
  A* const m_transposed = kShared ? reinterpret_cast<A*>(shared_memory)
                                  : arguments.workspace + blockIdx.x * (forward_kept(K) + forward_scratch(K));
  A* const bias = m_transposed + operand_size(K);
  A* const after = m_transposed + forward_kept(K);
  T* const x = reinterpret_cast<T*>(kShared ? reinterpret_cast<unsigned char*>(after) : shared_memory);
  T* const y = x + layout.elements;
  uint32_t* const gate = reinterpret_cast<uint32_t*>(y + layout.elements);  // [words, layout.pixels]
  const int words = static_cast<int>(gate_words(K));
  A* const s = kShared ? reinterpret_cast<A*>(x) : after;
  A* const weight_copy = s + matrix_size(K);
  A* const scratch = weight_copy + copy_size(K);

  clear(m_transposed, operand_size(K));
  fetch<kShared>(bias, params.bias, K);
  BlockTiles tiles(layout, true);
  while (tiles.exists()) {
    const int image = tiles.image();
    const A* const weight = fetch_matrix<kShared>(weight_copy, params.weight, K);
    const GraphParams<A> fetched = fetch_parameters<kShared>(s, scratch, scratch, params);
    commit_loads();
    wait_for_loads();
    compute_matrices<kShared, A>(m_transposed, nullptr, operand_pitch(K), s, scratch, weight, scratch, fetched,
                                 arguments.per_sample ? image : 0);

    for (; tiles.exists() && (!arguments.per_sample || tiles.image() == image); tiles.next()) {
      const SharedTile<T> tile(layout, tiles.image(), tiles.tile());
      load_tile(x, arguments.x, layout, tile);
      if (arguments.residual != nullptr) load_tile(y, arguments.residual, layout, tile);
      if (arguments.gate != nullptr) clear(gate, words * layout.pixels);
      commit_loads();
      wait_for_loads();
      product<kPixelOutputs, kForwardColumns, 1, A>(
          m_transposed, K, tile.pixels, tile.pixel_step,
          [&](int k, int offset) { return static_cast<A>(x[tile.row(k) + offset]); },
          [&](int first, const auto& columns, A(&sums)[kPixelOutputs][kForwardColumns]) {
            GateBits<kForwardColumns> bits;
            DGCN_UNROLL()
            for (int o = 0; o < kPixelOutputs; ++o) {
              const int j = first + o;
              if (j >= K) break;
              T* const row = y + tile.row(j);
              DGCN_UNROLL()
              for (int c = 0; c < kForwardColumns; ++c) {
                A value = sums[o][c] + bias[j];  // last: a large bias first would round off small products
                if (arguments.gate != nullptr) bits.add(j, c, value);
                if (arguments.relu && value < A(0)) value = 0;  // keeps NaN
                if (c >= columns.present) continue;
                if (arguments.residual != nullptr) value += static_cast<A>(row[columns.offset[c]]);
                row[columns.offset[c]] = static_cast<T>(value);
              }
              if (arguments.gate != nullptr && (j == K - 1 || o == kPixelOutputs - 1 || j % 32 == 31))
                bits.flush(gate + j / 32 * layout.pixels, columns);
            }
          });
      __syncthreads();
      store_tile(arguments.y, y, layout, tile);
      if (arguments.gate != nullptr)
        for (int word = 0; word < words; ++word)
          for (int pixel = threadIdx.x; pixel < tile.pixels; pixel += blockDim.x)
            arguments.gate[gate_index(words, layout.image_pixels, tile.image, word) + tile.first_pixel + pixel] =
                gate[word * layout.pixels + pixel];
      __syncthreads();  // before the next tile or the next matrices overwrite this one
    }
  }
}

// ---- Backward -------------------------------------------------------------------------------------------------------

constexpr int kBackwardThreads = 256;
constexpr int kBackwardColumns = 2;  // of a product with pixels; fewer, since dM needs most of the registers

// A thread accumulates 5 × 9 entries of dM: 14 loads from shared memory feed 45 multiplications. K = 17 has 8 such
// parts, one for each of 8 warps, whose threads read neighbouring pixels.
constexpr int kPartRows = 5;
constexpr int kPartColumns = 9;

/// How dM = Σ_p g_p x_pᵀ is divided among the threads of a block: thread t computes part t / slices, over the pixels
/// t % slices + i·slices. Part p has the rows p / columns + i·rows and the columns p % columns + j·columns of dM.
struct OuterProductParts {
  int rows, columns;  ///< number of parts along the rows and the columns of dM
  int slices;         ///< divides the block size, unless every thread has one part at most

  __host__ __device__ int count() const { return rows * columns; }
};

/// A thread's part of dM, and of db = Σ_p g_p. Rows and columns beyond K repeat the last one; store() skips them.
template <typename A>
struct PartialOuterProduct {
  A products[kPartRows][kPartColumns];
  A sums[kPartRows];

  __device__ void clear() {
    DGCN_UNROLL()
    for (int i = 0; i < kPartRows; ++i) {
      sums[i] = 0;
      DGCN_UNROLL()
      for (int j = 0; j < kPartColumns; ++j) products[i][j] = 0;
    }
  }

  template <typename T>
  __device__ void add(const T* g, const T* x, const SharedTile<T>& tile, int nodes, const OuterProductParts& parts,
                      int part, int slice) {
    const int row = part / parts.columns, column = part % parts.columns;
    const T *g_row[kPartRows], *x_row[kPartColumns];
    DGCN_UNROLL()
    for (int i = 0; i < kPartRows; ++i)
      g_row[i] = g + tile.row(std::min(row + i * parts.rows, nodes - 1)) + slice * tile.pixel_step;
    DGCN_UNROLL()
    for (int j = 0; j < kPartColumns; ++j)
      x_row[j] = x + tile.row(std::min(column + j * parts.columns, nodes - 1)) + slice * tile.pixel_step;

    const int step = parts.slices * tile.pixel_step;
    DGCN_UNROLL(1)
    for (int pixel = slice; pixel < tile.pixels; pixel += parts.slices) {
      A g_value[kPartRows];
      DGCN_UNROLL()
      for (int i = 0; i < kPartRows; ++i) {
        g_value[i] = static_cast<A>(*g_row[i]);
        g_row[i] += step;
        sums[i] += g_value[i];
      }
      DGCN_UNROLL()
      for (int j = 0; j < kPartColumns; ++j) {
        const A x_value = static_cast<A>(*x_row[j]);
        x_row[j] += step;
        DGCN_UNROLL()
        for (int i = 0; i < kPartRows; ++i) products[i][j] += g_value[i] * x_value;
      }
    }
  }

  /// Adds to, or overwrites, `slice` of totals [slices, K·K + K].
  __device__ void store(A* totals, int nodes, const OuterProductParts& parts, int part, int slice, bool add) const {
    const int first_row = part / parts.columns, first_column = part % parts.columns;
    A* const dm = totals + slice * (nodes * nodes + nodes);
    A* const db = dm + nodes * nodes;
    DGCN_UNROLL()
    for (int i = 0; i < kPartRows; ++i) {
      const int row = first_row + i * parts.rows;
      if (row >= nodes) continue;
      if (first_column == 0) db[row] = sums[i] + (add ? db[row] : A(0));
      DGCN_UNROLL()
      for (int j = 0; j < kPartColumns; ++j) {
        const int column = first_column + j * parts.columns;
        if (column >= nodes) continue;
        A& total = dm[row * nodes + column];
        total = products[i][j] + (add ? total : A(0));
      }
    }
  }
};

/// Sets g to 0 where ReLU's gate is closed.
template <typename T>
__device__ void close_gate(T* g, const uint32_t* gate, const TileLayout& layout, const SharedTile<T>& tile) {
  const int K = layout.nodes, words = static_cast<int>(gate_words(K));
  for (int word = 0; word < words; ++word)
    for (int pixel = threadIdx.x; pixel < tile.pixels; pixel += blockDim.x) {
      const uint32_t bits = gate[gate_index(words, layout.image_pixels, tile.image, word) + tile.first_pixel + pixel];
      for (int j = word * 32; j < std::min(K, word * 32 + 32); ++j)
        if ((bits >> j % 32 & 1U) == 0) g[tile.row(j) + pixel * tile.pixel_step] = T();
    }
}

template <typename T, typename A>
struct CudaBackwardArguments {
  TileLayout layout;
  GraphParams<A> params;
  const T* grad_y;
  const T* x;
  const uint32_t* gate;  ///< null: without ReLU
  T* grad_x;             ///< null: not needed
  A* partial;            ///< [blocks, partial_size(params)]; null: not needed
  bool per_sample;
  OuterProductParts parts;
  A* workspace;  ///< as in CudaForwardArguments
};

// Elements that a block keeps: M, S, the adjacency and W. Then scratch: (dM, db), and either its slices or the matrices
// of parameter_gradients(). compute_matrices() uses the scratch too, and needs less.
__host__ __device__ constexpr int64_t backward_kept(int nodes) {
  return operand_size(nodes) + 2 * matrix_size(nodes) + copy_size(nodes);
}
__host__ __device__ constexpr int64_t backward_scratch(int nodes, int slices) {
  const int64_t sliced = slices * gradient_size(nodes), chain = matrix_size(nodes) + operand_size(nodes);
  return gradient_size(nodes) + (sliced > chain ? sliced : chain);
}

/// grad_x = Mᵀ g, where g is grad_y gated by ReLU, and the parameter gradients of this block's tiles. `kShared`: as for
/// forward_kernel. With it, a thread has at most one part of dM, which stays in registers from tile to tile.
template <typename T, typename A, bool kShared>
__global__ void __launch_bounds__(kBackwardThreads, resident_blocks<A>(kShared))
    backward_kernel(const CudaBackwardArguments<T, A> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const TileLayout& layout = arguments.layout;
  const GraphParams<A>& params = arguments.params;
  const OuterProductParts& parts = arguments.parts;
  const int K = params.nodes, slices = parts.slices;
  A* const m = kShared ? reinterpret_cast<A*>(shared_memory)
                       : arguments.workspace + blockIdx.x * (backward_kept(K) + backward_scratch(K, slices));
  A* const s = m + operand_size(K);
  A* const effective = s + matrix_size(K);
  A* const weight_copy = effective + matrix_size(K);
  A* const after = m + backward_kept(K);
  T* const g = reinterpret_cast<T*>(kShared ? reinterpret_cast<unsigned char*>(after) : shared_memory);
  T* const x = g + layout.elements;
  T* const grad_x = x + layout.elements;
  A* const gradients = kShared ? reinterpret_cast<A*>(g) : after;
  A* const scratch = gradients + gradient_size(K);
  A* const totals = scratch;  // [slices, K·K + K]; parameter_gradients() overwrites them

  const bool need_x = arguments.grad_x != nullptr, need_params = arguments.partial != nullptr;
  const int slice = threadIdx.x % slices, first_part = threadIdx.x / slices;

  clear(m, operand_size(K));
  const A* const weight = fetch_matrix<kShared>(weight_copy, params.weight, K);
  bool add = false;  // to `partial`
  BlockTiles tiles(layout, true);
  while (tiles.exists()) {
    const int image = tiles.image(), sample = arguments.per_sample ? image : 0;
    const GraphParams<A> fetched = fetch_parameters<kShared>(s, effective, gradients, params);
    commit_loads();
    wait_for_loads();
    compute_matrices<kShared, A>(nullptr, need_x ? m : nullptr, operand_pitch(K), s, effective, weight, gradients,
                                 fetched, sample);
    PartialOuterProduct<A> outer;
    outer.clear();
    if (!kShared) clear(totals, slices * (K * K + K));

    for (; tiles.exists() && (!arguments.per_sample || tiles.image() == image); tiles.next()) {
      const SharedTile<T> tile(layout, tiles.image(), tiles.tile());
      load_tile(g, arguments.grad_y, layout, tile);
      if (need_params) load_tile(x, arguments.x, layout, tile);
      commit_loads();
      wait_for_loads();
      if (arguments.gate != nullptr) {
        close_gate(g, arguments.gate, layout, tile);
        __syncthreads();
      }
      if (need_x)
        product<kPixelOutputs, kBackwardColumns, 1, A>(
            m, K, tile.pixels, tile.pixel_step,
            [&](int j, int offset) { return static_cast<A>(g[tile.row(j) + offset]); },
            [&](int first, const auto& columns, const A(&sums)[kPixelOutputs][kBackwardColumns]) {
              DGCN_UNROLL()
              for (int o = 0; o < kPixelOutputs; ++o) {
                if (first + o >= K) break;
                T* const row = grad_x + tile.row(first + o);
                DGCN_UNROLL()
                for (int c = 0; c < kBackwardColumns; ++c)
                  if (c < columns.present) row[columns.offset[c]] = static_cast<T>(sums[o][c]);
              }
            });
      if (need_params && kShared) {
        if (first_part < parts.count()) outer.add(g, x, tile, K, parts, first_part, slice);
      } else if (need_params) {
        for (int part = first_part; part < parts.count(); part += blockDim.x / slices) {
          outer.clear();
          outer.add(g, x, tile, K, parts, part, slice);
          outer.store(totals, K, parts, part, slice, true);
        }
      }
      __syncthreads();
      if (need_x) store_tile(arguments.grad_x, grad_x, layout, tile);
      __syncthreads();  // before the next tile or the next matrices overwrite this one
    }

    if (!need_params) continue;
    if (kShared && first_part < parts.count()) outer.store(totals, K, parts, first_part, slice, false);
    __syncthreads();
    sum_slices(gradients, totals, K, slices);
    parameter_gradients(arguments.partial + blockIdx.x * partial_size(params), add, gradients, s, effective, weight,
                        scratch, params);
    add = true;
  }
}

// ---- Sampling -------------------------------------------------------------------------------------------------------

constexpr int kSampleThreads = 256;
constexpr int64_t kMostSampleBlocks = 1 << 20;

/// draw [samples, K, K] ~ Bernoulli(A).
template <typename A>
__global__ void __launch_bounds__(kSampleThreads)
    sample_kernel(A* draw, const int64_t samples, const GraphParams<A> params) {
  for (int64_t n = blockIdx.x; n < samples; n += gridDim.x)
    effective_adjacency(draw + n * params.nodes * params.nodes, params, static_cast<uint32_t>(n), threadIdx.x,
                        blockDim.x);
}

}  // namespace dgcn::graph_conv::cuda
