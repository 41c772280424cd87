// Every instruction set gives the bits of the plain loops here, and those of the portable one.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "instruction_sets.h"
#include "pifpaf/decode/kernels.h"

using namespace dgcn::pifpaf;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Random {
  float operator()(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine); }
  std::vector<float> many(std::size_t count, float low, float high) {
    std::vector<float> values(count);
    for (float& value : values) value = engine() % 40 == 0 ? kNaN : (*this)(low, high);
    return values;
  }
  std::mt19937 engine{1};
};

void test_tiles() {
  Random random;
  constexpr std::size_t kStride = 11;
  for (int round = 0; round < 500; ++round) {
    const auto confidence = random.many(4 * kStride, 0.0F, 1.0F);
    const auto x = random.many(4 * kStride, -5.0F, 20.0F), y = random.many(4 * kStride, -5.0F, 20.0F);
    const CandidateTile tile{confidence.data(), x.data(), y.data(), kStride, 3.0F};
    const float left = random(-10.0F, 30.0F), top = random(-10.0F, 30.0F), threshold = random(0.0F, 1.0F);
    const PixelBox window{left, left + random(0.0F, 30.0F), top, top + random(0.0F, 30.0F)};
    const float min_score = random(0.0F, 1.0F);
    for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
      const std::uint32_t mask = kernels.starts_inside(tile, window, threshold, min_score);
      const PixelBox bounds = kernels.bound_starts(tile, threshold);
      PixelBox expected{1e9F, -1e9F, 1e9F, -1e9F};
      for (std::size_t i = 0; i < kTileSize; ++i) {
        const std::size_t at = i / kTileWidth * kStride + i % kTileWidth;
        const float px = x[at] * 3.0F, py = y[at] * 3.0F;
        const bool inside = px >= window.left && px <= window.right && py >= window.top && py <= window.bottom;
        CHECK((mask >> i & 1U) == (inside && confidence[at] >= threshold && confidence[at] >= min_score ? 1U : 0U));
        if (!(confidence[at] >= threshold)) continue;
        expected = {std::fmin(expected.left, px), std::fmax(expected.right, px), std::fmin(expected.top, py),
                    std::fmax(expected.bottom, py)};
      }
      if (expected.left > expected.right) continue;
      CHECK(bounds.left == expected.left && bounds.right == expected.right);
      CHECK(bounds.top == expected.top && bounds.bottom == expected.bottom);
    }
  }
}

void test_tile_bounds() {
  Random random;
  for (int round = 0; round < 200; ++round) {
    auto left = random.many(kTileSize, 0.0F, 50.0F), top = random.many(kTileSize, 0.0F, 50.0F);
    auto right = random.many(kTileSize, 20.0F, 70.0F), bottom = random.many(kTileSize, 20.0F, 70.0F);
    const PixelBox window{20.0F, 30.0F, 25.0F, 26.0F};
    for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
      const std::uint32_t mask =
          kernels.overlapping_tiles({left.data(), right.data(), top.data(), bottom.data()}, window);
      for (std::size_t i = 0; i < kTileSize; ++i) {
        const bool overlaps = left[i] <= 30.0F && right[i] >= 20.0F && top[i] <= 26.0F && bottom[i] >= 25.0F;
        CHECK((mask >> i & 1U) == (overlaps ? 1U : 0U));
      }
    }
  }
}

void test_at_least() {
  Random random;
  for (int round = 0; round < 200; ++round) {
    auto values = random.many(kTileSize, 0.0F, 1.0F);
    values[static_cast<std::size_t>(round % kTileSize)] = std::numeric_limits<float>::quiet_NaN();
    const float threshold = round % 2 == 0 ? values[7] : random(0.0F, 1.0F);
    for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
      const std::uint32_t mask = kernels.at_least(values.data(), threshold);
      for (std::size_t i = 0; i < kTileSize; ++i) CHECK((mask >> i & 1U) == (values[i] >= threshold ? 1U : 0U));
    }
  }
}

