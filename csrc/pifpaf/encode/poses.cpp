#include "pifpaf/encode/poses.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace dgcn::pifpaf {
namespace {

constexpr double kHiddenRadius = 32.0;  // [px]
constexpr int kMinJoints = 3;           // with fewer, the bounding box is a poor estimate of a person's size
constexpr double kMaxPoseRatio = 5.0;   // of a whole person's size to that of its annotated part
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// Bounding box of points that are added one by one.
class Bounds {
 public:
  void add(double x, double y) {
    left_ = std::min(left_, x), right_ = std::max(right_, x);
    top_ = std::min(top_, y), bottom_ = std::max(bottom_, y);
  }

  double area() const { return (right_ - left_) * (bottom_ - top_); }

 private:
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double left_ = kInfinity, right_ = -kInfinity, top_ = kInfinity, bottom_ = -kInfinity;
};

bool is_inside(const AnnotatedJoint& joint, PixelSize picture) {
  return joint.x >= 0.0 && joint.x <= picture.width - 1 && joint.y >= 0.0 && joint.y <= picture.height - 1;
}

bool is_near(Point a, Point b) {
  const double x = a.x - b.x, y = a.y - b.y;
  return x * x + y * y < kHiddenRadius * kHiddenRadius;
}

}  // namespace

double person_scale(const AnnotatedJoint* joints, const Proportions& proportions) {
  Bounds person, upright_part, upright;
  int num_annotated = 0;
  for (std::size_t k = 0; k < proportions.sigmas.size(); ++k) {
    const Point reference = proportions.upright_pose[k];
    upright.add(reference.x, reference.y);
    if (!joints[k].is_annotated()) continue;
    person.add(joints[k].x, joints[k].y);
    upright_part.add(reference.x, reference.y);
    ++num_annotated;
  }
  if (num_annotated < kMinJoints || !(person.area() > 0.0)) return kUnknown;
  const double ratio = upright_part.area() > 0.0 ? std::sqrt(upright.area() / upright_part.area()) : kMaxPoseRatio;
  return std::sqrt(person.area()) * std::min(kMaxPoseRatio, ratio);
}

std::vector<PoseJoint> read_poses(const AnnotatedJoint* joints, int num_persons, PixelSize picture,
                                  const Proportions& proportions) {
  const std::size_t num_keypoints = proportions.sigmas.size();
  const std::size_t size = static_cast<std::size_t>(num_persons) * num_keypoints;
  std::vector<PoseJoint> poses;
  poses.reserve(size);
  for (std::size_t first = 0; first < size; first += num_keypoints) {
    const double scale = person_scale(joints + first, proportions);
    for (std::size_t k = 0; k < num_keypoints; ++k) {
      const AnnotatedJoint& joint = joints[first + k];
      poses.push_back(
          {{joint.x, joint.y}, scale * proportions.sigmas[k], joint.is_annotated() && is_inside(joint, picture)});
    }
  }

  const auto hides = [&](std::size_t other, std::size_t i) {
    return poses[other].painted && joints[other].visibility >= 2.0 && is_near(poses[other].position, poses[i].position);
  };
  for (std::size_t i = 0; i < size; ++i) {
    if (!poses[i].painted || joints[i].visibility >= 2.0) continue;
    for (std::size_t other = i % num_keypoints; other < size && poses[i].painted; other += num_keypoints)
      poses[i].painted = !hides(other, i);
  }
  return poses;
}

}  // namespace dgcn::pifpaf
