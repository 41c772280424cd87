// The kernels of the non-local layer on CUDA, free of torch: backend.cu launches them, and
// tests/cpp/test_nonlocal_cuda_emulated.cpp runs the same source on the host. Legend: nonlocal.h.
//
//   sequence  the keys of an image, all b_j and all −a_i, in descending order: 2N items (sequence.cuh). The b_j before
//             −a_i are those that are active with a_i, and the −a_i after b_j those that are active with b_j: one sort
//             serves both scans. The descending scan adds the features of every b and is evaluated at every a; the
//             ascending one adds at every a and is evaluated at every b
//   row       all channels of a position, neighbours in memory
//   chunk     kChunk neighbouring items, the work of a block
//
// The state of a scan has w, the sum of the features added so far, and r, that sum weighted by the distances of their
// keys from the current one. At every item, r += (previous key − key)·w, and if the item is added, w += its features.
// At an evaluated item the current key is −a_i, so r is Σ_j (b_j + a_i) g_j = N y_i.
//
// Example: the descending scan for N = 2, C = 1, a = (1, −2), b = (−0.5, 3), g = (10, 20), in chunks of two items.
//
//                          chunk 0            chunk 1
//   place in the sequence  0       1          2       3
//   item                   b_2     −a_2       b_1     −a_1
//   key                    3       2          −0.5    −1
//
//   1. reduce: each chunk is scanned from an empty state
//      w                   20      20         10      10
//      r                   0       20         0       5
//      gap of the chunk            1                  3         last key of the chunk before (of chunk 0: its own
//                                                               first key) − its own last key
//   2. scan of the chunks: the state in which each chunk starts
//      w, r                0, 0               20, 20            image: w = 30, r = 20 + 3·20 + 5 = 85
//   3. each chunk is scanned again, from that state
//      w                   20      20         30      30
//      r                   0       20         70      85
//      y = r/N                     y_2 = 10           y_1 = 42.5 = ((1 + 3)·20 + (1 − 0.5)·10)/2
//
// Each thread has some channels and goes from item to item. So the threads of a warp access neighbours in memory, for
// any order of the rows, and take the same branches. The launches:
//
//   0. features whose channels are not neighbours become rows      transpose_kernel (transpose.cuh)
//   1. reduce every chunk                                          reduce_kernel
//   2. scan over the chunks                                        chunk_scan_kernel
//   3. scan the items of every chunk, evaluate                     item_scan_kernel
//   4. rows become results                                         transpose_kernel (transpose.cuh)
//
// Backward makes a descending scan that adds g, evaluated for ∂L/∂a, then an ascending scan that adds ∂L/∂y, evaluated
// for ∂L/∂b and ∂L/∂g. Each reads what the other adds, so step 3 of the descending scan also does step 1 of the
// ascending one.
//
// The kernels are bound by memory bandwidth. Passes over memory of the size of g (a copy takes 2) in each step:
//
//              0   1   3       4
//   forward    2   1   2       2      7, or 3 if the channels of g and y are neighbours
//   backward   4   1   2 + 3   2      12, or 6
//
// and a third of a pass in every scan for the states of the chunks. At B = 8, N = 25,921, C = 128 in float32 these are
// 2.1 GB, or 1.1. Steps 0, 1, 3 and 4 go through the images in alternating order, first to last and last to first: L2
// still holds those that the step before used last.
//
// No sum depends on the number of images, blocks or threads: results repeat bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "nonlocal/cuda/sequence.cuh"
#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal::cuda {

// ---- Scans ----------------------------------------------------------------------------------------------------------

constexpr int kChunk = 128;
constexpr int kBatch = 8;             // items whose rows a thread loads at once
constexpr int kThreadChannels = 2;    // two channels share all that a thread does once per item
constexpr int kMaxScanThreads = 128;  // further channels come in further rounds
constexpr int kWarp = 32;

/// Blocks of kMaxScanThreads threads that must fit into an SM at the same time: enough to hide the latency of memory,
/// few enough that no thread spills registers.
template <typename T>
constexpr int kResidentScans = sizeof(T) == 8 ? 4 : 6;

/// The kThreadChannels channels of a thread, which are a block's width apart.
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

