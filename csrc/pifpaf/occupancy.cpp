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
  if (cells_.empty())
    cells_.resize(static_cast<std::size_t>(num_keypoints_) * static_cast<std::size_t>(rows_) *
                  static_cast<std::size_t>(columns_));
  const float x = joint.x / reduction_, y = joint.y / reduction_;
  const float half_side = std::max(min_half_side_, joint.scale / reduction_);
  const int left = truncate(x - half_side, 0, columns_ - 1);
  const int top = truncate(y - half_side, 0, rows_ - 1);
  const Square square{keypoint, left, top, truncate(x + half_side, left + 1, columns_),
                      truncate(y + half_side, top + 1, rows_)};
  fill(square, 1);
  marked_.push_back(square);
}

bool Occupancy::occupied(int keypoint, const Joint& joint) const {
  if (cells_.empty()) return false;
  const int row = truncate(joint.y / reduction_, 0, rows_ - 1);
  const int column = truncate(joint.x / reduction_, 0, columns_ - 1);
  return cells_[index(keypoint, row, column)] != 0;
}

void Occupancy::clear() {
  for (const Square& square : marked_) fill(square, 0);
  marked_.clear();
}

void Occupancy::fill(const Square& square, std::uint8_t value) {
  for (int row = square.top; row < square.bottom; ++row) {
    std::uint8_t* cells = cells_.data() + index(square.keypoint, row, 0);
    std::fill(cells + square.left, cells + square.right, value);
  }
}

std::size_t Occupancy::index(int keypoint, int row, int column) const {
  const auto rows = static_cast<std::size_t>(rows_), columns = static_cast<std::size_t>(columns_);
  return (static_cast<std::size_t>(keypoint) * rows + static_cast<std::size_t>(row)) * columns +
         static_cast<std::size_t>(column);
}

}  // namespace dgcn::pifpaf
