// Decoder, stages 4 and 5: a person is grown from its first joint along the limbs, the most confident limb first.
#pragma once

#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/connections.h"
#include "pifpaf/person.h"
#include "pifpaf/skeleton.h"

namespace dgcn::pifpaf {

/// What differs between growing persons and completing them.
struct GrowPass {
  float window;        ///< connection_window or complete_window [scales]
  bool reverse_match;  ///< whether a new joint must lead back to its start
};

/// Grows persons. Its only state is the heap, kept to reuse its memory.
class Grower {
 public:
  Grower(const Skeleton& skeleton, const DecoderConfig& config) : skeleton_(skeleton), config_(config) {}

  /// Fills the joints of a person that can be reached from those it has; `connections` [M], by limb.
  ///
  /// A max-heap holds the limbs from a filled joint to an unfilled one. A limb is pushed with the key √confidence of
  /// its start, an upper bound of the confidence at its end. When it is popped first, its connection is computed and it
  /// is pushed again with the confidence of the joint found; when it is popped again, that joint is accepted. Of equal
  /// keys the one pushed first is popped first.
  void grow(std::vector<LimbConnections>& connections, const GrowPass& pass, Joint* person);

  /// Fills every missing joint with a copy of the person's nearest joint, the distance counted in limbs, and gives it
  /// `complete_confidence`. Of equally near joints the most confident is copied, then the one of the lower keypoint.
  void fill_missing(Joint* person);

 private:
  /// A limb in the heap.
  struct Branch {
    float key;
    int order;  ///< number of branches pushed before
    const DirectedLimb* limb;
    Joint joint;  ///< at the end of the limb, once computed
  };

  void push_limbs(int keypoint, const Joint* person);
  void push(Branch branch);
  Branch pop();
  static bool comes_later(const Branch& a, const Branch& b);
  Joint connect(std::vector<LimbConnections>& connections, const GrowPass& pass, const DirectedLimb& limb,
                const Joint& start) const;

  const Skeleton& skeleton_;
  const DecoderConfig& config_;
  std::vector<Branch> heap_;
  int num_pushed_ = 0;
};

}  // namespace dgcn::pifpaf
