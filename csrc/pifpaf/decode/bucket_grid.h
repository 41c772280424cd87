// Square buckets over the pixels of an image, so that a search near a place looks only at what lies nearby.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "pifpaf/fields.h"

namespace dgcn::pifpaf {

/// Divides the image into buckets; places outside belong to the nearest one.
class BucketGrid {
 public:
  /// The edge of a bucket is `min_edge` [px], a power of two, or doubled until at most 64 buckets lie along an axis.
  explicit BucketGrid(PixelSize size, int min_edge = 32) {
    while (1 << shift_ < min_edge || std::max(size.height, size.width) >> shift_ >= 64) ++shift_;
    per_px_ = 1.0F / static_cast<float>(1 << shift_);
    rows_ = (size.height >> shift_) + 1;
    columns_ = (size.width >> shift_) + 1;
  }

  std::size_t num_buckets() const { return static_cast<std::size_t>(rows_ * columns_); }
  int row(float y) const { return truncate(y * per_px_, 0, rows_ - 1); }
  int row(int y) const { return std::min(y >> shift_, rows_ - 1); }  ///< of a pixel
  int column(float x) const { return truncate(x * per_px_, 0, columns_ - 1); }
  int column(int x) const { return std::min(x >> shift_, columns_ - 1); }
  std::size_t bucket(int row, int column) const { return static_cast<std::size_t>(row * columns_ + column); }

 private:
  int shift_ = 0;  ///< log₂ of the edge [px]
  float per_px_;
  int rows_;
  int columns_;
};

/// The contents of all buckets in one array, filled by a counting sort: announce every item, then begin, then place them
/// in the same order, which they keep within a bucket.
template <typename Item>
class Buckets {
 public:
  void reset(std::size_t num_buckets) { end_.assign(num_buckets + 2, 0); }
  void announce(std::size_t bucket) { ++end_[bucket + 2]; }
  void begin() {
    for (std::size_t b = 2; b < end_.size(); ++b) end_[b] += end_[b - 1];
    items_.resize(static_cast<std::size_t>(end_.back()));
  }
  void place(std::size_t bucket, const Item& item) { items_[static_cast<std::size_t>(end_[bucket + 1]++)] = item; }

  const std::vector<Item>& items() const { return items_; }

  /// Where a bucket's items begin and end; those of the next bucket follow.
  const Item* first_of(std::size_t bucket) const { return items_.data() + end_[bucket]; }
  const Item* end_of(std::size_t bucket) const { return items_.data() + end_[bucket + 1]; }

 private:
  /// The end of bucket b is at [b + 1] once its items are placed; before, it is counted at [b + 2] and begins at [b + 1].
  std::vector<int> end_;
  std::vector<Item> items_;
};

}  // namespace dgcn::pifpaf
