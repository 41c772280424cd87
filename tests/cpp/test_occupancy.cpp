#include "check.h"
#include "pifpaf/occupancy.h"

using namespace dgcn::pifpaf;

namespace {

constexpr PixelSize kSize{41, 61};

void test_square() {
  Occupancy occupancy(2, kSize, {});
  CHECK(!occupancy.occupied(0, {1.0F, 20.0F, 20.0F, 0.0F}));  // nothing marked yet

  occupancy.mark(0, {1.0F, 20.0F, 20.0F, 10.0F});  // cells [5, 15) along both axes: pixels 10 to 29.9
  CHECK(occupancy.occupied(0, {1.0F, 10.0F, 10.0F, 0.0F}));
  CHECK(occupancy.occupied(0, {1.0F, 29.9F, 29.9F, 0.0F}));
  CHECK(!occupancy.occupied(0, {1.0F, 9.9F, 20.0F, 0.0F}));
  CHECK(!occupancy.occupied(0, {1.0F, 20.0F, 30.0F, 0.0F}));
  CHECK(!occupancy.occupied(1, {1.0F, 20.0F, 20.0F, 0.0F}));  // keypoints are apart

  occupancy.mark(1, {1.0F, 20.0F, 20.0F, 0.5F});  // the smallest half side: cells [8, 12), pixels 16 to 23.9
  CHECK(occupancy.occupied(1, {1.0F, 16.0F, 23.9F, 0.0F}));
  CHECK(!occupancy.occupied(1, {1.0F, 15.9F, 20.0F, 0.0F}));
  CHECK(!occupancy.occupied(1, {1.0F, 24.0F, 20.0F, 0.0F}));
}

void test_borders() {
  Occupancy occupancy(1, kSize, {});
  occupancy.mark(0, {1.0F, 1000.0F, -1000.0F, 3.0F});  // clamped to one cell in the corner
  CHECK(occupancy.occupied(0, {1.0F, 60.0F, 0.0F, 0.0F}));
  CHECK(occupancy.occupied(0, {1.0F, 1e9F, -1e9F, 0.0F}));  // and so are look-ups
  CHECK(!occupancy.occupied(0, {1.0F, 59.0F, 0.0F, 0.0F}));
  CHECK(!occupancy.occupied(0, {1.0F, 60.0F, 2.0F, 0.0F}));
  occupancy.mark(0, {1.0F, 0.0F, 0.0F, 1e9F});
  CHECK(occupancy.occupied(0, {1.0F, 30.0F, 40.0F, 0.0F}));
}

void test_clear() {
  Occupancy occupancy(1, kSize, {});
  occupancy.mark(0, {1.0F, 20.0F, 20.0F, 10.0F});
  occupancy.mark(0, {1.0F, 25.0F, 20.0F, 10.0F});
  occupancy.clear();
  for (int y = 0; y < kSize.height; ++y) {
    for (int x = 0; x < kSize.width; ++x)
      CHECK(!occupancy.occupied(0, {1.0F, static_cast<float>(x), static_cast<float>(y), 0.0F}));
  }
}

void test_one_pixel() {
  Occupancy occupancy(1, {1, 1}, {});
  occupancy.mark(0, {1.0F, 0.0F, 0.0F, 1.0F});
  CHECK(occupancy.occupied(0, {1.0F, 0.4F, 0.4F, 0.0F}));
}

}  // namespace

int main() {
  test_square();
  test_borders();
  test_clear();
  test_one_pixel();
  return check_result();
}
