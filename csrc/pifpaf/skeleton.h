// The graph of keypoints along whose limbs persons are grown.
#pragma once

#include <utility>
#include <vector>

namespace dgcn::pifpaf {

/// A limb walked in one of its two directions.
struct DirectedLimb {
  int limb;       ///< as the skeleton lists it
  bool backward;  ///< from joint 2 to joint 1
  int start;      ///< keypoint
  int end;        ///< keypoint
};

/// K keypoints and M limbs; any graph will do, connected or not, that is without loops and double edges.
class Skeleton {
 public:
  static constexpr int max_keypoints = 10000;

  /// `limbs` are zero-based keypoint pairs (joint 1, joint 2), in the order of the PAF fields.
  /// Throws std::invalid_argument where num_keypoints leaves [1, max_keypoints], or a limb leaves [0, num_keypoints),
  /// joins a keypoint with itself or repeats another one (in either direction).
  Skeleton(int num_keypoints, const std::vector<std::pair<int, int>>& limbs);

  int num_keypoints() const { return static_cast<int>(outgoing_.size()); }
  int num_limbs() const { return static_cast<int>(limbs_.size()); }

  /// The keypoints of joint 1 and joint 2.
  std::pair<int, int> limb(int limb) const { return limbs_[static_cast<std::size_t>(limb)]; }

  /// The limbs that leave a keypoint, in the order in which the skeleton lists them.
  const std::vector<DirectedLimb>& outgoing(int keypoint) const {
    return outgoing_[static_cast<std::size_t>(keypoint)];
  }

 private:
  std::vector<std::pair<int, int>> limbs_;
  std::vector<std::vector<DirectedLimb>> outgoing_;
};

}  // namespace dgcn::pifpaf
