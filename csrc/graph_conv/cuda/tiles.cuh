// Tiles of pixels in shared memory, how they get there and back, and the product that all the arithmetic on them is made
// of. Part of kernels.cuh, which says why it is done this way; legend: graph_conv.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/host_device.h"

#if defined(__CUDACC__)
#include <cuda_pipeline_primitives.h>
#endif

namespace dgcn::cuda {

__host__ __device__ constexpr int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// ---- Tiles: the pixels of one image that a block holds at a time ----------------------------------------------------

/// What one thread moves at once.
struct __attribute__((aligned(16), may_alias)) Piece {
  uint32_t words[4];
};

/// Elements of a piece.
template <typename T>
constexpr int kPiece = sizeof(Piece) / sizeof(T);

template <typename T>
__device__ void copy_piece(T* to, const T* from) {
  *reinterpret_cast<Piece*>(to) = *reinterpret_cast<const Piece*>(from);
}

/// How features [B, K, H, W] are cut into tiles, and how a tile lies in shared memory: as `rows` of elements that are
/// contiguous in device memory. NCHW has a row per node. channels_last makes the whole tile one row, unless K is a
/// multiple of two pieces: neighbouring pixels would fall on the same memory banks, so each is a row, a piece apart.
struct Tiling {
  int nodes;                       ///< K
  int64_t image_pixels;            ///< N = H·W
  int64_t size;                    ///< elements of the features, B·K·N
  int pixels;                      ///< in a full tile
  int64_t tiles_per_image, tiles;  ///< in an image, in the batch
  bool channels_last;
  bool aligned;     ///< every tensor starts at a multiple of 16 bytes, so that pieces can be used
  int pitch;        ///< elements from row to row in shared memory
  int elements;     ///< of a tile in shared memory
  int row_threads;  ///< that move one row together; divides the block
};

/// One tile. All feature tensors of a call have the same layout, so it serves each of them.
template <typename T>
struct Tile {
  int pixels;             ///< those of the tiling, or the rest of the image
  int rows, row_length;   ///< contiguous runs in device memory, and their elements
  int64_t start, stride;  ///< in device memory: the first element of row 0, and from row to row
  int lead, lead_step;    ///< of row 0, and from row to row; see row_lead
  int node_step, pixel_step;

  /// Tile `index` of the batch.
  __device__ Tile(const Tiling& tiling, int64_t index) {
    const int64_t image = index / tiling.tiles_per_image;
    const int64_t first_pixel = index % tiling.tiles_per_image * tiling.pixels;
    pixels = static_cast<int>(std::min<int64_t>(tiling.pixels, tiling.image_pixels - first_pixel));
    if (tiling.channels_last) {
      const bool row_per_pixel = tiling.pitch > tiling.nodes;
      rows = row_per_pixel ? pixels : 1;
      row_length = row_per_pixel ? tiling.nodes : pixels * tiling.nodes;
      start = (image * tiling.image_pixels + first_pixel) * tiling.nodes;
      stride = tiling.nodes;
      lead_step = 0;
      node_step = 1;
      pixel_step = tiling.pitch;
    } else {
      rows = tiling.nodes;
      row_length = pixels;
      start = image * tiling.nodes * tiling.image_pixels + first_pixel;
      stride = tiling.image_pixels;
      lead_step = static_cast<int>(stride % kPiece<T>);
      node_step = tiling.pitch;
      pixel_step = 1;
    }
    lead = static_cast<int>(start % kPiece<T>);
  }

  /// Elements between a multiple of 16 bytes and the start of a row: in device memory, and so in shared memory too.
  __device__ int row_lead(int row) const { return (lead + row * lead_step) & (kPiece<T> - 1); }

  /// Where shared memory holds the first pixel of a node; the others are `pixel_step` apart.
  __device__ int row(int node) const { return node * node_step + row_lead(node); }
};

/// A row of a tile, counted in elements from the last multiple of 16 bytes before it: it has [lead, end).
struct Row {
  int lead, end;
  int shared;           ///< where element 0 is in shared memory
  int64_t global;       ///< and in device memory
  int thread, threads;  ///< that copy the row
};

template <typename T, typename Body>
__device__ void for_each_row(const Tiling& tiling, const Tile<T>& tile, Body body) {
  const int threads = tiling.row_threads, thread = static_cast<int>(threadIdx.x) % threads;
  for (int row = threadIdx.x / threads; row < tile.rows; row += blockDim.x / threads) {
    const int lead = tile.row_lead(row);
    body(Row{lead, lead + tile.row_length, row * tiling.pitch, tile.start + row * tile.stride - lead, thread, threads});
  }
}

/// Copies a row where pieces cannot be used.
template <typename T>
__device__ void copy_elements(T* to, const T* from, const Row& row) {
  DGCN_UNROLL(4)
  for (int e = row.lead + row.thread; e < row.end; e += row.threads) to[e] = from[e];
}

/// Starts to load a tile into shared memory. Pieces at the ends of a row are loaded whole, neighbours included, for which
/// there is room: a piece can be under way while its thread goes on, single elements cannot.
template <typename T>
__device__ void load_tile(T* to, const T* from, const Tiling& tiling, const Tile<T>& tile) {
  for_each_row(tiling, tile, [&](const Row& row) {
    if (!tiling.aligned || row.global + round_up(row.end, kPiece<T>) > tiling.size)
      return copy_elements(to + row.shared, from + row.global, row);
    for (int e = row.thread * kPiece<T>; e < row.end; e += row.threads * kPiece<T>)
      __pipeline_memcpy_async(to + row.shared + e, from + row.global + e, sizeof(Piece));
  });
}

/// Waits for all that the block started to load.
__device__ inline void wait_for_loads() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
}

