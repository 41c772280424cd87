#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "pifpaf/encode/pif.h"

using namespace dgcn::pifpaf;

namespace {

const FieldGrid kGrid{6, 8, 4};
constexpr float kBlank = -7.0F;

struct Planes {
  std::vector<float> confidence = std::vector<float>(kGrid.size(), kBlank);
  std::vector<float> offset = std::vector<float>(2 * kGrid.size(), kBlank);
  std::vector<float> scale = std::vector<float>(kGrid.size(), kBlank);

  explicit Planes(const std::vector<PoseJoint>& poses, int num_keypoints = 1, int k = 0) {
    const std::size_t size = kGrid.size();
    std::vector<float> others(4 * size, kBlank);
    PifPainter painter(kGrid);  // used twice: earlier fields must not matter
    painter.paint({{{8, 8}, 2.0, true}, {{9, 9}, 2.0, true}}, 1, 0,
                  {others.data(), others.data() + size, others.data() + 3 * size});
    painter.paint(poses, num_keypoints, k, {confidence.data(), offset.data(), scale.data()});
    std::vector<float> alone(kGrid.size(), kBlank);
    paint_confidence(poses, num_keypoints, k, kGrid, alone.data());
    CHECK(alone == confidence);
  }

  int painted() const {
    int count = 0;
    for (const float value : confidence) count += value == 1.0F ? 1 : 0;
    return count;
  }
};

PoseJoint joint(double x_px, double y_px, double scale_px = 8.0) { return {{x_px, y_px}, scale_px, true}; }

void test_one() {
  const Planes planes({joint(13, 10)});  // cell (3.25, 2.5): columns 2 to 5, rows 1 to 4
  CHECK(planes.painted() == 16);
  for (int row = 0; row < kGrid.height; ++row) {
    for (int column = 0; column < kGrid.width; ++column) {
      const std::size_t cell = kGrid.index(row, column);
      const bool expected = column >= 2 && column <= 5 && row >= 1 && row <= 4;
      CHECK(planes.confidence[cell] == (expected ? 1.0F : kBlank));
      CHECK(planes.offset[cell] == (expected ? 3.25F - static_cast<float>(column) : kBlank));
      CHECK(planes.offset[kGrid.size() + cell] == (expected ? 2.5F - static_cast<float>(row) : kBlank));
      CHECK(planes.scale[cell] == (expected ? 2.0F : kBlank));
    }
  }
}

void test_border_and_ties() {
  CHECK(Planes({joint(0, 0)}).painted() == 4);    // -1.5 rounds to -2: cells -2 to 1
  CHECK(Planes({joint(28, 20)}).painted() == 4);  // 5.5 rounds to 6, and 3.5 to 4: to 9 and 7
  CHECK(Planes({joint(0, 8)}).painted() == 8);
  // Halves round to even: at cell 3 the patch begins at 1.5 -> 2, at cell 2 at 0.5 -> 0.
  CHECK(Planes({joint(12, 8)}).confidence[kGrid.index(1, 2)] == 1.0F);
  CHECK(Planes({joint(12, 8)}).confidence[kGrid.index(1, 1)] == kBlank);
  CHECK(Planes({joint(8, 8)}).confidence[kGrid.index(1, 0)] == 1.0F);
}

void test_nearest_wins() {
  const double unknown = std::numeric_limits<double>::quiet_NaN();
  const std::vector<PoseJoint> poses{joint(12, 10, 4), joint(16, 10, unknown)};
  const Planes planes(poses);
  for (int row = 1; row <= 4; ++row) {
    CHECK(planes.offset[kGrid.index(row, 3)] == 0.0F);  // cell 3 is the first's, cell 4 the second's
    CHECK(planes.scale[kGrid.index(row, 3)] == 1.0F);
    CHECK(planes.offset[kGrid.index(row, 4)] == 0.0F);
    CHECK(std::isnan(planes.scale[kGrid.index(row, 4)]));
  }
  // The same two the other way round.
  const Planes reversed({poses[1], poses[0]});
  CHECK(reversed.offset == planes.offset);
  CHECK(reversed.painted() == planes.painted());

  // Halfway between two joints: the first.
  const Planes tie({joint(12, 10, 4), joint(20, 10, 12)});
  CHECK(tie.scale[kGrid.index(2, 4)] == 1.0F);
  CHECK(Planes({joint(20, 10, 12), joint(12, 10, 4)}).scale[kGrid.index(2, 4)] == 3.0F);
}

void test_which_are_painted() {
  PoseJoint hidden = joint(12, 10);
  hidden.painted = false;
  CHECK(Planes({hidden}).painted() == 0);
  CHECK(Planes({}).painted() == 0);
  // Of three keypoints the second, of both persons.
  const std::vector<PoseJoint> poses{joint(4, 4), joint(8, 12), joint(4, 4), joint(4, 4), joint(26, 12), joint(4, 4)};
  const Planes planes(poses, 3, 1);
  CHECK(planes.painted() == 16 + 12);  // the second's right column is outside
  CHECK(planes.offset[kGrid.index(3, 2)] == 0.0F && planes.offset[kGrid.index(3, 6)] == 0.5F);
}

}  // namespace

int main() {
  test_one();
  test_border_and_ties();
  test_nearest_wins();
  test_which_are_painted();
  return check_result();
}
