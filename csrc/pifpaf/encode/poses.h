// Encoder, stage 1: which annotated joints are painted, and how large they are.
//
//   P, K   persons of a picture, keypoints
//   px     pixels of the network input
#pragma once

#include <vector>

#include "pifpaf/fields.h"

namespace dgcn::pifpaf {

/// A position, or the way from one to another; px or cells, as the user of it says.
struct Point {
  double x, y;
};

/// A keypoint as COCO annotates it.
struct AnnotatedJoint {
  double x, y;        ///< [px]
  double visibility;  ///< 0: not annotated, 1: hidden, 2: visible

  /// Whether anything can be made of it: a NaN or a coordinate beyond ±10⁹ px counts as not annotated.
  bool usable() const;
};

/// A joint as the later stages paint it.
struct PoseJoint {
  Point position;  ///< [px]
  double scale;    ///< size of the joint [px]; NaN where it is unknown
  bool painted;    ///< only where it is inside the picture
};

/// What a skeleton says about sizes.
struct Proportions {
  std::vector<double> sigmas;       ///< [K] OKS sigmas: size of a joint as a fraction of its person's
  std::vector<Point> upright_pose;  ///< [K] a standing person, in any unit
};

/// Size of a whole person [px], estimated from its annotated joints: the square root of their bounding box's area,
/// times how much the upright pose grows from the same joints to all of them, at most fivefold. NaN where fewer than
/// three joints are annotated or all lie on one horizontal or vertical line.
double person_scale(const AnnotatedJoint* joints, const Proportions& proportions);

/// The poses [P, K] of the annotated `joints` [P, K]. Painted are the joints inside the picture, but for hidden ones
/// less than 32 px from a visible one of the same keypoint: that is what hides them.
std::vector<PoseJoint> read_poses(const AnnotatedJoint* joints, int num_persons, PixelSize picture,
                                  const Proportions& proportions);

}  // namespace dgcn::pifpaf
