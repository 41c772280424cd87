#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "pifpaf/encode/paf.h"

using namespace dgcn::pifpaf;

namespace {

const FieldGrid kGrid{6, 9, 4};
constexpr float kBlank = -7.0F;

struct Planes {
  std::vector<float> confidence = std::vector<float>(kGrid.size(), kBlank);
  std::vector<float> offset = std::vector<float>(4 * kGrid.size(), kBlank);

  explicit Planes(const std::vector<PoseJoint>& poses, std::pair<int, int> limb = {0, 1}, int num_keypoints = 2) {
    std::vector<float> others(5 * kGrid.size(), kBlank);
    PafPainter painter(kGrid);  // used twice: earlier fields must not matter
    painter.paint({{{0, 0}, 1.0, true}, {{32, 20}, 1.0, true}}, 2, {0, 1},
                  {others.data(), others.data() + kGrid.size()});
    painter.paint(poses, num_keypoints, limb, {confidence.data(), offset.data()});
  }

  /// A row a line: '#' where a limb is.
  std::string shape() const {
    std::string text;
    for (int row = 0; row < kGrid.height; ++row, text += ' ') {
      for (int column = 0; column < kGrid.width; ++column)
        text += confidence[kGrid.index(row, column)] == 1.0F ? '#' : '.';
    }
    return text;
  }

  float at(int component, int row, int column) const {
    return offset[static_cast<std::size_t>(component) * kGrid.size() + kGrid.index(row, column)];
  }
};

/// A joint at (column, row) in cells.
PoseJoint joint(double column, double row) { return {{4 * column, 4 * row}, 1.0, true}; }

void test_shapes() {
  CHECK(Planes({joint(2, 2), joint(5, 2)}).shape() == "......... .######.. .######.. .######.. ......... ......... ");
  CHECK(Planes({joint(0, 0), joint(0, 0)}).shape() == "##....... ##....... ......... ......... ......... ......... ");
  CHECK(Planes({joint(8, 5), joint(8, 5)}).shape() == "......... ......... ......... ......... .......## .......## ");
  CHECK(Planes({joint(1, 1), joint(3, 3)}).shape() == "###...... ####..... #####.... .####.... ..###.... ......... ");
  // Exactly two cells long: two points, whose blocks touch. Shorter than a cell: both ends are painted.
  CHECK(Planes({joint(2, 2), joint(4, 2)}).shape() == "......... .#####... .#####... .#####... ......... ......... ");
  CHECK(Planes({joint(2.4, 2), joint(2.6, 2)}).shape() ==
        "......... .####.... .####.... .####.... ......... ......... ");
  // Points two cells apart that round to cells three apart.
  CHECK(Planes({joint(1.4999999999999998, 2), joint(3.4999999999999998, 2)}).shape() ==
        "......... ######... ######... ######... ......... ......... ");
  CHECK(Planes({joint(2, 1.4999999999999998), joint(2, 3.4999999999999998)}).shape() ==
        ".###..... .###..... .###..... .###..... .###..... .###..... ");
}

void test_offsets() {
  const Planes planes({joint(2.25, 1.5), joint(5.5, 4)});
  int count = 0;
  for (int row = 0; row < kGrid.height; ++row) {
    for (int column = 0; column < kGrid.width; ++column) {
      const bool here = planes.confidence[kGrid.index(row, column)] == 1.0F;
      const float x = static_cast<float>(column), y = static_cast<float>(row);
      CHECK(planes.at(0, row, column) == (here ? 2.25F - x : kBlank));
      CHECK(planes.at(1, row, column) == (here ? 1.5F - y : kBlank));
      CHECK(planes.at(2, row, column) == (here ? 5.5F - x : kBlank));
      CHECK(planes.at(3, row, column) == (here ? 4.0F - y : kBlank));
      count += here ? 1 : 0;
    }
  }
  CHECK(count > 15);
}

void test_smallest_perpendicular_distance_wins() {
  // Two level limbs, 1.5 rows apart: rows 1 and 2 are nearer to the first, row 3 to the second.
  const std::vector<PoseJoint> poses{joint(1, 1.75), joint(7, 1.75), joint(1, 3.25), joint(7, 3.25)};
  const Planes planes(poses);
  const Planes reversed({poses[2], poses[3], poses[0], poses[1]});
  for (int column = 0; column <= 8; ++column) {
    CHECK(planes.at(1, 2, column) == -0.25F);
    CHECK(planes.at(1, 3, column) == 0.25F);
  }
  CHECK(reversed.offset == planes.offset);

  // A cell beyond a limb's end but in line with it is nearer to it than one beside it.
  const Planes beyond({joint(1, 2), joint(4, 2), joint(5, 2.25), joint(8, 2.25)});
  CHECK(beyond.at(0, 2, 5) == -4.0F);

  // Halfway between two limbs: the first.
  const Planes tie({joint(1, 1), joint(7, 1), joint(1, 3), joint(7, 3)});
  CHECK(tie.at(1, 2, 4) == -1.0F);
  CHECK(Planes({joint(1, 3), joint(7, 3), joint(1, 1), joint(7, 1)}).at(1, 2, 4) == 1.0F);

  // For a limb of length 0 the distance to its ends is taken.
  const Planes point({joint(4, 2.25), joint(4, 2.25), joint(1, 2.5), joint(7, 2.5)});
  CHECK(point.at(1, 2, 4) == 0.25F);  // 0.25 against 0.5
  CHECK(point.at(1, 3, 4) == -0.5F);  // 0.75 against 0.5
  CHECK(point.at(1, 2, 5) == 0.5F);   // 1.03 against 0.5
}

void test_both_joints_must_be_painted() {
  for (const std::size_t missing : {0U, 1U}) {
    std::vector<PoseJoint> poses{joint(2, 2), joint(5, 2)};
    poses[missing].painted = false;
    CHECK(Planes(poses).shape() == std::string("......... ......... ......... ......... ......... ......... "));
  }
  CHECK(Planes({}).shape() == std::string("......... ......... ......... ......... ......... ......... "));
  // The limb's own joints, of several keypoints.
  const Planes planes({joint(0, 0), joint(5, 4), joint(2, 4)}, {2, 1}, 3);
  CHECK(planes.shape() == std::string("......... ......... ......... .######.. .######.. .######.. "));
  CHECK(planes.at(0, 4, 2) == 0.0F && planes.at(2, 4, 2) == 3.0F);  // from keypoint 2 to keypoint 1
}

}  // namespace

int main() {
  test_shapes();
  test_offsets();
  test_smallest_perpendicular_distance_wins();
  test_both_joints_must_be_painted();
  return check_result();
}
