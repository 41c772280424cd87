// Stage 9: persons that repeat a better one lose their joints, and weak persons are dropped.
#pragma once

#include "pifpaf/config.h"
#include "pifpaf/decode/occupancy.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// Visits persons by mean confidence. A joint on a place that a better person's joint of the same keypoint occupies has
/// its confidence multiplied by `suppression_factor`; others occupy theirs. Joints at or below the keypoint threshold
/// are then removed, persons without joints or with a mean confidence below the instance threshold dropped, and the rest
/// sorted by mean confidence again. Ties keep the order in which persons were grown. `occupancy` must be clear, and is
/// used up.
void suppress(Occupancy& occupancy, const DecoderConfig& config, Persons& persons);

}  // namespace dgcn::pifpaf
