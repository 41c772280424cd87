// Stage 5: which places already belong to a joint, one coarse bitmap per keypoint.
#pragma once

#include <cstdint>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/fields.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// K bitmaps whose cells are `occupancy_reduction` px wide; their memory is taken with the first joint marked.
class Occupancy {
 public:
  Occupancy(int num_keypoints, PixelSize size, const DecoderConfig& config);

  /// Marks the square of half side h = max(occupancy_min_half_side, scale/reduction) around a joint, [int(x/reduction −
  /// h), int(x/reduction + h)) clamped to the bitmap, at least one cell along each axis.
  void mark(int keypoint, const Joint& joint);

  /// Whether the cell int(x/reduction), clamped to the bitmap, has been marked.
  bool occupied(int keypoint, const Joint& joint) const;

  /// Back to nothing marked; touches what was marked only.
  void clear();

 private:
  /// The cells [left, right) × [top, bottom) of one keypoint's bitmap.
  struct Square {
    int keypoint, left, top, right, bottom;
  };

  void fill(const Square& square, bool value);
  std::size_t bit_of(int keypoint, int row, int column) const;

  int num_keypoints_;
  int rows_;
  int columns_;
  float reduction_;
  float min_half_side_;
  std::vector<std::uint64_t> words_;  ///< [K, rows, columns], a bit to a cell; empty until the first mark
  std::vector<Square> marked_;
};

}  // namespace dgcn::pifpaf
