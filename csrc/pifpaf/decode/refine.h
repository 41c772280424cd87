// Decoder, stage 7: joints move to where the PIF cells around them point.
#pragma once

#include "pifpaf/config.h"
#include "pifpaf/decode/field_reader.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// Moves each joint, `refine_rounds` times, to the mean of the positions (x, y) of its keypoint's PIF cells. Each cell
/// of at least `refine_threshold` has the weight confidence·exp(−½ d²/σ²) for the distance d ≤ 3σ of its position from
/// the joint, with σ = max(refine_min_sigma cells, refine_sigma·scale). A joint without such cells stays. Growing
/// places a joint by one or two PAF cells; up to 16 PIF cells point to it, and their mean is more precise.
void refine(const FieldReader& fields, const DecoderConfig& config, Persons& persons);

}  // namespace dgcn::pifpaf
