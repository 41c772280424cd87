#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "pifpaf/encoder.h"
#include "pifpaf/parallel.h"

using namespace dgcn::pifpaf;

namespace {

constexpr PixelSize picture{97, 129};
constexpr int stride = 8;
const Grid grid{13, 17, stride};
constexpr std::size_t num_keypoints = 5, num_limbs = 3;

const Proportions proportions{{0.1, 0.2, 0.3, 0.4, 0.5}, {{0, 0}, {2, 1}, {-2, 1}, {0, 5}, {3, 9}}};

Encoder make_encoder() { return Encoder(Skeleton(5, {{3, 0}, {0, 1}, {4, 3}}), proportions); }

/// The arrays of a batch, and of its node confidences at strides 16 and 4.
struct Arrays {
  std::vector<float> pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset, coarse, fine;

  explicit Arrays(std::size_t batch)
      : pif_confidence(batch * num_keypoints * grid.size()),
        pif_offset(2 * pif_confidence.size()),
        pif_scale(pif_confidence.size()),
        paf_confidence(batch * num_limbs * grid.size()),
        paf_offset(4 * paf_confidence.size()),
        coarse(batch * num_keypoints * 7 * 9),
        fine(batch * num_keypoints * 25 * 33) {}

  Targets targets() {
    return {pif_confidence.data(), pif_offset.data(), pif_scale.data(), paf_confidence.data(), paf_offset.data()};
  }
  std::vector<NodeTarget> nodes() { return {{16, coarse.data()}, {4, fine.data()}}; }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool same_bits(const Arrays& a, const Arrays& b) {
  return same_bits(a.pif_confidence, b.pif_confidence) && same_bits(a.pif_offset, b.pif_offset) &&
         same_bits(a.pif_scale, b.pif_scale) && same_bits(a.paf_confidence, b.paf_confidence) &&
         same_bits(a.paf_offset, b.paf_offset) && same_bits(a.coarse, b.coarse) && same_bits(a.fine, b.fine);
}

struct Scene {
  std::vector<AnnotatedJoint> joints;
  std::vector<Box> ignored;

