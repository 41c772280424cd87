// The encoder's input: what is annotated in a picture, and the proportions of a person.
#pragma once

#include <cmath>
#include <vector>

namespace dgcn::pifpaf {

/// A position or a difference of two, in px or cells.
struct Point {
  double x, y;
};

/// A keypoint as COCO annotates it.
struct AnnotatedJoint {
  double x, y;        ///< [px]
  double visibility;  ///< 0: not annotated, 1: hidden, 2: visible

  /// False also for a coordinate that is NaN, infinite or beyond ±10⁹ px.
  bool is_annotated() const { return visibility > 0.0 && std::fabs(x) <= 1e9 && std::fabs(y) <= 1e9; }
};

/// A box around people whose keypoints are not annotated.
struct Box {
  double x, y;           ///< left and upper edge [px]
  double width, height;  ///< [px]
};

/// The annotations of one picture with P persons of K keypoints.
struct Annotations {
  const AnnotatedJoint* joints;  ///< [P, K]
  int num_persons;
  const Box* ignored;  ///< [num_ignored]: crowds and persons without keypoints
  int num_ignored;
};

/// How large the joints of a person are.
struct Proportions {
  std::vector<double> sigmas;       ///< [K] OKS sigmas: size of a joint as a fraction of its person's
  std::vector<Point> upright_pose;  ///< [K] a standing person, in any unit
};

}  // namespace dgcn::pifpaf
