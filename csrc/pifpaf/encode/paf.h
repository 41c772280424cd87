// Encoder, stage 4: painting one limb of all persons.
#pragma once

#include <limits>
#include <utility>
#include <vector>

#include "pifpaf/encode/nearest.h"
#include "pifpaf/encode/poses.h"

namespace dgcn::pifpaf {

/// One limb's planes of the targets. Both are written in the cells assigned to a person's limb, none in the others.
struct PafTarget {
  float* confidence;  ///< [H, W]: 1 along a limb
  float* offset;      ///< [4, H, W]: cell -> both ends of the limb, (x1, y1, x2, y2) [cells]
};

/// Paints one limb of the skeleton after the other onto fields of one size.
class PafPainter {
 public:
  explicit PafPainter(const FieldGrid& grid);

  /// Paints the limb between two keypoints of all `poses` [P, K] whose joints are both painted. A limb of d cells
  /// covers 3 × 3 cells at each of max(2, ⌈d⌉) evenly spaced points from end to end; each cell is assigned to the limb
  /// with the smallest perpendicular distance, of equal ones to the first.
  void paint(const std::vector<PoseJoint>& poses, int num_keypoints, std::pair<int, int> limb, const PafTarget& target);

 private:
  /// A person's limb on the grid.
  class Segment {
   public:
    Segment(Point first, Point second);  // [cells]

    int num_points() const;
    Point point(int i) const;
    double distance(int row, int column) const;

   private:
    Point first_, along_;
    double length_;
  };

  /// First and last column of a segment's points in a row; first > last if it has none there.
  struct ColumnSpan {
    int first = std::numeric_limits<int>::max(), last = std::numeric_limits<int>::min();
  };

  template <typename Visit>
  void for_each_row(const Segment& segment, const Visit& visit);

  FieldGrid grid_;
  NearestShapes<Segment> nearest_;
  std::vector<ColumnSpan> spans_;  ///< [1 + H + 1]: the rows of the segment being painted, an empty row on either side
};

}  // namespace dgcn::pifpaf
