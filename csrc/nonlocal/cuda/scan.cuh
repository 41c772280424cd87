// A scan through the sequences of all images, and what its kernels share: the items of a chunk, their features, states.
// Part of kernels.cuh, which explains the scans.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "nonlocal/cuda/rows.cuh"
#include "nonlocal/cuda/sequence.cuh"
#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal::cuda {

constexpr int kChunk = 128;
constexpr int kMaxScanThreads = 128;  // further channels come in further rounds
constexpr int kWarp = 32;

/// Items whose rows a thread loads at once.
template <typename T>
constexpr int kBatch = sizeof(T) == 8 ? 4 : 8;

/// Blocks of kMaxScanThreads threads that must fit into an SM at the same time: enough to hide the latency of memory,
/// few enough that no thread spills registers.
constexpr int kResidentScans = 4;

/// The channels of a thread.
struct ThreadChannels {
  double part[kThreadChannels];

  __device__ ThreadChannels& operator+=(const ThreadChannels& other) {
    DGCN_UNROLL()
    for (int v = 0; v < kThreadChannels; ++v) part[v] += other.part[v];
    return *this;
  }
  __device__ friend ThreadChannels operator*(double factor, ThreadChannels channels) {
    DGCN_UNROLL()
    for (int v = 0; v < kThreadChannels; ++v) channels.part[v] *= factor;
    return channels;
  }
};

/// The chunks of every image, in the order of the sequence.
struct ChunkStates {
  /// [B, chunks + 1, C]. After step 1: each chunk scanned alone. After step 2: the state in which each chunk starts,
  /// and behind the last chunk that of the whole image.
  ScanState<double>* states;
  double* gaps;  ///< [B, chunks]: the last key of the chunk before minus that of this one, in scan order
};

/// One scan through the sequences of all images. All features are rows: see are_rows() in rows.cuh.
template <typename T, typename A>
struct Scan {
  Sequence<A> sequence;
  FeatureShape shape;
  int64_t chunks;               ///< of an image
  bool ascending;               ///< adds at a and is evaluated at b; else the other way round
  bool last_image_first;        ///< the order of images in step 3; in step 1 the opposite
  FeatureView<const T> added;   ///< features that are added: of b if descending, of a if ascending
  FeatureView<const T> dotted;  ///< features at the evaluated items, for `dots`
  FeatureView<T> values;        ///< (1/N) Σ_j relu(…) added_j at the evaluated items; absent: not needed
  A* dots;                      ///< [B, N]: (1/N) ⟨dotted, Σ_j added_j⟩ over active pairs; null: not needed
  ChunkStates chunk_states;
  ChunkStates opposite;  ///< step 1 of the scan in the opposite direction, which adds `dotted`; null: not needed
};

constexpr int64_t chunks_of(int64_t positions) { return (2 * positions + kChunk - 1) / kChunk; }

/// The empty sum is −0. mark_added() makes it +0 where features that are −0 were added. So the sum of a chunk is −0 only
/// if it adds none.
constexpr double kEmptySum = -0.0;

__host__ __device__ inline bool is_empty(double sum) {
  uint64_t bits;
  memcpy(&bits, &sum, sizeof(bits));
  return bits == uint64_t{1} << 63;
}

__device__ inline void mark_added(ThreadChannels& sum, bool any_added) {
  DGCN_UNROLL()
  for (int v = 0; v < kThreadChannels; ++v) sum.part[v] += any_added ? 0.0 : kEmptySum;
}

/// The chunk of a block.
struct BlockChunk {
  int64_t image, chunk;

  template <typename T, typename A>
  __device__ BlockChunk(const Scan<T, A>& scan, bool last_image_first)
      : image(blockIdx.x / scan.chunks), chunk(blockIdx.x % scan.chunks) {
    if (last_image_first) image = scan.shape.images - 1 - image;
  }
};

/// See ChunkStates::gaps.
template <typename A>
__device__ double gap_of(const Sequence<A>& sequence, const BlockChunk& own, bool ascending) {
  const int64_t begin = own.chunk * kChunk, end = std::min(begin + kChunk, sequence.items());
  const auto key = [&](int64_t place) { return sequence.at(own.image, place).key; };
  return ascending ? key(begin) - key(std::min(end, sequence.items() - 1))
                   : key(std::max(begin - 1, int64_t{0})) - key(end - 1);
}

template <typename T>
__device__ T* row_of(const FeatureView<T>& rows, int64_t image, int64_t position) {
  return rows.data + image * rows.image_stride + position * rows.position_stride;
}

