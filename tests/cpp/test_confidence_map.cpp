#include <cmath>
#include <limits>

#include "check.h"
#include "pifpaf/confidence_map.h"

using namespace dgcn::pifpaf;

namespace {

constexpr float kMissing = -7.0F;

// σ = 0.5·8 = 4 px; what a cell adds d px away, by definition.
double weight(double d) { return std::pow(1.0 - d * d / (16.0 * 16.0), 8); }

void test_shape_of_a_cell() {
  ConfidenceMap map({21, 31}, {});
  CHECK(map.at(10.0F, 10.0F, kMissing) == kMissing);  // nothing painted yet
  map.paint({{0, 0.8F, 15.2F, 10.0F, 8.0F}});
  CHECK_NEAR(map.at(15.0F, 10.0F, kMissing), 0.8 / 16, 1e-7);  // the pixel under the cell, in full
  CHECK_NEAR(map.at(16.0F, 10.0F, kMissing), 0.8 / 16 * weight(0.8), 1e-7);
  CHECK_NEAR(map.at(13.0F, 12.0F, kMissing), 0.8 / 16 * weight(std::hypot(2.2, 2.0)), 1e-7);
  CHECK_NEAR(map.at(19.0F, 10.0F, kMissing), 0.8 / 16 * weight(3.8), 1e-7);
  CHECK(map.at(20.0F, 10.0F, kMissing) == kMissing);          // 4.8 px > σ
  CHECK(map.at(18.0F, 13.0F, kMissing) == kMissing);          // in the box, but √(2.8² + 3²) > σ
  CHECK_NEAR(map.at(15.4F, 9.6F, kMissing), 0.8 / 16, 1e-7);  // nearest pixel
}

void test_threshold_and_smallest_sigma() {
  ConfidenceMap map({9, 9}, {});
  map.paint({{0, 0.29F, 4.0F, 4.0F, 2.0F}, {1, 0.3F, 2.0F, 2.0F, 0.1F}});
  CHECK(map.at(4.0F, 4.0F, kMissing) == kMissing);
  CHECK_NEAR(map.at(2.0F, 2.0F, kMissing), 0.3 / 16, 1e-7);
  CHECK_NEAR(map.at(3.0F, 2.0F, kMissing), 0.3 / 16 * std::pow(15.0 / 16, 8), 1e-7);  // σ = 1 px reaches it
  CHECK(map.at(3.0F, 3.0F, kMissing) == kMissing);
}

void test_saturation_and_clear() {
  ConfidenceMap map({9, 9}, {});
  for (int i = 0; i < 17; ++i) map.paint({{i, 1.0F, 4.0F, 4.0F, 4.0F}});
  CHECK(map.at(4.0F, 4.0F, kMissing) == 1.0F);
  map.clear();
  for (int y = 0; y < 9; ++y) {
    for (int x = 0; x < 9; ++x) CHECK(map.at(static_cast<float>(x), static_cast<float>(y), kMissing) == kMissing);
  }
  map.paint({{0, 1.0F, 4.0F, 4.0F, 4.0F}});
  CHECK_NEAR(map.at(4.0F, 4.0F, kMissing), 1.0 / 16, 1e-7);
}

void test_borders() {
  ConfidenceMap map({5, 7}, {});
  map.paint({{0, 1.0F, 0.0F, 0.0F, 2.0F}, {1, 1.0F, 6.0F, 4.0F, 2.0F}});
  CHECK(map.at(-0.48F, 0.0F, kMissing) > 0.0F);
  CHECK(map.at(-0.5F, 0.0F, kMissing) == kMissing);
  CHECK(map.at(6.48F, 4.48F, kMissing) > 0.0F);
  CHECK(map.at(6.5F, 4.0F, kMissing) == kMissing);
  CHECK(map.at(6.0F, 4.5F, kMissing) == kMissing);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(map.at(nan, 0.0F, kMissing) == kMissing);
  CHECK(map.at(1e30F, -1e30F, kMissing) == kMissing);
}

void test_extreme_cells() {
  ConfidenceMap map({5, 7}, {});
  map.paint({{0, 1.0F, -1e9F, 1e9F, 3.0F}, {1, 1.0F, 3.0F, 2.0F, -1e9F}});
  CHECK_NEAR(map.at(3.0F, 2.0F, kMissing), 1.0 / 16, 1e-7);  // a negative scale has the smallest σ
  map.paint({{2, 1.0F, 3.0F, 2.0F, 1e9F}});                  // and a huge one covers everything
  CHECK_NEAR(map.at(0.0F, 0.0F, kMissing), 1.0 / 16, 1e-7);
}

}  // namespace

int main() {
  test_shape_of_a_cell();
  test_threshold_and_smallest_sigma();
  test_saturation_and_clear();
  test_borders();
  test_extreme_cells();
  return check_result();
}
