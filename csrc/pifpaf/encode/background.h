// Encoder, stage 3: what a field says before anything is painted.
#pragma once

#include <cstddef>

#include "pifpaf/encode/claims.h"

namespace dgcn::pifpaf {

/// A box around people whose keypoints nobody annotated.
struct Box {
  double x, y;           ///< its left and upper edge [px]
  double width, height;  ///< [px]
};

/// Fills [begin, begin + count) with a quiet NaN, the one whose bits are all set, at the speed of memset.
void fill_nan(float* begin, std::size_t count);

/// Fills a confidence [H, W]: NaN in every cell that comes within a stride of one of the `num_ignored` boxes, so that
/// nothing is learned there, and 0 elsewhere. A box that is not finite or reaches beyond ±10⁹ px counts for nothing.
void fill_background(const Box* ignored, int num_ignored, const Grid& grid, float* confidence);

}  // namespace dgcn::pifpaf
