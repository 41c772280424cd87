#include "pifpaf/encode/paf.h"

#include <algorithm>
#include <cmath>

namespace dgcn::pifpaf {

PafPainter::Limb::Limb(Point first, Point second)
    : first_(first),
      along_{second.x - first.x, second.y - first.y},
      length_(std::sqrt(along_.x * along_.x + along_.y * along_.y)) {}

/// How many points along it claim cells.
int PafPainter::Limb::num_points() const { return std::max(2, static_cast<int>(std::ceil(length_))); }

Point PafPainter::Limb::point(int i) const {
  const double fraction = static_cast<double>(i) / (num_points() - 1);
  return {first_.x + along_.x * fraction, first_.y + along_.y * fraction};
}

/// Perpendicular distance to the line through the limb; to its ends where they fall together.
double PafPainter::Limb::distance(int row, int column) const {
  const double x = column - first_.x, y = row - first_.y;
  return length_ > 0.0 ? std::fabs(x * along_.y - y * along_.x) / length_ : std::sqrt(x * x + y * y);
}

PafPainter::PafPainter(const Grid& grid)
    : grid_(grid), claims_(grid), columns_(static_cast<std::size_t>(grid.height) + 2) {}

/// Calls visit(row, begin, end) for the columns [begin, end) of each row that the 3x3 blocks around the limb's points
/// cover. They leave no gaps: successive points are at most two cells apart, and so round to cells at most three apart.
template <typename Visit>
void PafPainter::for_each_row(const Limb& limb, const Visit& visit) {
  Columns* const columns = columns_.data() + 1;
  int top = grid_.height, bottom = -1;
  for (int i = 0; i < limb.num_points(); ++i) {
    const Point point = limb.point(i);
    const int column = round_to_int(point.x), row = round_to_int(point.y);
    columns[row] = {std::min(columns[row].first, column), std::max(columns[row].last, column)};
    top = std::min(top, row), bottom = std::max(bottom, row);
  }
  for (int row = std::max(top - 1, 0); row <= std::min(bottom + 1, grid_.height - 1); ++row) {
    const Columns &above = columns[row - 1], &here = columns[row], &below = columns[row + 1];
    const int first = std::min({above.first, here.first, below.first});
    const int last = std::max({above.last, here.last, below.last});
    visit(row, std::max(first - 1, 0), std::min(last + 2, grid_.width));
  }
  std::fill(columns + top, columns + bottom + 1, Columns{});
}

void PafPainter::paint(const std::vector<PoseJoint>& poses, int num_keypoints, std::pair<int, int> limb,
                       const PafTarget& target) {
  const auto stride = static_cast<std::size_t>(num_keypoints);
  const std::size_t plane = grid_.size();
  claims_.begin(target.confidence);
  for (std::size_t person = 0; person < poses.size(); person += stride) {
    const PoseJoint& start = poses[person + static_cast<std::size_t>(limb.first)];
    const PoseJoint& end = poses[person + static_cast<std::size_t>(limb.second)];
    if (!start.painted || !end.painted) continue;
    const Point first{start.position.x / grid_.stride, start.position.y / grid_.stride};
    const Point second{end.position.x / grid_.stride, end.position.y / grid_.stride};
    const Limb on_grid(first, second);
    claims_.add(on_grid);
    for_each_row(on_grid, [&](int row, int begin_column, int end_column) {
      const float y1 = static_cast<float>(first.y - row), y2 = static_cast<float>(second.y - row);
      claims_.claim(row, begin_column, end_column, [&](int column, std::size_t cell) {
        target.offset[cell] = static_cast<float>(first.x - column);
        target.offset[plane + cell] = y1;
        target.offset[2 * plane + cell] = static_cast<float>(second.x - column);
        target.offset[3 * plane + cell] = y2;
      });
    });
  }
}

}  // namespace dgcn::pifpaf
