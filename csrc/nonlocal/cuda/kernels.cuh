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
// Each thread has four neighbouring channels and goes from item to item. So the threads of a warp access whole rows,
// for any order of the rows, and take the same branches (scan.cuh). The launches:
//
//   0. features that are not rows become rows                      copy_kernel (rows.cuh)
//   1. reduce every chunk                                          reduce_kernel
//   2. scan over the chunks                                        chunk_scan_kernel
//   3. scan the items of every chunk, evaluate                     item_scan_kernel
//   4. rows become results                                         copy_kernel (rows.cuh)
//
// Backward makes a descending scan that adds g, evaluated for ∂L/∂a, then an ascending scan that adds ∂L/∂y, evaluated
// for ∂L/∂b and ∂L/∂g. Each reads what the other adds, so step 3 of the descending scan also does step 1 of the
// ascending one. Steps 1 and 2 of the descending scan are those of forward, which saves their states and the order.
//
// By count, memory bandwidth decides: docs/nonlocal.md has the predictions beside what is claimed. Passes over memory
// of the size of g (a copy takes 2) in each step:
//
//              0   1   3       4
//   forward    2   1   2       2      3 with rows, 7 without
//   backward   4   –   2 + 3   2      5 with rows, 11 without
//
// At B = 8, N = 25,921, C = 128 in float32 a pass is 106 MB, and the 8 passes of a training step with rows are 849 MB.
// Besides, the states of the chunks are 6.7 MB, accessed 9 times: 60 MB. The sort of N > 2048 reads and writes 12 bytes
// an item five times, and 24 bytes before that: 60 MB. Together that is 4.6 copies of g. The target is at most 8.
//
// Steps 0, 1, 3 and 4 go through the images in alternating order, first to last and last to first: L2 still holds those
// that the step before used last.
//
// No sum depends on the number of images, blocks or threads: results repeat bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "nonlocal/cuda/scan.cuh"

namespace dgcn::nonlocal::cuda {

// ---- Step 1 ---------------------------------------------------------------------------------------------------------

/// Scans each chunk from an empty state.
template <typename T, typename A>
__global__ void __launch_bounds__(kMaxScanThreads, kResidentScans)
    reduce_kernel(const __grid_constant__ Scan<T, A> scan) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  StagedAdded<T>& staged = *reinterpret_cast<StagedAdded<T>*>(shared_memory);
  const BlockChunk<A> own(scan, !scan.last_image_first);
  const int64_t channels = scan.shape.channels;
  const int count = stage_added(staged, scan, own);
  for (int64_t channel = kThreadChannels * threadIdx.x; channel < channels; channel += kThreadChannels * blockDim.x) {
    ScanState<ThreadChannels> state = empty_state();
    RowsAhead<T> rows;
    const auto load = [&](int i, const AddedItem<T>& item) {
      if (item.row != nullptr) rows.parts[i] = *part_at(item.row + channel);
    };
    DGCN_UNROLL()
    for (int i = 0; i < kAhead<T>; ++i) load(i, staged.items[i]);
    double previous = staged.items[0].key;
    DGCN_UNROLL(1)
    for (int first = 0; first <= count; first += kAhead<T>) {  // up to the last key of the chunk
      DGCN_UNROLL()
      for (int i = 0; i < kAhead<T>; ++i) {
        const AddedItem<T>& item = staged.items[first + i];
        state.ramp += (previous - item.key) * state.sum;
        previous = item.key;
        if (item.row != nullptr) state.sum += rows.template channels<A>(i);
        load(i, staged.items[first + kAhead<T> + i]);
      }
    }
    mark_added(state.sum, count > 0);
    store_state(scan.chunk_states.states + (own.image * (scan.chunks + 1) + own.chunk) * channels, state, channel,
                channels);
  }
  if (threadIdx.x == 0) scan.chunk_states.gaps[own.image * scan.chunks + own.chunk] = own.gap();
}

// ---- Step 2 ---------------------------------------------------------------------------------------------------------

constexpr int kChunkParts = 64;    // of an image's chunks, scanned at the same time
constexpr int kChunkChannels = 8;  // of a block: their states are 128 bytes in memory
constexpr int kChunkBatch = 8;     // states that a thread loads at once
constexpr int kChunkScanThreads = kChunkParts * kChunkChannels;
constexpr int64_t kChunkScanBytes = kChunkScanThreads * sizeof(ScanState<double>) + kChunkParts * sizeof(double);

