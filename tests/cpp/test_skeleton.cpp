#include <stdexcept>

#include "check.h"
#include "pifpaf/skeleton.h"

using dgcn::pifpaf::Skeleton;

int main() {
  const Skeleton skeleton(4, {{2, 1}, {0, 2}});
  CHECK(skeleton.num_keypoints() == 4);
  CHECK(skeleton.num_limbs() == 2);

  const auto& from_two = skeleton.outgoing(2);
  CHECK(from_two.size() == 2);
  CHECK(from_two[0].limb == 0 && !from_two[0].backward && from_two[0].start == 2 && from_two[0].end == 1);
  CHECK(from_two[1].limb == 1 && from_two[1].backward && from_two[1].start == 2 && from_two[1].end == 0);
  CHECK(skeleton.outgoing(0)[0].limb == 1 && !skeleton.outgoing(0)[0].backward);
  CHECK(skeleton.outgoing(1)[0].limb == 0 && skeleton.outgoing(1)[0].backward);
  CHECK(skeleton.limb(1).first == 0 && skeleton.limb(1).second == 2);
  CHECK(skeleton.outgoing(3).empty());

  CHECK(Skeleton(1, {}).num_limbs() == 0);
  CHECK_THROWS(Skeleton(0, {}), std::invalid_argument);
  CHECK_THROWS(Skeleton(Skeleton::kMaxKeypoints + 1, {}), std::invalid_argument);
  CHECK_THROWS(Skeleton(3, {{0, 3}}), std::invalid_argument);
  CHECK_THROWS(Skeleton(3, {{-1, 0}}), std::invalid_argument);
  CHECK_THROWS(Skeleton(3, {{1, 1}}), std::invalid_argument);
  CHECK_THROWS(Skeleton(3, {{0, 1}, {1, 2}, {0, 1}}), std::invalid_argument);
  CHECK_THROWS(Skeleton(3, {{0, 1}, {1, 0}}), std::invalid_argument);
  return check_result();
}
