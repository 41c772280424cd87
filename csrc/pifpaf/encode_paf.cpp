#include "pifpaf/encode_paf.h"

#include <algorithm>
#include <cmath>

namespace dgcn::pifpaf {
namespace {

/// A limb on the grid, from `first` to `second` [cells].
class GridLimb {
 public:
  GridLimb(Point first, Point second)
      : first_(first),
        along_{second.x - first.x, second.y - first.y},
        length_(std::sqrt(along_.x * along_.x + along_.y * along_.y)) {}

  /// How many points along it claim cells.
  int num_steps() const { return std::max(2, static_cast<int>(std::ceil(length_))); }

  Point at(double fraction) const { return {first_.x + along_.x * fraction, first_.y + along_.y * fraction}; }

  /// Perpendicular distance to the line through the limb; to its ends where they fall together.
  double distance(int row, int column) const {
    const double x = column - first_.x, y = row - first_.y;
    return length_ > 0.0 ? std::fabs(x * along_.y - y * along_.x) / length_ : std::sqrt(x * x + y * y);
  }

 private:
  Point first_;
  Point along_;
  double length_;
};

/// Calls visit(row, column) for each cell of the 3x3 block around a point in the field.
template <typename Visit>
void for_each_cell(Point point, const Grid& grid, Visit visit) {
  const int column_center = static_cast<int>(std::nearbyint(point.x));
  const int row_center = static_cast<int>(std::nearbyint(point.y));
  const int right = std::min(column_center + 1, grid.width - 1), bottom = std::min(row_center + 1, grid.height - 1);
  for (int row = std::max(row_center - 1, 0); row <= bottom; ++row) {
    for (int column = std::max(column_center - 1, 0); column <= right; ++column) visit(row, column);
  }
}

}  // namespace

void paint_paf(const std::vector<PoseJoint>& poses, int num_keypoints, std::pair<int, int> limb, const Grid& grid,
               Claims& claims, const PafTarget& target) {
  const auto stride = static_cast<std::size_t>(num_keypoints);
  for (std::size_t person = 0; person < poses.size(); person += stride) {
    const PoseJoint& start = poses[person + static_cast<std::size_t>(limb.first)];
    const PoseJoint& end = poses[person + static_cast<std::size_t>(limb.second)];
    if (!start.painted || !end.painted) continue;
    const Point first{start.position.x / grid.stride, start.position.y / grid.stride};
    const Point second{end.position.x / grid.stride, end.position.y / grid.stride};
    const GridLimb on_grid(first, second);
    const int num_steps = on_grid.num_steps();
    for (int step = 0; step < num_steps; ++step) {
      for_each_cell(on_grid.at(static_cast<double>(step) / (num_steps - 1)), grid, [&](int row, int column) {
        const std::size_t cell = grid.index(row, column), plane = grid.size();
        if (!claims.claim(cell, on_grid.distance(row, column))) return;
        target.confidence[cell] = 1.0F;
        target.offset[cell] = static_cast<float>(first.x - column);
        target.offset[plane + cell] = static_cast<float>(first.y - row);
        target.offset[2 * plane + cell] = static_cast<float>(second.x - column);
        target.offset[3 * plane + cell] = static_cast<float>(second.y - row);
      });
    }
  }
  claims.clear();
}

}  // namespace dgcn::pifpaf
