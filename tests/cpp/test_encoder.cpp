#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "common/parallel.h"
#include "encoder_arrays.h"
#include "pifpaf/encode/nearest.h"
#include "pifpaf/encoder.h"

using dgcn::for_each_in_threads;
using namespace dgcn::pifpaf;

namespace {

constexpr PixelSize kPicture{97, 129};
constexpr int kStride = 8;
const FieldGrid kGrid{13, 17, kStride};
constexpr std::size_t kKeypoints = 5, kLimbs = 3;

const Proportions kProportions{{0.1, 0.2, 0.3, 0.4, 0.5}, {{0, 0}, {2, 1}, {-2, 1}, {0, 5}, {3, 9}}};

Encoder make_encoder() { return Encoder(Skeleton(5, {{3, 0}, {0, 1}, {4, 3}}), kProportions); }

/// Its nodes are those of strides 16 and 4.
struct Arrays : EncoderArrays {
  explicit Arrays(std::size_t batch, float fill = kUnwritten)
      : EncoderArrays(batch, kKeypoints, kLimbs, kGrid.size(), {7 * 9, 25 * 33}, fill) {}

  std::vector<NodeTarget> node_targets() { return {{16, nodes[0].data()}, {4, nodes[1].data()}}; }
};

struct Picture {
  std::vector<AnnotatedJoint> joints;
  std::vector<Box> ignored;

