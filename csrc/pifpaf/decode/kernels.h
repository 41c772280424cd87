// The loops in which decoding spends its time. They are compiled once per instruction set (kernels.cpp) and chosen at
// run time; all sets give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/instruction_set.h"

namespace dgcn::pifpaf {

constexpr int kBlockEdge = 4;                   ///< confidence maps are computed in blocks of 4 × 4 pixels [px]
constexpr int kTileWidth = 8, kTileHeight = 4;  ///< of a tile: one candidate per bit of a 32-bit mask
constexpr int kTileSize = kTileWidth * kTileHeight;

/// What one PIF cell adds to the confidence map of its keypoint: peak·(1 − d²/16σ²)⁸ at a pixel d ≤ σ from its centre,
/// and `peak` at the pixel nearest to the centre (|dx|, |dy| < ½).
struct Splat {
  int left, right, top, bottom;  ///< bounding box: the pixels [left, right) × [top, bottom)
  float x, y;                    ///< centre [px]
  float peak;
  float sigma2;      ///< σ² [px²]
  float falloff;     ///< 1/16σ² [px⁻²]
  bool exceeds_box;  ///< whether rounding puts pixels outside of the bounding box within σ

  /// What it adds to one pixel: 0 outside of the bounding box.
  float at(int row, int column) const;
};

/// A rectangle of the image, its borders included [px].
struct PixelBox {
  float left, right, top, bottom;
};

/// kTileHeight × kTileWidth candidates in a grid stored row after row: confidence and start (x, y).
struct CandidateTile {
  const float* confidence;
  const float* x;
  const float* y;
  std::size_t row_stride;
  float to_px;  ///< factor that converts x and y to pixels
};

/// The bounding boxes of kTileSize tiles, an array per side [px].
struct TileBounds {
  const float* left;
  const float* right;
  const float* top;
  const float* bottom;
};

struct Kernels {
  /// Bit i: whether the i-th of kTileSize values is at least `threshold`.
  std::uint32_t (*at_least)(const float* values, float threshold);

  /// The last three access their arrays up to a multiple of 4 elements.
  static constexpr std::size_t kPadding = 3;

  /// Computes the block of kBlockEdge × kBlockEdge `pixels` whose first is (top, left): the sums of splats[i] over the
  /// indices i in [begin, end), in their order. May stop once every pixel has reached 1.
  void (*sum_splats)(const Splat* splats, const int* begin, const int* end, int top, int left, float* pixels);

  /// The bounding box of the starts of a tile's candidates with at least the given confidence; left > right if there
  /// are none. Candidates with a NaN are ignored.
  PixelBox (*bound_starts)(const CandidateTile& tile, float threshold);

  /// Bit i: whether the i-th of the bounds has a point in common with `window`.
  std::uint32_t (*overlapping_tiles)(const TileBounds& bounds, const PixelBox& window);

  /// Bit i: whether the i-th candidate of the tile starts in the window and its confidence is at least both `threshold`
  /// and `min_score`.
  std::uint32_t (*starts_inside)(const CandidateTile& tile, const PixelBox& window, float threshold, float min_score);

  /// Multiplies values[i] by exp(−½ d²/σ²), d being the distance of (x[i], y[i]) from (centre_x, centre_y) [px]. The
  /// exponential is computed in double and rounded to float once.
  void (*apply_gaussian)(const float* x, const float* y, std::size_t count, float centre_x, float centre_y, float sigma,
                         float* values);

  /// Replaces logits c by confidences 1/(1 + e⁻ᶜ), computed in double. NaN stays NaN.
  void (*sigmoid)(float* values, std::size_t count);

  /// Replaces values v by ln(1 + eᵛ), computed in double. NaN stays NaN.
  void (*softplus)(float* values, std::size_t count);
};

/// Those of the best instruction set that this machine has.
inline const Kernels& kernels() { return kernels_for<Kernels>(instruction_set()); }

}  // namespace dgcn::pifpaf
