// The interface between the CPU operator (operator.cpp, torch) and its kernels (kernels_impl.h, free of
// torch, compiled once per instruction set). Shape legend: graph_conv.h.
//
//   sample     a graph: one for the whole batch, or one per image with per_sample
//   tile       the pixels that are worked on at a time: part of one image, or, where images are small, several of them
//   chunk      consecutive tiles of one sample; their gradients are summed in order, then the chunks in order, so that
//              the result does not depend on the number of threads
#pragma once

#include <cstdint>
#include <utility>

#include "common/stored_types.h"
#include "graph_conv/graph_conv.h"

namespace dgcn {

struct FeatureShape {
  int64_t images;  ///< B
  int nodes;       ///< K
  int64_t height, width;
};

/// A [B, K, H, W] tensor in memory, of any strides (in elements).
template <typename Stored>
struct Features {
  Stored* data;  ///< null: absent
  int64_t image_stride, node_stride, row_stride, column_stride;
};

/// One tile: `pixels` from `first_pixel` on, of each of `images` images.
struct Tile {
  int64_t first_image, images, first_pixel, pixels;
};

/// A multiple of every register block's width in pixels.
constexpr int64_t kTileUnit = 192;

/// How a batch is cut into tiles, and the tiles into chunks: a function of the shape alone, so that results are too.
class Tiling {
 public:
  /// `tile_pixels` is the usual size of a tile, a multiple of kTileUnit.
  Tiling(const FeatureShape& shape, bool per_sample, int64_t tile_pixels);

  int64_t capacity() const { return capacity_; }  ///< pixels that the largest tile needs, rounded up to kTileUnit
  int64_t tiles() const { return samples_ * tiles_per_sample_; }
  int64_t chunks() const { return samples_ * chunks_per_sample_; }
  int64_t chunks_per_sample() const { return chunks_per_sample_; }

  // Not inline: the kernels of different instruction sets share this code.
  Tile tile(int64_t index) const;
  int64_t sample_of_tile(int64_t index) const;
  std::pair<int64_t, int64_t> tiles_of_chunk(int64_t index) const;  ///< [first, last)

 private:
  int64_t batch_, image_pixels_;
  int64_t images_ = 0, pixels_ = 0, capacity_ = 0;
  int64_t tiles_per_image_ = 0, tiles_per_sample_ = 0, chunks_per_sample_ = 0, samples_ = 0;
};

/// The K×K matrices of every sample, each [samples, K, K].
template <typename T>
struct Mixing {
  T *effective, *s, *s_transposed, *m, *m_transposed;
};

template <typename Stored, typename T = typename Accumulation<Stored>::type>
struct ForwardArguments {
  FeatureShape shape;
  Features<const Stored> x, residual;
  Features<Stored> y;
  const T *m, *m_transposed;  ///< [samples, K, K]
  const T* bias;              ///< [K] or null
  bool relu;
};

template <typename Stored, typename T = typename Accumulation<Stored>::type>
struct BackwardArguments {
  FeatureShape shape;
  Features<const Stored> grad_y, x;
  Features<const Stored> y;   ///< where ReLU let through; absent: computed from x
  Features<Stored> grad_x;    ///< absent: not wanted
  const T *m, *m_transposed;  ///< [samples, K, K]
  const T* bias;              ///< [K] or null
  bool relu;
  bool need_params;  ///< whether dM and db are wanted
  T* partial;        ///< [chunks, K·K + K]: dM and db of each chunk
};

/// The kernels for one stored type. Each works on a range [begin, end), and ranges may run in parallel.
template <typename Stored, typename T = typename Accumulation<Stored>::type>
struct CpuKernels {
  /// Over samples: fills `mixing`.
  void (*mix)(const GraphParams<T>& params, const Mixing<T>& mixing, int64_t begin, int64_t end);
  /// Over tiles.
  void (*forward)(const ForwardArguments<Stored>& arguments, const Tiling& tiling, int64_t begin, int64_t end);
  /// Over chunks.
  void (*backward)(const BackwardArguments<Stored>& arguments, const Tiling& tiling, int64_t begin, int64_t end);
  /// Over samples: from the chunks' partial sums to dW_d (left in mixing.effective), dW (in mixing.m) and db (after dM
  /// in the first chunk of the sample). Uses up `mixing` and `partial`.
  void (*parameter_gradients)(const GraphParams<T>& params, const Mixing<T>& mixing, T* partial,
                              int64_t chunks_per_sample, int64_t begin, int64_t end);
};

struct CpuKernelSet {
  CpuKernels<double> float64;
  CpuKernels<float> float32;
  CpuKernels<BFloat16> bfloat16;
  CpuKernels<Float16> float16;
};

extern const CpuKernelSet kPortableKernels;
#if defined(__x86_64__)
extern const CpuKernelSet kAvx2Kernels, kAvx512Kernels;
#endif

}  // namespace dgcn
