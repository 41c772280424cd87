#include "pifpaf/skeleton.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>

namespace dgcn::pifpaf {

Skeleton::Skeleton(int num_keypoints, const std::vector<std::pair<int, int>>& limbs) : limbs_(limbs) {
  if (num_keypoints < 1 || num_keypoints > kMaxKeypoints)
    throw std::invalid_argument("num_keypoints must be in [1, " + std::to_string(kMaxKeypoints) + "], got " +
                                std::to_string(num_keypoints));
  outgoing_.resize(static_cast<std::size_t>(num_keypoints));

  std::map<std::pair<int, int>, int> seen;
  for (int limb = 0; limb < num_limbs(); ++limb) {
    const auto [a, b] = limbs[static_cast<std::size_t>(limb)];
    const std::string what =
        "skeleton[" + std::to_string(limb) + "] = (" + std::to_string(a) + ", " + std::to_string(b) + ") ";
    if (a < 0 || b < 0 || a >= num_keypoints || b >= num_keypoints)
      throw std::invalid_argument(what + "must hold keypoint indices in [0, " + std::to_string(num_keypoints - 1) +
                                  "]");
    if (a == b) throw std::invalid_argument(what + "must join two different keypoints");
    const auto [first, is_new] = seen.try_emplace(std::minmax(a, b), limb);
    if (!is_new)
      throw std::invalid_argument(what + "must not repeat skeleton[" + std::to_string(first->second) +
                                  "], in either direction");
    outgoing_[static_cast<std::size_t>(a)].push_back({limb, false, a, b});
    outgoing_[static_cast<std::size_t>(b)].push_back({limb, true, b, a});
  }
}

}  // namespace dgcn::pifpaf
