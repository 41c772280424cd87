// The decoder's kernels, on the vector extensions that GCC and Clang share. Compiled once per instruction set, in an
// unnamed namespace and without the standard library: see common/instruction_set.h.
#include "pifpaf/decode/kernels.h"

#include <cstring>

namespace dgcn::pifpaf {
namespace {

#if defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
using Floats = float __attribute__((vector_size(4 * lanes)));       // a register
using Ints = std::int32_t __attribute__((vector_size(4 * lanes)));  // as a truth value: all bits or none
using Bits = std::uint32_t __attribute__((vector_size(4 * lanes)));

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
  for (unsigned lane = 0; lane < lanes; ++lane) numbers[lane] = lane;
  return numbers;
}

/// Truth values, bit by bit.
class TileMask {
 public:
  void set(unsigned i, Ints truth) { bits_ |= (Bits)truth & (Bits{} + 1U) << (lane_numbers() + i); }

  std::uint32_t bits() const {
    std::uint32_t bits = 0;
    for (int lane = 0; lane < lanes; ++lane) bits |= bits_[lane];
    return bits;
  }

 private:
  Bits bits_ = {};
};

void add_spots(const Spot* spots, const int* begin, const int* end, int top, int left, float* pixels) {
  constexpr int num_vectors = block_edge * block_edge / lanes, rows = lanes / block_edge;  // of a vector
  const Floats column = static_cast<float>(left) + __builtin_convertvector(lane_numbers() % block_edge, Floats);
  const Floats row = static_cast<float>(top) + __builtin_convertvector(lane_numbers() / block_edge, Floats);
  Floats sums[num_vectors] = {};
  for (const int* index = begin; index != end; ++index) {
    if ((index - begin) % 32 == 31) {  // this bounds the work where very many spots are very large
      Ints saturated = sums[0] >= 1.0F;
      for (const Floats sum : sums) saturated &= sum >= 1.0F;
      bool all = true;
      for (int lane = 0; lane < lanes; ++lane) all &= saturated[lane] != 0;
      if (all) break;
    }
    const Spot& spot = spots[*index];
    if (spot.exceeds_box) {
      for (int i = 0; i < block_edge * block_edge; ++i)
        sums[i / lanes][i % lanes] += spot.at(top + i / block_edge, left + i % block_edge);
      continue;
    }
    // Without a branch: which spots reach which pixels cannot be foretold.
    const Floats dx = column - spot.x, dx2 = dx * dx, peak = Floats{} + spot.peak;
    for (int v = 0; v < num_vectors; ++v) {
      const Floats dy = row + static_cast<float>(v * rows) - spot.y, dy2 = dy * dy, d2 = dx2 + dy2;
      const Ints at_centre = (dx2 < 0.25F) & (dy2 < 0.25F), near = d2 <= spot.sigma2;
      const Floats value = peak * eighth_power(1.0F - d2 * spot.falloff);
      sums[v] += (Floats)((at_centre & (Ints)peak) | (~at_centre & near & (Ints)value));
    }
  }
  memcpy(pixels, sums, sizeof sums);
}

/// Calls visit(i, places) for the i-th place of a tile and the `lanes` that it begins.
template <typename Visit>
void for_each_vector(const Tile& tile, Visit visit) {
  for (unsigned i = 0; i < tile_size; i += lanes) {
    const std::size_t place = i / tile_width * tile.row_stride + i % tile_width;
    visit(i, load(tile.confidence + place), load(tile.x + place) * tile.to_px, load(tile.y + place) * tile.to_px);
  }
}

Window around(const Tile& tile, float threshold) {
  const Floats infinity = Floats{} + __builtin_inff();
  Floats left = infinity, right = -infinity, top = infinity, bottom = -infinity;
  for_each_vector(tile, [&](unsigned, Floats confidence, Floats x, Floats y) {
    const Ints counts = confidence >= threshold;
    left = (counts & (x < left)) ? x : left;
    right = (counts & (x > right)) ? x : right;
    top = (counts & (y < top)) ? y : top;
    bottom = (counts & (y > bottom)) ? y : bottom;
  });
  Window window{left[0], right[0], top[0], bottom[0]};
  for (int lane = 1; lane < lanes; ++lane) {
    window.left = left[lane] < window.left ? left[lane] : window.left;
    window.right = right[lane] > window.right ? right[lane] : window.right;
    window.top = top[lane] < window.top ? top[lane] : window.top;
    window.bottom = bottom[lane] > window.bottom ? bottom[lane] : window.bottom;
  }
  return window;
}

std::uint32_t meeting(const TileWindows& windows, const Window& window) {
  TileMask mask;
  for (unsigned i = 0; i < tile_size; i += lanes) {
    mask.set(i, (load(windows.left + i) <= window.right) & (load(windows.right + i) >= window.left) &
                    (load(windows.top + i) <= window.bottom) & (load(windows.bottom + i) >= window.top));
  }
  return mask.bits();
}

std::uint32_t find(const Tile& tile, const Window& window, float threshold, float floor) {
  TileMask mask;
  for_each_vector(tile, [&](unsigned i, Floats confidence, Floats x, Floats y) {
    const Ints inside = (x >= window.left) & (x <= window.right) & (y >= window.top) & (y <= window.bottom);
    mask.set(i, inside & (confidence >= threshold) & (confidence >= floor));
  });
  return mask.bits();
}

constexpr int half = lanes / 2;  // doubles fill a register with half as many
using Halves = float __attribute__((vector_size(4 * half)));
using Doubles = double __attribute__((vector_size(8 * half)));
using Longs = std::uint64_t __attribute__((vector_size(8 * half)));

/// exp(x) for −300 ≤ x ≤ 0, closer by far than a float can tell.
Doubles exponential(Doubles x) {
  constexpr double to_integer = 0x1.8p52;  // added to a number, leaves its nearest integer in the lower bits
  const Doubles power = x * 1.4426950408889634 + to_integer;  // of 2
  const Doubles rest = x - (power - to_integer) * 0.6931471805599453;
  const Doubles square = rest * rest;
  Doubles even = Doubles{} + 1.0 / 3628800, odd = Doubles{} + 1.0 / 362880;  // powers: two short sums, not a long one
  const double of_even[] = {1.0 / 40320, 1.0 / 720, 1.0 / 24, 1.0 / 2, 1.0};
  const double of_odd[] = {1.0 / 5040, 1.0 / 120, 1.0 / 6, 1.0};
  for (const double coefficient : of_even) even = even * square + coefficient;
  for (const double coefficient : of_odd) odd = odd * square + coefficient;
  return (Doubles)((Longs)(even + odd * rest) + ((Longs)power << 52));
}

void weigh(const float* x, const float* y, std::size_t count, float at_x, float at_y, float sigma, float* values) {
  for (std::size_t i = 0; i < count; i += half) {
    Halves dx, dy, value;
    memcpy(&dx, x + i, sizeof dx);
    memcpy(&dy, y + i, sizeof dy);
    memcpy(&value, values + i, sizeof value);
    dx -= at_x;
    dy -= at_y;
    const Halves exponent = -0.5F * (dx * dx + dy * dy) / (sigma * sigma), least = Halves{} - 300.0F;
    const Doubles weight = exponential(__builtin_convertvector(exponent > least ? exponent : least, Doubles));
    value *= __builtin_convertvector(weight, Halves);
    memcpy(values + i, &value, sizeof value);
  }
}

constexpr Kernels kKernels{add_spots, around, meeting, find, weigh};

}  // namespace
}  // namespace dgcn::pifpaf

template <>
const dgcn::pifpaf::Kernels& dgcn::kernels_for<dgcn::pifpaf::Kernels, dgcn::InstructionSet::DGCN_INSTRUCTION_SET>() {
  return pifpaf::kKernels;
}
