// The time that each stage of a decode takes.
#pragma once

namespace dgcn::pifpaf {

/// Seconds spent in each stage of decoding. Map values and connection scores are computed on demand; their time counts
/// for the stage that uses them.
struct StageTimes {
  double reading = 0.0;      ///< copying the confidences, unless they lie there as dense float32
  double maps = 0.0;         ///< reading PIF cells and sorting them into the buckets of the confidence maps
  double seeds = 0.0;        ///< looking seeds up in the maps, and sorting them
  double growing = 0.0;      ///< reading PAF cells, scoring connections, growing persons, occupancy
  double completing = 0.0;   ///< the same for force-complete
  double suppressing = 0.0;  ///< suppressing joints and dropping persons
  double refining = 0.0;     ///< moving joints to where PIF cells point
};

}  // namespace dgcn::pifpaf
