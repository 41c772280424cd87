// The arithmetic of the non-local layer that CPU and CUDA share, and the order of the keys: against the definitions.
#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "nonlocal/cpu/sorted_keys.h"
#include "nonlocal/nonlocal.h"

using namespace dgcn::nonlocal;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

/// SortedKeys and the memory behind them.
template <typename T>
struct Sorted {
  std::vector<double> key;
  std::vector<int32_t> position, slot;

  explicit Sorted(const std::vector<T>& keys) : key(keys.size()), position(keys.size()), slot(keys.size()) {
    sort_keys(keys.data(), static_cast<int64_t>(keys.size()), {key.data(), position.data(), slot.data()});
  }
};

template <typename T>
static void check_sortable() {
  const T infinity = std::numeric_limits<T>::infinity(), tiny = std::numeric_limits<T>::denorm_min();
  const T ascending[] = {
      -infinity, std::numeric_limits<T>::lowest(),   -1, -tiny, -T(0), T(0), tiny, 1, std::numeric_limits<T>::max(),
      infinity,  std::numeric_limits<T>::quiet_NaN()};
  for (size_t i = 1; i < std::size(ascending); ++i) CHECK(sortable(ascending[i - 1]) < sortable(ascending[i]));
  CHECK(sortable(-std::numeric_limits<T>::quiet_NaN()) == sortable(std::numeric_limits<T>::quiet_NaN()));
}

/// As std::stable_sort does it, where NaN is above everything.
template <typename T>
static void check_sort(const std::vector<T>& keys) {
  std::vector<int32_t> expected(keys.size());
  std::iota(expected.begin(), expected.end(), 0);
  std::stable_sort(expected.begin(), expected.end(),
                   [&](int32_t i, int32_t j) { return sortable(keys[i]) < sortable(keys[j]); });
  const Sorted<T> sorted(keys);
  CHECK(sorted.position == expected);
  for (size_t slot = 0; slot < keys.size(); ++slot) {
    const T key = keys[sorted.position[slot]];
    CHECK(sorted.slot[sorted.position[slot]] == static_cast<int32_t>(slot));
    CHECK(sorted.key[slot] == key || (key != key && sorted.key[slot] != sorted.key[slot]));
  }
}

/// The walk down b, stopping for every a: against the definition, in which a pair meets or does not.
static void check_walk(const std::vector<double>& a, const std::vector<double>& b, const std::vector<double>& g) {
  const int64_t count = static_cast<int64_t>(a.size());
  const Sorted<double> sorted_a(a), sorted_b(b);
  std::vector<int32_t> met(count);
  count_meetings(sorted_a.key.data(), sorted_b.key.data(), count, met.data());
  Walk<double> walk{};
  int64_t next = count - 1;
  for (int64_t slot = 0; slot < count; ++slot) {
    const double key = sorted_a.key[slot];
    double sum = 0, total = 0, magnitude = 0;
    int32_t meetings = 0;
    for (int64_t j = 0; j < count; ++j) {
      if (key + b[j] <= 0) continue;
      ++meetings;
      sum += g[j];
      total += (key + b[j]) * g[j];
      magnitude += (key + b[j]) * std::fabs(g[j]);
    }
    CHECK(met[slot] == meetings);
    for (; next >= count - met[slot]; --next)
      step(walk, next == count - 1 ? 0.0 : sorted_b.key[next + 1] - sorted_b.key[next], g[sorted_b.position[next]]);
    if (meetings == 0) continue;
    CHECK_NEAR(walk.sum, sum, 1e-12);
    CHECK_NEAR(value(walk, key + sorted_b.key[next + 1]), total, 1e-14 * magnitude);
  }
}

static std::vector<int32_t> meetings(const std::vector<double>& keys, const std::vector<double>& others) {
  const Sorted<double> sorted(keys), sorted_others(others);
  std::vector<int32_t> met(keys.size());
  count_meetings(sorted.key.data(), sorted_others.key.data(), static_cast<int64_t>(keys.size()), met.data());
  return met;
}

int main() {
  check_sortable<float>();
  check_sortable<double>();

  std::mt19937 generator(1);
  std::normal_distribution<double> normal;
  const auto draw = [&](size_t count, double grain) {  // multiples of `grain`, or any numbers with 0
    std::vector<double> values(count);
    for (double& value : values) {
      value = normal(generator);
      if (grain > 0) value = std::round(value / grain) * grain;
    }
    return values;
  };
  for (const size_t count : {0, 1, 2, 3, 100, 5000})
    for (const double grain : {0.0, 0.25, 100.0}) {
      std::vector<double> keys = draw(count, grain);
      check_sort(keys);
      for (size_t i = 0; i < count; i += 7) keys[i] = i % 2 == 0 ? kNaN : i % 3 == 0 ? kInfinity : -kInfinity;
      check_sort(keys);
      check_sort(std::vector<float>(keys.begin(), keys.end()));
    }
  check_sort(std::vector<float>{1e-40f, -1e-40f, 0, -0.0f, 1, 1, -1, 1});

  for (const size_t count : {1, 2, 17, 300})
    for (const double grain : {0.0, 0.5})
      for (const double shift : {0.0, 1024.0, -5.0})
        for (const double opposite : {-shift, 0.0}) {
          std::vector<double> a = draw(count, grain), b = draw(count, grain);
          for (double& key : a) key += shift;
          for (double& key : b) key += opposite;
          check_walk(a, b, draw(count, 0));
        }

  // What is not a number meets everything; −∞ nothing but what is infinite itself.
  CHECK((meetings({kNaN, -kInfinity, 0, kInfinity}, {1, -1, -kInfinity, 0}) == std::vector<int32_t>{0, 1, 4, 4}));
  CHECK((meetings({-9, 0, 9, -kInfinity}, {kNaN, -1, kInfinity, 0}) == std::vector<int32_t>{2, 2, 2, 4}));
  return check_result();
}
