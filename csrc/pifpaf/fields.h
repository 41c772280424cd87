// The decoder's input, and the only place where it is read: what passes here is finite and in pixels.
//
//   K, M      keypoints, limbs
//   H, W      field size [cells]
//   stride    edge of a cell [px]; cell i is centred on pixel stride·i
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/skeleton.h"

namespace dgcn::pifpaf {

/// The fields of one image, row-major and dense; coordinates are absolute, they and scales are in field cells.
struct Fields {
  const float* pif;  ///< [K, 5, H, W]: (unused, confidence, x, y, scale)
  const float* paf;  ///< [M, 8, H, W]: (unused, confidence, x1, y1, x2, y2, scale1, scale2)
  int num_keypoints;
  int num_limbs;
  int height;
  int width;
};

/// One cell of a PIF field.
struct PifCell {
  int cell;          ///< row-major index in the field
  float confidence;  ///< in [0, 1]
  float x, y;        ///< [px]
  float scale;       ///< [px]
};

/// Size of the pixel grid that fields of a given stride describe: (n − 1)·stride + 1 along each axis.
struct PixelSize {
  int height;
  int width;
};

/// Throws std::invalid_argument where the fields do not fit the skeleton, the stride is not positive or the pixel grid
/// exceeds `max_map_pixels`. Fields without cells have a pixel grid of 0 × 0.
PixelSize check_fields(const Fields& fields, int stride, const Skeleton& skeleton, const DecoderConfig& config);

/// Whether a component, in pixels, can be used: not NaN, infinite or beyond ±10⁹, so that later stages can square and
/// add without overflow. A cell is skipped where any of its components (but the unused one) cannot.
inline bool usable(float value) { return std::fabs(value) <= 1e9F; }

/// Replaces `cells` by the usable ones of one keypoint with at least the given confidence, in row-major order. A
/// confidence above 1 counts as 1.
void read_pif(const Fields& fields, int keypoint, int stride, float threshold, std::vector<PifCell>& cells);

/// Which of the `size` confidences are at least `threshold`, ascending. Most blocks hold none, and telling so is one
/// vector comparison; where there are some, no branch depends on which.
inline std::vector<int> find_confident(const float* confidences, std::size_t size, float threshold) {
  constexpr std::size_t block = 32;
  std::vector<int> found(block);
  std::size_t num_found = 0;
  for (std::size_t begin = 0; begin < size; begin += block) {
    const std::size_t end = std::min(begin + block, size);
    int hits = 0;
    for (std::size_t i = begin; i < end; ++i) hits += confidences[i] >= threshold ? 1 : 0;
    if (hits == 0) continue;
    if (found.size() < num_found + block) found.resize(2 * found.size());
    for (std::size_t i = begin; i < end; ++i) {
      found[num_found] = static_cast<int>(i);
      num_found += confidences[i] >= threshold ? 1 : 0;
    }
  }
  found.resize(num_found);
  return found;
}

/// int(value) clamped to [low, high] with 0 ≤ low ≤ high, for any value at all (NaN gives `low`): the only conversion
/// of a coordinate to an index.
inline int truncate(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  return value < static_cast<float>(high) ? static_cast<int>(value) : high;
}

}  // namespace dgcn::pifpaf