/// One scan through the sequences of all images. All features are rows: their channel_stride is 1.
template <typename T, typename A>
struct Scan {
  Sequence<A> sequence;
  FeatureShape shape;
  int64_t chunks;               ///< of an image
  bool ascending;               ///< adds at a and is evaluated at b; else the other way round
  bool last_image_first;        ///< the order of images in step 3; step 1 has the opposite order
  FeatureView<const T> added;   ///< features that are added: of b if descending, of a if ascending
  FeatureView<const T> dotted;  ///< features at the evaluated items, for `dots`
  FeatureView<T> values;        ///< (1/N) Σ_j relu(…) added_j at the evaluated items; absent: not needed
  A* dots;                      ///< [B, N]: (1/N) ⟨dotted, Σ_j added_j⟩ over active pairs; null: not needed
  ChunkStates chunk_states;
  ChunkStates opposite;  ///< step 1 of the scan in the opposite direction, which adds `dotted`; null: not needed
};

constexpr int64_t chunks_of(int64_t positions) { return (2 * positions + kChunk - 1) / kChunk; }

/// The empty sum is −0, and a feature that is −0 is added as +0. So a sum is −0 only if no feature was added.
constexpr double kEmptySum = -0.0;

__host__ __device__ inline bool is_empty(double sum) {
  uint64_t bits;
  memcpy(&bits, &sum, sizeof(bits));
  return bits == uint64_t{1} << 63;
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
  const T* row;      ///< of `added`, or of `dotted` at an evaluated item; or null
  T* value;          ///< the row of `values` at an evaluated item, or null
  int32_t position;  ///< n if item n is added, −1 − n if it is evaluated

  static constexpr int32_t kNoItem = std::numeric_limits<int32_t>::min();

  __device__ bool is_added() const { return position >= 0; }
  __device__ bool is_evaluated() const { return position < 0 && position != kNoItem; }
};

/// The item before a chunk, then its items. A short chunk is filled up with kNoItem, with the key of its last item.
constexpr int kStagedItems = 1 + kChunk;

/// Stages the chunk of a block in the order of a scan.
template <typename T, typename A>
__device__ void stage_items(StagedItem<T>* items, const Scan<T, A>& scan, const BlockChunk& own) {
  const Sequence<A>& sequence = scan.sequence;
  const int64_t begin = own.chunk * kChunk, end = std::min(begin + kChunk, sequence.items());
  for (int u = threadIdx.x; u < kStagedItems; u += blockDim.x) {
    const int64_t place = scan.ascending ? std::max(begin, end - u) : std::min(begin + u, end) - 1;
    const SequenceItem item = sequence.at(own.image, std::min(std::max(place, int64_t{0}), sequence.items() - 1));
    const bool exists = 0 < u && u <= end - begin, is_added = exists && item.is_a == scan.ascending;
    const bool is_evaluated = exists && !is_added;
    StagedItem<T>& staged = items[u];
    staged.key = scan.ascending ? -item.key : item.key;
    staged.position = is_added ? item.position : is_evaluated ? -1 - item.position : StagedItem<T>::kNoItem;
    staged.row = nullptr;
    staged.value = nullptr;
    if (is_added) staged.row = row_of(scan.added, own.image, item.position);
    if (is_evaluated && scan.dots != nullptr) staged.row = row_of(scan.dotted, own.image, item.position);
    if (is_evaluated && scan.values.data != nullptr) staged.value = row_of(scan.values, own.image, item.position);
  }
  __syncthreads();
}

/// kBatch neighbouring items of a chunk, and a thread's channels of their rows, all loaded before the first is used.
template <typename T, typename A>
struct ItemBatch {
  const StagedItem<T>* items;
  T features[kBatch][kThreadChannels];

  /// `dotted`: loads the rows of evaluated items as well.
  __device__ ItemBatch(const StagedItem<T>* first, bool dotted, int64_t channel, int64_t channels) : items(first) {
    DGCN_UNROLL()
    for (int i = 0; i < kBatch; ++i) {
      const T* const row = dotted || items[i].is_added() ? items[i].row : nullptr;
      DGCN_UNROLL()
      for (int v = 0; v < kThreadChannels; ++v) {
        features[i][v] = T();
        if (row != nullptr && channel + v * blockDim.x < channels)
          features[i][v] = __ldg(row + channel + v * blockDim.x);
      }
    }
  }

