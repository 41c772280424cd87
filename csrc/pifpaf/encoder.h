// The PIF/PAF encoder: annotated persons in, training targets out. Plain C++17; depends on nothing.
//
//     using namespace dgcn::pifpaf;
//     const Encoder encoder(Skeleton(17, limbs), {sigmas, upright_pose});
//     encoder.encode({joints, num_persons, boxes, num_boxes}, {641, 641}, 8, targets, {{16, node_confidence}});
//
//   B, P, K, M   pictures, persons of a picture, keypoints, limbs
//   H, W         field size [cells]: (picture size − 1) / stride + 1
#pragma once

#include <vector>

#include "pifpaf/annotations.h"
#include "pifpaf/fields.h"
#include "pifpaf/skeleton.h"

namespace dgcn::pifpaf {

/// Where the targets are written: row-major arrays that the caller allocates. NaN marks values that training ignores.
struct Targets {
  float* pif_confidence;  ///< [K, H, W]: 1 near a joint, 0 elsewhere, NaN in ignored boxes
  float* pif_offset;      ///< [K, 2, H, W]: cell -> joint, (x, y) [cells]
  float* pif_scale;       ///< [K, H, W]: size of the joint [cells]
  float* paf_confidence;  ///< [M, H, W]: 1 along a limb, 0 elsewhere, NaN in ignored boxes
  float* paf_offset;      ///< [M, 4, H, W]: cell -> both ends of the limb, (x1, y1, x2, y2) [cells]
};

/// Where the PIF confidence at another stride is written, the target of intermediate supervision.
struct NodeTarget {
  int stride;         ///< [px]
  float* confidence;  ///< [K, H', W'] at that stride
};

/// Immutable: any number of threads may share one. Throws std::invalid_argument for wrong arguments and std::bad_alloc,
/// nothing else.
class Encoder {
 public:
  /// Throws std::invalid_argument if the proportions are not those of K keypoints, a sigma is not positive and finite
  /// or a coordinate of the upright pose is not finite.
  Encoder(Skeleton skeleton, Proportions proportions);

  /// Writes every value of `targets` and `nodes`. Both sizes of the picture must be a multiple of every stride plus 1.
  void encode(const Annotations& annotations, PixelSize picture, int stride, const Targets& targets,
              const std::vector<NodeTarget>& nodes) const;

  /// The same for B pictures of one size on `threads` threads (0: one per core): every array of `targets` and `nodes`
  /// has a leading dimension B.
  void encode_batch(const std::vector<Annotations>& pictures, PixelSize picture, int stride, const Targets& targets,
                    const std::vector<NodeTarget>& nodes, int threads) const;

  int num_keypoints() const { return skeleton_.num_keypoints(); }
  int num_limbs() const { return skeleton_.num_limbs(); }

 private:
  Skeleton skeleton_;
  Proportions proportions_;
};

}  // namespace dgcn::pifpaf
