// Encoder, stages 3 and 4: each cell that several joints or limbs cover is assigned to the nearest of them.
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
struct FieldGrid {
  int height, width;  ///< [cells]
  int stride;         ///< [px]

  std::size_t size() const { return static_cast<std::size_t>(height) * static_cast<std::size_t>(width); }
  std::size_t index(int row, int column) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(width) + static_cast<std::size_t>(column);
  }
};

/// The nearest integer, halves to even, for |x| < 2³¹: std::nearbyint without a function call.
inline int round_to_int(double x) { return static_cast<int>((x + 0x1.8p52) - 0x1.8p52); }

/// Assigns the cells of a field to shapes (joints or limbs): each cell to the nearest shape that covers it, or to the
/// first of equally near ones. Distances are computed only for cells that are covered twice, which is rare.
///
/// A Shape has a `double distance(int row, int column) const`.
template <typename Shape>
class NearestShapes {
 public:
  explicit NearestShapes(const FieldGrid& grid) : grid_(grid), owners_(new std::uint32_t[grid.size()]) {}

  /// Starts a field. No cell of its `confidence` [H, W] may be 1; every cell that is covered becomes 1.
  void start_field(float* confidence) {
    confidence_ = confidence;
    shapes_.clear();
  }

  /// Adds a shape. The calls of cover() until the next one are for this shape, and must cover a cell at most once.
  void add(const Shape& shape) { shapes_.push_back(shape); }

  /// Covers the columns [begin, end) of a row, and calls write(column, cell) for the cells assigned to the shape.
  template <typename Write>
  void cover(int row, int begin, int end, const Write& write) {
    const auto shape = static_cast<std::uint32_t>(shapes_.size() - 1);
    std::size_t cell = grid_.index(row, begin);
    for (int column = begin; column < end; ++column, ++cell) {
      if (confidence_[cell] == 1.0F && !is_nearer_than(owners_[cell], row, column)) continue;
      confidence_[cell] = 1.0F;
      owners_[cell] = shape;
      write(column, cell);
    }
  }

 private:
  /// Whether the shape added last is nearer to the cell than the given one.
  bool is_nearer_than(std::uint32_t shape, int row, int column) const {
    return shapes_.back().distance(row, column) < shapes_[shape].distance(row, column);
  }

  FieldGrid grid_;
  float* confidence_ = nullptr;
  std::vector<Shape> shapes_;
  std::unique_ptr<std::uint32_t[]> owners_;  ///< [H, W]: index of the shape, where the confidence is 1
};

}  // namespace dgcn::pifpaf