  Annotations annotations() const {
    return {joints.data(), static_cast<int>(joints.size() / num_keypoints), ignored.data(),
            static_cast<int>(ignored.size())};
  }
};

Scene random_scene(std::mt19937& random) {
  const auto uniform = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
  Scene scene;
  const int persons = static_cast<int>(random() % 5);
  for (std::size_t i = 0; i < static_cast<std::size_t>(persons) * num_keypoints; ++i)
    scene.joints.push_back({uniform(-20, 150), uniform(-20, 120), static_cast<double>(random() % 3)});
  for (unsigned i = 0; i < random() % 3; ++i)
    scene.ignored.push_back({uniform(-40, 120), uniform(-40, 100), uniform(0, 50), uniform(0, 50)});
  return scene;
}

void test_every_value_is_written() {
  std::mt19937 random(1);
  const Encoder encoder = make_encoder();
  for (int i = 0; i < 50; ++i) {
    const Scene scene = random_scene(random);
    Arrays zeros(1), sevens(1);
    for (std::vector<float>* values : {&sevens.pif_confidence, &sevens.pif_offset, &sevens.pif_scale,
                                       &sevens.paf_confidence, &sevens.paf_offset, &sevens.coarse, &sevens.fine})
      values->assign(values->size(), 7.0F);
    encoder.encode(scene.annotations(), picture, stride, zeros.targets(), zeros.nodes());
    encoder.encode(scene.annotations(), picture, stride, sevens.targets(), sevens.nodes());
    CHECK(same_bits(zeros, sevens));
  }
}

void test_fields_are_where_they_belong() {
  // One person: joints 0 and 3 and the limb between them, which the skeleton lists first, and joint 4 apart.
  const Scene scene{{{16, 16, 2}, {0, 0, 0}, {0, 0, 0}, {16, 80, 2}, {120, 40, 2}}, {{96, 64, 8, 8}}};
  Arrays arrays(1);
  make_encoder().encode(scene.annotations(), picture, stride, arrays.targets(), arrays.nodes());
  const auto pif = [&](std::size_t k, int row, int column) { return k * grid.size() + grid.index(row, column); };
  CHECK(arrays.pif_confidence[pif(0, 2, 2)] == 1.0F && arrays.pif_confidence[pif(3, 10, 2)] == 1.0F);
  CHECK(arrays.pif_confidence[pif(4, 5, 15)] == 1.0F && arrays.pif_confidence[pif(1, 2, 2)] == 0.0F);
  CHECK(std::isnan(arrays.pif_confidence[pif(2, 8, 12)]) && std::isnan(arrays.paf_confidence[pif(1, 9, 13)]));
  CHECK(arrays.paf_confidence[pif(0, 6, 2)] == 1.0F && arrays.paf_confidence[pif(1, 6, 2)] == 0.0F);
  CHECK(arrays.paf_confidence[pif(2, 7, 8)] == 1.0F);                 // limb (4, 3) passes there
  CHECK(arrays.paf_offset[pif(0, 6, 2) + grid.size()] == 4.0F);       // limb (3, 0) starts at joint 3
  CHECK(arrays.paf_offset[pif(0, 6, 2) + 3 * grid.size()] == -4.0F);  // and ends at joint 0
  CHECK(std::isnan(arrays.paf_offset[pif(0, 6, 9)]) && std::isnan(arrays.pif_offset[pif(0, 9, 9)]));
  const double scale = std::sqrt(104.0 * 64.0) * std::sqrt(45.0 / 27.0);  // boxes of the pose: 5 x 9, and 3 x 9
  CHECK_NEAR(arrays.pif_scale[pif(3, 10, 2)], scale * 0.4 / stride, 1e-5);
  CHECK(arrays.coarse[1 * 9 + 1] == 1.0F && arrays.fine[4 * 33 + 4] == 1.0F);
  CHECK(std::isnan(arrays.coarse[4 * 9 + 6]) && std::isnan(arrays.fine[17 * 33 + 25]));
}

void test_batches() {
  std::mt19937 random(2);
  const Encoder encoder = make_encoder();
  std::vector<Scene> scenes;
  for (int i = 0; i < 37; ++i) scenes.push_back(random_scene(random));
  std::vector<Annotations> annotations;
  for (const Scene& scene : scenes) annotations.push_back(scene.annotations());

  Arrays serial(scenes.size());
  encoder.encode_batch(annotations, picture, stride, serial.targets(), serial.nodes(), 1);
  for (const int threads : {0, 2, 5, 64}) {
    Arrays threaded(scenes.size());
    encoder.encode_batch(annotations, picture, stride, threaded.targets(), threaded.nodes(), threads);
    CHECK(same_bits(serial, threaded));
  }
  Arrays alone(1);
  encoder.encode(annotations[11], picture, stride, alone.targets(), alone.nodes());
  const auto is_part = [](const std::vector<float>& one, const std::vector<float>& all) {
    return std::memcmp(one.data(), all.data() + 11 * one.size(), one.size() * sizeof(float)) == 0;
  };
  CHECK(is_part(alone.pif_offset, serial.pif_offset) && is_part(alone.paf_offset, serial.paf_offset));
  CHECK(is_part(alone.pif_scale, serial.pif_scale) && is_part(alone.coarse, serial.coarse));
  CHECK(is_part(alone.fine, serial.fine));

  Arrays none(0);
  encoder.encode_batch({}, picture, stride, none.targets(), none.nodes(), 0);
}

void test_wild_values() {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> values{nan, infinity, -infinity, 1e300, -1e300, 1e9, -1e9, 4e9, -0.0, 1e-300, 64, 128};
  std::mt19937 random(3);
  const Encoder encoder = make_encoder();
  Arrays arrays(1);
  for (int i = 0; i < 300; ++i) {
    Scene scene;
    const auto any = [&] { return values[random() % values.size()]; };
    for (std::size_t j = 0; j < 4 * num_keypoints; ++j)
      scene.joints.push_back({any(), any(), random() % 4 == 0 ? any() : 2.0});
    for (int j = 0; j < 3; ++j) scene.ignored.push_back({any(), any(), any(), any()});
    encoder.encode(scene.annotations(), picture, stride, arrays.targets(), arrays.nodes());
    for (std::size_t cell = 0; cell < arrays.pif_confidence.size(); ++cell) {
      if (arrays.pif_confidence[cell] == 1.0F) continue;
      CHECK(arrays.pif_confidence[cell] == 0.0F || std::isnan(arrays.pif_confidence[cell]));
      CHECK(std::isnan(arrays.pif_scale[cell]));
    }
    for (const float value : arrays.paf_offset) CHECK(std::isnan(value) || std::fabs(value) <= 16.0F);
  }
}

void test_errors() {
  const Skeleton skeleton(2, {{0, 1}});
  CHECK_THROWS(Encoder(skeleton, {{0.1}, {{0, 0}, {1, 1}}}), std::invalid_argument);
  CHECK_THROWS(Encoder(skeleton, {{0.1, 0.1}, {{0, 0}}}), std::invalid_argument);
  for (const double bad : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    CHECK_THROWS(Encoder(skeleton, {{0.1, bad}, {{0, 0}, {1, 1}}}), std::invalid_argument);
  CHECK_THROWS(Encoder(skeleton, {{0.1, 0.1}, {{0, 0}, {1, std::nan("")}}}), std::invalid_argument);

  const Encoder encoder = make_encoder();
  Arrays arrays(1);
  const auto encode = [&](PixelSize size, int with_stride, const std::vector<NodeTarget>& nodes, int threads) {
    encoder.encode_batch({Annotations{}}, size, with_stride, arrays.targets(), nodes, threads);
  };
  CHECK_THROWS(encode(picture, 0, {}, 1), std::invalid_argument);
  CHECK_THROWS(encode({96, 129}, stride, {}, 1), std::invalid_argument);
  CHECK_THROWS(encode({97, 0}, stride, {}, 1), std::invalid_argument);
  CHECK_THROWS(encode(picture, stride, {{5, arrays.coarse.data()}}, 2), std::invalid_argument);
  CHECK_THROWS(encode(picture, stride, {}, -1), std::invalid_argument);
  for (const Annotations& wrong : {Annotations{nullptr, -1, nullptr, 0}, Annotations{nullptr, 0, nullptr, -1}})
    CHECK_THROWS(encoder.encode(wrong, picture, stride, arrays.targets(), {}), std::invalid_argument);
}

void test_for_each_in_threads() {
  for (const int threads : {0, 1, 3, 100}) {
    std::vector<std::atomic<int>> visits(50);
    for_each_in_threads(visits.size(), threads, [&](std::size_t i) { ++visits[i]; });
    for (const std::atomic<int>& count : visits) CHECK(count == 1);
  }
  // All items are tried, and the first error in their order is the one thrown.
  std::atomic<int> tried{0};
  try {
    for_each_in_threads(20, 4, [&](std::size_t i) {
      ++tried;
      if (i % 7 == 3) throw std::runtime_error(std::to_string(i));
    });
    CHECK(false);
  } catch (const std::runtime_error& error) {
    CHECK(std::string(error.what()) == "3");
  }
  CHECK(tried == 20);
}

}  // namespace

int main() {
  test_every_value_is_written();
  test_fields_are_where_they_belong();
  test_batches();
  test_wild_values();
  test_errors();
  test_for_each_in_threads();
  return check_result();
}
