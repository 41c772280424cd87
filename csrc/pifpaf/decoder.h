// The greedy PIF/PAF decoder: fields of one image in, persons out. Plain C++17; depends on nothing.
//
//     using namespace dgcn::pifpaf;
//     const Decoder decoder(Skeleton(17, limbs), DecoderConfig{});
//     const Persons persons = decoder.decode({pif, paf, 17, 19, 81, 81}, 8);
//     for (std::size_t p = 0; p < persons.size(); ++p) use(persons[p][keypoint].x);
#pragma once

#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/connections.h"
#include "pifpaf/decode/seeds.h"
#include "pifpaf/fields.h"
#include "pifpaf/person.h"
#include "pifpaf/skeleton.h"
#include "pifpaf/stage_times.h"

namespace dgcn::pifpaf {

/// What is known of an image before persons are grown, for plots and debugging.
struct Inspection {
  PixelSize size;
  std::vector<float> confidence_maps;                ///< [K, height, width], in [0, 1]
  std::vector<Seed> seeds;                           ///< in the order in which they are tried
  std::vector<std::vector<Connection>> connections;  ///< [2·M] limb by limb, forward and backward; by their cells
};

/// Immutable: any number of threads may share one. The same fields give the same bits whatever was decoded before.
/// Errors are std::invalid_argument for wrong arguments and std::bad_alloc, nothing else.
class Decoder {
 public:
  Decoder(Skeleton skeleton, const DecoderConfig& config);

  /// Persons of one image, best first. `stride` is the edge of a field cell [px]. Empty fields give no persons, and
  /// cells that are not finite are skipped (see `usable`). Where `times` is given, what each stage took is added to it.
  Persons decode(const Fields& fields, int stride, StageTimes* times = nullptr) const;

  /// The same for each image, on `threads` threads (0: as many as the machine has). Where images fail, the exception of
  /// the first of them is thrown.
  std::vector<Persons> decode_batch(const std::vector<Fields>& images, int stride, int threads) const;

  /// What `decode` knows of the same fields before it grows persons. With force_complete the connections are those that
  /// complete persons.
  Inspection inspect(const Fields& fields, int stride) const;

  const Skeleton& skeleton() const { return skeleton_; }
  const DecoderConfig& config() const { return config_; }

 private:
  Skeleton skeleton_;
  DecoderConfig config_;
};

}  // namespace dgcn::pifpaf
