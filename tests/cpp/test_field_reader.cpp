#include <cmath>
#include <cstdint>
#include <cstring>
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

// Two keypoints and a limb on 2 x 3 cells of 4 px, as heads in every layout and type: the same cells are read.
void test_heads() {
  constexpr int kHeight = 2, kWidth = 3, kCells = 6, kStride = 4;
  const Skeleton skeleton(2, {{0, 1}});
  std::vector<float> pif(2 * 5 * kCells, -8.0F), paf(7 * kCells, -8.0F);
  const auto set = [&](std::vector<float>& head, int field, int components, int cell, std::vector<float> values) {
    for (std::size_t c = 0; c < values.size(); ++c)
      head[static_cast<std::size_t>((field * components + static_cast<int>(c)) * kCells + cell)] = values[c];
  };
  set(pif, 0, 5, 4, {2.0F, 0.5F, -0.25F, kNaN, 0.5F});  // row 1, column 1
  set(pif, 1, 5, 5, {-8.0F, 0.0F, 0.0F, 0.0F, 1.5F});
  set(paf, 0, 7, 0, {-1.0F, 0.75F, 1.0F, 1.625F, 9.0F, kNaN, kNaN});
  set(paf, 0, 7, 1, {3.0F, 0.5F, kNaN, 0.5F, 0.5F});

  const auto check = [&](const FieldArray& pif_array, const FieldArray& paf_array) {
    const FieldReader reader({pif_array, paf_array, 2, 1, kHeight, kWidth, Form::kHeads}, kStride, skeleton, {});
    std::vector<PifCell> cells;
    reader.read_pif(0, 0.5F, cells);
    CHECK(cells.size() == 1 && cells[0].cell == 4);
    CHECK_NEAR(cells[0].confidence, 1.0 / (1.0 + std::exp(-2.0)), 1e-7);
    CHECK(cells[0].x == 1.5F * kStride && cells[0].y == 0.75F * kStride);
    CHECK_NEAR(cells[0].scale, std::log1p(std::exp(0.5)) * kStride, 1e-5);
    reader.read_pif(1, 0.5F, cells);
    CHECK(cells.empty());

    CHECK((reader.find_paf(0, 0.2F, 2) == std::vector<int>{0, 1}));
    CHECK(reader.find_paf(0, 0.2F, 0).size() >= 1);
    const PafCells limb = reader.copy_paf(0, {0, 1});
    CHECK_NEAR(limb.confidence[0], 1.0 / (1.0 + std::exp(1.0)), 1e-7);
    CHECK(limb.confidence[1] == 0.0F);  // y1 is NaN
    CHECK(limb.x1[0] == 3.0F && limb.y1[0] == 4.0F && limb.x2[0] == 6.5F && limb.y2[0] == 36.0F && limb.to_px == 1.0F);
    // The ends are nearest to cell (1, 1) of the first keypoint and, beyond the border, to cell (1, 2) of the second.
    CHECK_NEAR(reader.paf_scale(0, false, 0, limb.x1[0], limb.y1[0]), std::log1p(std::exp(0.5)) * kStride, 1e-5);
    CHECK_NEAR(reader.paf_scale(0, true, 0, limb.x2[0], limb.y2[0]), std::log1p(std::exp(1.5)) * kStride, 1e-5);
    CHECK(reader.paf(0).confidence[0] == limb.confidence[0]);
  };
  check(pif.data(), paf.data());

  // channels_last, with a column more than is used.
  const Strides pif_strides{5, 1, 10 * (kWidth + 1), 10}, paf_strides{7, 1, 7 * (kWidth + 1), 7};
  const auto moved = [&](const std::vector<float>& head, int fields, int components, const Strides& s, auto convert) {
    std::vector<decltype(convert(0.0F))> result(static_cast<std::size_t>(fields * components * kHeight * (kWidth + 1)));
    for (int f = 0; f < fields; ++f)
      for (int c = 0; c < components; ++c)
        for (int i = 0; i < kCells; ++i)
          result[static_cast<std::size_t>(f * s.field + c * s.component + i / kWidth * s.row + i % kWidth * s.column)] =
              convert(head[static_cast<std::size_t>((f * components + c) * kCells + i)]);
    return result;
  };
  const auto check_as = [&](Storage storage, auto convert) {
    const auto p = moved(pif, 2, 5, pif_strides, convert), q = moved(paf, 1, 7, paf_strides, convert);
    check({p.data(), storage, pif_strides}, {q.data(), storage, paf_strides});
  };
  const auto bits_of = [](float value) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  };
  check_as(Storage::kFloat32, [](float value) { return value; });
  check_as(Storage::kBFloat16, [&](float value) { return static_cast<std::uint16_t>(bits_of(value) >> 16); });
  check_as(Storage::kFloat16, [&](float value) {  // of the values above: normal, zero, NaN
    const std::uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000U;
    if (value == 0.0F) return static_cast<std::uint16_t>(sign);
    if (std::isnan(value)) return std::uint16_t{0x7E00};
    return static_cast<std::uint16_t>(sign | ((bits & 0x7FFFFFFFU) - (112U << 23)) >> 13);
  });
}

}  // namespace

int main() {
  test_clamp_to_int();
  test_check_fields();
  test_read();
  test_heads();
  return check_result();
}
