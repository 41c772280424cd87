// Stage 7 and 11: a person grows from its first joint along the limbs, most certain limb first.
#pragma once

#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/connections.h"
#include "pifpaf/person.h"
#include "pifpaf/skeleton.h"

namespace dgcn::pifpaf {

/// How strict a pass of growing is.
struct GrowPass {
  float window;        ///< in which connections start [scales]
  bool reverse_match;  ///< a new joint must lead back to its start
};

/// Grows persons over one image's connections; keeps nothing from one person to the next.
class Grower {
 public:
  Grower(const Skeleton& skeleton, const DecoderConfig& config) : skeleton_(skeleton), config_(config) {}

  /// Fills the joints of a person that can be reached from those it has.
  ///
  /// A max-heap holds the limbs from a filled joint to an unfilled one. A limb enters with the key √confidence of its
  /// start, an upper bound of what it can reach; the first time it comes up its connection is computed and it is put
  /// back under the confidence of the joint found, the second time that joint is accepted. Of equal keys the one that
  /// entered first comes up first.
  void grow(ConnectionSet& connections, const GrowPass& pass, Joint* person);

  /// Copies into every joint still missing the nearest found one along the limbs, with `complete_confidence`; of
  /// several at the same number of limbs, the most confident, then the lower keypoint.
  void fill_missing(Joint* person);

 private:
  struct Branch {
    float key;
    int order;  ///< of entering the heap
    const DirectedLimb* limb;
    Joint joint;  ///< the joint at its end, once computed
  };

  void push_limbs(int keypoint, const Joint* person);
  void push(Branch branch);
  Branch pop();
  static bool comes_later(const Branch& a, const Branch& b);
  Joint connect(ConnectionSet& connections, const GrowPass& pass, const DirectedLimb& limb, const Joint& start) const;

  const Skeleton& skeleton_;
  const DecoderConfig& config_;
  std::vector<Branch> heap_;
  int entered_ = 0;
};

}  // namespace dgcn::pifpaf
