// Decoder, stage 1: the confidence map of one keypoint at input resolution, and look-ups in it.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/buckets.h"
#include "pifpaf/decode/field_reader.h"
#include "pifpaf/decode/kernels.h"

namespace dgcn::pifpaf {

/// The map of one keypoint, height × width px, in [0, 1].
///
/// Each cell with at least `map_threshold` adds, over the pixels at most σ = max(map_min_sigma, map_sigma·scale) from
/// its centre, confidence/map_neighbors · (1 − d²/16σ²)⁸, which is close to a Gaussian; the nearest pixel (|dx|, |dy| <
/// ½) gets confidence/map_neighbors in full. Sums are clamped at 1.
///
/// The cells of a joint cover many thousand pixels, of which decoding looks up a few hundred. So the map is computed on
/// demand, in blocks of 4 × 4 pixels, and recently used blocks are cached.
class ConfidenceMap {
 public:
  ConfidenceMap(const std::vector<PifCell>& cells, PixelSize size, const DecoderConfig& config);

  /// Looks up `count` positions (x, y) [px]: the value at the nearest pixel, or `missing` if that is outside the map or
  /// no cell adds to it.
  void look_up(const float* x, const float* y, std::size_t count, float missing, float* values);

  /// Writes the whole map to `pixels` [height, width], which must be zero.
  void render(float* pixels) const;

 private:
  void add_splat(const PifCell& cell, const DecoderConfig& config);
  void fill_buckets();
  template <typename Visit>
  void for_each_bucket(const Splat& splat, Visit visit) const;
  void compute_block(std::size_t slot, int row, int column);

  const Kernels* kernels_ = &kernels();
  PixelSize size_;
  std::vector<Splat> splats_;
  BucketGrid grid_;
  BucketSort buckets_;
  std::vector<int> sorted_splats_;  ///< for each bucket, the indices of the splats whose box overlaps it, ascending

  /// A direct-mapped cache of C × C blocks: block (i, j) can be in slot (i mod C, j mod C) only.
  std::vector<int> cached_block_;    ///< [C, C]: number of the block in a slot, −1 if empty
  std::unique_ptr<float[]> pixels_;  ///< [C, C, kBlockEdge, kBlockEdge]
};

}  // namespace dgcn::pifpaf
