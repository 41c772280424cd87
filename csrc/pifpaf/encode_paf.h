// Encoder, stage 5: the limbs of one kind.
#pragma once

#include <utility>
#include <vector>

#include "pifpaf/encode_claims.h"
#include "pifpaf/encode_poses.h"

namespace dgcn::pifpaf {

/// One limb's planes of the targets. Of the cells that get a limb both are written, of the others nothing.
struct PafTarget {
  float* confidence;  ///< [H, W]: 1 along a limb
  float* offset;      ///< [4, H, W]: cell -> both ends of the limb, (x1, y1, x2, y2) [cells]
};

/// Paints the limb between two keypoints of all `poses` [P, K] where both joints are painted. It claims 3x3 cells at each
/// of max(2, ⌈d⌉) evenly spaced points from end to end of its d cells; the smallest perpendicular distance wins a cell,
/// of equal ones the first. `claims` must be clear, and is afterwards.
void paint_paf(const std::vector<PoseJoint>& poses, int num_keypoints, std::pair<int, int> limb, const Grid& grid,
               Claims& claims, const PafTarget& target);

}  // namespace dgcn::pifpaf
