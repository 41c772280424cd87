#include "pifpaf/confidence_map.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dgcn::pifpaf {

ConfidenceMap::ConfidenceMap(PixelSize size, const DecoderConfig& config) : size_(size), config_(config) {}

void ConfidenceMap::paint(const std::vector<PifCell>& cells) {
  for (const PifCell& cell : cells) {
    if (cell.confidence >= config_.map_threshold) paint(cell);
  }
}

void ConfidenceMap::paint(const PifCell& cell) {
  const float sigma = std::max(config_.map_min_sigma, config_.map_sigma * cell.scale);
  const int left = truncate(cell.x - sigma, 0, size_.width);
  const int right = truncate(cell.x + sigma + 1.0F, 0, size_.width);
  const int top = truncate(cell.y - sigma, 0, size_.height);
  const int bottom = truncate(cell.y + sigma + 1.0F, 0, size_.height);
  if (left >= right || top >= bottom) return;
  if (pixels_.empty()) {
    pixels_.resize(static_cast<std::size_t>(size_.height) * static_cast<std::size_t>(size_.width));
    painted_.assign(static_cast<std::size_t>(size_.height), {size_.width, 0});
  }

  const float peak = cell.confidence / config_.map_neighbors;
  const float sigma2 = sigma * sigma;
  const float falloff = 1.0F / (16.0F * sigma2);
  for (int row = top; row < bottom; ++row) {
    Span& span = painted_[static_cast<std::size_t>(row)];
    span = {std::min(span.begin, left), std::max(span.end, right)};
    float* pixels = pixels_.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(size_.width);
    const float dy = static_cast<float>(row) - cell.y;
    for (int column = left; column < right; ++column) {
      const float dx = static_cast<float>(column) - cell.x;
      const float d2 = dx * dx + dy * dy;
      const float base = 1.0F - d2 * falloff;
      const float base2 = base * base;
      const float base4 = base2 * base2;
      const float near = d2 <= sigma2 ? base4 * base4 : 0.0F;
      const float weight = (std::fabs(dx) < 0.5F) & (std::fabs(dy) < 0.5F) ? 1.0F : near;
      pixels[column] = std::min(pixels[column] + peak * weight, 1.0F);
    }
  }
}

float ConfidenceMap::at(float x, float y, float missing) const {
  const auto inside = [](float value, int size) {
    return value >= -0.49F && value <= static_cast<float>(size) - 0.51F;
  };
  if (pixels_.empty() || !inside(x, size_.width) || !inside(y, size_.height)) return missing;
  const int column = truncate(x + 0.5F, 0, size_.width - 1);
  const int row = truncate(y + 0.5F, 0, size_.height - 1);
  const float value =
      pixels_[static_cast<std::size_t>(row) * static_cast<std::size_t>(size_.width) + static_cast<std::size_t>(column)];
  return value > 0.0F ? value : missing;
}

void ConfidenceMap::clear() {
  for (std::size_t row = 0; row < painted_.size(); ++row) {
    Span& span = painted_[row];
    if (span.begin >= span.end) continue;
    float* pixels = pixels_.data() + row * static_cast<std::size_t>(size_.width);
    std::fill(pixels + span.begin, pixels + span.end, 0.0F);
    span = {size_.width, 0};
  }
}

}  // namespace dgcn::pifpaf
