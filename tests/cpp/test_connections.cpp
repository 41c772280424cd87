#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "check.h"
#include "pifpaf/decode/connections.h"

using namespace dgcn::pifpaf;

namespace {

constexpr PixelSize kSize{100, 200};

Connection connection(float score, float x, float y, float target_x, float target_y, int cell, float scale = 8.0F) {
  return {score, x, y, {0.0F, target_x, target_y, scale}, cell};
}

/// A PAF field of one row, with a candidate in some of its cells.
struct Field {
  explicit Field(const std::vector<Connection>& candidates) {
    for (const Connection& c : candidates) width = std::max(width, c.cell + 1);
    paf.resize(8 * static_cast<std::size_t>(width));
    for (const Connection& c : candidates) {
      const float values[] = {0.0F, c.score, c.x, c.y, c.target.x, c.target.y, 1.0F, c.target.scale};
      for (int i = 0; i < 8; ++i) paf[static_cast<std::size_t>(i * width + c.cell)] = values[i];
    }
  }

  LimbConnections connections(ConfidenceMap& from, ConfidenceMap& to, float threshold, const DecoderConfig& config) {
    reader = std::make_unique<FieldReader>(Fields{nullptr, paf.data(), 2, 1, 1, width}, 1, skeleton, config);
    return LimbConnections(*reader, 0, threshold, from, to, config);
  }

