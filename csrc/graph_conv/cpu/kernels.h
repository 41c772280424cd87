// The interface between the CPU backend (backend.cpp, torch) and its kernels (kernels.cpp, free of torch, compiled once
// per instruction set). Legend: graph_conv.h.
//
//   sample     a graph: one for the whole batch, or one per image with per_sample
//   tile       the pixels that a thread computes at a time: a part of one image, or several images if they are small
//   chunk      consecutive tiles of one sample. Gradients are summed over the tiles of a chunk in order, then over the
//              chunks in order, so that the result does not depend on the number of threads
#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "graph_conv/graph_conv.h"

namespace dgcn::graph_conv {

struct MapShape {
  int64_t images;  ///< B
  int nodes;       ///< K
  int64_t height, width;
};

/// A [B, K, H, W] tensor in memory, of any strides (in elements).
template <typename Stored>
struct MapView {
  Stored* data;  ///< null: absent
  int64_t image_stride, node_stride, row_stride, column_stride;
};

/// The pixels [first_pixel, first_pixel + pixels) of each of `images` images.
struct PixelTile {
  int64_t first_image, images, first_pixel, pixels;
};

struct TileRange {
  int64_t begin, end;
};

/// A multiple of every register block's width in pixels.
constexpr int64_t kTileUnit = 192;

/// How a batch is cut into tiles, and the tiles into chunks: a function of the shape alone, so that the order of
/// every sum is, too.
class PixelTiling {
 public:
  /// `tile_pixels` is the usual size of a tile, a multiple of kTileUnit.
  PixelTiling(const MapShape& shape, bool per_sample, int64_t tile_pixels);

  // Defined in tiling.cpp, which all instruction sets share.
  int64_t capacity() const;  ///< pixels of the largest tile, rounded up to kTileUnit
  int64_t tiles() const;
  int64_t chunks() const;
  int64_t chunks_per_sample() const;
  PixelTile tile(int64_t index) const;
  int64_t sample_of_tile(int64_t index) const;
  TileRange tiles_of_chunk(int64_t index) const;

 private:
  int64_t batch_, image_pixels_;
  int64_t tile_images_ = 0, tile_pixels_ = 0, capacity_ = 0;
  int64_t tiles_per_image_ = 0, tiles_per_sample_ = 0, chunks_per_sample_ = 0, samples_ = 0;
};

/// The K×K matrices of every sample, each [samples, K, K].
template <typename T>
struct SampleMatrices {
  T *effective, *s, *s_transposed, *m, *m_transposed;
};

template <typename Stored, typename T = typename Accumulation<Stored>::type>
struct CpuForwardArguments {
  MapShape shape;
  MapView<const Stored> x, residual;
  MapView<Stored> y;
  const T *m, *m_transposed;  ///< [samples, K, K]
  const T* bias;              ///< [K] or null
  bool relu;
};

template <typename Stored, typename T = typename Accumulation<Stored>::type>
struct CpuBackwardArguments {
  MapShape shape;
  MapView<const Stored> grad_y, x;
  MapView<const Stored> y;    ///< its sign gates the gradient of ReLU; absent: recomputed from x
  MapView<Stored> grad_x;     ///< absent: not needed
  const T *m, *m_transposed;  ///< [samples, K, K]
  const T* bias;              ///< [K] or null
  bool relu;
  bool need_params;  ///< whether dM and db are needed
  T* partial;        ///< [chunks, K·K + K]: dM and db of each chunk
};

/// The kernels for one stored type. Each computes a range [begin, end); ranges may run in parallel.
template <typename Stored>
struct GraphConvKernels {
  using T = typename Accumulation<Stored>::type;

  /// Over samples: computes `matrices`.
  void (*compute_matrices)(const GraphParams<T>& params, const SampleMatrices<T>& matrices, int64_t begin, int64_t end);
  /// Over tiles.
  void (*forward)(const CpuForwardArguments<Stored>& arguments, const PixelTiling& tiling, int64_t begin, int64_t end);
  /// Over chunks.
  void (*backward)(const CpuBackwardArguments<Stored>& arguments, const PixelTiling& tiling, int64_t begin,
                   int64_t end);
  /// Over samples: from the chunks' partial sums to dW_d (written to matrices.effective), dW (to matrices.m) and db
  /// (after dM in the first chunk of the sample). Overwrites `matrices` and `partial`.
  void (*parameter_gradients)(const GraphParams<T>& params, const SampleMatrices<T>& matrices, T* partial,
                              int64_t chunks_per_sample, int64_t begin, int64_t end);
};

using GraphConvKernelTable = KernelsByDtype<GraphConvKernels>;

}  // namespace dgcn::graph_conv
