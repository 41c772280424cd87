// Encoder, stage 3: painting the joints of one keypoint.
#pragma once

#include <vector>

#include "pifpaf/encode/nearest.h"
#include "pifpaf/encode/poses.h"

namespace dgcn::pifpaf {

/// One keypoint's planes of the targets. All three are written in the cells assigned to a joint, none in the others.
struct PifTarget {
  float* confidence;  ///< [H, W]: 1 near a joint
  float* offset;      ///< [2, H, W]: cell -> joint, (x, y) [cells]
  float* scale;       ///< [H, W]: size of the joint [cells], or NaN
};

/// Paints one keypoint after the other onto fields of one size.
class PifPainter {
 public:
  explicit PifPainter(const FieldGrid& grid) : grid_(grid), nearest_(grid) {}

  /// Paints keypoint `k` of all `poses` [P, K]. A joint covers the 4 × 4 cells around it; each cell is assigned to the
  /// nearest joint that covers it, of equally near ones to the first.
  void paint(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const PifTarget& target);

 private:
  struct Patch {
    Point center;  ///< of the joint [cells]

    double distance(int row, int column) const {  // squared
      const double x = center.x - column, y = center.y - row;
      return x * x + y * y;
    }
  };

  FieldGrid grid_;
  NearestShapes<Patch> nearest_;
};

/// Paints only the confidence [H, W] of keypoint `k`, for which the nearest joint does not matter.
void paint_confidence(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const FieldGrid& grid,
                      float* confidence);

}  // namespace dgcn::pifpaf
