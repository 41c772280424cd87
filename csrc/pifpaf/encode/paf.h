// Encoder, stage 5: the limbs of one kind.
#pragma once

#include <limits>
#include <utility>
#include <vector>

#include "pifpaf/encode/claims.h"
#include "pifpaf/encode/poses.h"

namespace dgcn::pifpaf {

/// One limb's planes of the targets. Of the cells that get a limb both are written, of the others nothing.
struct PafTarget {
  float* confidence;  ///< [H, W]: 1 along a limb
  float* offset;      ///< [4, H, W]: cell -> both ends of the limb, (x1, y1, x2, y2) [cells]
};

/// Paints the limbs of one kind after the other.
class PafPainter {
 public:
  explicit PafPainter(const Grid& grid);

  /// Paints the limb between two keypoints of all `poses` [P, K] where both joints are painted. It claims 3x3 cells at
  /// each of max(2, ⌈d⌉) evenly spaced points from end to end of its d cells; the smallest perpendicular distance wins
  /// a cell, of equal ones the first.
  void paint(const std::vector<PoseJoint>& poses, int num_keypoints, std::pair<int, int> limb, const PafTarget& target);

 private:
  /// A limb on the grid.
  class Limb {
   public:
    Limb(Point first, Point second);  // [cells]

    int num_points() const;
    Point point(int i) const;
    double distance(int row, int column) const;

   private:
    Point first_, along_;
    double length_;
  };

  /// The columns of a row in which a limb has points.
  struct Columns {
    int first = std::numeric_limits<int>::max(), last = std::numeric_limits<int>::min();  // none yet
  };

  template <typename Visit>
  void for_each_row(const Limb& limb, const Visit& visit);

  Grid grid_;
  Claims<Limb> claims_;
  std::vector<Columns> columns_;  ///< [1 + H + 1], of the limb being painted
};

}  // namespace dgcn::pifpaf
