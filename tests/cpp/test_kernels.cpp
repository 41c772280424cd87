// The kernels of every instruction set give the same bits as the portable ones, and the right ones.
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
  constexpr std::size_t stride = 11;
  for (int round = 0; round < 500; ++round) {
    const auto confidence = random.many(4 * stride, 0.0F, 1.0F);
    const auto x = random.many(4 * stride, -5.0F, 20.0F), y = random.many(4 * stride, -5.0F, 20.0F);
    const Tile tile{confidence.data(), x.data(), y.data(), stride, 3.0F};
    const float left = random(-10.0F, 30.0F), top = random(-10.0F, 30.0F), threshold = random(0.0F, 1.0F);
    const Window window{left, left + random(0.0F, 30.0F), top, top + random(0.0F, 30.0F)};
    const float floor = random(0.0F, 1.0F);
    for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
      const std::uint32_t mask = kernels.find(tile, window, threshold, floor);
      const Window around = kernels.around(tile, threshold);
      Window expected{1e9F, -1e9F, 1e9F, -1e9F};
      for (std::size_t i = 0; i < tile_size; ++i) {
        const std::size_t place = i / tile_width * stride + i % tile_width;
        const float px = x[place] * 3.0F, py = y[place] * 3.0F;
        const bool inside = px >= window.left && px <= window.right && py >= window.top && py <= window.bottom;
        CHECK((mask >> i & 1U) == (inside && confidence[place] >= threshold && confidence[place] >= floor ? 1U : 0U));
        if (!(confidence[place] >= threshold)) continue;
        expected = {std::fmin(expected.left, px), std::fmax(expected.right, px), std::fmin(expected.top, py),
                    std::fmax(expected.bottom, py)};
      }
      if (expected.left > expected.right) continue;
      CHECK(around.left == expected.left && around.right == expected.right);
      CHECK(around.top == expected.top && around.bottom == expected.bottom);
    }
  }
}

void test_windows() {
  Random random;
  for (int round = 0; round < 200; ++round) {
    auto left = random.many(tile_size, 0.0F, 50.0F), top = random.many(tile_size, 0.0F, 50.0F);
    auto right = random.many(tile_size, 20.0F, 70.0F), bottom = random.many(tile_size, 20.0F, 70.0F);
    const Window window{20.0F, 30.0F, 25.0F, 26.0F};
    for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
      const std::uint32_t mask = kernels.meeting({left.data(), right.data(), top.data(), bottom.data()}, window);
      for (std::size_t i = 0; i < tile_size; ++i) {
        const bool meets = left[i] <= 30.0F && right[i] >= 20.0F && top[i] <= 26.0F && bottom[i] >= 25.0F;
        CHECK((mask >> i & 1U) == (meets ? 1U : 0U));
      }
    }
  }
}

void test_weights() {
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
      std::vector<float> weighed = values;
      kernels.weigh(x.data(), y.data(), count, 2.0F, -3.0F, 5.0F, weighed.data());
      for (std::size_t i = 0; i < count; ++i) {
        const float dx = x[i] - 2.0F, dy = y[i] + 3.0F, exponent = -0.5F * (dx * dx + dy * dy) / 25.0F;
        CHECK(weighed[i] == values[i] * static_cast<float>(std::exp(double{exponent})));
      }
    }
  }
  for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
    float x[] = {0.0F, 1e9F, 13.8F, 0.0F}, y[] = {0.0F, -1e9F, 0.0F, 0.0F}, values[] = {0.7F, 1.0F, 1.0F, 0.0F};
    kernels.weigh(x, y, 3, 0.0F, 0.0F, 1.0F, values);
    CHECK(values[0] == 0.7F);
    CHECK(values[1] == 0.0F);
    CHECK(values[2] > 0.0F && values[2] < 1e-40F);
  }
}

void test_spots() {
  Random random;
  for (int round = 0; round < 300; ++round) {
    std::vector<Spot> spots;
    std::vector<int> order;
    for (int i = 0; i < 1 + round; ++i) {
      const float sigma = random(0.5F, 9.0F), peak = random(0.0F, 0.06F);
      spots.push_back({0, 99, 0, 99, random(10.0F, 30.0F), random(10.0F, 30.0F), peak, sigma * sigma,
                       1.0F / (16.0F * sigma * sigma), i % 20 == 7});
      order.push_back(i);
    }
    float first[block_edge * block_edge] = {};
    for (const auto& [name, kernels] : kernels_of_this_machine<Kernels>()) {
      float pixels[block_edge * block_edge] = {};
      kernels.add_spots(spots.data(), order.data(), order.data() + order.size(), 20, 16, pixels);
      for (int i = 0; i < block_edge * block_edge; ++i) {
        float sum = 0.0F;
        for (const Spot& spot : spots) sum += spot.at(20 + i / block_edge, 16 + i % block_edge);
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
  test_windows();
  test_weights();
  test_spots();
  return check_result();
}
