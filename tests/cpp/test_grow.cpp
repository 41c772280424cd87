#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "check.h"
#include "pifpaf/decode/grow.h"

using namespace dgcn::pifpaf;

namespace {

constexpr PixelSize kSize{200, 200};
constexpr int kCells = 32;  // of a field, each for one candidate
constexpr GrowPass kStrict{1.0F, true};
constexpr GrowPass kLoose{1.0F, false};

/// A skeleton, and PAF fields of one row with the connections between given positions [px].
struct Limbs {
  explicit Limbs(Skeleton s, DecoderConfig c = {})
      : skeleton(std::move(s)), config(c), paf(static_cast<std::size_t>(skeleton.num_limbs()) * 8 * kCells) {
    config.connection_map_weight = 0.0F;  // scores are confidences
    config.connection_threshold = 0.0F;
  }

  /// Adds two equal candidates, so that the connection's value is their score.
  void connect(int limb, float score, float x, float y, float target_x, float target_y) {
    for (int i = 0; i < 2; ++i) add(limb, {score, x, y, target_x, target_y});
  }

  std::vector<Joint> grow(std::vector<Joint> person, const GrowPass& pass = kStrict) {
    const FieldReader fields({nullptr, paf.data(), skeleton.num_keypoints(), skeleton.num_limbs(), 1, kCells}, 1,
                             skeleton, config);
    ConfidenceMap none({}, kSize, config);
    std::vector<LimbConnections> connections;
    for (int limb = 0; limb < skeleton.num_limbs(); ++limb)
      connections.emplace_back(fields, limb, config.connection_threshold, none, none, config);
    Grower(skeleton, config).grow(connections, pass, person.data());
    return person;
  }

  void add(int limb, const std::vector<float>& values) {
    float* field = paf.data() + static_cast<std::size_t>(limb) * 8 * kCells + used++;
    for (std::size_t i = 0; i < 5; ++i) field[(i + 1) * kCells] = values[i];
    field[6 * kCells] = field[7 * kCells] = 10.0F;
  }

