#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "pifpaf/decode/confidence_map.h"

using namespace dgcn::pifpaf;

namespace {

constexpr float kMissing = -7.0F;

template <typename Map>
float value_at(Map&& map, float x, float y, float missing) {
  map.look_up(&x, &y, 1, missing, &x);
  return x;
}

// What a cell with σ = 0.5·8 = 4 px adds d px away, relative to its peak.
double weight(double d) { return std::pow(1.0 - d * d / (16.0 * 16.0), 8); }

void test_shape_of_a_cell() {
  CHECK(value_at(ConfidenceMap({}, {21, 31}, {}), 10.0F, 10.0F, kMissing) == kMissing);
  ConfidenceMap map({{0, 0.8F, 15.2F, 10.0F, 8.0F}}, {21, 31}, {});
  CHECK_NEAR(value_at(map, 15.0F, 10.0F, kMissing), 0.8 / 16, 1e-7);  // the pixel nearest to the centre
  CHECK_NEAR(value_at(map, 16.0F, 10.0F, kMissing), 0.8 / 16 * weight(0.8), 1e-7);
  CHECK_NEAR(value_at(map, 13.0F, 12.0F, kMissing), 0.8 / 16 * weight(std::hypot(2.2, 2.0)), 1e-7);
  CHECK_NEAR(value_at(map, 19.0F, 10.0F, kMissing), 0.8 / 16 * weight(3.8), 1e-7);
  CHECK(value_at(map, 20.0F, 10.0F, kMissing) == kMissing);          // 4.8 px > σ
  CHECK(value_at(map, 18.0F, 13.0F, kMissing) == kMissing);          // in the box, but √(2.8² + 3²) > σ
  CHECK_NEAR(value_at(map, 15.4F, 9.6F, kMissing), 0.8 / 16, 1e-7);  // nearest pixel
}

void test_threshold_and_smallest_sigma() {
  ConfidenceMap map({{0, 0.29F, 4.0F, 4.0F, 2.0F}, {1, 0.3F, 2.0F, 2.0F, 0.1F}}, {9, 9}, {});
  CHECK(value_at(map, 4.0F, 4.0F, kMissing) == kMissing);
  CHECK_NEAR(value_at(map, 2.0F, 2.0F, kMissing), 0.3 / 16, 1e-7);
  CHECK_NEAR(value_at(map, 3.0F, 2.0F, kMissing), 0.3 / 16 * std::pow(15.0 / 16, 8), 1e-7);  // σ = 1 px reaches it
  CHECK(value_at(map, 3.0F, 3.0F, kMissing) == kMissing);
}

void test_saturation() {
  const auto centre = [](std::size_t num_cells) {
    return value_at(ConfidenceMap({num_cells, {0, 1.0F, 4.0F, 4.0F, 4.0F}}, {9, 9}, {}), 4.0F, 4.0F, kMissing);
  };
  CHECK_NEAR(centre(1), 1.0 / 16, 1e-7);
  CHECK_NEAR(centre(15), 15.0 / 16, 1e-6);
  CHECK(centre(17) == 1.0F);
}

void test_borders() {
  ConfidenceMap map({{0, 1.0F, 0.0F, 0.0F, 2.0F}, {1, 1.0F, 6.0F, 4.0F, 2.0F}}, {5, 7}, {});
  CHECK(value_at(map, -0.48F, 0.0F, kMissing) > 0.0F);
  CHECK(value_at(map, -0.5F, 0.0F, kMissing) == kMissing);
  CHECK(value_at(map, 6.48F, 4.48F, kMissing) > 0.0F);
  CHECK(value_at(map, 6.5F, 4.0F, kMissing) == kMissing);
  CHECK(value_at(map, 6.0F, 4.5F, kMissing) == kMissing);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(value_at(map, nan, 0.0F, kMissing) == kMissing);
  CHECK(value_at(map, 1e30F, -1e30F, kMissing) == kMissing);
}

void test_extreme_cells() {
  std::vector<PifCell> cells{{0, 1.0F, -1e9F, 1e9F, 3.0F}, {1, 1.0F, 3.0F, 2.0F, -1e9F}};
  CHECK_NEAR(value_at(ConfidenceMap(cells, {5, 7}, {}), 3.0F, 2.0F, kMissing), 1.0 / 16,
             1e-7);                              // negative: the smallest σ
  cells.push_back({2, 1.0F, 3.0F, 2.0F, 1e9F});  // huge: covers everything
  CHECK_NEAR(value_at(ConfidenceMap(cells, {5, 7}, {}), 0.0F, 0.0F, kMissing), 1.0 / 16, 1e-7);
}

// Look-ups by cached blocks give the bits of the rendered map. Centres at quarter pixels put many pixels at exactly σ,
// and with large coordinates the bounding box and the circle disagree.
void test_lookups_equal_the_rendered_map() {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    const PixelSize size{round % 2 == 0 ? 150 : 70, 90 + round};
    std::uniform_int_distribution<int> place(-40, 4 * 190), scale(0, round % 3 == 0 ? 2000 : 60);
    const float offset = round % 5 == 0 ? 0.1F : 0.0F;
    std::vector<PifCell> cells;
    for (int i = 0; i < 200; ++i) {
      const float confidence = 0.3F + 0.0035F * static_cast<float>(i);
      cells.push_back({i, confidence, 0.25F * static_cast<float>(place(random)) + offset,
                       0.25F * static_cast<float>(place(random)), 0.5F * static_cast<float>(scale(random)) + offset});
    }
    ConfidenceMap map(cells, size, {});
    std::vector<float> pixels(static_cast<std::size_t>(size.height * size.width));
    map.render(pixels.data());
    int wrong = 0;
    for (int step = 0; step < size.height * size.width; ++step) {
      const int pixel = static_cast<int>((static_cast<long long>(step) * 7919) % (size.height * size.width));
      const float expected = pixels[static_cast<std::size_t>(pixel)];
      const float found =
          value_at(map, static_cast<float>(pixel % size.width), static_cast<float>(pixel / size.width), 0.0F);
      wrong += found == expected ? 0 : 1;
    }
    CHECK(wrong == 0);
  }
}

}  // namespace

int main() {
  test_shape_of_a_cell();
  test_threshold_and_smallest_sigma();
  test_saturation();
  test_borders();
  test_extreme_cells();
  test_lookups_equal_the_rendered_map();
  return check_result();
}