  int width = 1;
  std::vector<float> paf;
  Skeleton skeleton{2, {{0, 1}}};
  std::unique_ptr<FieldReader> reader;
};

/// Where candidates with these scores lead from `start`.
Joint follow(const std::vector<Connection>& candidates, const Joint& start, float window = 1.0F,
             DecoderConfig config = {}) {
  config.connection_map_weight = 0.0F;
  ConfidenceMap none({}, kSize, config);
  return Field(candidates).connections(none, none, 0.001F, config).follow(false, start, window);
}

void test_scores() {
  const DecoderConfig config;
  ConfidenceMap none({}, kSize, config), half({8, {0, 1.0F, 50.0F, 40.0F, 4.0F}}, kSize, config);  // 0.5 at (50, 40)
  Field field({connection(0.9F, 10.0F, 20.0F, 50.0F, 40.0F, 11, 5.0F),
               connection(0.9F, 50.0F, 40.0F, 10.0F, 20.0F, 12, 5.0F),
               connection(0.2F, 10.0F, 20.0F, 50.0F, 40.0F, 13, 5.0F)});
  const auto forward = field.connections(none, half, 0.3F, config).all(false);
  CHECK(forward.size() == 1);  // the map at the other target is empty: 0.9 · 0.1 is too little
  CHECK(forward[0].cell == 11);
  CHECK_NEAR(forward[0].score, 0.9 * (0.1 + 0.9 * 0.5), 1e-6);
  CHECK(forward[0].x == 10.0F && forward[0].y == 20.0F);
  CHECK(forward[0].target.x == 50.0F && forward[0].target.y == 40.0F && forward[0].target.scale == 5.0F);

  const auto backward = field.connections(half, none, 0.3F, config).all(true);
  CHECK(backward.size() == 1);
  CHECK(backward[0].cell == 12);
  CHECK(backward[0].x == 10.0F && backward[0].y == 20.0F);
  CHECK(backward[0].target.x == 50.0F && backward[0].target.scale == 1.0F);

  CHECK(field.connections(none, half, 0.001F, config).all(false).size() == 3);
}

void test_threshold_is_strict() {
  const DecoderConfig config;
  ConfidenceMap map({16, {0, 1.0F, 50.0F, 40.0F, 4.0F}}, kSize, config);  // saturated: the score is the confidence
  const auto count = [&](float confidence) {
    return Field({connection(confidence, 10, 20, 50, 40, 0)}).connections(map, map, 0.5F, config).all(false).size();
  };
  CHECK(count(0.5F) == 0);
  CHECK(count(0.5001F) == 1);
}

void test_one_candidate() {
  const Joint start{0.7F, 50.0F, 40.0F, 8.0F};
  CHECK(!follow({}, start).found());
  CHECK(!follow({connection(0.8F, 54.1F, 40.0F, 90.0F, 60.0F, 0)}, start).found());  // outside ± 4 px
  CHECK(follow({connection(0.8F, 54.1F, 40.0F, 90.0F, 60.0F, 0)}, start, 2.0F).found());

  const Joint joint = follow({connection(0.8F, 53.0F, 38.0F, 90.0F, 60.0F, 0)}, start);
  CHECK_NEAR(joint.confidence, 0.5 * 0.8 * std::exp(-0.5 * (9.0 + 4.0) / 16.0), 1e-6);
  CHECK(joint.x == 90.0F && joint.y == 60.0F && joint.scale == 8.0F);

  const Joint tiny{0.7F, 50.0F, 40.0F, -3.0F};  // connection_min_scale applies: ± ¼ px
  CHECK(follow({connection(0.8F, 50.25F, 40.0F, 90.0F, 60.0F, 0)}, tiny).found());
  CHECK(!follow({connection(0.8F, 50.3F, 40.0F, 90.0F, 60.0F, 0)}, tiny).found());
}

void test_blend() {
  const Joint start{0.7F, 50.0F, 40.0F, 8.0F};
  const Connection best = connection(0.8F, 50.0F, 40.0F, 90.0F, 60.0F, 0, 8.0F);

  const Joint both = follow({connection(0.4F, 50.0F, 40.0F, 93.0F, 60.0F, 1, 2.0F), best}, start);
  CHECK_NEAR(both.confidence, 0.6, 1e-6);
  CHECK_NEAR(both.x, (0.8 * 90 + 0.4 * 93) / 1.2, 1e-4);
  CHECK_NEAR(both.y, 60.0, 1e-4);
  CHECK_NEAR(both.scale, (0.8 * 8 + 0.4 * 2) / 1.2, 1e-5);

  const Joint weak = follow({best, connection(0.39F, 50.0F, 40.0F, 93.0F, 60.0F, 1)}, start);
  CHECK(weak.confidence == 0.4F && weak.x == 90.0F);
  const Joint elsewhere = follow({best, connection(0.8F, 50.0F, 40.0F, 94.1F, 60.0F, 1)}, start);
  CHECK(elsewhere.confidence == 0.4F && elsewhere.x == 90.0F);
  const Joint faint =
      follow({connection(0.012F, 50.0F, 40.0F, 90.0F, 60.0F, 0), connection(0.009F, 50, 40, 90, 60, 1)}, start);
  CHECK_NEAR(faint.confidence, 0.006, 1e-7);

  DecoderConfig config;  // at a limit the two are averaged
  config.blend_min_score = 0.4F;
  const std::vector<Connection> pair{best, connection(0.4F, 50.0F, 40.0F, 93.0F, 60.0F, 1)};
  CHECK_NEAR(follow(pair, start, 1.0F, config).confidence, 0.6, 1e-6);
  config.blend_min_score = 0.401F;
  CHECK(follow(pair, start, 1.0F, config).confidence == 0.4F);
}

void test_ties_go_to_the_lower_cell() {
  const Joint start{0.7F, 50.0F, 40.0F, 60.0F};  // the two starts are in different buckets
  const Connection a = connection(0.8F, 40.0F, 40.0F, 90.0F, 60.0F, 6);
  const Connection b = connection(0.8F, 60.0F, 40.0F, 10.0F, 60.0F, 5);
  CHECK(follow({a, b}, start).x == 10.0F);
  CHECK(follow({b, a}, start).x == 10.0F);
}

// Buckets and tiles do not change the result: compares with a plain loop, at positions inside and outside of the image.
void test_equals_plain_loop() {
  std::vector<Connection> candidates;
  for (int i = 0; i < 500; ++i)
    candidates.push_back(connection(0.3F + 0.001F * static_cast<float>(i % 97), static_cast<float>(i * 37 % 260 - 30),
                                    static_cast<float>(i * 53 % 160 - 30), static_cast<float>(i), 0.0F, i));
  DecoderConfig alone;
  alone.blend_min_ratio = 2.0F;
  for (float y = -40.0F; y <= 140.0F; y += 7.0F) {
    for (float x = -40.0F; x <= 240.0F; x += 7.0F) {
      const Connection* best = nullptr;
      double best_score = 0.0;
      for (const Connection& c : candidates) {
        if (std::fabs(c.x - x) > 15.0F || std::fabs(c.y - y) > 15.0F) continue;
        const double score = c.score * std::exp(-0.5 * ((c.x - x) * (c.x - x) + (c.y - y) * (c.y - y)) / 225.0);
        if (best != nullptr && score <= best_score) continue;
        best = &c;
        best_score = score;
      }
      const Joint found = follow(candidates, {1.0F, x, y, 30.0F}, 1.0F, alone);
      CHECK(found.found() == (best != nullptr));
      CHECK_NEAR(found.confidence, 0.5 * best_score, 1e-6);
    }
  }
}

void test_extreme_values() {
  const float far = 1e9F;
  const std::vector<Connection> candidates{connection(1.0F, far, -far, far, far, 0, far),
                                           connection(1.0F, -far, far, -far, -far, 1, -far),
                                           connection(1.0F, 50.0F, 40.0F, far, -far, 2, far)};
  for (const float scale : {-far, 0.0F, far}) {
    for (const float x : {-far, 50.0F, far}) {
      const Joint joint = follow(candidates, {1.0F, x, 40.0F, scale}, 4.0F);
      CHECK(std::isfinite(joint.x) && std::isfinite(joint.y) && std::isfinite(joint.confidence));
    }
  }
}

// Scores are computed on demand: results do not depend on earlier calls.
void test_order_of_calls() {
  DecoderConfig config;
  ConfidenceMap map({{0, 1.0F, 50.0F, 40.0F, 60.0F}, {1, 0.5F, 90.0F, 60.0F, 60.0F}}, kSize, config);
  std::vector<Connection> candidates;
  for (int i = 0; i < 300; ++i)
    candidates.push_back(connection(0.3F + 0.002F * static_cast<float>(i * 31 % 300), static_cast<float>(i * 37 % 120),
                                    static_cast<float>(i * 53 % 90), static_cast<float>(i * 11 % 130),
                                    static_cast<float>(i * 17 % 90), i));
  Field field(candidates);
  const auto follow_ith = [&](LimbConnections& limb, int i) {
    return limb.follow(i % 2 == 1, {1.0F, static_cast<float>(i * 7 % 120), static_cast<float>(i * 3 % 90), 25.0F},
                       2.0F);
  };
  LimbConnections ascending = field.connections(map, map, 0.01F, config);
  std::vector<Joint> expected;
  for (int i = 0; i < 200; ++i) expected.push_back(follow_ith(ascending, i));
  LimbConnections descending = field.connections(map, map, 0.01F, config);
  int found = 0;
  for (int i = 199; i >= 0; --i) {
    const Joint a = expected[static_cast<std::size_t>(i)], b = follow_ith(descending, i);
    CHECK(a.confidence == b.confidence && a.x == b.x && a.y == b.y && a.scale == b.scale);
    found += a.found() ? 1 : 0;
  }
  CHECK(found > 150);
}

}  // namespace

int main() {
  test_scores();
  test_threshold_is_strict();
  test_one_candidate();
  test_blend();
  test_ties_go_to_the_lower_cell();
  test_equals_plain_loop();
  test_extreme_values();
  test_order_of_calls();
  return check_result();
}
