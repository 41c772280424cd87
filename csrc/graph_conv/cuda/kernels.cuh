// The kernels of the graph convolution on CUDA, free of torch: backend.cu launches them, and
// tests/cpp/test_graph_conv_cuda_emulated.cpp runs the same source on the host. Legend: graph_conv.h.
//
// Forward at K = 17 in float32 moves 2·17·4 = 136 bytes a pixel for 2·17² = 578 operations; backward (reads grad_y, x
// and y, writes grad_x) 272 bytes for 1,156. These are 4 operations a byte, and an H100 does 20 in float32 for each
// byte that it loads (tensor cores would only add the rounding of TF32). So the kernels are bound by memory bandwidth,
// though not by a wide margin. At 13 bytes a cycle, an SM has 10 cycles for a pixel forward and 21 backward; to issue
// the instructions of a pixel, counted in the machine code, takes about 8 and 16. Hence:
//   - Every feature crosses device memory once, in accesses of 16 bytes wherever its row starts: maps have 16n + 1
//     cells a side, so hardly any row of NCHW is aligned. Tiles pass through shared memory, 16 bytes at a time on the
//     side of device memory, single elements on the side of the arithmetic. That also makes NCHW and channels_last the
//     same to the arithmetic.
//   - S and M never leave the SM. Each block computes them, once per sample. That takes a microsecond or two, for all
//     blocks at the same time, and saves a launch and a round trip through memory. At [8, 17, 81, 81] it is most of the
//     time, so all parameters are fetched at once, and no loop over them waits for memory.
//   - A block loads, computes and stores one tile after the other, without prefetching: while it computes, the other
//     blocks of its SM load. So a tile can be twice as large.
//   - Each block owns a fixed, contiguous range of tiles. The sample rarely changes within a block, and every sum has
//     one order.
//   - Parameter gradients are linear in dM, so each block accumulates its own dM over all its tiles. The second launch
//     only sums over blocks.
#pragma once

#include <algorithm>
#include <cstdint>

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
  bool per_sample, relu;
  A* workspace;  ///< [blocks, forward_kept + forward_scratch], if these do not fit into shared memory
};

// Elements that a block keeps while it computes tiles: M and b. Then those that only compute_matrices() needs: S, W and
// its scratch.
__host__ __device__ constexpr int64_t forward_kept(int nodes) { return operand_size(nodes) + round_up(nodes, 4); }
__host__ __device__ constexpr int64_t forward_scratch(int nodes) {
  return matrix_size(nodes) + operand_size(nodes) + 2 * copy_size(nodes);
}

