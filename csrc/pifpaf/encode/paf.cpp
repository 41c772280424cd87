#include "pifpaf/encode/paf.h"

#include <algorithm>
#include <cmath>

namespace dgcn::pifpaf {

PafPainter::Segment::Segment(Point first, Point second)
    : first_(first),
      along_{second.x - first.x, second.y - first.y},
      length_(std::sqrt(along_.x * along_.x + along_.y * along_.y)) {}

/// Number of points along it that cover cells.
int PafPainter::Segment::num_points() const { return std::max(2, static_cast<int>(std::ceil(length_))); }

Point PafPainter::Segment::point(int i) const {
  const double fraction = static_cast<double>(i) / (num_points() - 1);
  return {first_.x + along_.x * fraction, first_.y + along_.y * fraction};
}

/// Perpendicular distance to the line through the segment; for a segment of length 0, distance to that point.
double PafPainter::Segment::distance(int row, int column) const {
  const double x = column - first_.x, y = row - first_.y;
  return length_ > 0.0 ? std::fabs(x * along_.y - y * along_.x) / length_ : std::sqrt(x * x + y * y);
}

PafPainter::PafPainter(const FieldGrid& grid)
    : grid_(grid), nearest_(grid), spans_(static_cast<std::size_t>(grid.height) + 2) {}

/// Calls visit(row, begin, end) for each row that the 3 × 3 blocks around the segment's points cover: its columns
/// [begin, end). There are no gaps: successive points are at most two cells apart, so they round to cells at most three
/// apart.
template <typename Visit>
void PafPainter::for_each_row(const Segment& segment, const Visit& visit) {
  ColumnSpan* const spans = spans_.data() + 1;
  int top = grid_.height, bottom = -1;
  for (int i = 0; i < segment.num_points(); ++i) {
    const Point point = segment.point(i);
    const int column = round_to_int(point.x), row = round_to_int(point.y);
    spans[row] = {std::min(spans[row].first, column), std::max(spans[row].last, column)};
    top = std::min(top, row), bottom = std::max(bottom, row);
  }
  for (int row = std::max(top - 1, 0); row <= std::min(bottom + 1, grid_.height - 1); ++row) {
    const ColumnSpan &above = spans[row - 1], &here = spans[row], &below = spans[row + 1];
    const int first = std::min({above.first, here.first, below.first});
    const int last = std::max({above.last, here.last, below.last});
    visit(row, std::max(first - 1, 0), std::min(last + 2, grid_.width));
  }
  std::fill(spans + top, spans + bottom + 1, ColumnSpan{});
}

void PafPainter::paint(const std::vector<PoseJoint>& poses, int num_keypoints, std::pair<int, int> limb,
                       const PafTarget& target) {
  const auto stride = static_cast<std::size_t>(num_keypoints);
  const std::size_t plane = grid_.size();
  nearest_.start_field(target.confidence);
  for (std::size_t person = 0; person < poses.size(); person += stride) {
    const PoseJoint& start = poses[person + static_cast<std::size_t>(limb.first)];
    const PoseJoint& end = poses[person + static_cast<std::size_t>(limb.second)];
    if (!start.painted || !end.painted) continue;
    const Point first{start.position.x / grid_.stride, start.position.y / grid_.stride};
    const Point second{end.position.x / grid_.stride, end.position.y / grid_.stride};
    const Segment segment(first, second);
    nearest_.add(segment);
    for_each_row(segment, [&](int row, int begin_column, int end_column) {
      const float y1 = static_cast<float>(first.y - row), y2 = static_cast<float>(second.y - row);
      nearest_.cover(row, begin_column, end_column, [&](int column, std::size_t cell) {
        target.offset[cell] = static_cast<float>(first.x - column);
        target.offset[plane + cell] = y1;
        target.offset[2 * plane + cell] = static_cast<float>(second.x - column);
        target.offset[3 * plane + cell] = y2;
      });
    });
  }
}

}  // namespace dgcn::pifpaf
