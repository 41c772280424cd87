// The greedy PIF/PAF decoder: fields or raw heads of one image in, persons out. Plain C++17; depends on nothing.
//
//     using namespace dgcn::pifpaf;
//     const Decoder decoder(Skeleton(17, limbs), DecoderConfig{});
//     const Persons persons = decoder.decode({pif, paf, 17, 19, 81, 81}, 8);
//     for (std::size_t p = 0; p < persons.size(); ++p) use(persons[p][keypoint].x);
#pragma once

#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/fields.h"
#include "pifpaf/inspection.h"
#include "pifpaf/person.h"
#include "pifpaf/skeleton.h"
#include "pifpaf/stage_times.h"

namespace dgcn::pifpaf {

/// Immutable: any number of threads may share one. The result depends on the arguments alone, to the bit. Throws
/// std::invalid_argument for wrong arguments and std::bad_alloc, nothing else.
class Decoder {
 public:
  Decoder(Skeleton skeleton, const DecoderConfig& config);

  /// Persons of one image, best first. `stride` is the edge of a field cell [px]. The fields may be a network's raw
  /// heads, see Form. Fields without cells give no persons; cells with a component that is NaN, infinite or beyond
  /// ±10⁹ px are skipped. Adds the time of each stage to `times`, if given.
  Persons decode(const Fields& fields, int stride, StageTimes* times = nullptr) const;

  /// The same for each image, on `threads` threads (0: one per core). All images are checked before the first is
  /// decoded; messages of wrong ones begin with "images[i]".
  std::vector<Persons> decode_batch(const std::vector<Fields>& images, int stride, int threads) const;

  /// Confidence maps, seeds and connections, as `decode` uses them. With force_complete the connections are those that
  /// complete persons.
  Inspection inspect(const Fields& fields, int stride) const;

  const Skeleton& skeleton() const { return skeleton_; }
  const DecoderConfig& config() const { return config_; }

 private:
  Skeleton skeleton_;
  DecoderConfig config_;
};

}  // namespace dgcn::pifpaf