  Skeleton skeleton;
  DecoderConfig config;
  std::vector<float> paf;
  int used = 0;
};

void test_chain() {
  Limbs limbs(Skeleton(4, {{1, 0}, {1, 2}}));  // keypoint 3 is on its own
  limbs.connect(0, 0.64F, 50.0F, 50.0F, 90.0F, 50.0F);
  limbs.connect(1, 0.81F, 50.0F, 50.0F, 50.0F, 90.0F);
  const auto person = limbs.grow({{1.0F, 90.0F, 50.0F, 10.0F}, {}, {}, {}});
  CHECK_NEAR(person[1].confidence, 0.8, 1e-6);  // √(0.64 · 1)
  CHECK(person[1].x == 50.0F && person[1].y == 50.0F && person[1].scale == 10.0F);
  CHECK_NEAR(person[2].confidence, std::sqrt(0.81 * 0.8), 1e-6);
  CHECK(person[2].y == 90.0F);
  CHECK(!person[3].found());
}

void test_most_confident_limb_first() {
  // Keypoint 2 is reached from 0 by a weak connection and through 1 by strong ones: the latter are accepted.
  Limbs limbs(Skeleton(3, {{0, 2}, {0, 1}, {1, 2}}));
  limbs.connect(0, 0.36F, 20.0F, 20.0F, 150.0F, 20.0F);
  limbs.connect(1, 0.9F, 20.0F, 20.0F, 20.0F, 60.0F);
  limbs.connect(2, 0.9F, 20.0F, 60.0F, 60.0F, 60.0F);
  const auto person = limbs.grow({{1.0F, 20.0F, 20.0F, 10.0F}, {}, {}});
  CHECK(person[2].x == 60.0F);
}

void test_ties() {
  // Keypoint 2 is reached with the same confidence from 0 and, later, from 1.
  Limbs limbs(Skeleton(3, {{0, 1}, {0, 2}, {1, 2}}));
  limbs.connect(0, 1.0F, 20.0F, 20.0F, 20.0F, 60.0F);
  limbs.connect(1, 0.36F, 20.0F, 20.0F, 150.0F, 20.0F);
  limbs.connect(2, 0.36F, 20.0F, 60.0F, 60.0F, 60.0F);
  const auto person = limbs.grow({{1.0F, 20.0F, 20.0F, 10.0F}, {}, {}});
  CHECK(person[1].confidence == 1.0F);
  CHECK(person[2].x == 150.0F);
}

void test_thresholds() {
  const std::vector<Joint> start{{0.9F, 20.0F, 20.0F, 10.0F}, {}};
  const auto reaches = [&](float score, DecoderConfig config, Joint from) {
    Limbs limbs(Skeleton(2, {{0, 1}}), config);
    limbs.connect(0, score, 20.0F, 20.0F, 60.0F, 20.0F);
    return limbs.grow({from, {}})[1].found();
  };
  DecoderConfig config;
  CHECK(reaches(0.23F, config, start[0]));   // √(0.23·0.9) = 0.455 ≥ 0.5·0.9
  CHECK(!reaches(0.22F, config, start[0]));  // 0.445
  const Joint weak{0.2F, 20.0F, 20.0F, 10.0F};
  CHECK(reaches(0.12F, config, weak));   // 0.1549
  CHECK(!reaches(0.11F, config, weak));  // 0.1483
  config.keypoint_threshold = config.keypoint_threshold_relative = 0.0F;
  CHECK(reaches(0.11F, config, weak));
}

void test_reverse_match() {
  const std::vector<Joint> start{{1.0F, 20.0F, 20.0F, 10.0F}, {}};
  const auto leads_back_to = [&](float x, float y, const GrowPass& pass = kStrict) {
    Limbs limbs(Skeleton(2, {{0, 1}}));
    limbs.connect(0, 0.8F, 20.0F, 20.0F, 60.0F, 20.0F);
    for (int i = 0; i < 2; ++i) limbs.add(0, {0.9F, x, y, 60.0F, 20.0F});  // better, from keypoint 1
    return limbs.grow(start, pass)[1].found();
  };
  CHECK(leads_back_to(25.0F, 25.0F));  // L1 distance 10 = the start's scale
  CHECK(!leads_back_to(26.0F, 25.0F));
  CHECK(leads_back_to(26.0F, 25.0F, kLoose));
}

void test_known_joints_stay() {
  Limbs limbs(Skeleton(2, {{0, 1}}));
  limbs.connect(0, 0.9F, 20.0F, 20.0F, 60.0F, 20.0F);
  const auto person = limbs.grow({{1.0F, 20.0F, 20.0F, 10.0F}, {0.3F, 1.0F, 2.0F, 3.0F}});
  CHECK(person[1].confidence == 0.3F && person[1].x == 1.0F);
}

void test_fill_missing() {
  const Skeleton skeleton(6, {{0, 1}, {1, 2}, {2, 3}, {3, 4}});
  const DecoderConfig config;
  std::vector<Joint> person{{0.5F, 10.0F, 10.0F, 4.0F}, {}, {}, {}, {0.9F, 90.0F, 90.0F, 8.0F}, {}};
  Grower(skeleton, config).fill_missing(person.data());
  CHECK(person[0].confidence == 0.5F && person[4].confidence == 0.9F);
  CHECK(person[1].x == 10.0F && person[1].scale == 4.0F && person[1].confidence == 1e-5F);
  CHECK(person[2].x == 90.0F);  // two limbs from either: the more confident one
  CHECK(person[3].x == 90.0F);
  CHECK(!person[5].found());  // no limb leads there

  // Keypoint 40 is one limb from forty equally confident joints: the lowest keypoint is copied.
  std::vector<std::pair<int, int>> spokes;
  std::vector<Joint> star(41);
  for (int k = 0; k < 40; ++k) {
    spokes.emplace_back(40, k);
    star[static_cast<std::size_t>(k)] = {0.5F, 100.0F + static_cast<float>(k), 10.0F, 4.0F};
  }
  Grower(Skeleton(41, spokes), config).fill_missing(star.data());
  CHECK(star[40].x == 100.0F);
}

}  // namespace

int main() {
  test_chain();
  test_most_confident_limb_first();
  test_ties();
  test_thresholds();
  test_reverse_match();
  test_known_joints_stay();
  test_fill_missing();
  return check_result();
}