/// y = act(M x + b) (+ residual). With `kShared` the matrices are in shared memory, and the tiles overwrite what only
/// compute_matrices() needs. Without, all of these are in the workspace.
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
  A* const s = kShared ? reinterpret_cast<A*>(x) : after;
  A* const weight_copy = s + matrix_size(K);
  A* const scratch = weight_copy + copy_size(K);

  clear(m_transposed, operand_size(K));
  fetch<kShared>(bias, params.bias, K);
  const BlockTiles range(layout);
  for (int64_t index = range.begin; index < range.end;) {
    const int64_t image = index / layout.tiles_per_image;
    const int64_t end = arguments.per_sample ? std::min(range.end, (image + 1) * layout.tiles_per_image) : range.end;
    const A* const weight = fetch_matrix<kShared>(weight_copy, params.weight, K);
    compute_matrices<kShared, A>(m_transposed, nullptr, s, scratch, weight, scratch, params,
                                 arguments.per_sample ? image : 0);

    for (; index < end; ++index) {
      const SharedTile<T> tile(layout, index);
      load_tile(x, arguments.x, layout, tile);
      if (arguments.residual != nullptr) load_tile(y, arguments.residual, layout, tile);
      wait_for_loads();
      product<kPixelOutputs, kForwardColumns, 1, A>(
          m_transposed, K, tile.pixels, tile.pixel_step,
          [&](int k, int offset) { return static_cast<A>(x[tile.row(k) + offset]); },
          [&](int j, const auto& columns, A(&value)[kForwardColumns]) {
            T* const row = y + tile.row(j);
            DGCN_UNROLL()
            for (int c = 0; c < kForwardColumns; ++c) {
              value[c] += bias[j];  // last: a large bias first would round off small products
              if (arguments.relu && value[c] < A(0)) value[c] = 0;  // keeps NaN
            }
            if (arguments.residual != nullptr) {
              DGCN_UNROLL()
              for (int c = 0; c < kForwardColumns; ++c)
                if (c < columns.present) value[c] += static_cast<A>(row[columns.offset[c]]);
            }
            DGCN_UNROLL()
            for (int c = 0; c < kForwardColumns; ++c)
              if (c < columns.present) row[columns.offset[c]] = static_cast<T>(value[c]);
          });
      __syncthreads();
      store_tile(arguments.y, y, layout, tile);
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

/// gradients = (dM, db): the sum over the slices of `totals`, in order.
template <typename A>
__device__ void sum_slices(A* gradients, const A* totals, int nodes, int slices) {
  const int size = nodes * nodes + nodes;
  for (int e = threadIdx.x; e < size; e += blockDim.x) {
    A total = 0;
    for (int slice = 0; slice < slices; ++slice) total += totals[slice * size + e];
    gradients[e] = total;
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
    make_operand(operand, s, K, !params.mode.target);  // [r, t] = P_rt
    __syncthreads();
    matrix_product(
        operand, K, [&](int r, int c) { return gradients[r * K + c]; },
        [&](int t, int c, A value) { store(rest + t * K + c, value); });  // dW_tc = Σ_r P_rt dM_rc
    __syncthreads();
    make_operand(operand, weight, K, true);  // [c, t] = W_tc
    __syncthreads();
    matrix_product(
        operand, K, [&](int c, int r) { return gradients[r * K + c]; },
        [&](int t, int r, A value) { dp[r * K + t] = value; });  // dP_rt = Σ_c dM_rc W_tc
    __syncthreads();
    grad_p = dp;
    rest += K * K;
  }
  edge_weight_gradient(effective, s, grad_p, effective, K, params.mode, threadIdx.x, blockDim.x);
  __syncthreads();
  for (int e = threadIdx.x; e < K * K; e += blockDim.x) store(partial + e, effective[e]);
  if (params.bias != nullptr)
    for (int e = threadIdx.x; e < K; e += blockDim.x) store(rest + e, gradients[K * K + e]);
  __syncthreads();
}

/// Sets g to 0 where y is not positive: the gradient through ReLU. Covers whole tiles, the padding between rows too.
template <typename T, typename A>
__device__ void gate(const T* y, T* g, int elements) {
  for (int e = threadIdx.x * kPiece<T>; e < elements; e += blockDim.x * kPiece<T>) {
    T g_piece[kPiece<T>], y_piece[kPiece<T>];
    copy_piece(g_piece, g + e);
    copy_piece(y_piece, y + e);
    DGCN_UNROLL()
    for (int i = 0; i < kPiece<T>; ++i)
      if (!(static_cast<A>(y_piece[i]) > A(0))) g_piece[i] = static_cast<T>(A(0));
    copy_piece(g + e, g_piece);
  }
}

template <typename T, typename A>
struct CudaBackwardArguments {
  TileLayout layout;
  GraphParams<A> params;
  const T* grad_y;
  const T* x;
  const T* y;  ///< its sign gates the gradient of ReLU; null: computed from x
  T* grad_x;   ///< null: not needed
  A* partial;  ///< [blocks, partial_size(params)]; null: not needed
  bool per_sample, relu;
  OuterProductParts parts;
  A* workspace;  ///< as in CudaForwardArguments
};

// Elements that a block keeps: M and its transpose, b, S, the adjacency and W. Then scratch: (dM, db), and either its
// slices or the matrices of parameter_gradients(). compute_matrices() uses the scratch too, and needs less.
__host__ __device__ constexpr int64_t backward_kept(int nodes) {
  return 2 * operand_size(nodes) + round_up(nodes, 4) + 2 * matrix_size(nodes) + copy_size(nodes);
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
  A* const m_transposed = m + operand_size(K);
  A* const bias = m_transposed + operand_size(K);
  A* const s = bias + round_up(K, 4);
  A* const effective = s + matrix_size(K);
  A* const weight_copy = effective + matrix_size(K);
  A* const after = m + backward_kept(K);
  T* const g = reinterpret_cast<T*>(kShared ? reinterpret_cast<unsigned char*>(after) : shared_memory);
  T* const x = g + layout.elements;
  T* const y = x + layout.elements;
  T* const grad_x = y;  // overwrites y, which only gates g
  A* const gradients = kShared ? reinterpret_cast<A*>(g) : after;
  A* const scratch = gradients + gradient_size(K);
  A* const totals = scratch;  // [slices, K·K + K]; parameter_gradients() overwrites them

  const bool need_x = arguments.grad_x != nullptr, need_params = arguments.partial != nullptr;
  const bool recompute = arguments.relu && arguments.y == nullptr;
  const int slice = threadIdx.x % slices, first_part = threadIdx.x / slices;
  A* const partial = need_params ? arguments.partial + blockIdx.x * partial_size(params) : nullptr;

  clear(m, 2 * operand_size(K));
  fetch<kShared>(bias, params.bias, K);
  const A* const weight = fetch_matrix<kShared>(weight_copy, params.weight, K);
  bool add = false;  // to `partial`
  const BlockTiles range(layout);
  for (int64_t index = range.begin; index < range.end;) {
    const int64_t image = index / layout.tiles_per_image, sample = arguments.per_sample ? image : 0;
    const int64_t end = arguments.per_sample ? std::min(range.end, (image + 1) * layout.tiles_per_image) : range.end;
    compute_matrices<kShared, A>(recompute ? m_transposed : nullptr, need_x ? m : nullptr, s, effective, weight,
                                 gradients, params, sample);
    PartialOuterProduct<A> outer;
    outer.clear();
    if (!kShared) clear(totals, slices * (K * K + K));

    for (; index < end; ++index) {
      const SharedTile<T> tile(layout, index);
      load_tile(g, arguments.grad_y, layout, tile);
      if (need_params || recompute) load_tile(x, arguments.x, layout, tile);
      if (arguments.relu && !recompute) load_tile(y, arguments.y, layout, tile);
      wait_for_loads();
      if (recompute)
        product<kPixelOutputs, 1, 1, A>(
            m_transposed, K, tile.pixels, tile.pixel_step,
            [&](int k, int offset) { return static_cast<A>(x[tile.row(k) + offset]); },
            [&](int j, const auto& column, const A(&sum)[1]) {
              if (!(sum[0] + bias[j] > A(0))) g[tile.row(j) + column.offset[0]] = static_cast<T>(A(0));
            });
      else if (arguments.relu)
        gate<T, A>(y, g, layout.elements);
      __syncthreads();
      if (need_x)
        product<kPixelOutputs, kBackwardColumns, 1, A>(
            m, K, tile.pixels, tile.pixel_step,
            [&](int j, int offset) { return static_cast<A>(g[tile.row(j) + offset]); },
            [&](int k, const auto& columns, const A(&sums)[kBackwardColumns]) {
              T* const row = grad_x + tile.row(k);
              DGCN_UNROLL()
              for (int c = 0; c < kBackwardColumns; ++c)
                if (c < columns.present) row[columns.offset[c]] = static_cast<T>(sums[c]);
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
    parameter_gradients(partial, add, gradients, s, effective, weight, scratch, params);
    add = true;
  }
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
