#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "pifpaf/decode/field_reader.h"

using namespace dgcn::pifpaf;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

void test_clamp_to_int() {
  CHECK(clamp_to_int(2.9F, 0, 10) == 2);
  CHECK(clamp_to_int(-0.9F, 0, 10) == 0);
  CHECK(clamp_to_int(10.0F, 0, 10) == 10);
  CHECK(clamp_to_int(1e30F, 0, 10) == 10);
  CHECK(clamp_to_int(-1e30F, 3, 10) == 3);
  CHECK(clamp_to_int(kInfinity, 0, std::numeric_limits<int>::max()) == std::numeric_limits<int>::max());
  CHECK(clamp_to_int(kNaN, 4, 10) == 4);
}

void test_check_fields() {
  const Skeleton skeleton(2, {{0, 1}});
  DecoderConfig config;
  const auto check = [&](int num_keypoints, int num_limbs, int height, int width, int stride) {
    return check_fields({nullptr, nullptr, num_keypoints, num_limbs, height, width}, stride, skeleton, config);
  };
  const PixelSize size = check(2, 1, 81, 41, 8);
  CHECK(size.height == 641 && size.width == 321);
  CHECK(check(2, 1, 1, 1, 16).width == 1);
  CHECK(check(2, 1, 0, 5, 8).height == 0 && check(2, 1, 0, 5, 8).width == 0);
  CHECK(check(2, 1, 5, 0, 8).height == 0);

  CHECK_THROWS(check(3, 1, 5, 5, 8), std::invalid_argument);
  CHECK_THROWS(check(2, 2, 5, 5, 8), std::invalid_argument);
  CHECK_THROWS(check(2, 1, 5, 5, 0), std::invalid_argument);
  CHECK_THROWS(check(2, 1, 5, 5, -8), std::invalid_argument);
  CHECK_THROWS(check(2, 1, -1, 5, 8), std::invalid_argument);
  CHECK_THROWS(check(2, 1, 5, 5, std::numeric_limits<int>::max()), std::invalid_argument);

  config.max_map_pixels = 17 * 9;
  CHECK(check(2, 1, 3, 2, 8).height == 17);
  CHECK_THROWS(check(2, 1, 3, 3, 8), std::invalid_argument);
}

// 1 x 40 cells, so that a block of the scan is whole and one is not.
void test_read() {
  constexpr int kWidth = 40;
  std::vector<float> pif(5 * kWidth, 0.0F);
  const auto set_pif = [&](int cell, float c, float x, float y, float scale) {
    const float values[] = {kNaN, c, x, y, scale};  // the unused component may hold anything
    for (int i = 0; i < 5; ++i) pif[static_cast<std::size_t>(i * kWidth + cell)] = values[i];
  };
  set_pif(3, 0.5F, 1.0F, 2.0F, 3.0F);
  set_pif(4, 0.49F, 1.0F, 2.0F, 3.0F);
  set_pif(5, kNaN, 1.0F, 2.0F, 3.0F);
  set_pif(6, 0.9F, kNaN, 2.0F, 3.0F);
  set_pif(7, 0.9F, 1.0F, -kInfinity, 3.0F);
  set_pif(8, 0.9F, 1.0F, 2.0F, 3e8F);  // finite, but beyond 1e9 px
  set_pif(9, kInfinity, 1.0F, 2.0F, 3.0F);
  set_pif(39, 1e30F, -1.0F, 0.5F, 0.0F);
  const Skeleton skeleton(1, {});
  const FieldReader reader({pif.data(), nullptr, 1, 0, 1, kWidth}, 4, skeleton, {});

  std::vector<PifCell> cells(7);
  reader.read_pif(0, 0.5F, cells);
  CHECK(cells.size() == 2);
  CHECK(cells[0].cell == 3 && cells[0].confidence == 0.5F);
  CHECK(cells[0].x == 4.0F && cells[0].y == 8.0F && cells[0].scale == 12.0F);
  CHECK(cells[1].cell == 39 && cells[1].confidence == 1.0F && cells[1].x == -4.0F);
}

}  // namespace

int main() {
  test_clamp_to_int();
  test_check_fields();
  test_read();
  return check_result();
}
