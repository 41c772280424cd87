// Encoder, stage 2: the values of a field before joints and limbs are painted.
#pragma once

#include <cstddef>

#include "pifpaf/annotations.h"
#include "pifpaf/encode/nearest.h"

namespace dgcn::pifpaf {

/// Fills [begin, begin + count) with the quiet NaN whose bits are all set, by memset.
void fill_nan(float* begin, std::size_t count);

/// Fills a confidence [H, W] with 0, and with NaN in every cell less than a stride from one of the `num_ignored` boxes.
/// Boxes with a NaN or infinity, or beyond ±10⁹ px, are skipped.
void fill_background(const Box* ignored, int num_ignored, const FieldGrid& grid, float* confidence);

}  // namespace dgcn::pifpaf
