// The CPU kernels of the non-local layer. Compiled once per instruction set: see instruction_set.h.
//
// A block of channels is packed once into rows (all its channels at a position) in the order of the keys. The scans
// then access memory sequentially; only packing and unpacking access it at random.
#include "nonlocal/cpu/kernels.h"

#include "common/instruction_set.h"
#include "common/simd.h"

namespace dgcn::nonlocal {
namespace {

// ---- Blocks of channels ---------------------------------------------------------------------------------------------

// In vectors of double; the state of a scan is twice as many.
#if defined(__AVX512F__)
constexpr int kBlockVectors = 2;
#else
constexpr int kBlockVectors = 4;
#endif
constexpr int kBlockChannels = kBlockVectors * Simd<double>::kLanes;

/// The channels of a block at one position, as double.
struct BlockChannels {
  using S = Simd<double>;
  S::Vector part[kBlockVectors];

  template <typename T>
  static inline BlockChannels load(const T* row) {
    typedef T Narrow __attribute__((vector_size(S::kLanes * sizeof(T))));
    BlockChannels channels;
    for (int v = 0; v < kBlockVectors; ++v) {
      Narrow narrow;
      memcpy(&narrow, row + v * S::kLanes, sizeof(narrow));
      channels.part[v] = __builtin_convertvector(narrow, S::Vector);
    }
    return channels;
  }

  template <typename T>
  inline void store(T* row) const {
    typedef T Narrow __attribute__((vector_size(S::kLanes * sizeof(T))));
    for (int v = 0; v < kBlockVectors; ++v) {
      const Narrow narrow = __builtin_convertvector(part[v], Narrow);
      memcpy(row + v * S::kLanes, &narrow, sizeof(narrow));
    }
  }

  inline BlockChannels& operator+=(const BlockChannels& other) {
    for (int v = 0; v < kBlockVectors; ++v) part[v] += other.part[v];
    return *this;
  }
  friend inline BlockChannels operator+(BlockChannels a, const BlockChannels& b) { return a += b; }
  friend inline BlockChannels operator*(double factor, BlockChannels channels) {
    for (int v = 0; v < kBlockVectors; ++v) channels.part[v] *= factor;
    return channels;
  }
  friend inline double dot(const BlockChannels& a, const BlockChannels& b) {
    S::Vector sum = a.part[0] * b.part[0];
    for (int v = 1; v < kBlockVectors; ++v) sum += a.part[v] * b.part[v];
    return S::sum(sum);
  }
};

/// The features of one block in the order of the keys: a row per position, padded with zeros to kBlockChannels.
template <typename T>
class RankedRows {
 public:
  explicit RankedRows(int64_t positions) : elements_(positions * kBlockChannels) {}

  T* operator[](int64_t rank) const { return elements_.data() + rank * kBlockChannels; }

