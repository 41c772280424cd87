// The CPU kernels of the non-local layer. Included by one file per instruction set, which gives
//
//   struct Isa {
//     static constexpr int kVectorBytes;   // see simd.h
//     static constexpr int kBlockVectors;  // a block's channels in vectors of double: a walk holds twice as many
//   };
//
// A block is packed once, its rows (all channels of a position) in the order of the keys. Every walk then reads and
// writes memory from one end to the other; only packing and unpacking jump about.
//
// In an unnamed namespace, and sparing of the standard library, for the reason that simd.h gives.
#pragma once

#include <new>

#include "common/simd.h"
#include "nonlocal/cpu/kernels.h"

namespace dgcn::nonlocal {
namespace {

// ---- Blocks ---------------------------------------------------------------------------------------------------------

template <class Isa>
constexpr int kBlockChannels = Isa::kBlockVectors * Isa::kVectorBytes / sizeof(double);

/// All channels of a block at one position, for the arithmetic.
template <class Isa>
struct Channels {
  using S = Simd<double, Isa>;
  typename S::Vector part[Isa::kBlockVectors];

  template <typename T>
  static inline Channels load(const T* row) {
    typedef T Narrow __attribute__((vector_size(S::kLanes * sizeof(T))));
    Channels channels;
    for (int v = 0; v < Isa::kBlockVectors; ++v) {
      Narrow narrow;
      memcpy(&narrow, row + v * S::kLanes, sizeof(narrow));
      channels.part[v] = __builtin_convertvector(narrow, typename S::Vector);
    }
    return channels;
  }

  template <typename T>
  inline void store(T* row) const {
    typedef T Narrow __attribute__((vector_size(S::kLanes * sizeof(T))));
    for (int v = 0; v < Isa::kBlockVectors; ++v) {
      const Narrow narrow = __builtin_convertvector(part[v], Narrow);
      memcpy(row + v * S::kLanes, &narrow, sizeof(narrow));
    }
  }

  inline Channels& operator+=(const Channels& other) {
    for (int v = 0; v < Isa::kBlockVectors; ++v) part[v] += other.part[v];
    return *this;
  }
  friend inline Channels operator+(Channels a, const Channels& b) { return a += b; }
  friend inline Channels operator*(double factor, Channels channels) {
    for (int v = 0; v < Isa::kBlockVectors; ++v) channels.part[v] *= factor;
    return channels;
  }
  friend inline double dot(const Channels& a, const Channels& b) {
    typename S::Vector sum = a.part[0] * b.part[0];
    for (int v = 1; v < Isa::kBlockVectors; ++v) sum += a.part[v] * b.part[v];
    return S::sum(sum);
  }
};

/// The features of one block: a row per position, padded with zeros to kBlockChannels.
template <typename T, class Isa>
class Rows {
 public:
  explicit Rows(int64_t positions)
      : data_(static_cast<T*>(operator new(positions* kBlockChannels<Isa> * sizeof(T), kCacheLine))) {}
  ~Rows() { operator delete(data_, kCacheLine); }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  T* operator[](int64_t slot) const { return data_ + slot * kBlockChannels<Isa>; }

 private:
  static constexpr std::align_val_t kCacheLine{64};