  Annotations annotations() const {
    return {joints.data(), static_cast<int>(joints.size() / kKeypoints), ignored.data(),
            static_cast<int>(ignored.size())};
  }
};

Picture random_picture(std::mt19937& random) {
  const auto uniform = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
  Picture picture;
  const int persons = static_cast<int>(random() % 5);
  for (std::size_t i = 0; i < static_cast<std::size_t>(persons) * kKeypoints; ++i)
    picture.joints.push_back({uniform(-20, 150), uniform(-20, 120), static_cast<double>(random() % 3)});
  for (unsigned i = 0; i < random() % 3; ++i)
    picture.ignored.push_back({uniform(-40, 120), uniform(-40, 100), uniform(0, 50), uniform(0, 50)});
  return picture;
}

void test_every_value_is_written() {
  std::mt19937 random(1);
  const Encoder encoder = make_encoder();
  for (int i = 0; i < 50; ++i) {
    const Picture picture = random_picture(random);
    Arrays zeros(1, 0.0F), sevens(1, 7.0F);
    encoder.encode(picture.annotations(), kPicture, kStride, zeros.targets(), zeros.node_targets());
    encoder.encode(picture.annotations(), kPicture, kStride, sevens.targets(), sevens.node_targets());
    CHECK(zeros.holds(sevens, 0));
  }
}

void test_fields_are_where_they_belong() {
  // One person: joints 0 and 3 and the limb between them, which the skeleton lists first, and joint 4 apart.
  const Picture picture{{{16, 16, 2}, {0, 0, 0}, {0, 0, 0}, {16, 80, 2}, {120, 40, 2}}, {{96, 64, 8, 8}}};
  Arrays arrays(1);
  make_encoder().encode(picture.annotations(), kPicture, kStride, arrays.targets(), arrays.node_targets());
  const auto pif = [&](std::size_t k, int row, int column) { return k * kGrid.size() + kGrid.index(row, column); };
  CHECK(arrays.pif_confidence[pif(0, 2, 2)] == 1.0F && arrays.pif_confidence[pif(3, 10, 2)] == 1.0F);
  CHECK(arrays.pif_confidence[pif(4, 5, 15)] == 1.0F && arrays.pif_confidence[pif(1, 2, 2)] == 0.0F);
  CHECK(std::isnan(arrays.pif_confidence[pif(2, 8, 12)]) && std::isnan(arrays.paf_confidence[pif(1, 9, 13)]));
  CHECK(arrays.paf_confidence[pif(0, 6, 2)] == 1.0F && arrays.paf_confidence[pif(1, 6, 2)] == 0.0F);
  CHECK(arrays.paf_confidence[pif(2, 7, 8)] == 1.0F);                  // limb (4, 3) passes there
  CHECK(arrays.paf_offset[pif(0, 6, 2) + kGrid.size()] == 4.0F);       // limb (3, 0) starts at joint 3
  CHECK(arrays.paf_offset[pif(0, 6, 2) + 3 * kGrid.size()] == -4.0F);  // and ends at joint 0
  CHECK(std::isnan(arrays.paf_offset[pif(0, 6, 9)]) && std::isnan(arrays.pif_offset[pif(0, 9, 9)]));
  const double scale = std::sqrt(104.0 * 64.0) * std::sqrt(45.0 / 27.0);  // boxes of the pose: 5 x 9, and 3 x 9
  CHECK_NEAR(arrays.pif_scale[pif(3, 10, 2)], scale * 0.4 / kStride, 1e-5);
  CHECK(arrays.nodes[0][1 * 9 + 1] == 1.0F && arrays.nodes[1][4 * 33 + 4] == 1.0F);
  CHECK(std::isnan(arrays.nodes[0][4 * 9 + 6]) && std::isnan(arrays.nodes[1][17 * 33 + 25]));
}

void test_batches() {
  std::mt19937 random(2);
  const Encoder encoder = make_encoder();
  std::vector<Picture> pictures;
  for (int i = 0; i < 37; ++i) pictures.push_back(random_picture(random));
  std::vector<Annotations> annotations;
  for (const Picture& picture : pictures) annotations.push_back(picture.annotations());

  Arrays serial(pictures.size());
  encoder.encode_batch(annotations, kPicture, kStride, serial.targets(), serial.node_targets(), 1);
  for (const int threads : {0, 2, 5, 64}) {
    Arrays threaded(pictures.size());
    encoder.encode_batch(annotations, kPicture, kStride, threaded.targets(), threaded.node_targets(), threads);
    CHECK(threaded.holds(serial, 0));
  }
  Arrays alone(1);
  encoder.encode(annotations[11], kPicture, kStride, alone.targets(), alone.node_targets());
  CHECK(serial.holds(alone, 11));

  Arrays none(0);
  encoder.encode_batch({}, kPicture, kStride, none.targets(), none.node_targets(), 0);
}

void test_wild_values() {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> values{nan, infinity, -infinity, 1e300, -1e300, 1e9, -1e9, 4e9, -0.0, 1e-300, 64, 128};
  std::mt19937 random(3);
  const Encoder encoder = make_encoder();
  Arrays arrays(1);
  for (int i = 0; i < 300; ++i) {
    Picture picture;
    const auto any = [&] { return values[random() % values.size()]; };
    for (std::size_t j = 0; j < 4 * kKeypoints; ++j)
      picture.joints.push_back({any(), any(), random() % 4 == 0 ? any() : 2.0});
    for (int j = 0; j < 3; ++j) picture.ignored.push_back({any(), any(), any(), any()});
    encoder.encode(picture.annotations(), kPicture, kStride, arrays.targets(), arrays.node_targets());
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
  CHECK_THROWS(encode(kPicture, 0, {}, 1), std::invalid_argument);
  CHECK_THROWS(encode({96, 129}, kStride, {}, 1), std::invalid_argument);
  CHECK_THROWS(encode({97, 0}, kStride, {}, 1), std::invalid_argument);
  CHECK_THROWS(encode(kPicture, kStride, {{5, arrays.nodes[0].data()}}, 2), std::invalid_argument);
  CHECK_THROWS(encode(kPicture, kStride, {}, -1), std::invalid_argument);
  for (const Annotations& wrong : {Annotations{nullptr, -1, nullptr, 0}, Annotations{nullptr, 0, nullptr, -1}})
    CHECK_THROWS(encoder.encode(wrong, kPicture, kStride, arrays.targets(), {}), std::invalid_argument);
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
