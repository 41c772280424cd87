// The arithmetic of the non-local layer that CPU and CUDA share, and the ranks of the keys: against the definitions.
#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "nonlocal/cpu/ranked_keys.h"
#include "nonlocal/nonlocal.h"

using namespace dgcn::nonlocal;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

/// RankedKeys and their memory.
template <typename T>
struct Ranked {
  std::vector<double> key;
  std::vector<int32_t> position, rank, active;

  explicit Ranked(const std::vector<T>& keys)
      : key(keys.size()), position(keys.size()), rank(keys.size()), active(keys.size()) {
    rank_keys(keys.data(), count(), view());
  }
  int64_t count() const { return static_cast<int64_t>(key.size()); }
  RankedKeys view() { return {key.data(), position.data(), rank.data(), active.data()}; }
};

template <typename T>
static void check_sortable() {
  const T infinity = std::numeric_limits<T>::infinity(), tiny = std::numeric_limits<T>::denorm_min();
  const T ascending[] = {
      -infinity, std::numeric_limits<T>::lowest(),   -1, -tiny, -T(0), T(0), tiny, 1, std::numeric_limits<T>::max(),
      infinity,  std::numeric_limits<T>::quiet_NaN()};
  for (size_t i = 1; i < std::size(ascending); ++i)
    CHECK(sortable_bits(ascending[i - 1]) < sortable_bits(ascending[i]));
  CHECK(sortable_bits(-std::numeric_limits<T>::quiet_NaN()) == sortable_bits(std::numeric_limits<T>::quiet_NaN()));
}

/// As std::stable_sort does it, where NaN is above everything.
template <typename T>
static void check_ranks(const std::vector<T>& keys) {
  std::vector<int32_t> expected(keys.size());
  std::iota(expected.begin(), expected.end(), 0);
  std::stable_sort(expected.begin(), expected.end(),
                   [&](int32_t i, int32_t j) { return sortable_bits(keys[i]) < sortable_bits(keys[j]); });
  const Ranked<T> ranked(keys);
  CHECK(ranked.position == expected);
  for (size_t rank = 0; rank < keys.size(); ++rank) {
    const T key = keys[ranked.position[rank]];
    CHECK(ranked.rank[ranked.position[rank]] == static_cast<int32_t>(rank));
    CHECK(ranked.key[rank] == key || (key != key && ranked.key[rank] != ranked.key[rank]));
  }
}

/// The scan of b, evaluated for every a: against the definition.
static void check_scan(const std::vector<double>& a, const std::vector<double>& b, const std::vector<double>& g) {
  const int64_t count = static_cast<int64_t>(a.size());
  Ranked<double> ranked_a(a), ranked_b(b);
  count_active(ranked_a.view(), ranked_b.view(), count);
  ScanState<double> state{};
  int64_t next = count - 1;
  for (int64_t rank = 0; rank < count; ++rank) {
    const double key = ranked_a.key[rank];
    double sum = 0, total = 0, magnitude = 0;
    int32_t active = 0;
    for (int64_t j = 0; j < count; ++j) {
      if (key + b[j] <= 0) continue;
      ++active;
      sum += g[j];
      total += (key + b[j]) * g[j];
      magnitude += (key + b[j]) * std::fabs(g[j]);
    }
    CHECK(ranked_a.active[rank] == active);
    for (; next >= count - active; --next)
      add_position(state, next == count - 1 ? 0.0 : ranked_b.key[next + 1] - ranked_b.key[next],
                   g[ranked_b.position[next]]);
    if (active == 0) continue;
    CHECK_NEAR(state.sum, sum, 1e-12);
    CHECK_NEAR(weighted_sum(state, key + ranked_b.key[next + 1]), total, 1e-14 * magnitude);
  }
}

static std::vector<int32_t> active_counts(const std::vector<double>& keys, const std::vector<double>& others) {
  Ranked<double> ranked(keys), ranked_others(others);
  count_active(ranked.view(), ranked_others.view(), ranked.count());
  return ranked.active;
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
      check_ranks(keys);
      for (size_t i = 0; i < count; i += 7) keys[i] = i % 2 == 0 ? kNaN : i % 3 == 0 ? kInfinity : -kInfinity;
      check_ranks(keys);
      check_ranks(std::vector<float>(keys.begin(), keys.end()));
    }
  check_ranks(std::vector<float>{1e-40f, -1e-40f, 0, -0.0f, 1, 1, -1, 1});

  for (const size_t count : {1, 2, 17, 300})
    for (const double grain : {0.0, 0.5})
      for (const double shift : {0.0, 1024.0, -5.0})
        for (const double opposite : {-shift, 0.0}) {
          std::vector<double> a = draw(count, grain), b = draw(count, grain);
          for (double& key : a) key += shift;
          for (double& key : b) key += opposite;
          check_scan(a, b, draw(count, 0));
        }

  // NaN is active with everything, −∞ only with NaN and +∞.
  CHECK((active_counts({kNaN, -kInfinity, 0, kInfinity}, {1, -1, -kInfinity, 0}) == std::vector<int32_t>{0, 1, 4, 4}));
  CHECK((active_counts({-9, 0, 9, -kInfinity}, {kNaN, -1, kInfinity, 0}) == std::vector<int32_t>{2, 2, 2, 4}));
  return check_result();
}
