// The skeleton: keypoints, and the limbs that join them.
#pragma once

#include <utility>
#include <vector>

namespace dgcn::pifpaf {

/// A limb in one of its two directions.
struct DirectedLimb {
  int limb;       ///< index in the skeleton
  bool backward;  ///< from joint 2 to joint 1 of the limb
  int start;      ///< keypoint
  int end;        ///< keypoint
};

/// K keypoints and M limbs: any graph without loops and double edges, connected or not.
class Skeleton {
 public:
  static constexpr int kMaxKeypoints = 10000;

  /// `limbs` are zero-based keypoint pairs (joint 1, joint 2), in the order of the PAF fields.
  /// Throws std::invalid_argument if num_keypoints is not in [1, kMaxKeypoints], or a limb has a keypoint outside of
  /// [0, num_keypoints), joins a keypoint with itself or repeats another limb in either direction.
  Skeleton(int num_keypoints, const std::vector<std::pair<int, int>>& limbs);

  int num_keypoints() const { return static_cast<int>(outgoing_.size()); }
  int num_limbs() const { return static_cast<int>(limbs_.size()); }

  /// The keypoints of joint 1 and joint 2.
  std::pair<int, int> limb(int limb) const { return limbs_[static_cast<std::size_t>(limb)]; }

  /// The limbs at a keypoint, in their order, each directed away from it.
  const std::vector<DirectedLimb>& outgoing(int keypoint) const {
    return outgoing_[static_cast<std::size_t>(keypoint)];
  }

 private:
  std::vector<std::pair<int, int>> limbs_;
  std::vector<std::vector<DirectedLimb>> outgoing_;
};

}  // namespace dgcn::pifpaf
