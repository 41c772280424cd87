#include "pifpaf/decode/confidence_map.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dgcn::pifpaf {
namespace {

constexpr unsigned max_known_edge = 32;      // [blocks]; a power of two
constexpr int min_bucket_edge = 16;          // [px]; a multiple of a block's
constexpr std::size_t buckets_per_spot = 8;  // at most, on average: bounds the memory whatever the scales

}  // namespace

float Spot::at(int row, int column) const {
  if (row < top || row >= bottom || column < left || column >= right) return 0.0F;
  const float dx = static_cast<float>(column) - x, dy = static_cast<float>(row) - y;
  if (std::fabs(dx) < 0.5F && std::fabs(dy) < 0.5F) return peak;
  const float d2 = dx * dx + dy * dy;
  if (!(d2 <= sigma2)) return 0.0F;
  const float root = 1.0F - d2 * falloff, second = root * root, fourth = second * second;
  return peak * (fourth * fourth);
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
    const auto reaches = [&](int pixel, float centre, int end) {
      const float distance = static_cast<float>(pixel) - centre;
      return pixel >= 0 && pixel < end && (distance * distance <= spot.sigma2 || std::fabs(distance) < 0.5F);
    };
    spot.exceeds_box = reaches(spot.left - 1, spot.x, size.width) || reaches(spot.right, spot.x, size.width) ||
                       reaches(spot.top - 1, spot.y, size.height) || reaches(spot.bottom, spot.y, size.height);
    spots_.push_back(spot);
  }
  if (spots_.empty()) return;
  while (known_edge_ < max_known_edge && known_edge_ * known_edge_ < spots_.size()) known_edge_ *= 2;
  known_.assign(known_edge_ * known_edge_, -1);
  pixels_.reset(new float[known_.size() * block_edge * block_edge]);

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

void ConfidenceMap::look_up(const float* x, const float* y, std::size_t count, float missing, float* values) {
  if (spots_.empty()) {
    std::fill_n(values, count, missing);
    return;
  }
  // Loops of their own for what vectorises, and for the one branch.
  constexpr std::size_t many = 32;
  const float right = static_cast<float>(size_.width), bottom = static_cast<float>(size_.height);
  const unsigned within_window = known_edge_ - 1;
  for (std::size_t begin = 0; begin < count; begin += many) {
    const std::size_t num = std::min(many, count - begin);
    int inside[many], row[many], column[many], block[many];
    unsigned slot[many];
    float found[many];
    for (std::size_t i = 0; i < num; ++i) {
      const float px = x[begin + i], py = y[begin + i];
      inside[i] = (px >= -0.49F) & (px <= right - 0.51F) & (py >= -0.49F) & (py <= bottom - 0.51F);
      column[i] = static_cast<int>(inside[i] ? std::min(px + 0.5F, right - 1.0F) : 0.0F);
      row[i] = static_cast<int>(inside[i] ? std::min(py + 0.5F, bottom - 1.0F) : 0.0F);
      const unsigned block_row = static_cast<unsigned>(row[i]) / block_edge;
      const unsigned block_column = static_cast<unsigned>(column[i]) / block_edge;
      slot[i] = (block_row & within_window) * known_edge_ + (block_column & within_window);
      block[i] = static_cast<int>(block_row * static_cast<unsigned>(size_.width) + block_column);
    }
    for (std::size_t i = 0; i < num; ++i) {
      if (known_[slot[i]] != block[i]) {
        known_[slot[i]] = block[i];
        fill(slot[i], row[i], column[i]);
      }
      found[i] = pixels_[(slot[i] * block_edge + static_cast<unsigned>(row[i]) % block_edge) * block_edge +
                         static_cast<unsigned>(column[i]) % block_edge];
    }
    for (std::size_t i = 0; i < num; ++i)
      values[begin + i] = ((inside[i] != 0) & (found[i] > 0.0F)) ? std::min(found[i], 1.0F) : missing;
  }
}

/// Adds up the block of pixels that this one is in.
void ConfidenceMap::fill(std::size_t slot, int row, int column) {
  const int top = row / block_edge * block_edge, left = column / block_edge * block_edge;
  const std::size_t bucket = grid_.bucket(grid_.row(top), grid_.column(left));
  kernels_->add_spots(spots_.data(), reaching_.first_of(bucket), reaching_.end_of(bucket), top, left,
                      pixels_.get() + slot * block_edge * block_edge);
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
