// Where the time of a decode goes.
#pragma once

#include <chrono>

namespace dgcn::pifpaf {

/// Seconds that decoding spent in each of its stages. What a stage leaves for later, until it is asked for, counts where
/// it is asked for.
struct StageTimes {
  double maps = 0.0;         ///< PIF cells read, and made ready for look-ups in the confidence maps
  double seeds = 0.0;        ///< looked up in the maps, and sorted
  double growing = 0.0;      ///< PAF cells read, connections scored with the maps, persons grown, occupancy
  double completing = 0.0;   ///< the same in force-complete's pass
  double suppressing = 0.0;  ///< of joints and persons
};

/// Books the time since the last lap for the stage that ends, if there is anybody to book it for.
class Stopwatch {
 public:
  explicit Stopwatch(StageTimes* times) : times_(times) {
    if (times_ != nullptr) last_ = Clock::now();
  }

  void lap(double StageTimes::* stage) {
    if (times_ == nullptr) return;
    const Clock::time_point now = Clock::now();
    times_->*stage += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;

  StageTimes* times_;
  Clock::time_point last_;
};

}  // namespace dgcn::pifpaf
