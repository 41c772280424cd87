// The arithmetic of the non-local layer's aggregation, shared by the CPU and CUDA kernels and free of torch.
//
//   y_i = (1/N) Σ_j relu(a_i + b_j) g_j
//
//   a, b       [B, N]     keys: w_θ·θ_i and w_φ·φ_j; N = H·W positions
//   g, y       [B, C, N]  C channels
//   meeting    a_i and b_j meet where a_i + b_j > 0: where ReLU lets through. At a_i + b_j = 0 its gradient is 0
//
// With the keys sorted, the positions that meet a_i are those of the largest b, k of them say, and one walk down the
// keys b_(1) ≥ b_(2) ≥ … has all that is asked for. With w = Σ g_(1…k) and r = Σ_{j ≤ k} (b_(j) − b_(k)) g_(j),
//
//   N y_i = r + (a_i + b_(k)) w        r and w move on to k + 1 by    r += (b_(k) − b_(k+1)) w,    w += g_(k+1)
//
// Every factor is a difference that is at least 0, so nothing cancels that does not cancel among the g themselves, and
// adding c to a and −c to b changes nothing. (The sums Σ g_j and Σ b_j g_j, which also give y, lose the digits by which
// the keys exceed their differences.)
//
// Backward. With h_i = ∂L/∂y_i, and every sum over the pairs that meet,
//
//   ∂L/∂g_j = (1/N) Σ_i relu(a_i + b_j) h_i      the same walk with the parts of (a, h) and (b, g) exchanged
//   ∂L/∂a_i = (1/N) ⟨h_i, Σ_j g_j⟩               ⟨h_i, w⟩ of the forward walk, summed over channels
//   ∂L/∂b_j = (1/N) ⟨g_j, Σ_i h_i⟩               ⟨g_j, w⟩ of the exchanged one
//
// NaN. A key that is NaN sorts as the largest and meets every other, so that what depends on it becomes NaN.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace dgcn::nonlocal {

/// A [B, C, N] tensor in memory, of any strides (in elements).
template <typename Stored>
struct Features {
  Stored* data;
  int64_t image_stride, channel_stride, position_stride;
};

struct Shape {
  int64_t images, channels, positions;  ///< B, C, N
};

/// Whether ReLU lets a + b through, or would have NaN pass.
template <typename T>
DGCN_HOST_DEVICE bool meet(T a, T b) {
  return !(a + b <= T(0));
}

/// The state of a walk: w and r of the legend, for a channel or, as a vector type, for several.
template <typename Channels>
struct Walk {
  Channels sum;   ///< w
  Channels ramp;  ///< r
};

/// Takes in the next position: its features `g`, and its key's distance from the one before, b_(k) − b_(k+1).
template <typename Channels, typename T>
DGCN_HOST_DEVICE void step(Walk<Channels>& walk, T gap, Channels g) {
  walk.ramp += gap * walk.sum;
  walk.sum += g;
}

/// Takes in positions that another walk took in on its own, over which the keys fall by `gap`.
template <typename Channels, typename T>
DGCN_HOST_DEVICE void append(Walk<Channels>& walk, T gap, const Walk<Channels>& other) {
  walk.ramp += gap * walk.sum + other.ramp;
  walk.sum += other.sum;
}

/// Σ_j relu(a_i + b_j) g_j, where `height` is a_i + b_(k).
template <typename Channels, typename T>
DGCN_HOST_DEVICE Channels value(const Walk<Channels>& walk, T height) {
  return walk.ramp + height * walk.sum;
}

/// The bits of a key as an unsigned integer that sorts as the number does; every NaN is the same and the largest.
DGCN_HOST_DEVICE uint32_t sortable(float key) {
  uint32_t bits;
  memcpy(&bits, &key, sizeof(bits));
  return key != key ? ~uint32_t{0} : bits >> 31 ? ~bits : bits | uint32_t{1} << 31;
}

DGCN_HOST_DEVICE uint64_t sortable(double key) {
  uint64_t bits;
  memcpy(&bits, &key, sizeof(bits));
  return key != key ? ~uint64_t{0} : bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

}  // namespace dgcn::nonlocal
