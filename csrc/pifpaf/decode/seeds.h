// Decoder, stage 2: the joints from which persons are grown.
#pragma once

#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/confidence_map.h"
#include "pifpaf/decode/field_reader.h"
#include "pifpaf/inspection.h"

namespace dgcn::pifpaf {

/// Appends the seeds among one keypoint's PIF `cells`. A seed's confidence is w·map + (1 − w)·cell with w =
/// seed_map_weight; it and the cell's must be at least the seed threshold. Where no cell adds to the map, its
/// value counts as −1.
void append_seeds(int keypoint, const std::vector<PifCell>& cells, ConfidenceMap& map, const DecoderConfig& config,
                  std::vector<Seed>& seeds);

/// Sorts the seeds of all keypoints by descending confidence, stably, and keeps the first `max_seeds`.
void sort_seeds(const DecoderConfig& config, std::vector<Seed>& seeds);

}  // namespace dgcn::pifpaf
