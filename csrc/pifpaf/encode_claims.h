// Encoder, stage 2: who gets a cell that several joints or limbs claim.
//
//   H, W     field size [cells]
//   stride   edge of a cell [px]; the cell in row i and column j is centred on pixel (stride·j, stride·i)
#pragma once

#include <cstddef>
#include <limits>
#include <vector>

namespace dgcn::pifpaf {

/// The cells of a field.
struct Grid {
  int height, width;  ///< [cells]
  int stride;         ///< [px]

  std::size_t size() const { return static_cast<std::size_t>(height) * static_cast<std::size_t>(width); }
  std::size_t index(int row, int column) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(width) + static_cast<std::size_t>(column);
  }
};

/// Distances of the nearest claimants so far to the cells of one field. Forgetting them touches only the cells that
/// were claimed: a field has thousands, a joint claims sixteen.
class Claims {
 public:
  explicit Claims(const Grid& grid) : nearest_(grid.size(), unclaimed) {}

  /// Whether a claimant at this finite distance gets the cell: it is nearer than all before it. The first of equals
  /// keeps what it has.
  bool claim(std::size_t cell, double distance) {
    if (!(distance < nearest_[cell])) return false;
    if (nearest_[cell] == unclaimed) claimed_.push_back(cell);
    nearest_[cell] = distance;
    return true;
  }

  /// Back to no claims.
  void clear() {
    for (const std::size_t cell : claimed_) nearest_[cell] = unclaimed;
    claimed_.clear();
  }

 private:
  static constexpr double unclaimed = std::numeric_limits<double>::infinity();
  std::vector<double> nearest_;  ///< [H, W]
  std::vector<std::size_t> claimed_;
};

}  // namespace dgcn::pifpaf
