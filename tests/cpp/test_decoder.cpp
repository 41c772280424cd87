#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "pifpaf/decoder.h"
#include "scene.h"

using namespace dgcn::pifpaf;

namespace {

constexpr int kStride = 8;

void test_round_trip() {
  const Scene scene = two_persons();
  const Persons persons = Decoder(scene.skeleton(), {}).decode(scene.fields(), kStride);
  CHECK(persons.size() == 2);
  if (persons.size() != 2) return;
  const float best[][2] = {{20, 20}, {26.5F, 20}, {32, 21.25F}}, second[][2] = {{5, 5}, {10, 6}, {15, 7}};
  for (int k = 0; k < 3; ++k) {
    CHECK_NEAR(persons[0][k].x, best[k][0] * kStride, 1e-3);
    CHECK_NEAR(persons[0][k].y, best[k][1] * kStride, 1e-3);
    CHECK_NEAR(persons[1][k].x, second[k][0] * kStride, 1e-3);
    CHECK_NEAR(persons[1][k].y, second[k][1] * kStride, 1e-3);
    CHECK_NEAR(persons[1][k].scale, kStride, 1e-3);
  }
  CHECK(mean_confidence(persons[0], 3) > mean_confidence(persons[1], 3));
}

void test_seeds_in_an_occupied_place_start_no_person() {
  Scene scene(1, {}, 20, 20);
  scene.paint({joint(8, 8)});
  CHECK(Decoder(scene.skeleton(), {}).decode(scene.fields(), kStride).size() == 1);  // of sixteen seeds
}

void test_keypoints_have_maps_of_their_own() {
  Scene scene(2, {}, 20, 20);
  scene.paint({joint(8, 8), joint(-1, 0)});
  const std::size_t cell = 8 * 20 + 8;
  const float single[] = {0.0F, 0.9F, 8.0F, 8.0F, 1.0F};  // too weak for a seed without keypoint 0's map
  for (std::size_t i = 0; i < 5; ++i) scene.pif[(5 + i) * scene.plane + cell] = single[i];
  CHECK(Decoder(scene.skeleton(), {}).decode(scene.fields(), kStride).size() == 1);
}

void test_force_complete() {
  Scene scene(4, {{0, 1}, {1, 2}}, 30, 40);  // keypoint 2 is not there, 3 has no limb
  scene.paint({joint(5, 5), joint(10, 6), joint(-1, 0), joint(-1, 0)});
  DecoderConfig config;
  config.force_complete = true;
  const Persons persons = Decoder(scene.skeleton(), config).decode(scene.fields(), kStride);
  CHECK(persons.size() == 1);
  if (persons.size() != 1) return;
  CHECK_NEAR(persons[0][1].x, 80.0, 1e-3);
  CHECK_NEAR(persons[0][2].x, 80.0, 1e-3);
  CHECK(persons[0][2].confidence == config.complete_confidence);
  CHECK(!persons[0][3].found());

  // A connection too weak for the first pass completes the person.
  for (std::size_t cell = 0; cell < scene.plane; ++cell) scene.paf[cell + scene.plane] *= 0.02F;
  const Persons weak = Decoder(scene.skeleton(), config).decode(scene.fields(), kStride);
  CHECK_NEAR(weak[0][1].x, 80.0, 1e-3);
  CHECK(weak[0][1].confidence > 0.05F && weak[0][1].confidence < 0.2F);
  CHECK(weak.size() == 2);  // the other joint is a seed too
}

void test_same_bits_every_time() {
  const Scene scene = two_persons();
  Scene other(3, {{0, 1}, {1, 2}}, 50, 50);
  for (float& value : other.pif) value = 1.0F;
  const Decoder decoder(scene.skeleton(), {});
  const Persons first = decoder.decode(scene.fields(), kStride);
  decoder.decode(other.fields(), kStride);
  CHECK(same_bits(first, decoder.decode(scene.fields(), kStride)));

  const std::vector<Fields> images{scene.fields(), other.fields(), scene.fields(), scene.fields()};
  for (const int threads : {0, 1, 2, 7}) {
    const std::vector<Persons> batch = decoder.decode_batch(images, kStride, threads);
    CHECK(batch.size() == 4);
    CHECK(same_bits(batch[0], first) && same_bits(batch[3], first));
    CHECK(same_bits(batch[1], decoder.decode(other.fields(), kStride)));
  }
  CHECK(decoder.decode_batch({}, kStride, 0).empty());
  CHECK_THROWS(decoder.decode_batch(images, kStride, -1), std::invalid_argument);
  Fields wrong = scene.fields();
  wrong.num_limbs = 5;
  CHECK_THROWS(decoder.decode_batch({scene.fields(), wrong, scene.fields()}, kStride, 2), std::invalid_argument);
}

void test_empty_fields_and_errors() {
  const Decoder decoder(Skeleton(2, {{0, 1}}), {});
  CHECK(decoder.decode({nullptr, nullptr, 2, 1, 0, 9}, kStride).size() == 0);
  CHECK_THROWS(decoder.decode({nullptr, nullptr, 2, 1, 9, 9}, 0), std::invalid_argument);
  CHECK_THROWS(decoder.decode({nullptr, nullptr, 3, 1, 9, 9}, kStride), std::invalid_argument);
  DecoderConfig config;
  config.map_neighbors = 0.0F;
  CHECK_THROWS(Decoder(Skeleton(1, {}), config), std::invalid_argument);
}

void test_random_values() {
  std::mt19937 random(7);
  const float specials[] = {0.0F,
                            1.0F,
                            -1.0F,
                            1e30F,
                            -1e30F,
                            1e8F,
                            1e-30F,
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()};
  std::normal_distribution<float> normal(1.0F, 3.0F);
  for (int round = 0; round < 200; ++round) {
    Scene scene(3, {{0, 1}, {2, 1}}, 1 + round % 7, 1 + round % 5);
    for (std::vector<float>* field : {&scene.pif, &scene.paf}) {
      for (float& value : *field) value = random() % 8 == 0 ? specials[random() % 10] : normal(random);
    }
    DecoderConfig config;
    config.force_complete = round % 2 == 0;
    const Persons persons = Decoder(scene.skeleton(), config).decode(scene.fields(), 1 + round % 9);
    for (const Joint& j : persons.joints) {
      CHECK(j.confidence >= 0.0F && j.confidence <= 1.0F);
      CHECK(std::isfinite(j.x) && std::isfinite(j.y) && std::isfinite(j.scale));
    }
  }
}

}  // namespace

int main() {
  test_round_trip();
  test_seeds_in_an_occupied_place_start_no_person();
  test_keypoints_have_maps_of_their_own();
  test_force_complete();
  test_same_bits_every_time();
  test_empty_fields_and_errors();
  test_random_values();
  return check_result();
}
