// Stage 3: the joints from which persons are grown.
#pragma once

#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/confidence_map.h"
#include "pifpaf/fields.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// A joint from which a person may be grown.
struct Seed {
  int keypoint;
  int cell;  ///< of the PIF field it comes from
  Joint joint;
};

/// Appends one keypoint's seeds: PIF cells with at least the seed threshold whose confidence, blended with that of the
/// keypoint's map at their position, reaches it too. Where the map is empty it counts as −1.
void append_seeds(int keypoint, const std::vector<PifCell>& cells, ConfidenceMap& map, const DecoderConfig& config,
                  std::vector<Seed>& seeds);

/// Keeps the best `max_seeds`, best first, all keypoints together; ties stay in their order,
/// which append_seeds makes that of keypoints and cells.
void sort_seeds(const DecoderConfig& config, std::vector<Seed>& seeds);

}  // namespace dgcn::pifpaf