  /// What item i adds to the sum of a scan: its features, or the empty sum.
  __device__ ThreadChannels addend(int i, bool is_added) const {
    ThreadChannels channels;
    DGCN_UNROLL()
    for (int v = 0; v < kThreadChannels; ++v)
      channels.part[v] = is_added ? static_cast<A>(features[i][v]) + A(0) : A(kEmptySum);
    return channels;
  }

  __device__ double dot(int i, const ThreadChannels& with) const {
    double sum = 0;
    DGCN_UNROLL()
    for (int v = 0; v < kThreadChannels; ++v) sum += static_cast<double>(static_cast<A>(features[i][v])) * with.part[v];
    return sum;
  }
};

/// The states of a thread's channels, the first of which is `channel`, in an array [C].
__device__ inline ScanState<ThreadChannels> load_state(const ScanState<double>* states, int64_t channel,
                                                       int64_t channels) {
  ScanState<ThreadChannels> state{};
  DGCN_UNROLL()
  for (int v = 0; v < kThreadChannels; ++v)
    if (const int64_t own = channel + v * blockDim.x; own < channels) {
      state.sum.part[v] = states[own].sum;
      state.ramp.part[v] = states[own].ramp;
    }
  return state;
}

__device__ inline void store_state(ScanState<double>* states, const ScanState<ThreadChannels>& state, int64_t channel,
                                   int64_t channels) {
  DGCN_UNROLL()
  for (int v = 0; v < kThreadChannels; ++v)
    if (const int64_t own = channel + v * blockDim.x; own < channels)
      states[own] = {state.sum.part[v], state.ramp.part[v]};
}

__device__ inline ScanState<ThreadChannels> empty_state() {
  ScanState<ThreadChannels> state{};
  DGCN_UNROLL()
  for (int v = 0; v < kThreadChannels; ++v) state.sum.part[v] = kEmptySum;
  return state;
}

// ---- Step 1 ---------------------------------------------------------------------------------------------------------

/// Scans each chunk from an empty state.
template <typename T, typename A>
__global__ void __launch_bounds__(kMaxScanThreads, kResidentScans<T>)
    reduce_kernel(const __grid_constant__ Scan<T, A> scan) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  StagedItem<T>* const items = reinterpret_cast<StagedItem<T>*>(shared_memory);
  const BlockChunk own(scan, !scan.last_image_first);
  const int64_t channels = scan.shape.channels;
  stage_items(items, scan, own);
  for (int64_t channel = threadIdx.x; channel < channels; channel += kThreadChannels * blockDim.x) {
    ScanState<ThreadChannels> state = empty_state();
    double previous = items[1].key;
    DGCN_UNROLL(1)
    for (int first = 1; first <= kChunk; first += kBatch) {
      const ItemBatch<T, A> batch(items + first, false, channel, channels);
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i) {
        const double key = batch.items[i].key;
        add_position(state, previous - key, batch.addend(i, batch.items[i].is_added()));
        previous = key;
      }
    }
    store_state(scan.chunk_states.states + (own.image * (scan.chunks + 1) + own.chunk) * channels, state, channel,
                channels);
  }
  if (threadIdx.x == 0)
    scan.chunk_states.gaps[own.image * scan.chunks + own.chunk] = gap_of(scan.sequence, own, scan.ascending);
}

// ---- Step 2 ---------------------------------------------------------------------------------------------------------

constexpr int kChunkParts = 16;  // of an image's chunks; a warp scans one part, for kWarp channels
constexpr int kChunkScanThreads = kChunkParts * kWarp;
constexpr int64_t kChunkScanBytes = kChunkScanThreads * sizeof(ScanState<double>) + kChunkParts * sizeof(double);

