// Decoder, stages 4 and 6: the places that joints occupy, a coarse bitmap per keypoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/fields.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// K bitmaps with cells of `occupancy_reduction` px; allocated when the first joint is marked.
class Occupancy {
 public:
  Occupancy(int num_keypoints, PixelSize size, const DecoderConfig& config);

  /// Marks the square of half side h = max(occupancy_min_half_side, scale/reduction) around a joint, [int(x/reduction −
  /// h), int(x/reduction + h)) clamped to the bitmap, at least one cell along each axis.
  void mark(int keypoint, const Joint& joint);

  /// Whether the cell int(x/reduction), clamped to the bitmap, has been marked.
  bool occupied(int keypoint, const Joint& joint) const;

  /// Unmarks everything.
  void clear();

 private:
  std::size_t bit_of(int keypoint, int row, int column) const;

  int num_keypoints_;
  int rows_;
  int columns_;
  float reduction_;
  float min_half_side_;
  std::vector<std::uint64_t> words_;  ///< [K, rows, columns], a bit per cell
};

}  // namespace dgcn::pifpaf
