// Encoder, stage 2: who gets a cell that several joints or limbs claim.
//
//   H, W     field size [cells]
//   stride   edge of a cell [px]; the cell in row i and column j is centred on pixel (stride·j, stride·i)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
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

/// The nearest integer, halves to even, of an |x| < 2³¹: std::nearbyint without a call.
inline int round_to_int(double x) { return static_cast<int>((x + 0x1.8p52) - 0x1.8p52); }

/// Who holds the cells of a field: the nearest of those who claim one, of equally near ones the first. How near they are
/// is asked only where a claimed cell is claimed again, which is seldom.
///
/// A Claimant has a `double distance(int row, int column) const`.
template <typename Claimant>
class Claims {
 public:
  explicit Claims(const Grid& grid) : grid_(grid), holders_(new std::uint32_t[grid.size()]) {}

  /// A new field, whose `confidence` [H, W] is 1 in no cell: it becomes 1 in those that are claimed.
  void begin(float* confidence) {
    confidence_ = confidence;
    claimants_.clear();
  }

  /// Adds a claimant: the claims that follow are its, one at most for any cell.
  void add(const Claimant& claimant) { claimants_.push_back(claimant); }

  /// Claims the columns [begin, end) of a row, and calls win(column, cell) for those that the claimant gets.
  template <typename Win>
  void claim(int row, int begin, int end, const Win& win) {
    const auto claimant = static_cast<std::uint32_t>(claimants_.size() - 1);
    std::size_t cell = grid_.index(row, begin);
    for (int column = begin; column < end; ++column, ++cell) {
      if (confidence_[cell] == 1.0F && !is_nearer(holders_[cell], row, column)) continue;
      confidence_[cell] = 1.0F;
      holders_[cell] = claimant;
      win(column, cell);
    }
  }

 private:
  bool is_nearer(std::uint32_t holder, int row, int column) const {
    return claimants_.back().distance(row, column) < claimants_[holder].distance(row, column);
  }

  Grid grid_;
  float* confidence_ = nullptr;
  std::vector<Claimant> claimants_;
  std::unique_ptr<std::uint32_t[]> holders_;  ///< [H, W]: index of the claimant, where one holds the cell
};

}  // namespace dgcn::pifpaf