template <typename T>
__device__ void store_tile(T* to, const T* from, const Tiling& tiling, const Tile<T>& tile) {
  for_each_row(tiling, tile, [&](const Row& row) {
    T* const row_to = to + row.global;
    const T* const row_from = from + row.shared;
    if (!tiling.aligned) return copy_elements(row_to, row_from, row);
    const int begin = row.lead == 0 ? 0 : kPiece<T>, end = row.end / kPiece<T> * kPiece<T>;  // of the whole pieces
    for (int e = begin + row.thread * kPiece<T>; e < end; e += row.threads * kPiece<T>)
      copy_piece(row_to + e, row_from + e);
    // What is left at either end: fewer elements than a piece has, and a thread for each. A row that has any has as many
    // threads: where it has two, it consists of whole pieces.
    const int head = row.thread, tail = end + row.thread;
    if (row.lead <= head && head < begin && head < row.end) row_to[head] = row_from[head];
    if (begin <= tail && tail < row.end) row_to[tail] = row_from[tail];
  });
}

/// The tiles that a block owns: a contiguous range, the same in every run.
struct TileRange {
  int64_t begin, end;

  __device__ explicit TileRange(const Tiling& tiling)
      : begin(tiling.tiles * blockIdx.x / gridDim.x), end(tiling.tiles * (blockIdx.x + 1) / gridDim.x) {}
};

// ---- Products -------------------------------------------------------------------------------------------------------

// Shared memory hands an SM 32 numbers a cycle, broadcast or not, where it multiplies 128. So with pixels for columns, a
// thread computes 10 outputs of several columns: at four, 14 numbers feed 40 multiplications, where 20 outputs of two
// columns would take 22. K = 17 fills two groups of 10 but for three.
constexpr int kPixelOutputs = 10;
// With K×K matrices there are few columns: a thread computes little, so that more threads work.
constexpr int kMatrixOutputs = 2;

/// Elements from row to row of an operand: a matrix in shared memory whose rows product() reads in pairs.
__host__ __device__ constexpr int operand_pitch(int nodes) { return static_cast<int>(round_up(nodes, kPixelOutputs)); }

template <typename A>
struct alignas(2 * sizeof(A)) Pair {
  A values[2];
};

/// The columns of a product that one thread computes; the last of them may be missing.
template <int Columns>
struct ColumnsOf {
  int offset[Columns];  ///< in a row of the input and output; a missing column repeats the last one of all
  int present;
};

/// output(o, columns, Σ_k operand_ko · input(k, offset) for each of them) for all o < K, divided among the block: a thread
/// computes Outputs × Columns sums, `Unroll` steps at a time. `operand` [K, pitch] is aligned to pairs, columns are
/// `column_step` elements apart. A thread's columns are `groups` apart, so that neighbouring threads read neighbours.
template <int Outputs, int Columns, int Unroll, typename A, typename Input, typename Output>
__device__ void product(const A* operand, int nodes, int columns, int column_step, Input input, Output output) {
  static_assert(kPixelOutputs % Outputs == 0 && Outputs % 2 == 0, "groups of outputs must fill the pitch");
  const int pitch = operand_pitch(nodes), groups = (columns + Columns - 1) / Columns;
  for (int unit = threadIdx.x; unit < groups * (pitch / Outputs); unit += blockDim.x) {
    const int first_output = unit / groups * Outputs, first_column = unit % groups;
    ColumnsOf<Columns> column{{}, 0};
    DGCN_UNROLL()
    for (int c = 0; c < Columns; ++c) {
      column.offset[c] = std::min(first_column + c * groups, columns - 1) * column_step;
      column.present += first_column + c * groups < columns;
    }

    A sum[Outputs][Columns];
    DGCN_UNROLL()
    for (int o = 0; o < Outputs; ++o) {
      DGCN_UNROLL()
      for (int c = 0; c < Columns; ++c) sum[o][c] = 0;
    }

    const A* factors = operand + first_output;
    DGCN_UNROLL(Unroll)
    for (int k = 0; k < nodes; ++k, factors += pitch) {
      A value[Columns];
      DGCN_UNROLL()
      for (int c = 0; c < Columns; ++c) value[c] = input(k, column.offset[c]);
      DGCN_UNROLL()
      for (int o = 0; o < Outputs; o += 2) {
        const Pair<A> pair = *reinterpret_cast<const Pair<A>*>(factors + o);
        DGCN_UNROLL()
        for (int i = 0; i < 2; ++i) {
          DGCN_UNROLL()
          for (int c = 0; c < Columns; ++c) sum[o + i][c] += pair.values[i] * value[c];
        }
      }
    }

    DGCN_UNROLL()
    for (int o = 0; o < Outputs; ++o)
      if (first_output + o < nodes) output(first_output + o, column, sum[o]);
  }
}

}  // namespace dgcn::cuda
