// Writes the fields of one person with three keypoints (a head, a neck, a hip), decodes them, prints the joints.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <utility>
#include <vector>

#include "pifpaf/decoder.h"

using namespace dgcn::pifpaf;

namespace {

constexpr int kKeypoints = 3, kHeight = 20, kWidth = 20;  // fields of 20 x 20 cells
constexpr int kStride = 8;                                // of 8 px each
const std::vector<std::pair<int, int>> kLimbs{{0, 1}, {1, 2}};
const Joint kPerson[kKeypoints] = {{1.0F, 9.0F, 3.5F, 1.0F}, {1.0F, 9.25F, 7.0F, 1.0F}, {1.0F, 10.0F, 13.0F, 2.0F}};

/// Sets the components of the 4 x 4 cells around a joint in the `field` of one keypoint or limb.
void set_around(const Joint& joint, const std::vector<float>& components, float* field) {
  const int left = static_cast<int>(joint.x) - 1, top = static_cast<int>(joint.y) - 1;
  for (std::size_t component = 0; component < components.size(); ++component) {
    for (int y = top; y < top + 4; ++y) {
      for (int x = left; x < left + 4; ++x)
        field[(component * kHeight + static_cast<std::size_t>(y)) * kWidth + static_cast<std::size_t>(x)] =
            components[component];
    }
  }
}

}  // namespace

int main() try {
  const std::size_t plane = std::size_t{kHeight} * kWidth;
  std::vector<float> pif(kKeypoints * 5 * plane), paf(kLimbs.size() * 8 * plane);
  for (std::size_t k = 0; k < kKeypoints; ++k) {
    const Joint& joint = kPerson[k];
    set_around(joint, {0.0F, joint.confidence, joint.x, joint.y, joint.scale}, &pif[k * 5 * plane]);
  }
  for (std::size_t limb = 0; limb < kLimbs.size(); ++limb) {
    const Joint& a = kPerson[kLimbs[limb].first];
    const Joint& b = kPerson[kLimbs[limb].second];
    for (const Joint& end : {a, b})
      set_around(end, {0.0F, a.confidence, a.x, a.y, b.x, b.y, a.scale, b.scale}, &paf[limb * 8 * plane]);
  }

  const Decoder decoder(Skeleton(kKeypoints, kLimbs), DecoderConfig{});
  const Fields fields{pif.data(), paf.data(), kKeypoints, static_cast<int>(kLimbs.size()), kHeight, kWidth};
  const Persons persons = decoder.decode(fields, kStride);
  bool right = persons.size() == 1;
  for (std::size_t p = 0; p < persons.size(); ++p) {
    std::printf("person %zu, score %.2f\n", p, person_score(persons[p], kKeypoints, decoder.config()));
    for (int k = 0; k < kKeypoints; ++k) {
      const Joint& joint = persons[p][k];
      std::printf("  keypoint %d at (%.1f, %.1f) px, confidence %.2f\n", k, joint.x, joint.y, joint.confidence);
      right = right && std::fabs(joint.x - kPerson[k].x * kStride) < 0.01F &&
              std::fabs(joint.y - kPerson[k].y * kStride) < 0.01F;
    }
  }
  return right ? 0 : 1;
} catch (const std::invalid_argument& error) {  // what Skeleton, Decoder and decode throw at bad arguments
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
