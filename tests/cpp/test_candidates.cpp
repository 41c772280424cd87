#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "pifpaf/decode/candidates.h"
#include "pifpaf/inspection.h"

using namespace dgcn::pifpaf;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kStride = 4;

/// The PAF field of one limb. Scores are its confidences, as the map has weight 0.
struct Field {
  Field(int field_height, int field_width)
      : height(field_height), width(field_width), values(8 * static_cast<std::size_t>(height * width)) {
    config.connection_map_weight = 0.0F;
  }

  PixelSize size() const { return {(height - 1) * kStride + 1, (width - 1) * kStride + 1}; }
  float& at(int component, int cell) { return values[static_cast<std::size_t>(component * height * width + cell)]; }

  void set(int cell, const std::array<float, 7>& components) {
    for (int c = 0; c < 7; ++c) at(c + 1, cell) = components[static_cast<std::size_t>(c)];
  }

  std::array<std::unique_ptr<Candidates>, 2> candidates(float threshold) {
    reader =
        std::make_unique<FieldReader>(Fields{nullptr, values.data(), 2, 1, height, width}, kStride, skeleton, config);
    return make_candidates(*reader, 0, threshold, map, map, config);
  }

  int height, width;
  std::vector<float> values;
  DecoderConfig config;
  ConfidenceMap map{{}, {0, 0}, config};
  Skeleton skeleton{2, {{0, 1}}};
  std::unique_ptr<FieldReader> reader;
};

/// The candidates that start in a window, sorted by cell.
std::vector<Connection> found(Candidates& candidates, const PixelBox& window, float min_score = 0.0F) {
  std::vector<Connection> connections;
  candidates.for_each_batch(window, min_score, [&](const int* entries, std::size_t count) {
    CHECK(count > 0 && count <= Candidates::kMaxBatch);
    for (std::size_t i = 0; i < count; ++i) {
      const int e = entries[i];
      const float score = candidates.score(e);
      CHECK(candidates.max_score(e) >= score);
      if (score > 0.0F && candidates.is_candidate(e))
        connections.push_back({score, candidates.x(e), candidates.y(e), candidates.target(e), candidates.cell(e)});
    }
  });
  std::sort(connections.begin(), connections.end(),
            [](const Connection& a, const Connection& b) { return a.cell < b.cell; });
  return connections;
}

constexpr PixelBox kEverywhere{-1e9F, 1e9F, -1e9F, 1e9F};

void test_reading() {
  Field field(1, 40);
  field.set(33, {0.1F, 0.2F, 0.3F, 0.4F, 0.5F, 0.6F, 0.7F});
  field.set(34, {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, kNaN});
  field.set(35, {kInfinity, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F});
  field.set(36, {1.0F, 1.0F, -kInfinity, 1.0F, 1.0F, 1.0F, 1.0F});
  field.set(37, {1.0F, 1.0F, 1.0F, 1.0F, 3e8F, 1.0F, 1.0F});  // finite, but beyond 1e9 px
  field.set(38, {7.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F});
  field.set(39, {0.09F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F});
  auto [forward, backward] = field.candidates(0.099F);
  const auto one_way = found(*forward, kEverywhere), other_way = found(*backward, kEverywhere);
  CHECK(one_way.size() == 2 && other_way.size() == 2);
  CHECK(one_way[0].cell == 33 && one_way[0].score == 0.1F);
  CHECK(one_way[0].x == 0.8F && one_way[0].y == 1.2F);
  CHECK(one_way[0].target.x == 1.6F && one_way[0].target.y == 2.0F && one_way[0].target.scale == 2.8F);
  CHECK(other_way[0].x == 1.6F && other_way[0].y == 2.0F);
  CHECK(other_way[0].target.x == 0.8F && other_way[0].target.y == 1.2F && other_way[0].target.scale == 2.4F);
  CHECK(one_way[1].cell == 38 && one_way[1].score == 1.0F);
  CHECK(found(*field.candidates(0.1F)[0], kEverywhere).size() == 1);  // a score must exceed the threshold
}

// For fields of any size, with few or many confident cells, a search finds what a plain loop finds.
void test_searches() {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> unit(0.0F, 1.0F);
  for (int round = 0; round < 300; ++round) {
    Field field(1 + static_cast<int>(random() % 23), 1 + static_cast<int>(random() % 40));
    const float fraction = round % 3 == 0 ? 0.9F : round % 3 == 1 ? 0.1F : 0.3F, spread = round % 2 == 0 ? 3.0F : 60.0F;
    for (int cell = 0; cell < field.height * field.width; ++cell) {
      const auto near = [&](int center) { return static_cast<float>(center) + spread * (unit(random) - 0.5F); };
      const int row = cell / field.width, column = cell % field.width;
      const float confidence = unit(random) < fraction ? 0.5F + 0.5F * unit(random) : 0.2F;
      field.set(cell, {confidence, near(column), near(row), near(column), near(row), 1.0F, 2.0F});
      if (random() % 50 == 0) field.at(1 + static_cast<int>(random() % 7), cell) = kNaN;
    }
    auto directions = field.candidates(0.4F);
    for (int search = 0; search < 20; ++search) {
      const bool backward = search % 2 == 1;
      const float x = 160.0F * unit(random), y = 92.0F * unit(random), reach = 40.0F * unit(random);
      const PixelBox window{x - reach, x + reach, y - reach, y + reach};
      const float min_score = search % 4 < 2 ? 0.0F : 0.8F;
      std::vector<int> expected;
      for (int cell = 0; cell < field.height * field.width; ++cell) {
        const float start_x = field.at(backward ? 4 : 2, cell) * kStride;
        const float start_y = field.at(backward ? 5 : 3, cell) * kStride;
        bool is_valid = field.at(1, cell) >= std::max(0.4F, min_score);
        for (int c = 1; c < 8; ++c) is_valid &= std::isfinite(field.at(c, cell));
        if (is_valid && start_x >= window.left && start_x <= window.right && start_y >= window.top &&
            start_y <= window.bottom)
          expected.push_back(cell);
      }
      const auto connections = found(*directions[backward ? 1 : 0], window, min_score);
      CHECK(connections.size() == expected.size());
      for (std::size_t i = 0; i < std::min(expected.size(), connections.size()); ++i) {
        CHECK(connections[i].cell == expected[i]);
        CHECK(connections[i].score == field.at(1, expected[i]));
      }
    }
  }
}

void test_weights() {
  Field field(1, 3);
  field.set(0, {0.8F, 1.0F, 2.0F, 0.0F, 0.0F, 1.0F, 1.0F});
  field.set(1, {0.6F, 2.0F, 2.0F, 0.0F, 0.0F, 1.0F, 1.0F});
  field.set(2, {0.5F, 1e6F, 2.0F, 0.0F, 0.0F, 1.0F, 1.0F});
  const auto forward = std::move(field.candidates(0.3F)[0]);
  const std::array<int, 3> entries{0, 1, 2};
  Candidates::Values weights;
  forward->compute_weights(entries.data(), 3, 4.0F, 5.0F, 2.0F, weights);
  CHECK_NEAR(weights[0], std::exp(-0.5 * 9.0 / 4.0), 1e-7);
  CHECK_NEAR(weights[1], std::exp(-0.5 * (16.0 + 9.0) / 4.0), 1e-8);
  CHECK(weights[2] == 0.0F);
}

}  // namespace

int main() {
  test_reading();
  test_searches();
  test_weights();
  return check_result();
}
