#include "pifpaf/decode/occupancy.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "pifpaf/decode/field_reader.h"

namespace dgcn::pifpaf {

Occupancy::Occupancy(int num_keypoints, PixelSize size, const DecoderConfig& config)
    : num_keypoints_(num_keypoints),
      rows_(static_cast<int>(std::ceil(static_cast<float>(size.height) / config.occupancy_reduction))),
      columns_(static_cast<int>(std::ceil(static_cast<float>(size.width) / config.occupancy_reduction))),
      reduction_(config.occupancy_reduction),
      min_half_side_(config.occupancy_min_half_side) {}

void Occupancy::mark(int keypoint, const Joint& joint) {
  if (words_.empty()) words_.resize(bit_of(num_keypoints_, 0, 0) / 64 + 1);
  const float x = joint.x / reduction_, y = joint.y / reduction_;
  const float half_side = std::max(min_half_side_, joint.scale / reduction_);
  const int left = clamp_to_int(x - half_side, 0, columns_ - 1);
  const int top = clamp_to_int(y - half_side, 0, rows_ - 1);
  const int right = clamp_to_int(x + half_side, left + 1, columns_);
  const int bottom = clamp_to_int(y + half_side, top + 1, rows_);
  for (int row = top; row < bottom; ++row) {
    const std::size_t end = bit_of(keypoint, row, right);
    for (std::size_t bit = bit_of(keypoint, row, left); bit < end;) {  // a word at a time
      const std::size_t count = std::min(end - bit, 64 - bit % 64);
      words_[bit / 64] |= ~std::uint64_t{0} >> (64 - count) << bit % 64;
      bit += count;
    }
  }
}

bool Occupancy::occupied(int keypoint, const Joint& joint) const {
  if (words_.empty()) return false;
  const int row = clamp_to_int(joint.y / reduction_, 0, rows_ - 1);
  const int column = clamp_to_int(joint.x / reduction_, 0, columns_ - 1);
  const std::size_t bit = bit_of(keypoint, row, column);
  return (words_[bit / 64] >> bit % 64 & 1) != 0;
}

void Occupancy::clear() { std::fill(words_.begin(), words_.end(), 0); }

std::size_t Occupancy::bit_of(int keypoint, int row, int column) const {
  const auto rows = static_cast<std::size_t>(rows_), columns = static_cast<std::size_t>(columns_);
  return (static_cast<std::size_t>(keypoint) * rows + static_cast<std::size_t>(row)) * columns +
         static_cast<std::size_t>(column);
}

}  // namespace dgcn::pifpaf
