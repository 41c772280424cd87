#include "pifpaf/fields.h"

#include <stdexcept>
#include <string>

namespace dgcn::pifpaf {
namespace {

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
  if (fields.height < 0 || fields.width < 0)
    throw std::invalid_argument("field sizes must not be negative, got " + std::to_string(fields.height) + " x " +
                                std::to_string(fields.width));
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
  for (const int i : find_confident(field + plane, plane, threshold)) {
    const auto component = [&](std::size_t c) { return field[c * plane + static_cast<std::size_t>(i)]; };
    const PifCell cell{i, std::min(component(1), 1.0F), component(2) * to_px, component(3) * to_px,
                       component(4) * to_px};
    if (std::isfinite(component(1)) && usable(cell.x) && usable(cell.y) && usable(cell.scale)) cells.push_back(cell);
  }
}

}  // namespace dgcn::pifpaf
