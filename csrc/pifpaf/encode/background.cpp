#include "pifpaf/encode/background.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace dgcn::pifpaf {
namespace {

static_assert(std::numeric_limits<float>::is_iec559, "all bits set, and all clear, must be NaN and 0");

constexpr double kMaxCoordinate = 1e9;  // [px]

/// Cells [begin, end) along one axis.
struct CellRange {
  int begin, end;
};

bool is_valid(double low, double extent) {
  return std::fabs(low) <= kMaxCoordinate && std::fabs(extent) <= kMaxCoordinate;
}

CellRange touched_cells(double low_px, double extent_px, int stride, int size) {
  const double low = low_px / stride, high = low + extent_px / stride;
  const auto clamped = [size](double cell) { return static_cast<int>(std::clamp(cell, 0.0, double(size))); };
  return {clamped(std::floor(low)), clamped(std::ceil(high) + 1.0)};
}

}  // namespace

void fill_nan(float* begin, std::size_t count) {
  if (count > 0) std::memset(begin, 0xFF, count * sizeof(float));  // `begin` may be null otherwise
}

void fill_background(const Box* ignored, int num_ignored, const FieldGrid& grid, float* confidence) {
  std::memset(confidence, 0, grid.size() * sizeof(float));
  for (int i = 0; i < num_ignored; ++i) {
    const Box& box = ignored[i];
    if (!is_valid(box.x, box.width) || !is_valid(box.y, box.height)) continue;
    const CellRange columns = touched_cells(box.x, box.width, grid.stride, grid.width);
    const CellRange rows = touched_cells(box.y, box.height, grid.stride, grid.height);
    if (columns.begin >= columns.end) continue;
    for (int row = rows.begin; row < rows.end; ++row)
      fill_nan(confidence + grid.index(row, columns.begin), static_cast<std::size_t>(columns.end - columns.begin));
  }
}

}  // namespace dgcn::pifpaf
