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

constexpr int kChunk = 128;           // _CHUNK of dgcn_ext/ops.py
constexpr int kMaxScanThreads = 128;  // further channels come in further rounds
constexpr int kWarp = 32;

/// The row of an item is loaded so many items before it is needed.
template <typename T>
constexpr int kAhead = sizeof(T) == 8 ? 4 : 8;

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

/// The empty sum is −0. mark_added() makes it +0 where features that are −0 were added. So the sum of a chunk is −0
/// only if it adds none.
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

struct SequenceItem {
  double key;  ///< descending in the order of the scan
  int32_t position;
  bool is_a;
};

/// The chunk of a block, with its items in the order of a scan.
template <typename A>
struct BlockChunk {
  int64_t image, chunk;
  const A *a, *b;         ///< keys of the image, [N]
  const uint32_t* order;  ///< the items of the chunk
  uint32_t positions;
  int count;  ///< of items
  bool is_first, is_last, ascending;

  template <typename T>
  __device__ BlockChunk(const Scan<T, A>& scan, bool last_image_first)
      : image(blockIdx.x / scan.chunks),
        chunk(blockIdx.x % scan.chunks),
        positions(static_cast<uint32_t>(scan.sequence.positions)),
        is_first(chunk == 0),
        is_last(chunk == scan.chunks - 1),
        ascending(scan.ascending) {
    if (last_image_first) image = scan.shape.images - 1 - image;
    const Sequence<A>& sequence = scan.sequence;
    a = sequence.a + image * sequence.positions;
    b = sequence.b + image * sequence.positions;
    order = sequence.order + image * sequence.items() + chunk * kChunk;
    count = static_cast<int>(is_last ? sequence.items() - chunk * kChunk : kChunk);
  }

  /// The number of item u, counted from 0; of the last item if there are fewer.
  __device__ uint32_t number(int u) const {
    const int place = std::min(u, count - 1);
    return order[ascending ? count - 1 - place : place];
  }

  __device__ SequenceItem item(uint32_t number) const {
    const bool is_a = number < positions;
    const uint32_t position = is_a ? number : number - positions;
    const double key = clamp_to_finite((is_a ? a : b)[position]);
    return {is_a == ascending ? key : -key, static_cast<int32_t>(position), is_a};
  }

  __device__ double last_key() const { return item(number(kChunk)).key; }

  /// The last key of the chunk before; of the first chunk: its own first.
  __device__ double key_before() const {
    const bool exists = ascending ? !is_last : !is_first;
    return item(number(exists ? -1 : 0)).key;
  }

  /// See ChunkStates::gaps.
  __device__ double gap() const { return key_before() - last_key(); }
};

/// The items of a chunk that a thread stages, all loaded before the first is used.
struct ThreadItems {
  static constexpr int kCount = kChunk / kWarp;  // of a thread in a block of one warp
  SequenceItem items[kCount];

  template <typename A>
  __device__ explicit ThreadItems(const BlockChunk<A>& own) {
    uint32_t numbers[kCount];
    DGCN_UNROLL()
    for (int r = 0; r < kCount; ++r) numbers[r] = own.number(place(r));
    DGCN_UNROLL()
    for (int r = 0; r < kCount; ++r) items[r] = own.item(numbers[r]);
  }

  /// Where item r is in the chunk; kChunk and more: nowhere.
  static __device__ int place(int r) { return threadIdx.x + r * blockDim.x; }
};

template <typename T>
__device__ T* row_of(const FeatureView<T>& rows, int64_t image, int64_t position) {
  return rows.data + image * rows.image_stride + position * rows.position_stride;
}

/// An item that is added, in shared memory.
template <typename T>
struct alignas(16) AddedItem {
  double key;    ///< descending
  const T* row;  ///< of `added`; null: adds nothing
};