/// Replaces the state of each chunk alone by the state in which it starts, and stores the state of the whole image
/// behind the last chunk.
template <typename T, typename A>
__global__ void __launch_bounds__(kChunkScanThreads) chunk_scan_kernel(const __grid_constant__ Scan<T, A> scan) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  ScanState<double>* const totals = reinterpret_cast<ScanState<double>*>(shared_memory);  // [parts, lanes]
  double* const total_gaps = reinterpret_cast<double*>(totals + kChunkScanThreads);       // [parts]
  const int lane = threadIdx.x % kWarp, part = threadIdx.x / kWarp;
  const int64_t images = scan.shape.images, channels = scan.shape.channels, chunks = scan.chunks;
  const int64_t image = blockIdx.x % images, channel = blockIdx.x / images * kWarp + lane;
  const int64_t begin = chunks * part / kChunkParts;
  const int64_t end = channel < channels ? chunks * (part + 1) / kChunkParts : begin;
  ScanState<double>* const states = scan.chunk_states.states + image * (chunks + 1) * channels + channel;
  const double* const gaps = scan.chunk_states.gaps + image * chunks;
  const auto for_each_chunk = [&](auto body) {
    for (int64_t first = begin; first < end; first += kBatch) {
      ScanState<double> batch_states[kBatch];
      double batch_gaps[kBatch];
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i) {
        const int64_t k = std::min(first + i, end - 1), chunk = scan.ascending ? chunks - 1 - k : k;
        batch_states[i] = states[chunk * channels];
        batch_gaps[i] = gaps[chunk];
      }
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i)
        if (first + i < end) body(scan.ascending ? chunks - 1 - first - i : first + i, batch_states[i], batch_gaps[i]);
    }
  };

  ScanState<double> total{kEmptySum, 0};
  double total_gap = 0;
  for_each_chunk([&](int64_t, const ScanState<double>& own, double gap) {
    append(total, gap, own);
    total_gap += gap;
  });
  totals[threadIdx.x] = total;
  if (lane == 0) total_gaps[part] = total_gap;
  __syncthreads();

  ScanState<double> state{kEmptySum, 0};
  for (int before = 0; before < part; ++before) append(state, total_gaps[before], totals[before * kWarp + lane]);
  for_each_chunk([&](int64_t chunk, const ScanState<double>& own, double gap) {
    states[chunk * channels] = state;
    append(state, gap, own);
  });
  if (part == kChunkParts - 1 && channel < channels) states[chunks * channels] = state;
}

// ---- Step 3 ---------------------------------------------------------------------------------------------------------

/// Sums each of kBatch numbers over the lanes of a warp: lane l gets the sum of number l / kLanesPerSum. Every step
/// halves the numbers that a lane has, each of which is then a sum over twice as many lanes.
constexpr int kLanesPerSum = kWarp / kBatch;

