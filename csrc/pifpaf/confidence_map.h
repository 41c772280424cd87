// Stage 1 and 2: one keypoint's PIF cells accumulated into a confidence map of input resolution, and look-ups in it.
#pragma once

#include <vector>

#include "pifpaf/bucket_grid.h"
#include "pifpaf/config.h"
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
  float at(float x, float y, float missing);

  /// Writes the whole map to `pixels` [height, width], which must be zero.
  void render(float* pixels) const;

 private:
  static constexpr int block_edge = 4;                             // [px]
  using Row = float __attribute__((vector_size(4 * block_edge)));  // a vector in a register

  /// The values of a block of pixels.
  struct Block {
    int top = -1, left = -1;  ///< [px]
    Row rows[block_edge] = {};
  };
  /// What a cell adds.
  struct Spot {
    int left, right, top, bottom;  ///< to the pixels of [left, right) × [top, bottom)
    float x, y;                    ///< [px]
    float peak;                    ///< what it adds at (x, y)
    float sigma2;                  ///< σ² [px²]
    float falloff;                 ///< 1/16σ² [px⁻²]
    bool exceeds_box;              ///< whether there are pixels within σ outside of the box, for want of precision

    float at(int row, int column) const;
  };

  template <typename Visit>
  void for_each_bucket(const Spot& spot, Visit visit) const;
  void fill(Block& block) const;
  static bool saturated(const Row (&sums)[block_edge]);

  PixelSize size_;
  std::vector<Spot> spots_;
  BucketGrid grid_;
  Buckets<int> reaching_;  ///< the spots that reach into a bucket, ascending

  /// Blocks asked for before: those of a square window, which is repeated over the map like a tile.
  std::vector<Block> known_;
};

}  // namespace dgcn::pifpaf