/// What stage_added() fills.
template <typename T>
struct StagedAdded {
  AddedItem<T> items[kChunk + 2 * kAhead<T>];
  uint32_t masks[kChunk / kWarp];  ///< which items of the chunk are added: a bit for each
};

/// Stages those items of a chunk that are added, then the last key of the chunk with nothing to add, as often as a loop
/// that is unrolled kAhead times and looks as far ahead needs it. Returns how many are added.
template <typename T, typename A>
__device__ int stage_added(StagedAdded<T>& staged, const Scan<T, A>& scan, const BlockChunk<A>& own) {
  const ThreadItems thread(own);
  const int lane = threadIdx.x % kWarp;
  const auto is_added = [&](int r) {
    return ThreadItems::place(r) < own.count && thread.items[r].is_a == scan.ascending;
  };
  DGCN_UNROLL()
  for (int r = 0; r < ThreadItems::kCount; ++r) {
    const uint32_t mask = __ballot_sync(~0u, is_added(r));
    if (const int u = ThreadItems::place(r); lane == 0 && u < kChunk) staged.masks[u / kWarp] = mask;
  }
  __syncthreads();
  const auto added_before = [&](int u) {
    int count = 0;
    DGCN_UNROLL()
    for (int word = 0; word < kChunk / kWarp; ++word)
      count += __popc(word < u / kWarp    ? staged.masks[word]
                      : word == u / kWarp ? staged.masks[word] & ((1u << u % kWarp) - 1)
                                          : 0u);
    return count;
  };
  DGCN_UNROLL()
  for (int r = 0; r < ThreadItems::kCount; ++r)
    if (is_added(r))
      staged.items[added_before(ThreadItems::place(r))] = {thread.items[r].key,
                                                           row_of(scan.added, own.image, thread.items[r].position)};
  const int count = added_before(kChunk);
  const double last_key = own.last_key();
  for (int fill = threadIdx.x; fill < 2 * kAhead<T>; fill += blockDim.x)
    staged.items[count + fill] = {last_key, nullptr};
  __syncthreads();
  return count;
}

/// An item in shared memory.
template <typename T>
struct alignas(16) StagedItem {
  double key;    ///< descending
  const T* row;  ///< of `added`, or of `dotted` at an evaluated item; of an item of no kind: any
  T* value;      ///< the row of `values` at an evaluated item
  int32_t position;
  enum : int32_t { kNone, kAdded, kEvaluated } kind;
};

template <typename T>
constexpr int kStagedItems = kChunk + kAhead<T>;

/// Stages all items of a chunk. A short chunk is filled up with items of no kind, with the key of its last item; kAhead
/// of them are behind every chunk.
template <typename T, typename A>
__device__ void stage_items(StagedItem<T> (&staged)[kStagedItems<T>], const Scan<T, A>& scan,
                            const BlockChunk<A>& own) {
  const ThreadItems thread(own);
  DGCN_UNROLL()
  for (int r = 0; r < ThreadItems::kCount; ++r) {
    const int u = ThreadItems::place(r);
    if (u >= kChunk) continue;
    const SequenceItem& item = thread.items[r];
    const bool is_added = item.is_a == scan.ascending;
    staged[u] = {item.key, row_of(is_added ? scan.added : scan.dotted, own.image, item.position),
                 row_of(scan.values, own.image, item.position), item.position,
                 u >= own.count ? StagedItem<T>::kNone
                 : is_added     ? StagedItem<T>::kAdded
                                : StagedItem<T>::kEvaluated};
  }
  for (int fill = threadIdx.x; fill < kAhead<T>; fill += blockDim.x)
    staged[kChunk + fill] = {0, row_of(scan.added, own.image, 0), nullptr, 0, StagedItem<T>::kNone};
  __syncthreads();
}

/// A thread's channels of the rows of the next kAhead items: while it scans one, the others are on their way.
template <typename T>
struct RowsAhead {
  RowPart<T> parts[kAhead<T>]{};

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