/// An item of a chunk in shared memory.
template <typename T>
struct alignas(16) StagedItem {
  double key;        ///< descending in the order of the scan
  const T* row;      ///< of `added`, or of `dotted` at an evaluated item; null: not needed
  T* value;          ///< the row of `values` at an evaluated item, or null
  int32_t position;  ///< n if item n is added, −1 − n if it is evaluated

  static constexpr int32_t kNoItem = std::numeric_limits<int32_t>::min();

  __device__ bool is_added() const { return position >= 0; }
  __device__ bool is_evaluated() const { return position < 0 && position != kNoItem; }
};

/// The item before a chunk, then its items. A short chunk is filled up with kNoItem, with the key of its last item.
constexpr int kStagedItems = 1 + kChunk;

/// Stages the chunk of a block in the order of a scan. `evaluates`: with what evaluated items need.
template <typename T, typename A>
__device__ void stage_items(StagedItem<T>* items, const Scan<T, A>& scan, const BlockChunk& own, bool evaluates) {
  const Sequence<A>& sequence = scan.sequence;
  const int64_t begin = own.chunk * kChunk, end = std::min(begin + kChunk, sequence.items());
  for (int u = threadIdx.x; u < kStagedItems; u += blockDim.x) {
    const int64_t place = scan.ascending ? std::max(begin, end - u) : std::min(begin + u, end) - 1;
    const SequenceItem item = sequence.at(own.image, std::min(std::max(place, int64_t{0}), sequence.items() - 1));
    const bool exists = 0 < u && u <= end - begin, is_added = exists && item.is_a == scan.ascending;
    const bool is_evaluated = exists && !is_added, needs_row = evaluates && scan.dots != nullptr;
    StagedItem<T>& staged = items[u];
    staged.key = scan.ascending ? -item.key : item.key;
    staged.position = is_added ? item.position : is_evaluated ? -1 - item.position : StagedItem<T>::kNoItem;
    staged.row = nullptr;
    staged.value = nullptr;
    if (is_added) staged.row = row_of(scan.added, own.image, item.position);
    if (is_evaluated && needs_row) staged.row = row_of(scan.dotted, own.image, item.position);
    if (is_evaluated && scan.values.data != nullptr) staged.value = row_of(scan.values, own.image, item.position);
  }
  __syncthreads();
}

/// A thread's channels of the rows of neighbouring items, all loaded before the first is used.
template <typename T>
struct ItemBatch {
  RowPart<T> parts[kBatch<T>];

  __device__ ItemBatch(const StagedItem<T>* items, int64_t channel, int64_t channels) {
    DGCN_UNROLL()
    for (int i = 0; i < kBatch<T>; ++i) {
      parts[i] = {};
      if (const T* const row = items[i].row; row != nullptr && channel < channels) parts[i] = *part_at(row + channel);
    }
  }

  template <typename A>
  __device__ ThreadChannels channels(int i) const {
    T elements[kThreadChannels];
    memcpy(elements, &parts[i], sizeof(elements));
    ThreadChannels channels;
    DGCN_UNROLL()
    for (int v = 0; v < kThreadChannels; ++v) channels.part[v] = static_cast<A>(elements[v]);
    return channels;
  }
};

__device__ inline double dot(const ThreadChannels& channels, const ThreadChannels& others) {
  double sum = 0;
  DGCN_UNROLL()
  for (int v = 0; v < kThreadChannels; ++v) sum += channels.part[v] * others.part[v];
  return sum;
}

/// The states of a thread's channels, the first of which is `channel`, in an array [C].
__device__ inline ScanState<ThreadChannels> load_state(const ScanState<double>* states, int64_t channel,
                                                       int64_t channels) {
  ScanState<ThreadChannels> state{};
  DGCN_UNROLL()
  for (int v = 0; v < kThreadChannels; ++v)
    if (channel + v < channels) {
      state.sum.part[v] = states[channel + v].sum;
      state.ramp.part[v] = states[channel + v].ramp;
    }
  return state;
}

__device__ inline void store_state(ScanState<double>* states, const ScanState<ThreadChannels>& state, int64_t channel,
                                   int64_t channels) {
  DGCN_UNROLL()
  for (int v = 0; v < kThreadChannels; ++v)
    if (channel + v < channels) states[channel + v] = {state.sum.part[v], state.ramp.part[v]};
}

__device__ inline ScanState<ThreadChannels> empty_state() {
  ScanState<ThreadChannels> state{};
  DGCN_UNROLL()
  for (int v = 0; v < kThreadChannels; ++v) state.sum.part[v] = kEmptySum;
  return state;
}

}  // namespace dgcn::nonlocal::cuda
