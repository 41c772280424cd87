#include "pifpaf/confidence_map.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace dgcn::pifpaf {
namespace {

constexpr unsigned known_edge = 8;           // [blocks]; so many are about as large as a joint
constexpr int min_bucket_edge = 16;          // [px]; a multiple of a block's
constexpr std::size_t buckets_per_spot = 8;  // at most, on average: bounds the memory whatever the scales

template <typename Number>
Number eighth_power(Number value) {
  const Number second = value * value;
  const Number fourth = second * second;
  return fourth * fourth;
}

}  // namespace

float ConfidenceMap::Spot::at(int row, int column) const {
  if (row < top || row >= bottom || column < left || column >= right) return 0.0F;
  const float dx = static_cast<float>(column) - x, dy = static_cast<float>(row) - y;
  if (std::fabs(dx) < 0.5F && std::fabs(dy) < 0.5F) return peak;
  const float d2 = dx * dx + dy * dy;
  return d2 <= sigma2 ? peak * eighth_power(1.0F - d2 * falloff) : 0.0F;
}

ConfidenceMap::ConfidenceMap(const std::vector<PifCell>& cells, PixelSize size, const DecoderConfig& config)
    : size_(size), grid_(size) {
  for (const PifCell& cell : cells) {
    if (cell.confidence < config.map_threshold) continue;
    const float sigma = std::max(config.map_min_sigma, config.map_sigma * cell.scale);
    Spot spot{truncate(cell.x - sigma, 0, size.width),
              truncate(cell.x + sigma + 1.0F, 0, size.width),
              truncate(cell.y - sigma, 0, size.height),
              truncate(cell.y + sigma + 1.0F, 0, size.height),
              cell.x,
              cell.y,
              cell.confidence / config.map_neighbors,
              sigma * sigma,
              1.0F / (16.0F * (sigma * sigma)),
              false};
    if (spot.left >= spot.right || spot.top >= spot.bottom) continue;
    const auto reaches = [&](int pixel, float centre) {
      const float distance = static_cast<float>(pixel) - centre;
      return distance * distance <= spot.sigma2 || std::fabs(distance) < 0.5F;
    };
    spot.exceeds_box = reaches(spot.left - 1, spot.x) || reaches(spot.right, spot.x) || reaches(spot.top - 1, spot.y) ||
                       reaches(spot.bottom, spot.y);
    spots_.push_back(spot);
  }
  if (spots_.empty()) return;
  known_.resize(known_edge * known_edge);

  std::size_t entries = 0;
  for (int edge = min_bucket_edge; entries == 0 || entries > buckets_per_spot * spots_.size(); edge *= 2) {
    grid_ = BucketGrid(size, edge);
    reaching_.reset(grid_.num_buckets());
    entries = 0;
    for (const Spot& spot : spots_) {
      for_each_bucket(spot, [&](std::size_t bucket) {
        reaching_.announce(bucket);
        ++entries;
      });
    }
  }
  reaching_.begin();
  for (std::size_t i = 0; i < spots_.size(); ++i)
    for_each_bucket(spots_[i], [&](std::size_t bucket) { reaching_.place(bucket, static_cast<int>(i)); });
}

template <typename Visit>
void ConfidenceMap::for_each_bucket(const Spot& spot, Visit visit) const {
  const int bottom = grid_.row(spot.bottom - 1), left = grid_.column(spot.left), right = grid_.column(spot.right - 1);
  for (int row = grid_.row(spot.top); row <= bottom; ++row) {
    for (int column = left; column <= right; ++column) visit(grid_.bucket(row, column));
  }
}

float ConfidenceMap::at(float x, float y, float missing) {
  const auto inside = [](float value, int size) {
    return value >= -0.49F && value <= static_cast<float>(size) - 0.51F;
  };
  if (spots_.empty() || !inside(x, size_.width) || !inside(y, size_.height)) return missing;
  const auto column = static_cast<unsigned>(truncate(x + 0.5F, 0, size_.width - 1));
  const auto row = static_cast<unsigned>(truncate(y + 0.5F, 0, size_.height - 1));
  const unsigned i = row % block_edge, j = column % block_edge;
  Block& block = known_[row / block_edge % known_edge * known_edge + column / block_edge % known_edge];
  if (block.top != static_cast<int>(row - i) || block.left != static_cast<int>(column - j)) {
    block = {static_cast<int>(row - i), static_cast<int>(column - j), {}};
    fill(block);
  }
  const float value = std::min(block.rows[i][j], 1.0F);
  return value > 0.0F ? value : missing;
}

/// Whether more spots make no difference, which bounds the work where very many are very large.
bool ConfidenceMap::saturated(const Row (&sums)[block_edge]) {
  bool all = true;
  for (const Row& row : sums) {
    for (int j = 0; j < block_edge; ++j) all &= row[j] >= 1.0F;
  }
  return all;
}

void ConfidenceMap::fill(Block& block) const {
  using Mask = std::int32_t __attribute__((vector_size(sizeof(Row))));  // all ones where true
  const Row column = static_cast<float>(block.left) + Row{0, 1, 2, 3};
  const auto top = static_cast<float>(block.top);
  Row sums[block_edge] = {};
  const std::size_t bucket = grid_.bucket(grid_.row(block.top), grid_.column(block.left));
  const int* const begin = reaching_.first_of(bucket);
  const int* const end = reaching_.end_of(bucket);
  for (const int* index = begin; index != end; ++index) {
    if ((index - begin) % 32 == 31 && saturated(sums)) break;
    const Spot& spot = spots_[static_cast<std::size_t>(*index)];
    if (spot.exceeds_box) {
      for (int i = 0; i < block_edge; ++i) {
        for (int j = 0; j < block_edge; ++j) sums[i][j] += spot.at(block.top + i, block.left + j);
      }
      continue;
    }
    // The same without a branch: which spots reach which pixels cannot be foretold.
    const Row dx = column - spot.x, dx2 = dx * dx, peak = Row{} + spot.peak;
    for (int i = 0; i < block_edge; ++i) {
      const Row dy = top + static_cast<float>(i) - (Row{} + spot.y), dy2 = dy * dy, d2 = dx2 + dy2;
      const Mask at_centre = (dx2 < 0.25F) & (dy2 < 0.25F), near = d2 <= spot.sigma2;
      const Row value = peak * eighth_power(1.0F - d2 * spot.falloff);
      sums[i] += (Row)((at_centre & (Mask)peak) | (~at_centre & near & (Mask)value));
    }
  }
  std::copy(std::begin(sums), std::end(sums), block.rows);
}

void ConfidenceMap::render(float* pixels) const {
  for (const Spot& spot : spots_) {
    for (int row = spot.top; row < spot.bottom; ++row) {
      float* line = pixels + static_cast<std::size_t>(row) * static_cast<std::size_t>(size_.width);
      for (int column = spot.left; column < spot.right; ++column)
        line[column] = std::min(line[column] + spot.at(row, column), 1.0F);
    }
  }
}

}  // namespace dgcn::pifpaf
