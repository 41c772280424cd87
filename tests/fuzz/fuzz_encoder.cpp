// Fuzzes the encoder: bytes become a skeleton, its proportions and the annotations of a picture, and the targets must be
// what the headers promise. Exceptions other than std::invalid_argument for bad arguments end the run.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "fuzz_input.h"
#include "pifpaf/encoder.h"

using namespace dgcn::pifpaf;

namespace {

constexpr float kUnwritten = -12345.0F;

/// The annotations of a picture, and what they point to.
struct Picture {
  Picture(FuzzInput& input, int num_keypoints) {
    num_persons = input.integer(0, 4);
    for (int i = 0; i < num_persons * num_keypoints; ++i) {
      const double x = input.component(2.0F, 10.0F), y = input.component(2.0F, 10.0F);
      joints.push_back({x, y, input.component(64.0F, 0.0F)});
    }
    for (int count = input.integer(0, 2); count > 0; --count) {
      const double x = input.component(2.0F, 10.0F), y = input.component(2.0F, 10.0F);
      boxes.push_back({x, y, input.component(4.0F, 0.0F), input.component(4.0F, 0.0F)});
    }
  }
  Annotations annotations() const { return {joints.data(), num_persons, boxes.data(), static_cast<int>(boxes.size())}; }

  int num_persons;
  std::vector<AnnotatedJoint> joints;
  std::vector<Box> boxes;
};

/// The memory of the targets of some pictures, none of it written yet.
struct Arrays {
  Arrays(std::size_t pictures, std::size_t num_keypoints, std::size_t num_limbs, std::size_t plane, std::size_t nodes)
      : pif_confidence(pictures * num_keypoints * plane, kUnwritten),
        pif_offset(2 * pif_confidence.size(), kUnwritten),
        pif_scale(pif_confidence.size(), kUnwritten),
        paf_confidence(pictures * num_limbs * plane, kUnwritten),
        paf_offset(4 * paf_confidence.size(), kUnwritten),
        node(pictures * num_keypoints * nodes, kUnwritten) {}

  Targets targets() {
    return {pif_confidence.data(), pif_offset.data(), pif_scale.data(), paf_confidence.data(), paf_offset.data()};
  }
  std::vector<const std::vector<float>*> all() const {
    return {&pif_confidence, &pif_offset, &pif_scale, &paf_confidence, &paf_offset, &node};
  }

  std::vector<float> pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset, node;
};

void require_confidences(const std::vector<float>& confidences, bool ignored_anywhere) {
  for (const float c : confidences) REQUIRE(c == 0.0F || c == 1.0F || (std::isnan(c) && ignored_anywhere));
}

/// Components [fields, components, plane] are numbers within ±limit where the confidence [fields, plane] is 1, else NaN.
void require_components(const std::vector<float>& confidences, const std::vector<float>& components, std::size_t plane,
                        float limit) {
  const std::size_t count = confidences.empty() ? 0 : components.size() / confidences.size();
  for (std::size_t i = 0; i < components.size(); ++i) {
    const float value = components[i];
    const bool painted = confidences[i / (count * plane) * plane + i % plane] == 1.0F;
    REQUIRE(painted ? std::fabs(value) <= limit : std::isnan(value));
  }
}

void require_sound(const Arrays& arrays, std::size_t plane, bool ignored_anywhere) {
  for (const std::vector<float>* confidences : {&arrays.pif_confidence, &arrays.paf_confidence, &arrays.node})
    require_confidences(*confidences, ignored_anywhere);
  require_components(arrays.pif_confidence, arrays.pif_offset, plane, 2.001F);
  require_components(arrays.paf_confidence, arrays.paf_offset, plane, std::numeric_limits<float>::max());
  for (std::size_t i = 0; i < arrays.pif_scale.size(); ++i) {
    const float scale = arrays.pif_scale[i];
    REQUIRE(std::isnan(scale) || (arrays.pif_confidence[i] == 1.0F && scale >= 0.0F));
  }
}

/// Whether `batch` holds, as its picture `index`, the bits of `single`.
bool holds(const Arrays& batch, const Arrays& single, std::size_t index) {
  const auto arrays = batch.all(), expected = single.all();
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const std::size_t size = expected[i]->size();
    if (size > 0 && std::memcmp(arrays[i]->data() + index * size, expected[i]->data(), size * sizeof(float)) != 0)
      return false;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const int num_keypoints = input.integer(1, 5);
  const Skeleton skeleton(num_keypoints, read_limbs(input, num_keypoints));
  Proportions proportions;
  for (int k = 0; k < num_keypoints; ++k) {
    proportions.sigmas.push_back(input.component(64.0F, -0.01F));
    const double x = input.component(8.0F, 0.0F), y = input.component(8.0F, 0.0F);
    proportions.upright_pose.push_back({x, y});
  }
  try {
    const Encoder valid(skeleton, proportions);
  } catch (const std::invalid_argument&) {
    std::fill(proportions.sigmas.begin(), proportions.sigmas.end(), 0.05);
    for (std::size_t k = 0; k < proportions.upright_pose.size(); ++k)
      proportions.upright_pose[k] = {static_cast<double>(k % 2), static_cast<double>(k)};
  }
  const Encoder encoder(skeleton, proportions);

  // The node targets' grid is twice as coarse.
  const int stride = input.integer(1, 12), threads = input.integer(1, 2);
  const int node_height = input.integer(1, 5), node_width = input.integer(1, 5);
  const int height = 2 * node_height - 1, width = 2 * node_width - 1;
  const PixelSize size_px{(height - 1) * stride + 1, (width - 1) * stride + 1};
  const std::size_t plane = static_cast<std::size_t>(height * width);
  const auto arrays_of = [&](std::size_t pictures) {
    return Arrays(pictures, static_cast<std::size_t>(num_keypoints), static_cast<std::size_t>(skeleton.num_limbs()),
                  plane, static_cast<std::size_t>(node_height * node_width));
  };
  const Picture pictures[] = {Picture(input, num_keypoints), Picture(input, num_keypoints)};
  std::vector<Arrays> singles;
  for (const Picture& picture : pictures) {
    Arrays& arrays = singles.emplace_back(arrays_of(1));
    encoder.encode(picture.annotations(), size_px, stride, arrays.targets(), {{2 * stride, arrays.node.data()}});
    require_sound(arrays, plane, !picture.boxes.empty());
  }
  Arrays batch = arrays_of(3);
  encoder.encode_batch({pictures[0].annotations(), pictures[1].annotations(), pictures[0].annotations()}, size_px,
                       stride, batch.targets(), {{2 * stride, batch.node.data()}}, threads);
  REQUIRE(holds(batch, singles[0], 0) && holds(batch, singles[1], 1) && holds(batch, singles[0], 2));
  return 0;
}
