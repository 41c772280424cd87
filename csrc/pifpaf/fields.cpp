#include "pifpaf/fields.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>

namespace dgcn::pifpaf {
namespace {

constexpr float max_coordinate = 1e9F;  // [px]

bool usable(float value) { return std::fabs(value) <= max_coordinate; }  // false for NaN and infinity

/// Calls visit(i) for each of the `size` confidences that is at least `threshold`. Most blocks hold none, and telling
/// so is one vector comparison: nothing but this plane is read where a field is empty.
template <typename Visit>
void for_each_confident(const float* confidences, std::size_t size, float threshold, Visit visit) {
  constexpr std::size_t block = 32;
  for (std::size_t begin = 0; begin < size; begin += block) {
    const std::size_t end = std::min(begin + block, size);
    int hits = 0;
    for (std::size_t i = begin; i < end; ++i) hits += confidences[i] >= threshold ? 1 : 0;
    for (std::size_t i = begin; hits > 0 && i < end; ++i) {
      if (!(confidences[i] >= threshold)) continue;
      visit(i);
      --hits;
    }
  }
}

void require_equal(const char* name, int actual, int required) {
  if (actual != required)
    throw std::invalid_argument(std::string(name) + " must be " + std::to_string(required) +
                                " as in the skeleton, got " + std::to_string(actual));
}

}  // namespace

PixelSize check_fields(const Fields& fields, int stride, const Skeleton& skeleton, const DecoderConfig& config) {
  require_equal("the number of PIF fields", fields.num_keypoints, skeleton.num_keypoints());
  require_equal("the number of PAF fields", fields.num_limbs, skeleton.num_limbs());
  if (stride < 1) throw std::invalid_argument("stride must be at least 1, got " + std::to_string(stride));
  if (fields.height < 0 || fields.width < 0) throw std::invalid_argument("field sizes must not be negative");
  if (fields.height == 0 || fields.width == 0) return {0, 0};

  const std::int64_t height = std::int64_t{fields.height - 1} * stride + 1;
  const std::int64_t width = std::int64_t{fields.width - 1} * stride + 1;
  if (height > config.max_map_pixels / width)
    throw std::invalid_argument("fields of " + std::to_string(fields.height) + " x " + std::to_string(fields.width) +
                                " cells at stride " + std::to_string(stride) + " must describe at most max_map_pixels" +
                                " = " + std::to_string(config.max_map_pixels) + " pixels, got " +
                                std::to_string(height) + " x " + std::to_string(width));
  return {static_cast<int>(height), static_cast<int>(width)};
}

void read_pif(const Fields& fields, int keypoint, int stride, float threshold, std::vector<PifCell>& cells) {
  cells.clear();
  const std::size_t plane = static_cast<std::size_t>(fields.height) * static_cast<std::size_t>(fields.width);
  const float* field = fields.pif + static_cast<std::size_t>(keypoint) * 5 * plane;
  const float to_px = static_cast<float>(stride);
  for_each_confident(field + plane, plane, threshold, [&](std::size_t i) {
    const auto component = [&](std::size_t c) { return field[c * plane + i]; };
    const PifCell cell{static_cast<int>(i), std::min(component(1), 1.0F), component(2) * to_px, component(3) * to_px,
                       component(4) * to_px};
    if (std::isfinite(component(1)) && usable(cell.x) && usable(cell.y) && usable(cell.scale)) cells.push_back(cell);
  });
}

void read_paf(const Fields& fields, int limb, int stride, float threshold, std::vector<PafCell>& cells) {
  cells.clear();
  const std::size_t plane = static_cast<std::size_t>(fields.height) * static_cast<std::size_t>(fields.width);
  const float* field = fields.paf + static_cast<std::size_t>(limb) * 8 * plane;
  const float to_px = static_cast<float>(stride);
  cells.reserve(static_cast<std::size_t>(
      std::count_if(field + plane, field + 2 * plane, [&](float c) { return c >= threshold; })));
  for_each_confident(field + plane, plane, threshold, [&](std::size_t i) {
    const auto component = [&](std::size_t c) { return field[c * plane + i]; };
    const PafCell cell{static_cast<int>(i),  std::min(component(1), 1.0F), component(2) * to_px, component(3) * to_px,
                       component(4) * to_px, component(5) * to_px,         component(6) * to_px, component(7) * to_px};
    if (std::isfinite(component(1)) && usable(cell.x1) && usable(cell.y1) && usable(cell.x2) && usable(cell.y2) &&
        usable(cell.scale1) && usable(cell.scale2))
      cells.push_back(cell);
  });
}

}  // namespace dgcn::pifpaf