/// Replaces the state of each chunk alone by the state in which it starts, and stores the state of the whole image
/// behind the last chunk.
template <typename T, typename A>
__global__ void __launch_bounds__(kChunkScanThreads) chunk_scan_kernel(const __grid_constant__ Scan<T, A> scan) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  ScanState<double>* const totals = reinterpret_cast<ScanState<double>*>(shared_memory);  // [parts, channels]
  double* const total_gaps = reinterpret_cast<double*>(totals + kChunkScanThreads);       // [parts]
  const int lane = threadIdx.x % kChunkChannels, part = threadIdx.x / kChunkChannels;
  const int64_t images = scan.shape.images, channels = scan.shape.channels, chunks = scan.chunks;
  const int64_t image = blockIdx.x % images, channel = blockIdx.x / images * kChunkChannels + lane;
  const int64_t begin = chunks * part / kChunkParts;
  const int64_t end = channel < channels ? chunks * (part + 1) / kChunkParts : begin;
  ScanState<double>* const states = scan.chunk_states.states + image * (chunks + 1) * channels + channel;
  const double* const gaps = scan.chunk_states.gaps + image * chunks;
  const auto for_each_chunk = [&](auto body) {
    for (int64_t first = begin; first < end; first += kChunkBatch) {
      ScanState<double> batch_states[kChunkBatch];
      double batch_gaps[kChunkBatch];
      DGCN_UNROLL()
      for (int i = 0; i < kChunkBatch; ++i) {
        const int64_t k = std::min(first + i, end - 1), chunk = scan.ascending ? chunks - 1 - k : k;
        batch_states[i] = states[chunk * channels];
        batch_gaps[i] = gaps[chunk];
      }
      DGCN_UNROLL()
      for (int i = 0; i < kChunkBatch; ++i)
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
  for (int before = 0; before < part; ++before)
    append(state, total_gaps[before], totals[before * kChunkChannels + lane]);
  for_each_chunk([&](int64_t chunk, const ScanState<double>& own, double gap) {
    states[chunk * channels] = state;
    append(state, gap, own);
  });
  if (part == kChunkParts - 1 && channel < channels) states[chunks * channels] = state;
}

// ---- Step 3 ---------------------------------------------------------------------------------------------------------

/// Sums each of `kCount` numbers over the lanes of a warp: lane l gets the sum of number l / (kWarp / kCount). Every
/// step halves the numbers that a lane has, each of which is then a sum over twice as many lanes.
template <int kCount>
__device__ double sum_lanes(double (&numbers)[kCount]) {
  constexpr unsigned kAll = ~0u;
  int lanes = kWarp;
  DGCN_UNROLL()
  for (int count = kCount / 2; count > 0; count /= 2) {
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
  for (int mask = kWarp / kCount / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(kAll, sum, mask);
  return sum;
}

template <typename T>
constexpr int64_t scan_bytes(int threads, bool dots) {
  return kStagedItems<T> * sizeof(StagedItem<T>) + (dots ? threads / kWarp * kChunk * sizeof(double) : 0);
}

/// Scans each chunk from the state in which it starts, and evaluates. `kDots`: computes dots. `kOpposite`: also does
/// step 1 of the opposite scan, and computes no values.
template <typename T, typename A, bool kDots, bool kOpposite>
__global__ void __launch_bounds__(kMaxScanThreads, kResidentScans)
    item_scan_kernel(const __grid_constant__ Scan<T, A> scan) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  constexpr int kLanesPerSum = kWarp / kAhead<T>;
  using Item = StagedItem<T>;
  auto& items = *reinterpret_cast<Item(*)[kStagedItems<T>]>(shared_memory);
  double* const warp_dots = reinterpret_cast<double*>(items + kStagedItems<T>);  // [warps, kChunk]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  BlockChunk<A> own(scan, scan.last_image_first);
  const int64_t channels = scan.shape.channels, positions = scan.shape.positions;
  const int64_t first_state = own.image * (scan.chunks + 1);
  const ScanState<double>* const start = scan.chunk_states.states + (first_state + own.chunk) * channels;
  const ScanState<double>* const image_state = scan.chunk_states.states + (first_state + scan.chunks) * channels;
  const bool has_values = !kOpposite && scan.values.data != nullptr;
  const double scale = 1.0 / static_cast<double>(positions);
  const double key_before = own.key_before();
  stage_items(items, scan, own);
  const double first_key = items[0].key;
  for (int64_t first_channel = 0; first_channel < channels; first_channel += kThreadChannels * blockDim.x) {
    const int64_t channel = first_channel + kThreadChannels * threadIdx.x;
    ScanState<ThreadChannels> state = load_state(start, channel, channels), opposite = empty_state();
    // As in the dense form, a feature that is NaN or infinite makes all values of its channel NaN: 0 · NaN is NaN where
    // a pair is not active.
    const ThreadChannels zero_or_nan = 0.0 * load_state(image_state, channel, channels).sum;
    RowsAhead<T> rows;
    const auto load = [&](int i, const Item& item) {
      if ((kDots || item.kind == Item::kAdded) && channel < channels) rows.parts[i] = *part_at(item.row + channel);
    };
    DGCN_UNROLL()
    for (int i = 0; i < kAhead<T>; ++i) load(i, items[i]);
    double previous = key_before;
    bool any_opposite = false;
    DGCN_UNROLL(1)
    for (int first = 0; first < kChunk; first += kAhead<T>) {
      double products[kAhead<T>];
      DGCN_UNROLL()
      for (int i = 0; i < kAhead<T>; ++i) {
        const Item& item = items[first + i];
        products[i] = 0;
        state.ramp += (previous - item.key) * state.sum;
        previous = item.key;
        if (item.kind == Item::kAdded) {
          state.sum += rows.template channels<A>(i);
        } else if (item.kind == Item::kEvaluated) {
          if (kDots) {
            const ThreadChannels features = rows.template channels<A>(i);
            products[i] = dot(features, state.sum);
            if (kOpposite) {  // the opposite scan ends at the first item: weights are distances from its key
              opposite.sum += features;
              opposite.ramp += (first_key - item.key) * features;
              any_opposite = true;
            }
          }
          if (has_values && channel < channels) {
            T values[kThreadChannels];
            DGCN_UNROLL()
            for (int v = 0; v < kThreadChannels; ++v)
              values[v] = static_cast<T>(static_cast<A>(state.ramp.part[v] * scale + zero_or_nan.part[v]));
            RowPart<T> part;
            memcpy(&part, values, sizeof(part));
            *part_at(item.value + channel) = part;
          }
        }
        load(i, items[first + kAhead<T> + i]);
      }
      if (kDots) {
        const double sum = sum_lanes(products);
        double& total = warp_dots[warp * kChunk + first + lane / kLanesPerSum];
        if (lane % kLanesPerSum == 0) total = first_channel == 0 ? sum : total + sum;
      }
    }
    if (kOpposite) {
      mark_added(opposite.sum, any_opposite);
      store_state(scan.opposite.states + (first_state + own.chunk) * channels, opposite, channel, channels);
    }
  }
  if (kOpposite && threadIdx.x == 0) {
    own.ascending = !own.ascending;
    scan.opposite.gaps[own.image * scan.chunks + own.chunk] = own.gap();
  }
  if (!kDots) return;
  __syncthreads();
  for (int u = threadIdx.x; u < kChunk; u += blockDim.x) {
    if (items[u].kind != Item::kEvaluated) continue;
    bool any_active = !is_empty(start->sum);
    for (int before = 0; !any_active && before < u; ++before) any_active = items[before].kind == Item::kAdded;
    double dot = 0;  // stays 0 without an active pair, where the sums would give 0 · NaN
    for (int w = 0; any_active && w < warps; ++w) dot += warp_dots[w * kChunk + u];
    scan.dots[own.image * positions + items[u].position] = static_cast<A>(dot * scale);
  }
}

// ---- Launch ---------------------------------------------------------------------------------------------------------

// Both call launch(kernel, blocks, threads, shared bytes, arguments...).

template <typename T, typename A>
int scan_threads(const Scan<T, A>& scan) {
  constexpr int64_t kWarpChannels = kThreadChannels * kWarp;
  return static_cast<int>(
      std::min<int64_t>((scan.shape.channels + kWarpChannels - 1) / kWarpChannels * kWarp, kMaxScanThreads));
}

/// Computes the states in which the chunks start: steps 1 and 2. `is_reduced`: the opposite scan has done step 1.
template <typename T, typename A, typename Launch>
void start_scan(const Scan<T, A>& scan, bool is_reduced, Launch launch) {
  const int64_t images = scan.shape.images;
  const int threads = scan_threads(scan);
  if (!is_reduced) launch(&reduce_kernel<T, A>, images * scan.chunks, threads, sizeof(StagedAdded<T>), scan);
  const int64_t channel_blocks = (scan.shape.channels + kChunkChannels - 1) / kChunkChannels;
  launch(&chunk_scan_kernel<T, A>, images * channel_blocks, kChunkScanThreads, kChunkScanBytes, scan);
}

/// Scans from these states and evaluates: step 3.
template <typename T, typename A, typename Launch>
void finish_scan(const Scan<T, A>& scan, Launch launch) {
  const bool dots = scan.dots != nullptr, opposite = scan.opposite.states != nullptr;
  const int threads = scan_threads(scan);
  launch(opposite ? &item_scan_kernel<T, A, true, true>
         : dots   ? &item_scan_kernel<T, A, true, false>
                  : &item_scan_kernel<T, A, false, false>,
         scan.shape.images * scan.chunks, threads, scan_bytes<T>(threads, dots), scan);
}

}  // namespace dgcn::nonlocal::cuda
