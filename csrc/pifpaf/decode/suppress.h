// Decoder, stage 6: duplicate joints are suppressed and weak persons dropped.
#pragma once

#include "pifpaf/config.h"
#include "pifpaf/decode/occupancy.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// Visits persons by descending mean confidence. A joint in a place that a better person's joint of the same keypoint
/// occupies has its confidence multiplied by `suppression_factor`; any other joint occupies its place. Joints at or
/// below the keypoint threshold are removed, then persons without joints or with a mean confidence below the instance
/// threshold. The rest is sorted by mean confidence again; equal ones keep their order. `occupancy` must be clear.
void suppress(Occupancy& occupancy, const DecoderConfig& config, Persons& persons);

}  // namespace dgcn::pifpaf
