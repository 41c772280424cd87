// Fuzzes the encoder: bytes become a skeleton, its proportions and the annotations of a picture, and the targets must
// be as documented. Exceptions other than std::invalid_argument for bad arguments end the run.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "encoder_arrays.h"
#include "fuzz_input.h"
#include "pifpaf/encoder.h"

using namespace dgcn::pifpaf;

namespace {

/// The annotations of a picture, and their arrays.
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

void require_confidences(const std::vector<float>& confidences, bool ignored_anywhere) {
  for (const float c : confidences) REQUIRE(c == 0.0F || c == 1.0F || (std::isnan(c) && ignored_anywhere));
}

/// Components [fields, components, plane] are within ±limit where the confidence [fields, plane] is 1, else NaN.
void require_components(const std::vector<float>& confidences, const std::vector<float>& components, std::size_t plane,
                        float limit) {
  const std::size_t count = confidences.empty() ? 0 : components.size() / confidences.size();
  for (std::size_t i = 0; i < components.size(); ++i) {
    const float value = components[i];
    const bool painted = confidences[i / (count * plane) * plane + i % plane] == 1.0F;
    REQUIRE(painted ? std::fabs(value) <= limit : std::isnan(value));
  }
}

void require_sound(const EncoderArrays& arrays, std::size_t plane, bool ignored_anywhere) {
  for (const std::vector<float>* confidences : {&arrays.pif_confidence, &arrays.paf_confidence, &arrays.nodes[0]})
    require_confidences(*confidences, ignored_anywhere);
  require_components(arrays.pif_confidence, arrays.pif_offset, plane, 2.001F);
  require_components(arrays.paf_confidence, arrays.paf_offset, plane, std::numeric_limits<float>::max());
  for (std::size_t i = 0; i < arrays.pif_scale.size(); ++i) {
    const float scale = arrays.pif_scale[i];
    REQUIRE(std::isnan(scale) || (arrays.pif_confidence[i] == 1.0F && scale >= 0.0F));
  }
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

  // The stride of the node targets is twice as large.
  const int stride = input.integer(1, 12), threads = input.integer(1, 2);
  const int node_height = input.integer(1, 5), node_width = input.integer(1, 5);
  const int height = 2 * node_height - 1, width = 2 * node_width - 1;
  const PixelSize size_px{(height - 1) * stride + 1, (width - 1) * stride + 1};
  const std::size_t plane = static_cast<std::size_t>(height * width);
  const auto arrays_of = [&](std::size_t pictures) {
    return EncoderArrays(pictures, static_cast<std::size_t>(num_keypoints),
                         static_cast<std::size_t>(skeleton.num_limbs()), plane,
                         {static_cast<std::size_t>(node_height * node_width)});
  };
  const Picture pictures[] = {Picture(input, num_keypoints), Picture(input, num_keypoints)};
  std::vector<EncoderArrays> singles;
  for (const Picture& picture : pictures) {
    EncoderArrays& arrays = singles.emplace_back(arrays_of(1));
    encoder.encode(picture.annotations(), size_px, stride, arrays.targets(), {{2 * stride, arrays.nodes[0].data()}});
    require_sound(arrays, plane, !picture.boxes.empty());
  }
  EncoderArrays batch = arrays_of(3);
  encoder.encode_batch({pictures[0].annotations(), pictures[1].annotations(), pictures[0].annotations()}, size_px,
                       stride, batch.targets(), {{2 * stride, batch.nodes[0].data()}}, threads);
  REQUIRE(batch.holds(singles[0], 0) && batch.holds(singles[1], 1) && batch.holds(singles[0], 2));
  return 0;
}
