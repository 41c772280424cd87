#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "pifpaf/encode/poses.h"

using namespace dgcn::pifpaf;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Four keypoints: the corners of an upright rectangle of 2 x 8.
const Proportions kProportions{{0.1, 0.2, 0.3, 0.4}, {{0, 0}, {2, 0}, {0, 8}, {2, 8}}};

std::vector<PoseJoint> read(const std::vector<AnnotatedJoint>& joints) {
  return read_poses(joints.data(), static_cast<int>(joints.size() / 4), {65, 129}, kProportions);
}

void test_is_annotated() {
  CHECK((AnnotatedJoint{1, 2, 1}.is_annotated()));
  CHECK((AnnotatedJoint{-1e9, 1e9, 2}.is_annotated()));
  CHECK(!(AnnotatedJoint{1, 2, 0}.is_annotated()));
  for (const double bad : {kNaN, kInfinity, -kInfinity, 1.1e9, -1e300}) {
    CHECK(!(AnnotatedJoint{bad, 2, 2}.is_annotated()));
    CHECK(!(AnnotatedJoint{2, bad, 2}.is_annotated()));
  }
  CHECK(!(AnnotatedJoint{1, 2, kNaN}.is_annotated()));
}

void test_scale() {
  const AnnotatedJoint whole[] = {{10, 10, 2}, {20, 10, 1}, {10, 50, 2}, {20, 50, 2}};
  CHECK(person_scale(whole, kProportions) == 20.0);  // √(10 · 40)

  // Without the fourth the box is the same, of the person as of the upright pose.
  const AnnotatedJoint part[] = {{10, 10, 2}, {20, 10, 1}, {10, 50, 2}, {90, 90, 0}};
  CHECK(person_scale(part, kProportions) == 20.0);

  // A pose of which three joints are seen in 1/36 of the area counts as at most five times as large, not six.
  const Proportions narrow{{1, 1, 1, 1}, {{0, 0}, {1, 0}, {0, 1}, {6, 6}}};
  const AnnotatedJoint three[] = {{10, 10, 2}, {20, 10, 2}, {10, 20, 2}, {0, 0, 0}};
  CHECK(person_scale(three, narrow) == 50.0);
  // The three are on a line in the upright pose: any factor is possible, so it is the largest.
  const Proportions flat{{1, 1, 1, 1}, {{0, 0}, {1, 0}, {2, 0}, {6, 6}}};
  CHECK(person_scale(three, flat) == 50.0);

  const AnnotatedJoint two[] = {{10, 10, 2}, {20, 50, 2}, {0, 0, 0}, {kNaN, 0, 2}};
  CHECK(std::isnan(person_scale(two, kProportions)));
  const AnnotatedJoint line[] = {{10, 10, 2}, {20, 10, 2}, {30, 10, 2}, {40, 10, 2}};
  CHECK(std::isnan(person_scale(line, kProportions)));
}

void test_inside() {
  const std::vector<PoseJoint> poses =
      read({{0, 0, 2}, {128, 64, 1}, {-1e-9, 3, 2}, {128.5, 3, 2}, {3, 64.5, 2}, {3, -1, 2}, {kNaN, 3, 2}, {3, 3, 0}});
  CHECK(poses.size() == 8);
  CHECK(poses[0].painted && poses[1].painted);
  for (std::size_t i = 2; i < 8; ++i) CHECK(!poses[i].painted);
  CHECK(poses[1].position.x == 128.0 && poses[1].position.y == 64.0);
  // Joints outside count for the size of the person: √(128.5 · 64) from its four corners.
  const double scale = std::sqrt(128.5 - -1e-9) * std::sqrt(64.0);
  CHECK_NEAR(poses[3].scale, scale * 0.4, 1e-9);
  CHECK_NEAR(poses[0].scale, scale * 0.1, 1e-9);
}

void test_hidden() {
  const AnnotatedJoint none{0, 0, 0};
  const auto with = [&](AnnotatedJoint first, AnnotatedJoint second) {
    return read({first, none, none, none, second, none, none, none});
  };
  CHECK(!with({20, 20, 1}, {51.9, 20, 2})[0].painted);  // hidden behind the other
  CHECK(with({20, 20, 1}, {51.9, 20, 2})[4].painted);
  CHECK(with({20, 20, 1}, {52, 20, 2})[0].painted);     // 32 px away
  CHECK(with({20, 20, 1}, {30, 20, 1})[0].painted);     // the other is hidden as well
  CHECK(with({20, 20, 2}, {20, 20, 2})[0].painted);     // visible
  CHECK(with({5, 20, 1}, {-5, 20, 2})[0].painted);      // the other is outside
  CHECK(!with({120, 30, 2}, {100, 20, 1})[4].painted);  // whatever the order
  // Another keypoint hides nothing.
  CHECK(read({{20, 20, 1}, none, none, none, none, {20, 20, 2}, none, none})[0].painted);
}

}  // namespace

int main() {
  test_is_annotated();
  test_scale();
  test_inside();
  test_hidden();
  CHECK(read({}).empty());
  return check_result();
}
