// Tiles of pixels in shared memory, how they get there and back, and the product that all the arithmetic on them is made
// of. Part of graph_conv_cuda.cuh, which says why it is done this way; legend: graph_conv.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_pipeline_primitives.h>
#define DGCN_PRAGMA(text) _Pragma(#text)
#define DGCN_UNROLL(count) DGCN_PRAGMA(unroll count)
#else
#define DGCN_UNROLL(count)  // a host compiler does not know this pragma
#endif

namespace dgcn::cuda {

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

  /// Where shared memory holds a pixel of a node.
  __device__ int index(int node, int pixel) const { return node * node_step + row_lead(node) + pixel * pixel_step; }
};

/// Calls copy(index in shared memory, index in device memory, first, last) for every piece that a tile touches; the
/// elements [first, last) of the piece belong to it.
template <typename T, typename Copy>
__device__ void for_each_piece(const Tiling& tiling, const Tile<T>& tile, Copy copy) {
  const int row_threads = tiling.row_threads, step = row_threads * kPiece<T>;
  for (int row = threadIdx.x / row_threads; row < tile.rows; row += blockDim.x / row_threads) {
    const int lead = tile.row_lead(row), end = lead + tile.row_length;
    const int64_t row_start = tile.start + row * tile.stride - lead;
    for (int e = threadIdx.x % row_threads * kPiece<T>; e < end; e += step)
      copy(row * tiling.pitch + e, row_start + e, std::max(lead - e, 0), std::min(end - e, int{kPiece<T>}));
  }
}

/// Copies the elements [first, last) of a piece, all at once rather than one after the other.
template <typename T>
__device__ void copy_elements(T* to, const T* from, int first, int last) {
  DGCN_UNROLL()
  for (int e = 0; e < kPiece<T>; ++e)
    if (first <= e && e < last) to[e] = from[e];
}

/// Starts to load a tile into shared memory. Pieces at the ends of a row are loaded whole, neighbours included, for which
/// there is room: a piece can be under way while its thread goes on, single elements cannot.
template <typename T>
__device__ void load_tile(T* to, const T* from, const Tiling& tiling, const Tile<T>& tile) {
  for_each_piece(tiling, tile, [&](int shared, int64_t global, int first, int last) {
    if (tiling.aligned && global + kPiece<T> <= tiling.size)
      __pipeline_memcpy_async(to + shared, from + global, sizeof(Piece));
    else
      copy_elements(to + shared, from + global, first, last);
  });
}

/// Waits for all that the block started to load.
__device__ inline void wait_for_tiles() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
}

template <typename T>
__device__ void store_tile(T* to, const T* from, const Tiling& tiling, const Tile<T>& tile) {
  for_each_piece(tiling, tile, [&](int shared, int64_t global, int first, int last) {
    if (tiling.aligned && last - first == kPiece<T>)
      copy_piece(to + global, from + shared);
    else
      copy_elements(to + global, from + shared, first, last);
  });
}

/// The tiles that a block owns: a contiguous range, the same in every run.
struct TileRange {
  int64_t begin, end;

  __device__ explicit TileRange(const Tiling& tiling)
      : begin(tiling.tiles * blockIdx.x / gridDim.x), end(tiling.tiles * (blockIdx.x + 1) / gridDim.x) {}
};

// ---- Products -------------------------------------------------------------------------------------------------------

__host__ __device__ constexpr int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// With pixels for columns, a thread computes 20 outputs: all of K = 17, so that each x is read from shared memory and
// converted once. With two columns, 5 broadcast pieces of the matrix and 2 values of x feed 40 multiplications.
constexpr int kPixelOutputs = 20;
// With K×K matrices there are few columns: a thread computes little, so that more threads work.
constexpr int kMatrixOutputs = 4;

/// Elements from row to row of an operand: a matrix in shared memory whose rows product() reads in pieces.
__host__ __device__ constexpr int operand_pitch(int nodes) { return static_cast<int>(round_up(nodes, kPixelOutputs)); }

/// output(o, c, initial_o + Σ_k operand_ko · input(k, c)) for all o < K and c < columns, divided among the block: a thread
/// computes Outputs × Columns of them. `operand` [K, pitch] and `initial` [pitch] (or null: zeros) are aligned to pieces.
/// A thread's columns are `groups` apart, so that neighbouring threads read neighbouring columns.
template <int Outputs, int Columns, typename A, typename Input, typename Output>
__device__ void product(const A* operand, const A* initial, int nodes, int columns, Input input, Output output) {
  static_assert(kPixelOutputs % Outputs == 0 && Outputs % kPiece<A> == 0, "groups of outputs must fill the pitch");
  const int pitch = operand_pitch(nodes), groups = (columns + Columns - 1) / Columns;
  for (int unit = threadIdx.x; unit < groups * (pitch / Outputs); unit += blockDim.x) {
    const int first_output = unit / groups * Outputs, first_column = unit % groups;
    int column[Columns];
    DGCN_UNROLL()
    for (int c = 0; c < Columns; ++c) column[c] = std::min(first_column + c * groups, columns - 1);

    A sum[Outputs][Columns];
    DGCN_UNROLL()
    for (int o = 0; o < Outputs; ++o) {
      DGCN_UNROLL()
      for (int c = 0; c < Columns; ++c) sum[o][c] = initial == nullptr ? A(0) : initial[first_output + o];
    }

    DGCN_UNROLL(1)  // what is unrolled already hides the latency; more would only take registers
    for (int k = 0; k < nodes; ++k) {
      A value[Columns];
      DGCN_UNROLL()
      for (int c = 0; c < Columns; ++c) value[c] = input(k, column[c]);
      DGCN_UNROLL()
      for (int o = 0; o < Outputs; o += kPiece<A>) {
        A factor[kPiece<A>];
        copy_piece(factor, operand + k * pitch + first_output + o);
        DGCN_UNROLL()
        for (int i = 0; i < kPiece<A>; ++i) {
          DGCN_UNROLL()
          for (int c = 0; c < Columns; ++c) sum[o + i][c] += factor[i] * value[c];
        }
      }
    }

    DGCN_UNROLL()
    for (int o = 0; o < Outputs; ++o) {
      DGCN_UNROLL()
      for (int c = 0; c < Columns; ++c)
        if (first_output + o < nodes && first_column + c * groups < columns)
          output(first_output + o, column[c], sum[o][c]);
    }
  }
}

}  // namespace dgcn::cuda
