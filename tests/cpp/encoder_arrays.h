// The arrays that the encoder writes, for tests.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "pifpaf/encoder.h"

/// The targets of a batch of pictures, and their node confidences at other strides.
struct EncoderArrays {
  static constexpr float kUnwritten = -12345.0F;

  /// `plane`: cells of a field; `node_planes`: the same at each of the other strides.
  EncoderArrays(std::size_t pictures, std::size_t num_keypoints, std::size_t num_limbs, std::size_t plane,
                const std::vector<std::size_t>& node_planes, float fill = kUnwritten)
      : pif_confidence(pictures * num_keypoints * plane, fill),
        pif_offset(2 * pif_confidence.size(), fill),
        pif_scale(pif_confidence.size(), fill),
        paf_confidence(pictures * num_limbs * plane, fill),
        paf_offset(4 * paf_confidence.size(), fill) {
    for (const std::size_t node_plane : node_planes) nodes.emplace_back(pictures * num_keypoints * node_plane, fill);
  }

  dgcn::pifpaf::Targets targets() {
    return {pif_confidence.data(), pif_offset.data(), pif_scale.data(), paf_confidence.data(), paf_offset.data()};
  }

  /// Whether this batch holds, as its picture `index`, the bits of `single`.
  bool holds(const EncoderArrays& single, std::size_t index) const {
    const auto arrays = all(), expected = single.all();
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      const std::size_t size = expected[i]->size();
      if (size > 0 && std::memcmp(arrays[i]->data() + index * size, expected[i]->data(), size * sizeof(float)) != 0)
        return false;
    }
    return true;
  }

  std::vector<const std::vector<float>*> all() const {
    std::vector<const std::vector<float>*> arrays{&pif_confidence, &pif_offset, &pif_scale, &paf_confidence,
                                                  &paf_offset};
    for (const std::vector<float>& node : nodes) arrays.push_back(&node);
    return arrays;
  }

  std::vector<float> pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset;
  std::vector<std::vector<float>> nodes;
};
