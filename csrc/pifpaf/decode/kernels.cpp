// The decoder's kernels, on the vector extensions that GCC and Clang share. Compiled once per instruction set, in an
// unnamed namespace and without the standard library: see common/instruction_set.h.
#include "pifpaf/decode/kernels.h"

#include <cstring>

namespace dgcn::pifpaf {
namespace {

#if defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
using Floats = float __attribute__((vector_size(4 * kLanes)));       // one register
using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));  // of comparisons: all bits set or none
using Bits = std::uint32_t __attribute__((vector_size(4 * kLanes)));

Floats load(const float* values) {
  Floats vector;
  memcpy(&vector, values, sizeof vector);
  return vector;
}

Floats eighth_power(Floats value) {
  const Floats second = value * value;
  const Floats fourth = second * second;
  return fourth * fourth;
}

Bits lane_numbers() {
  Bits numbers = {};
  for (unsigned lane = 0; lane < kLanes; ++lane) numbers[lane] = lane;
  return numbers;
}

/// Collects the results of comparisons, a bit for each candidate of a tile.
class TileMask {
 public:
  /// Sets the bits [i, i + kLanes).
  void set(unsigned i, Ints truth) { bits_ |= (Bits)truth & (Bits{} + 1U) << (lane_numbers() + i); }

  std::uint32_t bits() const {
    std::uint32_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) bits |= bits_[lane];
    return bits;
  }

 private:
  Bits bits_ = {};
};

std::uint32_t at_least(const float* values, float threshold) {
  TileMask mask;
  for (unsigned i = 0; i < kTileSize; i += kLanes) mask.set(i, load(values + i) >= threshold);
  return mask.bits();
}

void sum_splats(const Splat* splats, const int* begin, const int* end, int top, int left, float* pixels) {
  constexpr int kVectors = kBlockEdge * kBlockEdge / kLanes, kRows = kLanes / kBlockEdge;  // of a vector
  const Floats column = static_cast<float>(left) + __builtin_convertvector(lane_numbers() % kBlockEdge, Floats);
  const Floats row = static_cast<float>(top) + __builtin_convertvector(lane_numbers() / kBlockEdge, Floats);
  Floats sums[kVectors] = {};
  for (const int* index = begin; index != end; ++index) {
    if ((index - begin) % 32 == 31) {  // bounds the work for many large splats
      Ints saturated = sums[0] >= 1.0F;
      for (const Floats sum : sums) saturated &= sum >= 1.0F;
      bool all = true;
      for (int lane = 0; lane < kLanes; ++lane) all &= saturated[lane] != 0;
      if (all) break;
    }
    const Splat& splat = splats[*index];
    if (splat.exceeds_box) {
      for (int i = 0; i < kBlockEdge * kBlockEdge; ++i)
        sums[i / kLanes][i % kLanes] += splat.at(top + i / kBlockEdge, left + i % kBlockEdge);
      continue;
    }
    // No branches: whether a splat reaches a pixel is unpredictable.
    const Floats dx = column - splat.x, dx2 = dx * dx, peak = Floats{} + splat.peak;
    for (int v = 0; v < kVectors; ++v) {
      const Floats dy = row + static_cast<float>(v * kRows) - splat.y, dy2 = dy * dy, d2 = dx2 + dy2;
      const Ints at_centre = (dx2 < 0.25F) & (dy2 < 0.25F), near = d2 <= splat.sigma2;
      const Floats value = peak * eighth_power(1.0F - d2 * splat.falloff);
      sums[v] += (Floats)((at_centre & (Ints)peak) | (~at_centre & near & (Ints)value));
    }
  }
  memcpy(pixels, sums, sizeof sums);
}

/// Calls visit(i, confidence, x, y) for the candidates [i, i + kLanes) of a tile, x and y in px.
template <typename Visit>
void for_each_vector(const CandidateTile& tile, Visit visit) {
  for (unsigned i = 0; i < kTileSize; i += kLanes) {
    const std::size_t at = i / kTileWidth * tile.row_stride + i % kTileWidth;
    visit(i, load(tile.confidence + at), load(tile.x + at) * tile.to_px, load(tile.y + at) * tile.to_px);
  }
}

PixelBox bound_starts(const CandidateTile& tile, float threshold) {
  const Floats infinity = Floats{} + __builtin_inff();
  Floats left = infinity, right = -infinity, top = infinity, bottom = -infinity;
  for_each_vector(tile, [&](unsigned, Floats confidence, Floats x, Floats y) {
    const Ints counts = confidence >= threshold;
    left = (counts & (x < left)) ? x : left;
    right = (counts & (x > right)) ? x : right;
    top = (counts & (y < top)) ? y : top;
    bottom = (counts & (y > bottom)) ? y : bottom;
  });
  PixelBox box{left[0], right[0], top[0], bottom[0]};
  for (int lane = 1; lane < kLanes; ++lane) {
    box.left = left[lane] < box.left ? left[lane] : box.left;
    box.right = right[lane] > box.right ? right[lane] : box.right;
    box.top = top[lane] < box.top ? top[lane] : box.top;
    box.bottom = bottom[lane] > box.bottom ? bottom[lane] : box.bottom;
  }
  return box;
}

