#include "pifpaf/occupancy.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dgcn::pifpaf {

Occupancy::Occupancy(int num_keypoints, PixelSize size, const DecoderConfig& config)
    : num_keypoints_(num_keypoints),
      rows_(static_cast<int>(std::ceil(static_cast<float>(size.height) / config.occupancy_reduction))),
      columns_(static_cast<int>(std::ceil(static_cast<float>(size.width) / config.occupancy_reduction))),
      reduction_(config.occupancy_reduction),
      min_half_side_(config.occupancy_min_half_side) {}

void Occupancy::mark(int keypoint, const Joint& joint) {
  if (words_.empty()) words_.resize(word_of(num_keypoints_, 0, 0));
  const float x = joint.x / reduction_, y = joint.y / reduction_;
  const float half_side = std::max(min_half_side_, joint.scale / reduction_);
  const int left = truncate(x - half_side, 0, columns_ - 1);
  const int top = truncate(y - half_side, 0, rows_ - 1);
  const Square square{keypoint, left, top, truncate(x + half_side, left + 1, columns_),
                      truncate(y + half_side, top + 1, rows_)};
  fill(square, true);
  marked_.push_back(square);
}

bool Occupancy::occupied(int keypoint, const Joint& joint) const {
  if (words_.empty()) return false;
  const int row = truncate(joint.y / reduction_, 0, rows_ - 1);
  const int column = truncate(joint.x / reduction_, 0, columns_ - 1);
  return (words_[word_of(keypoint, row, column)] >> column % 64 & 1) != 0;
}

void Occupancy::clear() {
  for (const Square& square : marked_) fill(square, false);
  marked_.clear();
}

void Occupancy::fill(const Square& square, bool value) {
  for (int column = square.left; column < square.right; column = (column / 64 + 1) * 64) {
    const int count = std::min(square.right - column, 64 - column % 64);
    const std::uint64_t bits = ~std::uint64_t{0} >> (64 - count) << column % 64;
    for (int row = square.top; row < square.bottom; ++row) {
      std::uint64_t& word = words_[word_of(square.keypoint, row, column)];
      word = value ? word | bits : word & ~bits;
    }
  }
}

std::size_t Occupancy::word_of(int keypoint, int row, int column) const {
  const auto rows = static_cast<std::size_t>(rows_), words_per_row = static_cast<std::size_t>(columns_ + 63) / 64;
  return (static_cast<std::size_t>(keypoint) * rows + static_cast<std::size_t>(row)) * words_per_row +
         static_cast<std::size_t>(column) / 64;
}

}  // namespace dgcn::pifpaf
