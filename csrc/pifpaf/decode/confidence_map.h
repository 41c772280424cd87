// Stage 1 and 2: one keypoint's PIF cells accumulated into a confidence map of input resolution, and look-ups in it.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/bucket_grid.h"
#include "pifpaf/decode/kernels.h"
#include "pifpaf/decode/spot.h"
#include "pifpaf/fields.h"

namespace dgcn::pifpaf {

/// The map of one keypoint, height × width px, in [0, 1].
///
/// Each cell with at least the map threshold adds, over the pixels at most one σ = max(map_min_sigma, map_sigma·scale)
/// away, confidence/map_neighbors · (1 − d²/16σ²)⁸, which is close to a Gaussian; the pixel it falls on (|dx|, |dy| < ½)
/// gets confidence/map_neighbors in full. Sums are clamped at 1.
///
/// The decoder asks for a few hundred pixels around a joint, of the many thousands that its cells cover. So nothing is
/// painted: a look-up adds up the cells that reach the pixel, in their order.
class ConfidenceMap {
 public:
  ConfidenceMap(const std::vector<PifCell>& cells, PixelSize size, const DecoderConfig& config);

  /// The value at the nearest pixel, or `missing` where that lies outside the map or no cell reaches it.
  float at(float x, float y, float missing) {
    look_up(&x, &y, 1, missing, &x);
    return x;
  }

  /// The same for many places: much faster than one by one.
  void look_up(const float* x, const float* y, std::size_t count, float missing, float* values);

  /// Writes the whole map to `pixels` [height, width], which must be zero.
  void render(float* pixels) const;

 private:
  template <typename Visit>
  void for_each_bucket(const Spot& spot, Visit visit) const;
  void fill(std::size_t slot, int row, int column);

  const Kernels* kernels_ = &kernels();
  PixelSize size_;
  std::vector<Spot> spots_;
  BucketGrid grid_;
  Buckets<int> reaching_;  ///< the spots that reach into a bucket, ascending

  /// Blocks of pixels asked for before: those of a square window, which is repeated over the map like a tile.
  unsigned known_edge_ = 8;  ///< of the window [blocks]
  std::vector<int> known_;   ///< [known_edge_, known_edge_], which block is held, counted row after row; −1: none
  std::unique_ptr<float[]> pixels_;  ///< [known_.size(), block_edge, block_edge]
};

}  // namespace dgcn::pifpaf
