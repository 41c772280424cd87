// The arithmetic of the non-local layer's aggregation, shared by the CPU and CUDA kernels and free of torch.
//
//   y_i = (1/N) Σ_j relu(a_i + b_j) g_j
//
//   a, b       [B, N]     keys: w_θ·θ_i and w_φ·φ_j; N = H·W positions
//   g, y       [B, C, N]  features, C channels
//   active     the pair (i, j) is active if a_i + b_j > 0, where the derivative of ReLU is 1. At a_i + b_j = 0 it is 0
//
// With the keys sorted, the j that are active for a_i are those of the k largest b, for some k. A scan over the keys in
// descending order b_(1) ≥ b_(2) ≥ … holds, after k of them, w = Σ g_(1…k) and r = Σ_{j ≤ k} (b_(j) − b_(k)) g_(j).
// Then
//
//   N y_i = r + (a_i + b_(k)) w        and from k to k + 1    r += (b_(k) − b_(k+1)) w,    w += g_(k+1)
//
// Every factor is a difference of keys that is at least 0, so the sums cancel no more than the g themselves do, and
// adding c to a and −c to b changes nothing. (y could also be computed from prefix sums of g_j and b_j g_j. These
// cancel where the keys are much larger than their differences.)
//
// Backward. With h_i = ∂L/∂y_i, and every sum over the active pairs,
//
//   ∂L/∂g_j = (1/N) Σ_i relu(a_i + b_j) h_i      the same scan with (a, h) and (b, g) exchanged
//   ∂L/∂a_i = (1/N) ⟨h_i, Σ_j g_j⟩               ⟨h_i, w⟩ of the forward scan, summed over channels
//   ∂L/∂b_j = (1/N) ⟨g_j, Σ_i h_i⟩               ⟨g_j, w⟩ of the exchanged scan
//
// NaN. A key that is NaN sorts as the largest and is active with every other key, so that every result that depends on
// it becomes NaN.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace dgcn::nonlocal {

/// A [B, C, N] tensor in memory, of any strides (in elements).
template <typename Stored>
struct FeatureView {
  Stored* data;  ///< null: absent
  int64_t image_stride, channel_stride, position_stride;
};

struct FeatureShape {
  int64_t images, channels, positions;  ///< B, C, N
};

/// Whether a + b > 0. Also true if a + b is NaN, so that NaN reaches the result.
template <typename T>
DGCN_HOST_DEVICE bool is_active(T a, T b) {
  return !(a + b <= T(0));
}

/// The state of a scan: w and r above, for one channel or, if `Channels` is a vector type, for several.
template <typename Channels>
struct ScanState {
  Channels sum;   ///< w
  Channels ramp;  ///< r
};

/// Adds the next position: its features `g`, and `gap`, the key before it minus its own, b_(k) − b_(k+1).
template <typename Channels, typename T>
DGCN_HOST_DEVICE void add_position(ScanState<Channels>& state, T gap, Channels g) {
  state.ramp += gap * state.sum;
  state.sum += g;
}

/// Adds the positions that `other` has scanned from an empty state. `gap`: the last key of `state` minus that of
/// `other`.
template <typename Channels, typename T>
DGCN_HOST_DEVICE void append(ScanState<Channels>& state, T gap, const ScanState<Channels>& other) {
  state.ramp += gap * state.sum + other.ramp;
  state.sum += other.sum;
}

/// Σ_j relu(a_i + b_j) g_j over the positions in `state`. `last`: a_i + b_(k), the weight of the last one.
template <typename Channels, typename T>
DGCN_HOST_DEVICE Channels weighted_sum(const ScanState<Channels>& state, T last) {
  return state.ramp + last * state.sum;
}

/// Maps keys to unsigned integers in the same order; every NaN is mapped to the largest one.
DGCN_HOST_DEVICE uint32_t sortable_bits(float key) {
  uint32_t bits;
  memcpy(&bits, &key, sizeof(bits));
  return key != key ? ~uint32_t{0} : bits >> 31 ? ~bits : bits | uint32_t{1} << 31;
}

DGCN_HOST_DEVICE uint64_t sortable_bits(double key) {
  uint64_t bits;
  memcpy(&bits, &key, sizeof(bits));
  return key != key ? ~uint64_t{0} : bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

}  // namespace dgcn::nonlocal
