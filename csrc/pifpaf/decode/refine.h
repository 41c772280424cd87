// Stage 7: joints move to where the PIF cells around them point.
#pragma once

#include "pifpaf/config.h"
#include "pifpaf/decode/checked_fields.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// Moves each joint, `refine_rounds` times, to the mean of the positions (x, y) of its keypoint's PIF cells. Each cell
/// of at least `refine_threshold` has the weight confidence·exp(−½ d²/σ²) for the distance d ≤ 3σ of its position from
/// the joint, with σ = max(refine_min_sigma cells, refine_sigma·scale). A joint without such cells stays. A joint that
/// was grown is where one or two PAF cells point, and up to 16 PIF cells know better.
void refine(const CheckedFields& fields, const DecoderConfig& config, Persons& persons);

}  // namespace dgcn::pifpaf
