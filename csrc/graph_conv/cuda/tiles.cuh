// Tiles of pixels in shared memory, how they are loaded and stored, and the product that all arithmetic on them uses.
// Part of kernels.cuh, which gives the reasons; legend: graph_conv.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/host_device.h"

#if defined(__CUDACC__)
#include <cuda_pipeline_primitives.h>
#endif

namespace dgcn::graph_conv::cuda {

__host__ __device__ constexpr int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// ---- Tiles: the pixels of one image that a block holds at a time ----------------------------------------------------

/// The 16 bytes that a thread loads or stores in one access.
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

/// Elements from row to row of NCHW in shared memory: room for the lead, and an odd number of pieces, so that
/// neighbouring rows start at different banks.
template <typename T>
__host__ __device__ constexpr int tile_pitch(int pixels) {
  return pixels + kPiece<T>;
}

/// Elements from pixel to pixel of channels_last in shared memory: see TileLayout.
template <typename T>
__host__ __device__ constexpr int pixel_pitch(int nodes) {
  return nodes % (2 * kPiece<T>) == 0 ? nodes + kPiece<T> : nodes;
}

/// How features [B, K, H, W] are cut into tiles, and the layout of a tile in shared memory: rows of elements that are
/// contiguous in device memory. NCHW has a row per node. channels_last has a single row, unless K is a multiple of two
/// pieces: then each pixel is a row, padded by a piece so that neighbouring pixels are in different memory banks.
struct TileLayout {
  int nodes;                   ///< K
  int64_t image_pixels;        ///< N = H·W
  int64_t size;                ///< elements of the features, B·K·N
  int pixels;                  ///< in a full tile
  int tiles_per_image, tiles;  ///< in an image, in the batch
  bool channels_last;
  bool aligned;   ///< every tensor starts at a multiple of 16 bytes: pieces can be accessed
  bool bulk;      ///< and a warp has a lane for each row
  int pitch;      ///< elements from row to row in shared memory
  int elements;   ///< of a tile in shared memory
  int row_shift;  ///< 2^row_shift threads copy one row; this divides the block size
};

/// Where one tile is. All feature tensors of a call have the same layout, hence the same tiles.
template <typename T>
struct SharedTile {
  int64_t image, first_pixel;
  int pixels;             ///< layout.pixels, or the rest of the image
  int rows, row_length;   ///< number of rows, and the elements of each
  int64_t start, stride;  ///< in device memory: the first element of row 0, and from row to row
  int lead, lead_step;    ///< of row 0, and from row to row; see row_lead
  int node_step, pixel_step;

  /// A tile of an image, both by number.
  __device__ SharedTile(const TileLayout& layout, int image_number, int tile) : image(image_number) {
    first_pixel = int64_t{tile} * layout.pixels;
    pixels = static_cast<int>(std::min<int64_t>(layout.pixels, layout.image_pixels - first_pixel));
    if (layout.channels_last) {
      const bool row_per_pixel = layout.pitch > layout.nodes;
      rows = row_per_pixel ? pixels : 1;
      row_length = row_per_pixel ? layout.nodes : pixels * layout.nodes;
      start = (image * layout.image_pixels + first_pixel) * layout.nodes;
      stride = layout.nodes;
      lead_step = 0;
      node_step = 1;
      pixel_step = layout.pitch;
    } else {
      rows = layout.nodes;
      row_length = pixels;
      start = image * layout.nodes * layout.image_pixels + first_pixel;
      stride = layout.image_pixels;
      lead_step = static_cast<int>(stride % kPiece<T>);
      node_step = layout.pitch;
      pixel_step = 1;
    }
    lead = static_cast<int>(start % kPiece<T>);
  }

  /// Elements from the last multiple of 16 bytes to the start of a row, in device memory and in shared memory alike.
  __device__ int row_lead(int row) const { return (lead + row * lead_step) & (kPiece<T> - 1); }

