// Stages 1 to 4 for all keypoints and limbs: what the fields of an image say, before persons are grown from it.
#pragma once

#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/confidence_map.h"
#include "pifpaf/decode/connections.h"
#include "pifpaf/decode/seeds.h"
#include "pifpaf/fields.h"
#include "pifpaf/skeleton.h"
#include "pifpaf/stage_times.h"

namespace dgcn::pifpaf {

/// Confidence maps and seeds of an image. Keeps references to the fields and the configuration.
class Evidence {
 public:
  Evidence(const Fields& fields, int stride, PixelSize size, const DecoderConfig& config, Stopwatch& stopwatch);

  const std::vector<Seed>& seeds() const { return seeds_; }         ///< best first, max_seeds at most
  const std::vector<ConfidenceMap>& maps() const { return maps_; }  ///< [K]

  /// The connections with more than the given score. They look their targets up in the maps, which must outlive them.
  ConnectionSet connections(const Skeleton& skeleton, float threshold);

 private:
  const Fields& fields_;
  const DecoderConfig& config_;
  int stride_;      ///< [px]
  PixelSize size_;  ///< of the maps
  std::vector<ConfidenceMap> maps_;
  std::vector<Seed> seeds_;
};

}  // namespace dgcn::pifpaf