  T* data_;
};

/// Where a block lies in a tensor.
struct Block {
  int64_t image, first_channel, channels;
};

template <class Isa>
inline Block block_of(const Shape& shape, int64_t index) {
  constexpr int64_t kMost = kBlockChannels<Isa>;
  const int64_t per_image = (shape.channels + kMost - 1) / kMost, first = index % per_image * kMost;
  return {index / per_image, first, shape.channels - first < kMost ? shape.channels - first : kMost};
}

template <typename Stored>
inline Stored* start_of(const Features<Stored>& features, const Block& block) {
  return features.data + block.image * features.image_stride + block.first_channel * features.channel_stride;
}

/// A position's channels in another type. In the same, a copy by vectors: memcpy of so many bytes may be a call.
template <class Isa, typename In, typename Out>
inline void convert_row(const In* from, Out* to) {
  if constexpr (std::is_same_v<In, Out>) {
    using S = Simd<Out, Isa>;
    for (int c = 0; c < kBlockChannels<Isa>; c += S::kLanes) S::store(to + c, S::load(from + c));
  } else {
    for (int c = 0; c < kBlockChannels<Isa>; ++c) to[c] = convert<Out>(from[c]);
  }
}

constexpr int64_t kTilePositions = 128;  // that change between the tensor's layout and rows at a time, in L1

/// rows[slot[n]] = features of position n.
template <class Isa, typename Stored, typename T>
void pack(const Features<const Stored>& features, const Block& block, int64_t positions, const int32_t* slot,
          const Rows<T, Isa>& rows) {
  constexpr int64_t kWidth = kBlockChannels<Isa>;
  const int64_t channel_stride = features.channel_stride, position_stride = features.position_stride;
  alignas(64) Stored tile[kTilePositions * kWidth] = {};
  for (int64_t first = 0; first < positions; first += kTilePositions) {
    const int64_t count = positions - first < kTilePositions ? positions - first : kTilePositions;
    const Stored* from = start_of(features, block) + first * position_stride;
    if (position_stride == 1) {
      transpose<Isa>(from, channel_stride, tile, kWidth, block.channels, count);
    } else {
      for (int64_t n = 0; n < count; ++n)
        for (int64_t c = 0; c < block.channels; ++c)
          tile[n * kWidth + c] = from[n * position_stride + c * channel_stride];
    }
    for (int64_t n = 0; n < count; ++n) convert_row<Isa>(tile + n * kWidth, rows[slot[first + n]]);
  }
}

/// The way back: features of position n = rows[slot[n]].
template <class Isa, typename Stored, typename T>
void unpack(const Rows<T, Isa>& rows, const Features<Stored>& features, const Block& block, int64_t positions,
            const int32_t* slot) {
  constexpr int64_t kWidth = kBlockChannels<Isa>;
  const int64_t channel_stride = features.channel_stride, position_stride = features.position_stride;
  alignas(64) Stored tile[kTilePositions * kWidth];
  for (int64_t first = 0; first < positions; first += kTilePositions) {
    const int64_t count = positions - first < kTilePositions ? positions - first : kTilePositions;
    Stored* to = start_of(features, block) + first * position_stride;
    for (int64_t n = 0; n < count; ++n) convert_row<Isa>(rows[slot[first + n]], tile + n * kWidth);
    if (position_stride == 1) {
      transpose<Isa>(tile, kWidth, to, channel_stride, count, block.channels);
    } else {
      for (int64_t n = 0; n < count; ++n)
        for (int64_t c = 0; c < block.channels; ++c)
          to[n * position_stride + c * channel_stride] = tile[n * kWidth + c];
    }
  }
}

// ---- The walk -------------------------------------------------------------------------------------------------------

/// Walks down the keys of `from`, whose features are `features`, and stops for each key of `to`, from the smallest up,
/// where all that meet it have been taken in.
///
/// kValues: values[slot of `to`] = (1/N) Σ_j relu(to + from_j) features_j. `values` may be `others`.
/// kDots: dots[slot of `to`] = (1/N) ⟨others[slot], Σ_j features_j⟩ over the j that meet it.
template <bool kValues, bool kDots, class Isa, typename T>
void walk_down(const Side& from, const Rows<T, Isa>& features, const Side& to, const Rows<T, Isa>& others,
               const Rows<T, Isa>& values, double* dots, int64_t positions) {
  const double scale = 1.0 / static_cast<double>(positions);
  const double* keys = from.keys.key;
  Walk<Channels<Isa>> walk{};
  int64_t slot = 0;
  for (; slot < positions && to.met[slot] == 0; ++slot) {
    if (kValues) Channels<Isa>{}.store(values[slot]);
    if (kDots) dots[slot] = 0;
  }

  int64_t next = positions - 1;  // slot of `from`
  double key = keys[next];       // the last one that was taken in
  for (; slot < positions; ++slot) {
    for (const int64_t last = positions - to.met[slot]; next >= last; --next) {
      step(walk, (key - keys[next]) * scale, Channels<Isa>::load(features[next]));
      key = keys[next];
    }
    if (kDots) dots[slot] = dot(Channels<Isa>::load(others[slot]), walk.sum) * scale;
    if (kValues) value(walk, (to.keys.key[slot] + key) * scale).store(values[slot]);
  }
  if (!kValues) return;

  // relu(…) g_j is NaN where g_j is NaN, met or not: as in the dense form, that reaches all of a channel.
  for (; next >= 0; --next) walk.sum += Channels<Isa>::load(features[next]);
  const Channels<Isa> nothing = 0.0 * walk.sum;
  if (const double total = dot(nothing, nothing); total == total) return;
  for (slot = 0; slot < positions; ++slot) (Channels<Isa>::load(values[slot]) + nothing).store(values[slot]);
}

// ---- Kernels (see CpuKernels) ---------------------------------------------------------------------------------------

template <class Isa, typename Stored>
void forward(const ForwardArguments<Stored>& arguments, int64_t begin, int64_t end) {
  using T = typename Accumulation<Stored>::type;
  const int64_t positions = arguments.shape.positions;
  const Rows<T, Isa> g(positions), y(positions);
  for (int64_t index = begin; index < end; ++index) {
    const Block block = block_of<Isa>(arguments.shape, index);
    const auto& [a, b] = arguments.pairings[block.image];
    pack(arguments.g, block, positions, b.keys.slot, g);
    walk_down<true, false>(b, g, a, y, y, nullptr, positions);
    unpack(y, arguments.y, block, positions, a.keys.slot);
  }
}

template <class Isa, typename Stored>
void backward(const BackwardArguments<Stored>& arguments, int64_t begin, int64_t end) {
  using T = typename Accumulation<Stored>::type;
  const int64_t positions = arguments.shape.positions;
  const Rows<T, Isa> g(positions), h(positions);
  for (int64_t index = begin; index < end; ++index) {
    const Block block = block_of<Isa>(arguments.shape, index);
    const auto& [a, b] = arguments.pairings[block.image];
    pack(arguments.g, block, positions, b.keys.slot, g);
    pack(arguments.grad_y, block, positions, a.keys.slot, h);
    const bool need_g = arguments.grad_g.data != nullptr, need_keys = arguments.grad_a != nullptr;
    if (need_keys) {
      walk_down<false, true>(b, g, a, h, h, arguments.grad_a + index * positions, positions);
      double* grad_b = arguments.grad_b + index * positions;
      if (need_g)
        walk_down<true, true>(a, h, b, g, g, grad_b, positions);
      else
        walk_down<false, true>(a, h, b, g, g, grad_b, positions);
    } else {
      walk_down<true, false>(a, h, b, g, g, nullptr, positions);
    }
    if (need_g) unpack(g, arguments.grad_g, block, positions, b.keys.slot);
  }
}

template <class Isa, typename Stored>
constexpr CpuKernels<Stored> kernels() {
  return {forward<Isa, Stored>, backward<Isa, Stored>};
}

template <class Isa>
constexpr CpuKernelSet kernel_set() {
  return {kBlockChannels<Isa>, kernels<Isa, double>(), kernels<Isa, float>(), kernels<Isa, BFloat16>(),
          kernels<Isa, Float16>()};
}

}  // namespace
}  // namespace dgcn::nonlocal