  /// The first pixel of a node in shared memory; the next ones are `pixel_step` apart.
  __device__ int row(int node) const { return node * node_step + row_lead(node); }
};

/// A row of a tile: the elements [lead, end), counted from the last multiple of 16 bytes before it.
struct SharedRow {
  int lead, end;
  int shared;           ///< index of element 0 in shared memory
  int64_t global;       ///< and in device memory
  int thread, threads;  ///< this thread among those that copy the row
};

template <typename T, typename Body>
__device__ void for_each_row(const TileLayout& layout, const SharedTile<T>& tile, Body body) {
  const int threads = 1 << layout.row_shift, thread = static_cast<int>(threadIdx.x) & (threads - 1);
  for (int row = threadIdx.x >> layout.row_shift; row < tile.rows; row += blockDim.x >> layout.row_shift) {
    const int lead = tile.row_lead(row);
    body(SharedRow{lead, lead + tile.row_length, row * layout.pitch, tile.start + row * tile.stride - lead, thread,
                   threads});
  }
}

/// Copies a row element by element.
template <typename T>
__device__ void copy_elements(T* to, const T* from, const SharedRow& row) {
  DGCN_UNROLL(4)
  for (int e = row.lead + row.thread; e < row.end; e += row.threads) to[e] = from[e];
}

/// Starts to load a tile into shared memory. Only whole pieces can be copied asynchronously, so the first and the last
/// piece of a row are loaded with elements of its neighbours. Shared memory has room for them.
template <typename T>
__device__ void load_tile(T* to, const T* from, const TileLayout& layout, const SharedTile<T>& tile) {
  for_each_row(layout, tile, [&](const SharedRow& row) {
    if (!layout.aligned || row.global + round_up(row.end, kPiece<T>) > layout.size)
      return copy_elements(to + row.shared, from + row.global, row);
    for (int e = row.thread * kPiece<T>; e < row.end; e += row.threads * kPiece<T>)
      __pipeline_memcpy_async(to + row.shared + e, from + row.global + e, sizeof(Piece));
  });
}

/// Ends a group of loads.
__device__ inline void commit_loads() { __pipeline_commit(); }

/// Waits until the groups of loads of all threads are in shared memory, but for the last `Pending` ones.
template <int Pending = 0>
__device__ void wait_for_loads() {
  __pipeline_wait_prior(Pending);
  __syncthreads();
}

template <typename T>
__device__ void store_tile(T* to, const T* from, const TileLayout& layout, const SharedTile<T>& tile) {
  for_each_row(layout, tile, [&](const SharedRow& row) {
    T* const row_to = to + row.global;
    const T* const row_from = from + row.shared;
    if (!layout.aligned) return copy_elements(row_to, row_from, row);
    const int begin = row.lead == 0 ? 0 : kPiece<T>, end = row.end / kPiece<T> * kPiece<T>;  // of the whole pieces
    for (int e = begin + row.thread * kPiece<T>; e < end; e += row.threads * kPiece<T>)
      copy_piece(row_to + e, row_from + e);
    // The elements before and after the whole pieces, one per thread. These are fewer than a piece; rows with only two
    // threads consist of whole pieces.
    const int head = row.thread, tail = end + row.thread;
    if (row.lead <= head && head < begin && head < row.end) row_to[head] = row_from[head];
    if (begin <= tail && tail < row.end) row_to[tail] = row_from[tail];
  });
}

/// The tiles that a block owns, the same in every run, one after the other.
class BlockTiles {
 public:
  /// Neighbouring blocks have neighbouring tiles, so that all of them access the same part of device memory at a time.
  /// With `contiguous`, a block has tiles that follow each other, and the sample rarely changes.
  __device__ BlockTiles(const TileLayout& layout, bool contiguous)
      : per_image_(layout.tiles_per_image),
        step_(contiguous ? 1 : static_cast<int>(gridDim.x)),
        end_(contiguous ? first(layout.tiles, blockIdx.x + 1) : layout.tiles) {
    index_ = contiguous ? first(layout.tiles, blockIdx.x) : static_cast<int>(blockIdx.x);
    image_ = index_ / per_image_;
    tile_ = index_ % per_image_;
    image_step_ = step_ / per_image_;
    tile_step_ = step_ % per_image_;
  }

  __device__ bool exists() const { return index_ < end_; }
  __device__ int image() const { return image_; }
  __device__ int tile() const { return tile_; }  ///< of the image
  __device__ bool is_last() const { return index_ + step_ >= end_; }

  __device__ void next() {
    index_ += step_;
    image_ += image_step_;
    tile_ += tile_step_;
    if (tile_ < per_image_) return;
    tile_ -= per_image_;
    ++image_;
  }

 private:
  static __device__ int first(int64_t tiles, unsigned block) { return static_cast<int>(tiles * block / gridDim.x); }

  int per_image_, step_, end_, index_, image_, tile_, image_step_, tile_step_;
};

// ---- Products -------------------------------------------------------------------------------------------------------

// An SM reads 32 numbers a cycle from shared memory and multiplies 128. So where columns are pixels, a thread computes
// 10 outputs of several columns: with 4 columns, 14 loads feed 40 multiplications (20 outputs of 2 columns would need
// 22 loads). K = 17 takes two groups of 10, in which three outputs are unused.
constexpr int kPixelOutputs = 10;
// K×K matrices have few columns: with few outputs a thread, more threads have work.
constexpr int kMatrixOutputs = 2;

/// Elements from row to row of an operand: a matrix in shared memory whose rows product() reads in pairs.
__host__ __device__ constexpr int operand_pitch(int nodes) { return static_cast<int>(round_up(nodes, kPixelOutputs)); }

template <typename A>
struct alignas(2 * sizeof(A)) Pair {
  A values[2];
};

/// The columns of a product that one thread computes; of the last ones some may be beyond the end.
template <int Columns>
struct ThreadColumns {
  int number[Columns];  ///< beyond the end, that of the last column
  int offset[Columns];  ///< in a row of the input and output
  int present;          ///< columns before the end
};

/// Calls output(first, columns, sums) with sums [o][column] = Σ_k operand_k(first + o) · input(k, offset), for all
/// groups of Outputs outputs and all columns, divided among the threads of a block. Outputs from K on mean nothing. The
/// loop over k is unrolled `Unroll` times. `operand` [K, pitch] is aligned to pairs; columns are `column_step` elements
/// apart. The columns of a thread are `groups` apart, so that neighbouring threads read neighbouring columns.
template <int Outputs, int Columns, int Unroll, typename A, typename Input, typename Output>
__device__ void product(const A* operand, int nodes, int columns, int column_step, Input input, Output output) {
  static_assert(kPixelOutputs % Outputs == 0 && Outputs % 2 == 0, "groups of outputs must fill the pitch");
  const int pitch = operand_pitch(nodes), groups = (columns + Columns - 1) / Columns;
  for (int unit = threadIdx.x; unit < groups * (pitch / Outputs); unit += blockDim.x) {
    const int first_output = unit / groups * Outputs, first_column = unit % groups;
    ThreadColumns<Columns> column{{}, {}, 0};
    DGCN_UNROLL()
    for (int c = 0; c < Columns; ++c) {
      column.number[c] = std::min(first_column + c * groups, columns - 1);
      column.offset[c] = column.number[c] * column_step;
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
    output(first_output, column, sum);
  }
}

}  // namespace dgcn::graph_conv::cuda
