// Reads numbers and limbs from a fuzzer's bytes. Past the end all bytes are 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "pifpaf/skeleton.h"

class FuzzInput {
 public:
  FuzzInput(const std::uint8_t* data, std::size_t size) : next_(data), end_(data + size) {}

  bool empty() const { return next_ == end_; }
  int byte() { return empty() ? 0 : *next_++; }
  bool flag() { return byte() % 2 == 1; }

  /// In [low, high], at most 256 apart.
  int integer(int low, int high) { return low + byte() % (high - low + 1); }

  /// Any float, from four bytes.
  float any_float() {
    std::uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits = bits << 8 | static_cast<std::uint32_t>(byte());
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  /// byte/`unit` − `origin`, from one byte; the highest bytes stand for extreme values, infinities and NaN.
  float component(float unit, float origin) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    constexpr float kUnusual[] = {
        -1.0F, 1e8F, -1e8F, 1e30F, -kInfinity, kInfinity, std::numeric_limits<float>::quiet_NaN()};
    constexpr int kCount = sizeof kUnusual / sizeof *kUnusual;
    const int value = byte();
    if (value >= 256 - kCount) return kUnusual[value - (256 - kCount)];
    return static_cast<float>(value) / unit - origin;
  }

 private:
  const std::uint8_t* next_;
  const std::uint8_t* end_;
};

/// Up to seven limbs; those at which Skeleton throws are left out.
inline std::vector<std::pair<int, int>> read_limbs(FuzzInput& input, int num_keypoints) {
  std::vector<std::pair<int, int>> limbs;
  for (int count = input.integer(0, 7); count > 0; --count) {
    limbs.emplace_back(input.integer(-1, num_keypoints), input.integer(-1, num_keypoints));
    try {
      const dgcn::pifpaf::Skeleton valid(num_keypoints, limbs);
    } catch (const std::invalid_argument&) {
      limbs.pop_back();
    }
  }
  return limbs;
}

/// Aborts if the condition does not hold, also with NDEBUG; libFuzzer reports that like a crash.
#define REQUIRE(condition)                                                                 \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      std::fprintf(stderr, "%s:%d: REQUIRE failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                        \
    }                                                                                      \
  } while (false)
