#include "pifpaf/decode/confidence_map.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dgcn::pifpaf {
namespace {

constexpr unsigned kCacheEdge = 32;          // [blocks]
constexpr int kMinBucketEdge = 16;           // [px]; a multiple of kBlockEdge, so that a block is in one bucket
constexpr std::size_t kBucketsPerSplat = 8;  // at most, on average: bounds the memory for any scales

}  // namespace

float Splat::at(int row, int column) const {
  if (row < top || row >= bottom || column < left || column >= right) return 0.0F;
  const float dx = static_cast<float>(column) - x, dy = static_cast<float>(row) - y;
  if (std::fabs(dx) < 0.5F && std::fabs(dy) < 0.5F) return peak;
  const float d2 = dx * dx + dy * dy;
  if (!(d2 <= sigma2)) return 0.0F;
  const float root = 1.0F - d2 * falloff, second = root * root, fourth = second * second;
  return peak * (fourth * fourth);
}

ConfidenceMap::ConfidenceMap(const std::vector<PifCell>& cells, PixelSize size, const DecoderConfig& config)
    : size_(size), grid_(size, kMinBucketEdge) {
  for (const PifCell& cell : cells) {
    if (cell.confidence >= config.map_threshold) add_splat(cell, config);
  }
  if (splats_.empty()) return;
  cached_block_.assign(kCacheEdge * kCacheEdge, -1);
  pixels_.reset(new float[cached_block_.size() * kBlockEdge * kBlockEdge]);
  fill_buckets();
}

void ConfidenceMap::add_splat(const PifCell& cell, const DecoderConfig& config) {
  const float sigma = std::max(config.map_min_sigma, config.map_sigma * cell.scale);
  Splat splat{clamp_to_int(cell.x - sigma, 0, size_.width),
              clamp_to_int(cell.x + sigma + 1.0F, 0, size_.width),
              clamp_to_int(cell.y - sigma, 0, size_.height),
              clamp_to_int(cell.y + sigma + 1.0F, 0, size_.height),
              cell.x,
              cell.y,
              cell.confidence / config.map_neighbors,
              sigma * sigma,
              1.0F / (16.0F * (sigma * sigma)),
              false};
  if (splat.left >= splat.right || splat.top >= splat.bottom) return;
  const auto is_reached = [&](int pixel, float centre, int end) {
    const float distance = static_cast<float>(pixel) - centre;
    return pixel >= 0 && pixel < end && (distance * distance <= splat.sigma2 || std::fabs(distance) < 0.5F);
  };
  splat.exceeds_box =
      is_reached(splat.left - 1, splat.x, size_.width) || is_reached(splat.right, splat.x, size_.width) ||
      is_reached(splat.top - 1, splat.y, size_.height) || is_reached(splat.bottom, splat.y, size_.height);
  splats_.push_back(splat);
}

/// Doubles the edge of the buckets until large splats do not take too many of them.
void ConfidenceMap::fill_buckets() {
  std::size_t entries = 0;
  for (int edge = kMinBucketEdge; entries == 0 || entries > kBucketsPerSplat * splats_.size(); edge *= 2) {
    grid_ = BucketGrid(size_, edge);
    buckets_.reset(grid_.num_buckets());
    entries = 0;
    for (const Splat& splat : splats_) {
      for_each_bucket(splat, [&](std::size_t bucket) {
        buckets_.count(bucket);
        ++entries;
      });
    }
  }
  sorted_splats_.resize(buckets_.start_inserting());
  for (std::size_t i = 0; i < splats_.size(); ++i)
    for_each_bucket(splats_[i],
                    [&](std::size_t bucket) { sorted_splats_[buckets_.insert(bucket)] = static_cast<int>(i); });
}

/// Calls visit(bucket) for the buckets that the splat's bounding box overlaps.
template <typename Visit>
void ConfidenceMap::for_each_bucket(const Splat& splat, Visit visit) const {
  const int bottom = grid_.row(splat.bottom - 1);
  const int left = grid_.column(splat.left), right = grid_.column(splat.right - 1);
  for (int row = grid_.row(splat.top); row <= bottom; ++row) {
    for (int column = left; column <= right; ++column) visit(grid_.bucket(row, column));
  }
}

void ConfidenceMap::look_up(const float* x, const float* y, std::size_t count, float missing, float* values) {
  if (splats_.empty()) {
    std::fill_n(values, count, missing);
    return;
  }
  const float right = static_cast<float>(size_.width), bottom = static_cast<float>(size_.height);
  for (std::size_t i = 0; i < count; ++i) {
    const float px = x[i], py = y[i];
    if (!(px >= -0.49F && px <= right - 0.51F && py >= -0.49F && py <= bottom - 0.51F)) {
      values[i] = missing;
      continue;
    }
    const auto column = static_cast<unsigned>(std::min(px + 0.5F, right - 1.0F));
    const auto row = static_cast<unsigned>(std::min(py + 0.5F, bottom - 1.0F));
    const unsigned block_row = row / kBlockEdge, block_column = column / kBlockEdge;
    const unsigned slot = block_row % kCacheEdge * kCacheEdge + block_column % kCacheEdge;
    const int block = static_cast<int>(block_row * static_cast<unsigned>(size_.width) + block_column);
    if (cached_block_[slot] != block) {
      cached_block_[slot] = block;
      compute_block(slot, static_cast<int>(row), static_cast<int>(column));
    }
    const float sum = pixels_[(slot * kBlockEdge + row % kBlockEdge) * kBlockEdge + column % kBlockEdge];
    values[i] = sum > 0.0F ? std::min(sum, 1.0F) : missing;
  }
}

/// Computes the block that holds the pixel (row, column).
void ConfidenceMap::compute_block(std::size_t slot, int row, int column) {
  const int top = row / kBlockEdge * kBlockEdge, left = column / kBlockEdge * kBlockEdge;
  const std::size_t bucket = grid_.bucket(grid_.row(top), grid_.column(left));
  const int* const sorted = sorted_splats_.data();
  kernels_->sum_splats(splats_.data(), sorted + buckets_.begin(bucket), sorted + buckets_.end(bucket), top, left,
                       pixels_.get() + slot * kBlockEdge * kBlockEdge);
}

void ConfidenceMap::render(float* pixels) const {
  for (const Splat& splat : splats_) {
    for (int row = splat.top; row < splat.bottom; ++row) {
      float* line = pixels + static_cast<std::size_t>(row) * static_cast<std::size_t>(size_.width);
      for (int column = splat.left; column < splat.right; ++column)
        line[column] = std::min(line[column] + splat.at(row, column), 1.0F);
    }
  }
}

}  // namespace dgcn::pifpaf