std::uint32_t overlapping_tiles(const TileBounds& bounds, const PixelBox& window) {
  TileMask mask;
  for (unsigned i = 0; i < kTileSize; i += kLanes) {
    mask.set(i, (load(bounds.left + i) <= window.right) & (load(bounds.right + i) >= window.left) &
                    (load(bounds.top + i) <= window.bottom) & (load(bounds.bottom + i) >= window.top));
  }
  return mask.bits();
}

std::uint32_t starts_inside(const CandidateTile& tile, const PixelBox& window, float threshold, float min_score) {
  TileMask mask;
  for_each_vector(tile, [&](unsigned i, Floats confidence, Floats x, Floats y) {
    const Ints inside = (x >= window.left) & (x <= window.right) & (y >= window.top) & (y <= window.bottom);
    mask.set(i, inside & (confidence >= threshold) & (confidence >= min_score));
  });
  return mask.bits();
}

constexpr int kHalfLanes = kLanes / 2;  // doubles in one register
using Halves = float __attribute__((vector_size(4 * kHalfLanes)));
using Doubles = double __attribute__((vector_size(8 * kHalfLanes)));
using Longs = std::uint64_t __attribute__((vector_size(8 * kHalfLanes)));

/// exp(x) for −300 ≤ x ≤ 0, with an error far below the rounding to float.
Doubles exponential(Doubles x) {
  constexpr double kToInteger = 0x1.8p52;                     // adding it leaves the nearest integer in the low bits
  const Doubles power = x * 1.4426950408889634 + kToInteger;  // of 2, in the low bits
  const Doubles rest = x - (power - kToInteger) * 0.6931471805599453;
  const Doubles square = rest * rest;
  // The Taylor series, even and odd powers apart: two short dependency chains.
  Doubles even = Doubles{} + 1.0 / 3628800, odd = Doubles{} + 1.0 / 362880;
  constexpr double kEven[] = {1.0 / 40320, 1.0 / 720, 1.0 / 24, 1.0 / 2, 1.0};
  constexpr double kOdd[] = {1.0 / 5040, 1.0 / 120, 1.0 / 6, 1.0};
  for (const double coefficient : kEven) even = even * square + coefficient;
  for (const double coefficient : kOdd) odd = odd * square + coefficient;
  return (Doubles)((Longs)(even + odd * rest) + ((Longs)power << 52));
}

void apply_gaussian(const float* x, const float* y, std::size_t count, float centre_x, float centre_y, float sigma,
                    float* values) {
  for (std::size_t i = 0; i < count; i += kHalfLanes) {
    Halves dx, dy, value;
    memcpy(&dx, x + i, sizeof dx);
    memcpy(&dy, y + i, sizeof dy);
    memcpy(&value, values + i, sizeof value);
    dx -= centre_x;
    dy -= centre_y;
    const Halves exponent = -0.5F * (dx * dx + dy * dy) / (sigma * sigma), least = Halves{} - 300.0F;
    const Doubles weight = exponential(__builtin_convertvector(exponent > least ? exponent : least, Doubles));
    value *= __builtin_convertvector(weight, Halves);
    memcpy(values + i, &value, sizeof value);
  }
}

/// Calls compute(value, e^−|value|) for each vector of `values` and stores the result.
template <typename Compute>
void transform(float* values, std::size_t count, Compute compute) {
  for (std::size_t i = 0; i < count; i += kHalfLanes) {
    Halves value;
    memcpy(&value, values + i, sizeof value);
    const Halves least = Halves{} - 300.0F, negative = value < 0.0F ? value : -value;
    value = compute(value, exponential(__builtin_convertvector(negative > least ? negative : least, Doubles)));
    memcpy(values + i, &value, sizeof value);
  }
}

void sigmoid(float* values, std::size_t count) {
  transform(values, count, [](Halves logit, Doubles power) {
    const Halves low = __builtin_convertvector(power / (1.0 + power), Halves);
    const Halves high = __builtin_convertvector(1.0 / (1.0 + power), Halves);
    const Halves confidence = logit < 0.0F ? low : high;
    return logit == logit ? confidence : logit;
  });
}

void softplus(float* values, std::size_t count) {
  transform(values, count, [](Halves value, Doubles power) {
    // ln(1 + p) = 2 artanh(z) with z = p/(2 + p) ≤ 1/3, by its series.
    const Doubles z = power / (2.0 + power), square = z * z;
    Doubles series = Doubles{} + 1.0 / 21;
    for (const double odd : {19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0})
      series = series * square + 1.0 / odd;
    const Halves positive = value < 0.0F ? Halves{} : value;  // NaN stays
    return __builtin_convertvector(__builtin_convertvector(positive, Doubles) + 2.0 * z * series, Halves);
  });
}

constexpr Kernels kKernels{at_least,      sum_splats,     bound_starts, overlapping_tiles,
                           starts_inside, apply_gaussian, sigmoid,      softplus};

}  // namespace
}  // namespace dgcn::pifpaf

template <>
const dgcn::pifpaf::Kernels& dgcn::kernels_for<dgcn::pifpaf::Kernels, dgcn::InstructionSet::DGCN_INSTRUCTION_SET>() {
  return pifpaf::kKernels;
}
