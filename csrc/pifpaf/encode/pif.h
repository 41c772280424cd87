// Encoder, stage 4: the joints of one keypoint.
#pragma once

#include <vector>

#include "pifpaf/encode/claims.h"
#include "pifpaf/encode/poses.h"

namespace dgcn::pifpaf {

/// One keypoint's planes of the targets. Of the cells that get a joint all three are written, of the others nothing.
struct PifTarget {
  float* confidence;  ///< [H, W]: 1 near a joint
  float* offset;      ///< [2, H, W]: cell -> joint, (x, y) [cells]
  float* scale;       ///< [H, W]: size of the joint [cells], or NaN
};

/// Paints the joints of one keypoint after the other.
class PifPainter {
 public:
  explicit PifPainter(const Grid& grid) : grid_(grid), claims_(grid) {}

  /// Paints keypoint `k` of all `poses` [P, K]. A joint claims the 4x4 cells around it; the nearest joint wins a cell,
  /// of equally near ones the first.
  void paint(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const PifTarget& target);

 private:
  struct Joint {
    Point center;  ///< [cells]

    double distance(int row, int column) const {  // squared
      const double x = center.x - column, y = center.y - row;
      return x * x + y * y;
    }
  };

  Grid grid_;
  Claims<Joint> claims_;
};

/// Paints the confidence [H, W] of keypoint `k` alone, where nobody asks which joint is nearest.
void paint_confidence(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const Grid& grid,
                      float* confidence);

}  // namespace dgcn::pifpaf
