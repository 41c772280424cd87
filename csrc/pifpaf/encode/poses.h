// Encoder, stage 1: which annotated joints are painted, and their sizes.
//
//   P, K   persons of a picture, keypoints
//   px     pixels of the network input
#pragma once

#include <vector>

#include "pifpaf/annotations.h"
#include "pifpaf/fields.h"

namespace dgcn::pifpaf {

/// A joint as the later stages paint it.
struct PoseJoint {
  Point position;  ///< [px]
  double scale;    ///< size of the joint [px]; NaN where it is unknown
  bool painted;    ///< true only inside the picture
};

/// Size of a whole person [px], estimated from its annotated joints: the square root of their bounding box's area,
/// times the factor by which the upright pose grows from the same joints to all of them, at most 5. NaN if fewer than
/// three joints are annotated or all lie on one horizontal or vertical line.
double person_scale(const AnnotatedJoint* joints, const Proportions& proportions);

/// The poses [P, K] of the annotated `joints` [P, K]. Joints inside the picture are painted, but hidden ones less than
/// 32 px from a visible one of the same keypoint are not: that joint is assumed to hide them.
std::vector<PoseJoint> read_poses(const AnnotatedJoint* joints, int num_persons, PixelSize picture,
                                  const Proportions& proportions);

}  // namespace dgcn::pifpaf