__device__ inline double sum_lanes(double (&numbers)[kBatch]) {
  constexpr unsigned kAll = ~0u;
  int lanes = kWarp;
  DGCN_UNROLL()
  for (int count = kBatch / 2; count > 0; count /= 2) {
    lanes /= 2;
    const bool upper = threadIdx.x & lanes;
    DGCN_UNROLL()
    for (int i = 0; i < count; ++i) {
      const double kept = upper ? numbers[i + count] : numbers[i], sent = upper ? numbers[i] : numbers[i + count];
      numbers[i] = kept + __shfl_xor_sync(kAll, sent, lanes);
    }
  }
  double sum = numbers[0];
  DGCN_UNROLL()
  for (int mask = kLanesPerSum / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(kAll, sum, mask);
  return sum;
}

template <typename T>
constexpr int64_t scan_bytes(int threads, bool dots) {
  return kStagedItems * sizeof(StagedItem<T>) + (dots ? threads / kWarp * kChunk * sizeof(double) : 0);
}

/// Scans each chunk from the state in which it starts, and evaluates. `kDots`: computes dots. `kOpposite`: also does
/// step 1 of the opposite scan, and computes no values.
template <typename T, typename A, bool kDots, bool kOpposite>
__global__ void __launch_bounds__(kMaxScanThreads, kResidentScans<T>)
    item_scan_kernel(const __grid_constant__ Scan<T, A> scan) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  StagedItem<T>* const items = reinterpret_cast<StagedItem<T>*>(shared_memory);
  double* const warp_dots = reinterpret_cast<double*>(items + kStagedItems);  // [warps, kChunk]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const BlockChunk own(scan, scan.last_image_first);
  const int64_t channels = scan.shape.channels, positions = scan.shape.positions;
  const int64_t first_state = own.image * (scan.chunks + 1);
  const ScanState<double>* const start = scan.chunk_states.states + (first_state + own.chunk) * channels;
  const ScanState<double>* const image_state = scan.chunk_states.states + (first_state + scan.chunks) * channels;
  const double scale = 1.0 / static_cast<double>(positions);
  stage_items(items, scan, own);
  for (int64_t first_channel = 0; first_channel < channels; first_channel += kThreadChannels * blockDim.x) {
    const int64_t channel = first_channel + threadIdx.x;
    ScanState<ThreadChannels> state = load_state(start, channel, channels), opposite = empty_state();
    // As in the dense form, a feature that is NaN or infinite makes all values of its channel NaN: 0 · NaN is NaN where
    // a pair is not active.
    const ThreadChannels zero_or_nan = 0.0 * load_state(image_state, channel, channels).sum;
    double previous = items[0].key;
    DGCN_UNROLL(1)
    for (int first = 1; first <= kChunk; first += kBatch) {
      const ItemBatch<T, A> batch(items + first, kDots, channel, channels);
      double products[kBatch];
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i) {
        const StagedItem<T>& item = batch.items[i];
        add_position(state, previous - item.key, batch.addend(i, item.is_added()));
        previous = item.key;
        if (kOpposite) {  // the opposite scan ends at the first item: weights are distances from its key
          const ThreadChannels addend = batch.addend(i, item.is_evaluated());
          opposite.sum += addend;
          opposite.ramp += (items[1].key - item.key) * addend;
        } else if (item.value != nullptr) {
          DGCN_UNROLL()
          for (int v = 0; v < kThreadChannels; ++v)
            if (const int64_t own_channel = channel + v * blockDim.x; own_channel < channels)
              item.value[own_channel] =
                  static_cast<T>(static_cast<A>(state.ramp.part[v] * scale + zero_or_nan.part[v]));
        }
        if (kDots) products[i] = batch.dot(i, state.sum);  // used only if the item is evaluated
      }
      if (kDots) {
        const double sum = sum_lanes(products);
        double& total = warp_dots[warp * kChunk + first - 1 + lane / kLanesPerSum];
        if (lane % kLanesPerSum == 0) total = first_channel == 0 ? sum : total + sum;
      }
    }
    if (kOpposite)
      store_state(scan.opposite.states + (first_state + own.chunk) * channels, opposite, channel, channels);
  }
  if (kOpposite && threadIdx.x == 0)
    scan.opposite.gaps[own.image * scan.chunks + own.chunk] = gap_of(scan.sequence, own, !scan.ascending);
  if (!kDots) return;
  __syncthreads();
  for (int u = 1 + threadIdx.x; u <= kChunk; u += blockDim.x) {
    if (!items[u].is_evaluated()) continue;
    bool any_active = !is_empty(start->sum);
    for (int before = 1; !any_active && before < u; ++before) any_active = items[before].is_added();
    double dot = 0;  // stays 0 without an active pair, where the sums would give 0 · NaN
    for (int w = 0; any_active && w < warps; ++w) dot += warp_dots[w * kChunk + u - 1];
    scan.dots[own.image * positions - 1 - items[u].position] = static_cast<A>(dot * scale);
  }
}

// ---- Launch ---------------------------------------------------------------------------------------------------------

/// Runs steps 1 to 3: calls launch(kernel, blocks, threads, shared bytes, arguments...). `is_reduced`: the opposite
/// scan has done step 1.
template <typename T, typename A, typename Launch>
void run_scan(const Scan<T, A>& scan, bool is_reduced, Launch launch) {
  const FeatureShape& shape = scan.shape;
  const int64_t blocks = shape.images * scan.chunks, warps = (shape.channels + kWarp - 1) / kWarp;
  const int threads =
      static_cast<int>(std::min<int64_t>((warps + kThreadChannels - 1) / kThreadChannels * kWarp, kMaxScanThreads));
  const bool dots = scan.dots != nullptr, opposite = scan.opposite.states != nullptr;
  if (!is_reduced) launch(&reduce_kernel<T, A>, blocks, threads, scan_bytes<T>(threads, false), scan);
  launch(&chunk_scan_kernel<T, A>, shape.images * warps, kChunkScanThreads, kChunkScanBytes, scan);
  launch(opposite ? &item_scan_kernel<T, A, true, true>
         : dots   ? &item_scan_kernel<T, A, true, false>
                  : &item_scan_kernel<T, A, false, false>,
         blocks, threads, scan_bytes<T>(threads, dots), scan);
}

}  // namespace dgcn::nonlocal::cuda