void test_gaussian() {
  Random random;
  for (std::size_t round = 0; round <= 2000; ++round) {
    const std::size_t count = round % 34;
    std::vector<float> x(count + 3), y(count + 3), values(count + 3);
    for (std::size_t i = 0; i < count; ++i) {
      x[i] = random(-30.0F, 30.0F);
      y[i] = random(-30.0F, 30.0F);
      values[i] = random(0.0F, 1.0F);
    }
    for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
      std::vector<float> weighted = values;
      kernels.apply_gaussian(x.data(), y.data(), count, 2.0F, -3.0F, 5.0F, weighted.data());
      for (std::size_t i = 0; i < count; ++i) {
        const float dx = x[i] - 2.0F, dy = y[i] + 3.0F, exponent = -0.5F * (dx * dx + dy * dy) / 25.0F;
        CHECK(weighted[i] == values[i] * static_cast<float>(std::exp(double{exponent})));
      }
    }
  }
  for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
    float x[] = {0.0F, 1e9F, 13.8F, 0.0F}, y[] = {0.0F, -1e9F, 0.0F, 0.0F}, values[] = {0.7F, 1.0F, 1.0F, 0.0F};
    kernels.apply_gaussian(x, y, 3, 0.0F, 0.0F, 1.0F, values);
    CHECK(values[0] == 0.7F);
    CHECK(values[1] == 0.0F);
    CHECK(values[2] > 0.0F && values[2] < 1e-40F);
  }
}

void test_sigmoid_and_softplus() {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
    std::vector<float> inputs{0.0F, -0.0F, 1e-30F, -1e-30F, 1e30F, -1e30F, 88.0F, -88.0F, 300.0F};
    Random random;
    for (int i = 0; i < 2000; ++i) inputs.push_back(random(-30.0F, 30.0F));
    std::vector<float> confidences = inputs, scales = inputs;
    confidences.resize(inputs.size() + Kernels::kPadding);
    scales.resize(inputs.size() + Kernels::kPadding);
    kernels.sigmoid(confidences.data(), inputs.size());
    kernels.softplus(scales.data(), inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const double value = inputs[i], power = std::exp(-std::fabs(value));
      CHECK_NEAR(confidences[i], (value < 0 ? power : 1.0) / (1.0 + power), 6e-8 * confidences[i] + 1e-40);
      CHECK_NEAR(scales[i], std::max(value, 0.0) + std::log1p(power), 2e-7 * scales[i] + 1e-40);
    }
    float special[] = {kNaN, kInfinity, -kInfinity, 0.0F};
    kernels.sigmoid(special, 3);
    CHECK(std::isnan(special[0]) && special[1] == 1.0F && special[2] < 1e-40F);
    float scale[] = {kNaN, kInfinity, -kInfinity, 0.0F};
    kernels.softplus(scale, 3);
    CHECK(std::isnan(scale[0]) && scale[1] == kInfinity && scale[2] < 1e-40F);
  }
}

void test_splats() {
  Random random;
  for (int round = 0; round < 300; ++round) {
    std::vector<Splat> splats;
    std::vector<int> order;
    for (int i = 0; i < 1 + round; ++i) {
      const float sigma = random(0.5F, 9.0F), peak = random(0.0F, 0.06F);
      splats.push_back({0, 99, 0, 99, random(10.0F, 30.0F), random(10.0F, 30.0F), peak, sigma * sigma,
                        1.0F / (16.0F * sigma * sigma), i % 20 == 7});
      order.push_back(i);
    }
    float first[kBlockEdge * kBlockEdge] = {};
    for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
      float pixels[kBlockEdge * kBlockEdge] = {};
      kernels.sum_splats(splats.data(), order.data(), order.data() + order.size(), 20, 16, pixels);
      for (int i = 0; i < kBlockEdge * kBlockEdge; ++i) {
        float sum = 0.0F;
        for (const Splat& splat : splats) sum += splat.at(20 + i / kBlockEdge, 16 + i % kBlockEdge);
        CHECK(std::fmin(pixels[i], 1.0F) == std::fmin(sum, 1.0F));
      }
      if (name == std::string("portable")) std::memcpy(first, pixels, sizeof first);
      CHECK(std::memcmp(first, pixels, sizeof first) == 0);
    }
  }
}

}  // namespace

int main() {
  test_tiles();
  test_tile_bounds();
  test_at_least();
  test_gaussian();
  test_sigmoid_and_softplus();
  test_splats();
  return check_result();
}