 private:
  AlignedArray<T> elements_;
};

/// Where a block lies in a tensor.
struct ChannelBlock {
  int64_t image, first_channel, channels;
};

inline ChannelBlock block_of(const FeatureShape& shape, int64_t index) {
  constexpr int64_t kMost = kBlockChannels;
  const int64_t per_image = (shape.channels + kMost - 1) / kMost, first = index % per_image * kMost;
  return {index / per_image, first, shape.channels - first < kMost ? shape.channels - first : kMost};
}

template <typename Stored>
inline Stored* start_of(const FeatureView<Stored>& features, const ChannelBlock& block) {
  return features.data + block.image * features.image_stride + block.first_channel * features.channel_stride;
}

/// Converts the row of a position. Copies it by vectors if the types are the same: GCC may compile a memcpy of this
/// size to a call.
template <typename In, typename Out>
inline void convert_row(const In* from, Out* to) {
  if constexpr (std::is_same_v<In, Out>) {
    using S = Simd<Out>;
    for (int c = 0; c < kBlockChannels; c += S::kLanes) S::store(to + c, S::load(from + c));
  } else {
    for (int c = 0; c < kBlockChannels; ++c) to[c] = convert<Out>(from[c]);
  }
}

constexpr int64_t kTilePositions = 128;  // packed or unpacked at a time: they fit into L1

/// rows[rank[n]] = features of position n.
template <typename Stored, typename T>
void pack(const FeatureView<const Stored>& features, const ChannelBlock& block, int64_t positions, const int32_t* rank,
          const RankedRows<T>& rows) {
  alignas(64) Stored tile[kTilePositions * kBlockChannels] = {};
  for (int64_t first = 0; first < positions; first += kTilePositions) {
    const int64_t count = positions - first < kTilePositions ? positions - first : kTilePositions;
    copy_matrix(start_of(features, block) + first * features.position_stride, features.channel_stride,
                features.position_stride, tile, 1, kBlockChannels, block.channels, count);
    for (int64_t n = 0; n < count; ++n) convert_row(tile + n * kBlockChannels, rows[rank[first + n]]);
  }
}

/// The inverse of pack(): features of position n = rows[rank[n]].
template <typename Stored, typename T>
void unpack(const RankedRows<T>& rows, const FeatureView<Stored>& features, const ChannelBlock& block,
            int64_t positions, const int32_t* rank) {
  alignas(64) Stored tile[kTilePositions * kBlockChannels];
  for (int64_t first = 0; first < positions; first += kTilePositions) {
    const int64_t count = positions - first < kTilePositions ? positions - first : kTilePositions;
    for (int64_t n = 0; n < count; ++n) convert_row(rows[rank[first + n]], tile + n * kBlockChannels);
    copy_matrix<Stored>(tile, 1, kBlockChannels, start_of(features, block) + first * features.position_stride,
                        features.channel_stride, features.position_stride, block.channels, count);
  }
}

// ---- The scan -------------------------------------------------------------------------------------------------------

/// Scans the keys of `from`, whose features are `features`, in descending order. Goes through the keys of `to` in
/// ascending order, and evaluates the sums for each once its active positions have been added. By rank in `to`:
///
///   values [rank] = (1/N) Σ_j relu(to + from_j) features_j        unless null; may be `others`
///   dots [rank] = (1/N) ⟨others[rank], Σ_j features_j⟩ over its active j        unless null
template <typename T>
void scan(const RankedKeys& from, const RankedRows<T>& features, const RankedKeys& to, const RankedRows<T>& others,
          const RankedRows<T>* values, double* dots, int64_t positions) {
  const double scale = 1.0 / static_cast<double>(positions);
  ScanState<BlockChannels> state{};
  int64_t rank = 0;
  for (; rank < positions && to.active[rank] == 0; ++rank) {
    if (values != nullptr) BlockChannels{}.store((*values)[rank]);
    if (dots != nullptr) dots[rank] = 0;
  }

  int64_t next = positions - 1;  // rank in `from`
  double key = from.key[next];   // the last one that was added
  for (; rank < positions; ++rank) {
    for (const int64_t last = positions - to.active[rank]; next >= last; --next) {
      add_position(state, (key - from.key[next]) * scale, BlockChannels::load(features[next]));
      key = from.key[next];
    }
    if (dots != nullptr) dots[rank] = dot(BlockChannels::load(others[rank]), state.sum) * scale;
    if (values != nullptr) weighted_sum(state, (to.key[rank] + key) * scale).store((*values)[rank]);
  }
  if (values == nullptr) return;

  // As in the dense form, a feature that is NaN or infinite makes all values of its channel NaN: 0 · NaN is NaN where a
  // pair is not active.
  for (; next >= 0; --next) state.sum += BlockChannels::load(features[next]);
  const BlockChannels zero_or_nan = 0.0 * state.sum;
  if (const double total = dot(zero_or_nan, zero_or_nan); total == total) return;
  for (rank = 0; rank < positions; ++rank) (BlockChannels::load((*values)[rank]) + zero_or_nan).store((*values)[rank]);
}

// ---- Kernels (see AffinityKernels) ----------------------------------------------------------------------------------

template <typename Stored>
void forward(const AffinityForwardArguments<Stored>& arguments, int64_t begin, int64_t end) {
  using T = typename Accumulation<Stored>::type;
  const int64_t positions = arguments.shape.positions;
  const RankedRows<T> g(positions), y(positions);
  for (int64_t index = begin; index < end; ++index) {
    const ChannelBlock block = block_of(arguments.shape, index);
    const auto& [a, b] = arguments.keys[block.image];
    pack(arguments.g, block, positions, b.rank, g);
    scan(b, g, a, y, &y, nullptr, positions);
    unpack(y, arguments.y, block, positions, a.rank);
  }
}

template <typename Stored>
void backward(const AffinityBackwardArguments<Stored>& arguments, int64_t begin, int64_t end) {
  using T = typename Accumulation<Stored>::type;
  const int64_t positions = arguments.shape.positions;
  const bool need_g = arguments.grad_g.data != nullptr, need_keys = arguments.grad_a != nullptr;
  const RankedRows<T> g(positions), h(positions);
  for (int64_t index = begin; index < end; ++index) {
    const ChannelBlock block = block_of(arguments.shape, index);
    const auto& [a, b] = arguments.keys[block.image];
    double* const grad_b = need_keys ? arguments.grad_b + index * positions : nullptr;
    pack(arguments.grad_y, block, positions, a.rank, h);
    if (need_keys) {
      pack(arguments.g, block, positions, b.rank, g);
      scan<T>(b, g, a, h, nullptr, arguments.grad_a + index * positions, positions);
    }
    scan(a, h, b, g, need_g ? &g : nullptr, grad_b, positions);  // grad_g overwrites g
    if (need_g) unpack(g, arguments.grad_g, block, positions, b.rank);
  }
}

template <typename Stored>
constexpr AffinityKernels<Stored> kernels() {
  return {kBlockChannels, forward<Stored>, backward<Stored>};
}

constexpr AffinityKernelTable kKernels{kernels<double>(), kernels<float>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace
}  // namespace dgcn::nonlocal

template <>
const dgcn::nonlocal::AffinityKernelTable&
dgcn::kernels_for<dgcn::nonlocal::AffinityKernelTable, dgcn::InstructionSet::DGCN_INSTRUCTION_SET>() {
  return nonlocal::kKernels;
}
