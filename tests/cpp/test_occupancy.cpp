#include <algorithm>

#include "check.h"
#include "pifpaf/decode/occupancy.h"

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
  CHECK(!occupancy.occupied(1, {1.0F, 20.0F, 20.0F, 0.0F}));  // another keypoint

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

// Rows and bitmaps follow each other without padding, so they do not begin at word borders.
void test_no_spill_into_other_rows_and_keypoints() {
  constexpr PixelSize kSmall{9, 139};
  DecoderConfig config;
  config.occupancy_reduction = 1.0F;
  config.occupancy_min_half_side = 0.0F;
  for (int row = 0; row < kSmall.height; ++row) {
    for (int column = 0; column < kSmall.width; ++column) {
      Occupancy occupancy(3, kSmall, config);
      const auto y = static_cast<float>(row), x = static_cast<float>(column);
      occupancy.mark(1,
                     {1.0F, x, y, static_cast<float>(column)});  // cells [0, 2·column) × [row − column, row + column)
      int wrong = 0;
      for (int k = 0; k < 3; ++k) {
        for (int i = 0; i < kSmall.height; ++i) {
          for (int j = 0; j < kSmall.width; ++j) {
            const bool inside =
                k == 1 && j < std::max(1, 2 * column) && i >= row - column && (i < row + column || i == row);
            wrong += occupancy.occupied(k, {1.0F, static_cast<float>(j), static_cast<float>(i), 0.0F}) != inside;
          }
        }
      }
      CHECK(wrong == 0);
    }
  }
}

// The longest edge that max_map_pixels allows: no integer overflow.
void test_longest_edge() {
  constexpr int kEdge = 1 << 30;
  DecoderConfig config;
  config.occupancy_reduction = 1.0F;
  for (const PixelSize size : {PixelSize{1, kEdge}, PixelSize{kEdge, 1}}) {
    Occupancy occupancy(1, size, config);
    const auto at = [&](float place) {
      return size.width == kEdge ? Joint{1.0F, place, 0.0F, 1000.0F} : Joint{1.0F, 0.0F, place, 1000.0F};
    };
    occupancy.mark(0, at(static_cast<float>(kEdge)));
    CHECK(occupancy.occupied(0, at(static_cast<float>(kEdge))));
    CHECK(!occupancy.occupied(0, at(static_cast<float>(kEdge - 2048))));
    CHECK(!occupancy.occupied(0, at(0.0F)));
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
  test_no_spill_into_other_rows_and_keypoints();
  test_longest_edge();
  test_one_pixel();
  return check_result();
}
