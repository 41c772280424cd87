// Sorting items by the square of the image in which they lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pifpaf/decode/field_reader.h"

namespace dgcn::pifpaf {

/// Divides the image into square buckets. Positions outside the image belong to the nearest bucket.
class BucketGrid {
 public:
  /// The edge of a bucket is `min_edge` [px], a power of two, doubled until at most 64 buckets lie along each axis.
  BucketGrid(PixelSize size, int min_edge) {
    while (1 << shift_ < min_edge || std::max(size.height, size.width) >> shift_ >= 64) ++shift_;
    per_px_ = 1.0F / static_cast<float>(1 << shift_);
    rows_ = (size.height >> shift_) + 1;
    columns_ = (size.width >> shift_) + 1;
  }

  std::size_t num_buckets() const { return static_cast<std::size_t>(rows_ * columns_); }
  int row(float y) const { return clamp_to_int(y * per_px_, 0, rows_ - 1); }
  int row(int y) const { return std::min(y >> shift_, rows_ - 1); }
  int column(float x) const { return clamp_to_int(x * per_px_, 0, columns_ - 1); }
  int column(int x) const { return std::min(x >> shift_, columns_ - 1); }
  std::size_t bucket(int row, int column) const { return static_cast<std::size_t>(row * columns_ + column); }

 private:
  int shift_ = 0;  ///< log₂ of the edge [px]
  float per_px_;
  int rows_;
  int columns_;
};

/// Positions of items sorted by bucket, by a counting sort: count() every item, start_inserting(), then insert() the
/// same items. Items of one bucket keep their order.
class BucketSort {
 public:
  void reset(std::size_t num_buckets) { end_.assign(num_buckets + 2, 0); }
  void count(std::size_t bucket) { ++end_[bucket + 2]; }
  /// Returns the number of items.
  std::size_t start_inserting() {
    for (std::size_t b = 2; b < end_.size(); ++b) end_[b] += end_[b - 1];
    return end_.back();
  }
  /// The position of the next item of a bucket.
  std::size_t insert(std::size_t bucket) { return end_[bucket + 1]++; }

  /// Once all items are inserted, those of a bucket are at the positions [begin, end).
  std::size_t begin(std::size_t bucket) const { return end_[bucket]; }
  std::size_t end(std::size_t bucket) const { return end_[bucket + 1]; }

 private:
  /// While items are inserted, [b + 1] is where the next item of bucket b goes; afterwards it is the end of bucket b.
  /// Counts are kept one further on, at [b + 2], so that their prefix sum leaves the begin of bucket b at [b + 1].
  std::vector<std::uint32_t> end_;
};

}  // namespace dgcn::pifpaf
