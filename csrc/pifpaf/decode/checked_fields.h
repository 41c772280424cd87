// Reading the fields: argument checks, and the cells with enough confidence, converted to pixels.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/fields.h"
#include "pifpaf/skeleton.h"

namespace dgcn::pifpaf {

/// Fields that passed check_fields.
struct CheckedFields : Fields {
  int stride;      ///< [px]
  PixelSize size;  ///< of the pixel grid; 0 × 0 for fields without cells

  std::size_t plane() const { return static_cast<std::size_t>(height) * static_cast<std::size_t>(width); }
};

/// Throws std::invalid_argument if the fields do not fit the skeleton, the stride is not positive or the pixel grid
/// exceeds `max_map_pixels`.
CheckedFields check_fields(const Fields& fields, int stride, const Skeleton& skeleton, const DecoderConfig& config);

/// Whether a coordinate or scale [px] is finite and within ±10⁹, so that later stages can square and add it without
/// overflow. Cells with a component that is not are skipped.
inline bool is_valid_px(float value) { return std::fabs(value) <= 1e9F; }

/// int(value) clamped to [low, high] with 0 ≤ low ≤ high; `low` for NaN. Every conversion of a coordinate to an index
/// goes through here.
inline int clamp_to_int(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  return value < static_cast<float>(high) ? static_cast<int>(value) : high;
}

/// The indices of the `size` confidences that are at least `threshold`, ascending.
std::vector<int> find_confident(const float* confidences, std::size_t size, float threshold);

/// One cell of a PIF field.
struct PifCell {
  int cell;          ///< row-major index in the field
  float confidence;  ///< in [0, 1]
  float x, y;        ///< [px]
  float scale;       ///< [px]
};

/// Replaces `cells` by the valid cells of one keypoint with at least the given confidence, in row-major order. A
/// confidence above 1 counts as 1.
void read_pif(const CheckedFields& fields, int keypoint, float threshold, std::vector<PifCell>& cells);

}  // namespace dgcn::pifpaf
