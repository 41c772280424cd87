// Stage 1 and 2: one keypoint's PIF cells accumulated into a confidence map of input resolution, and look-ups in it.
#pragma once

#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/fields.h"

namespace dgcn::pifpaf {

/// The map of one keypoint, height × width px, in [0, 1]. One map serves all keypoints in turn, so that it stays in
/// the cache; its memory is taken with the first cell painted.
class ConfidenceMap {
 public:
  ConfidenceMap(PixelSize size, const DecoderConfig& config);

  /// Adds the cells with at least the map threshold. Each adds, over the pixels at most one σ = max(map_min_sigma,
  /// map_sigma·scale) away, confidence/map_neighbors · (1 − d²/16σ²)⁸, which is close to a Gaussian; the pixel it
  /// falls on (|dx|, |dy| < ½) gets confidence/map_neighbors in full. Sums are clamped at 1.
  void paint(const std::vector<PifCell>& cells);

  /// The value at the nearest pixel, or `missing` where that lies outside the map or nothing was painted.
  float at(float x, float y, float missing) const;

  /// All of it, [height, width] row-major; empty if nothing has ever been painted.
  const std::vector<float>& pixels() const { return pixels_; }

  /// Back to nothing painted; touches no more rows than `paint` did.
  void clear();

 private:
  /// The painted columns of one row, [begin, end) px.
  struct Span {
    int begin;
    int end;
  };

  void paint(const PifCell& cell);

  PixelSize size_;
  DecoderConfig config_;
  std::vector<float> pixels_;  ///< [height, width], empty until the first paint
  std::vector<Span> painted_;  ///< [height]
};

}  // namespace dgcn::pifpaf
