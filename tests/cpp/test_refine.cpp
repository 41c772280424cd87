#include <cmath>
#include <cstddef>
#include <vector>

#include "check.h"
#include "pifpaf/decode/refine.h"

using namespace dgcn::pifpaf;

namespace {

constexpr int kEdge = 9, kStride = 8;
constexpr std::size_t kPlane = kEdge * kEdge;

/// A field of one keypoint without confidence.
struct PifField {
  std::vector<float> values = std::vector<float>(5 * kPlane);

  /// Lets a cell point to (x, y) [px].
  void set(std::size_t cell, float confidence, float x, float y) {
    const float components[] = {0.0F, confidence, x / kStride, y / kStride, 1.0F};
    for (std::size_t i = 0; i < 5; ++i) values[i * kPlane + cell] = components[i];
  }

  Joint refined(const Joint& joint, const DecoderConfig& config) const {
    Persons persons{1, {joint}};
    const Skeleton skeleton(1, {});
    refine({{values.data(), nullptr, 1, 0, kEdge, kEdge}, kStride, skeleton, config}, config, persons);
    return persons[0][0];
  }
};

DecoderConfig rounds(int count) {
  DecoderConfig config;
  config.refine_rounds = count;
  return config;
}

void test_weighted_mean() {
  PifField field;
  field.set(30, 0.9F, 30.0F, 30.0F);
  field.set(31, 0.3F, 34.0F, 30.0F);
  const Joint joint{0.5F, 31.0F, 32.0F, 2.0F};  // σ is one cell, 8 px
  const Joint moved = field.refined(joint, rounds(1));
  const double first = 0.9 * std::exp(-5.0 / 128.0), second = 0.3 * std::exp(-13.0 / 128.0);
  CHECK_NEAR(moved.x, (30.0 * first + 34.0 * second) / (first + second), 1e-4);
  CHECK_NEAR(moved.y, 30.0, 1e-4);
  CHECK(moved.confidence == joint.confidence && moved.scale == joint.scale);
  CHECK(field.refined(joint, rounds(0)).x == joint.x);
  CHECK(field.refined(joint, rounds(2)).x != moved.x);
}

void test_what_does_not_count() {
  PifField field;
  field.set(10, 0.01F, 30.0F, 30.0F);  // below the threshold
  field.set(11, 0.9F, 57.0F, 30.0F);   // further than 3σ = 24 px
  field.set(12, 0.9F, NAN, 30.0F);
  const Joint joint{0.5F, 32.0F, 32.0F, 8.0F};
  CHECK(field.refined(joint, rounds(2)).x == 32.0F && field.refined(joint, rounds(2)).y == 32.0F);
  const Joint wide{0.5F, 32.0F, 32.0F, 9.0F};  // 27 px: now it does
  CHECK_NEAR(field.refined(wide, rounds(1)).x, 57.0, 1e-4);
  const Joint missing{};
  CHECK(field.refined(missing, rounds(1)).x == 0.0F);
}

/// More cells than are weighted at a time, from every side, in other buckets and outside of the image.
void test_many_cells() {
  PifField field;
  double sum = 0.0, sum_x = 0.0;
  const Joint joint{0.5F, 3.0F, 60.0F, 16.0F};
  for (std::size_t cell = 0; cell < kPlane; ++cell) {
    const float x = -20.0F + static_cast<float>(cell % kEdge) * 6.0F,
                y = 30.0F + static_cast<float>(cell / kEdge) * 7.0F;
    field.set(cell, 0.4F, x, y);
    const double distance2 = std::pow(x - joint.x, 2) + std::pow(y - joint.y, 2);
    if (distance2 > 48.0 * 48.0) continue;
    const double weight = std::exp(-0.5 * distance2 / 256.0);
    sum += weight;
    sum_x += weight * x;
  }
  CHECK_NEAR(field.refined(joint, rounds(1)).x, sum_x / sum, 1e-3);
}

}  // namespace

int main() {
  test_weighted_mean();
  test_what_does_not_count();
  test_many_cells();
  return check_result();
}
