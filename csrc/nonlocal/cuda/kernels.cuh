// The kernels of the non-local layer on CUDA. Free of torch: operator.cu launches them, and
// tests/cpp/test_nonlocal_cuda_emulated.cpp runs the same source on the host. Legend: nonlocal.h.
//
//   sequence  the keys of an image, all b_n and all −a_n, in descending order: 2N items. a_i meets the b that come before
//             it, and b_j the a that come after it; so one sort serves both walks. The walk of the value goes down the
//             sequence, takes in every b and stops at every a; the exchanged one goes up, takes in a and stops at b
//   row       all channels of a position, neighbours in memory
//   chunk     kChunk neighbouring items, for a block
//
// A thread has some channels and goes from item to item. Whatever the order of the positions, a warp then moves whole rows,
// and what is done with an item is the same for all its threads. What it takes:
//
//   1. features whose channels are not neighbours become rows      transpose_kernel (rows.cuh)
//   2. every chunk is walked on its own, from nothing              sum_kernel
//   3. the chunks are added up: what each is entered with          enter_kernel
//   4. every chunk is walked again from there, and stopped in      walk_kernel
//   5. rows become results                                         transpose_kernel (rows.cuh)
//
// Backward goes down with g and stops for ∂L/∂a, then up with ∂L/∂y and stops for ∂L/∂b and ∂L/∂g. What stops the one is
// what the other takes in: the walk down has step 2 of the walk up done on its way.
//
// It is memory that decides. In passes over memory of the size of g, of which a copy takes 2:
//
//              1   2   4       5
//   forward    2   1   2       2      7, or 3 where the channels of g and y are neighbours
//   backward   4   1   2 + 3   2      12, or 6
//
// and for what step 2 hands on to step 4 a third of one in every walk. At B = 8, N = 25,921, C = 128 in float32 these are
// 2.1 GB, or 1.1. Steps take turns in the order in which they go through the images, since L2 still holds what the step
// before touched last.
//
// No sum depends on the number of images, blocks or threads: a result repeats bit for bit, whatever it is computed with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal::cuda {

// ---- The sequence ---------------------------------------------------------------------------------------------------

/// −∞ as the lowest finite number: nothing finite meets either. Differences of keys are then finite, or lead to results
/// that are not finite in the dense form.
template <typename A>
__host__ __device__ A at_least_lowest(A key) {
  constexpr A kLowest = std::numeric_limits<A>::lowest();
  return key < kLowest ? kLowest : key;
}

/// How high b or −a is in the sequence. NaN comes where it meets all others. 0 − a is never −0, so that a and b on the
/// kink are equal, or a is the higher one.
template <typename A>
__host__ __device__ auto rank(A key, bool is_a) {
  key = at_least_lowest(key);
  if (!is_a) return sortable(key);
  return key != key ? decltype(sortable(key)){0} : sortable(A(0) - key);
}

/// What the items of all images are sorted by, upwards: the image, then the rank from the highest down. Equal ones stay
/// in the order of their numbers, a before b: on the kink they do not meet.
template <typename A>
using SortKey = std::conditional_t<sizeof(A) == 4, uint64_t, unsigned __int128>;
template <typename A>
constexpr int kRankBits = 8 * sizeof(A);

/// The bits that tell the images apart.
constexpr int image_bits(int64_t images) {
  int bits = 0;
  while (int64_t{1} << bits < images) ++bits;
  return bits;
}

constexpr int kItemThreads = 256;

/// What has to be sorted: a_n of an image is item n, b_n is item N + n.
template <typename A>
__global__ void __launch_bounds__(kItemThreads)
    item_kernel(const A* a, const A* b, const int64_t images, const int64_t positions, SortKey<A>* keys,
                uint32_t* items) {
  const int64_t count = 2 * positions, stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t e = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; e < images * count; e += stride) {
    const int64_t image = e / count, item = e % count;
    const bool is_a = item < positions;
    const A key = is_a ? a[image * positions + item] : b[image * positions + item - positions];
    keys[e] = SortKey<A>(image) << kRankBits<A> | static_cast<decltype(sortable(key))>(~rank(key, is_a));
    items[e] = static_cast<uint32_t>(item);
  }
}

struct Item {
  double key;  ///< b or −a
  int32_t position;
  bool is_a;
};

template <typename A>
struct Sequence {
  const A *a, *b;         ///< keys [B, N]
  const uint32_t* order;  ///< [B, 2N], the sorted items
  int64_t positions;

  __host__ __device__ int64_t items() const { return 2 * positions; }

  __device__ Item at(int64_t image, int64_t place) const {
    const int64_t item = order[image * items() + place];
    const bool is_a = item < positions;
    const int64_t position = is_a ? item : item - positions;
    const double key = at_least_lowest((is_a ? a : b)[image * positions + position]);
    return {is_a ? -key : key, static_cast<int32_t>(position), is_a};
  }
};

// ---- Walks ----------------------------------------------------------------------------------------------------------

constexpr int kChunk = 128;
constexpr int kBatch = 8;              // items whose rows a thread has under way
constexpr int kOwn = 2;                // channels of a thread: what an item takes besides them counts half
constexpr int kMostWalkThreads = 128;  // any more channels come one after the other
constexpr int kWarp = 32;

/// Blocks that an SM has registers for, if they are so large: as few as leave a thread what it needs, and some to spare.
template <typename T>
constexpr int kResidentWalks = sizeof(T) == 8 ? 4 : 6;

/// What a thread has of a row: for kOwn channels, a block's width apart.
struct Channels {
  double part[kOwn];

  __device__ Channels& operator+=(const Channels& other) {
    DGCN_UNROLL()
    for (int v = 0; v < kOwn; ++v) part[v] += other.part[v];
    return *this;
  }
  __device__ friend Channels operator*(double factor, Channels channels) {
    DGCN_UNROLL()
    for (int v = 0; v < kOwn; ++v) channels.part[v] *= factor;
    return channels;
  }
};

/// Of the chunks of every image.
struct States {
  Walk<double>* walks;  ///< [B, chunks + 1, C]: what a chunk comes to, then what it is entered with; last, of the image
  double* falls;        ///< [B, chunks]: how far the keys fall from the end of the chunk before to that of this one
};

/// A walk through the sequence of every image. All features are rows: their channel_stride is 1.
template <typename T, typename A>
struct Course {
  Sequence<A> sequence;
  Shape shape;
  int64_t chunks;  ///< of an image
  bool up;
  bool from_the_last;         ///< goes through the images from the last to the first, and step 2 the other way
  Features<const T> taken;    ///< what is taken in: that of b on the way down, of a on the way up
  Features<const T> stopped;  ///< what stands at the stops; only for `dots`
  Features<T> values;         ///< (1/N) Σ_j relu(…) taken_j at the stops; data null: not wanted
  A* dots;                    ///< [B, N]: (1/N) ⟨stopped, Σ_j taken_j⟩; null: not wanted
  States states;
  States opposite;  ///< of the walk the other way, which takes in what stops this one; null: not wanted
};

constexpr int64_t chunks_of(int64_t positions) { return (2 * positions + kChunk - 1) / kChunk; }

/// A sum of nothing is −0, and a feature of −0 is taken in as +0: a sum tells whether anybody was met, whatever the
/// features are.
constexpr double kNothing = -0.0;

__host__ __device__ inline bool is_nothing(double sum) {
  uint64_t bits;
  memcpy(&bits, &sum, sizeof(bits));
  return bits == uint64_t{1} << 63;
}

/// Which chunk a block has. `from_the_last`: blocks start with the last image.
struct ChunkOfBlock {
  int64_t image, chunk;

  template <typename T, typename A>
  __device__ ChunkOfBlock(const Course<T, A>& course, bool from_the_last)
      : image(blockIdx.x / course.chunks), chunk(blockIdx.x % course.chunks) {
    if (from_the_last) image = course.shape.images - 1 - image;
  }
};

/// The `falls` of a chunk.
template <typename A>
__device__ double fall_of(const Sequence<A>& sequence, const ChunkOfBlock& own, bool up) {
  const int64_t begin = own.chunk * kChunk, end = std::min(begin + kChunk, sequence.items());
  const auto key = [&](int64_t place) { return sequence.at(own.image, place).key; };
  return up ? key(begin) - key(std::min(end, sequence.items() - 1))
            : key(std::max(begin - 1, int64_t{0})) - key(end - 1);
}

template <typename T>
__device__ T* row_of(const Features<T>& rows, int64_t image, int64_t position) {
  return rows.data + image * rows.image_stride + position * rows.position_stride;
}

/// An item of a chunk, in shared memory.
template <typename T>
struct alignas(16) Staged {
  double key;        ///< falling in the order of the walk
  const T* row;      ///< of what is taken in or, for dots, stands at the stop; or null
  T* value;          ///< the row of values at a stop, or null
  int32_t position;  ///< n of what is taken in, −1 − n of a stop

  static constexpr int32_t kNoItem = std::numeric_limits<int32_t>::min();

  __device__ bool is_taken() const { return position >= 0; }
  __device__ bool is_stop() const { return position < 0 && position != kNoItem; }
};

/// Of a chunk: the item before it, and its own, filled up with kNoItem, whose keys do not fall.
constexpr int kStaged = 1 + kChunk;

/// Stages the chunk of a block in the order of a walk.
template <typename T, typename A>
__device__ void stage(Staged<T>* items, const Course<T, A>& course, const ChunkOfBlock& own) {
  const Sequence<A>& sequence = course.sequence;
  const int64_t begin = own.chunk * kChunk, end = std::min(begin + kChunk, sequence.items());
  for (int u = threadIdx.x; u < kStaged; u += blockDim.x) {
    const int64_t place = course.up ? std::max(begin, end - u) : std::min(begin + u, end) - 1;
    const Item item = sequence.at(own.image, std::min(std::max(place, int64_t{0}), sequence.items() - 1));
    const bool exists = 0 < u && u <= end - begin, is_taken = exists && item.is_a == course.up;
    const bool is_stop = exists && !is_taken;
    Staged<T>& staged = items[u];
    staged.key = course.up ? -item.key : item.key;
    staged.position = is_taken ? item.position : is_stop ? -1 - item.position : Staged<T>::kNoItem;
    staged.row = nullptr;
    staged.value = nullptr;
    if (is_taken) staged.row = row_of(course.taken, own.image, item.position);
    if (is_stop && course.dots != nullptr) staged.row = row_of(course.stopped, own.image, item.position);
    if (is_stop && course.values.data != nullptr) staged.value = row_of(course.values, own.image, item.position);
  }
  __syncthreads();
}

/// Some neighbouring items of a chunk, and what a thread has of their rows: all loads are under way before the first is
/// waited for.
template <typename T, typename A>
struct Batch {
  const Staged<T>* items;
  T features[kBatch][kOwn];

  /// `with_stops`: the rows of those as well.
  __device__ Batch(const Staged<T>* first, bool with_stops, int64_t channel, int64_t channels) : items(first) {
    DGCN_UNROLL()
    for (int i = 0; i < kBatch; ++i) {
      const T* const row = with_stops || items[i].is_taken() ? items[i].row : nullptr;
      DGCN_UNROLL()
      for (int v = 0; v < kOwn; ++v) {
        features[i][v] = T();
        if (row != nullptr && channel + v * blockDim.x < channels)
          features[i][v] = __ldg(row + channel + v * blockDim.x);
      }
    }
  }

  /// What a walk adds to its sum, if it takes the item in.
  __device__ Channels taken(int i, bool is_taken) const {
    Channels channels;
    DGCN_UNROLL()
    for (int v = 0; v < kOwn; ++v) channels.part[v] = is_taken ? static_cast<A>(features[i][v]) + A(0) : A(kNothing);
    return channels;
  }

  __device__ double dot(int i, const Channels& with) const {
    double sum = 0;
    DGCN_UNROLL()
    for (int v = 0; v < kOwn; ++v) sum += static_cast<double>(static_cast<A>(features[i][v])) * with.part[v];
    return sum;
  }
};

/// The walks of a thread's channels, of which `channel` is the first, in an array [C].
__device__ inline Walk<Channels> load_walks(const Walk<double>* walks, int64_t channel, int64_t channels) {
  Walk<Channels> walk{};
  DGCN_UNROLL()
  for (int v = 0; v < kOwn; ++v)
    if (const int64_t own = channel + v * blockDim.x; own < channels) {
      walk.sum.part[v] = walks[own].sum;
      walk.ramp.part[v] = walks[own].ramp;
    }
  return walk;
}

__device__ inline void store_walks(Walk<double>* walks, const Walk<Channels>& walk, int64_t channel, int64_t channels) {
  DGCN_UNROLL()
  for (int v = 0; v < kOwn; ++v)
    if (const int64_t own = channel + v * blockDim.x; own < channels)
      walks[own] = {walk.sum.part[v], walk.ramp.part[v]};
}

__device__ inline Walk<Channels> fresh_walk() {
  Walk<Channels> walk{};
  DGCN_UNROLL()
  for (int v = 0; v < kOwn; ++v) walk.sum.part[v] = kNothing;
  return walk;
}

/// Walks each chunk from nothing.
template <typename T, typename A>
__global__ void __launch_bounds__(kMostWalkThreads, kResidentWalks<T>)
    sum_kernel(const __grid_constant__ Course<T, A> course) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  Staged<T>* const items = reinterpret_cast<Staged<T>*>(shared_memory);
  const ChunkOfBlock own(course, !course.from_the_last);
  const int64_t channels = course.shape.channels;
  stage(items, course, own);
  for (int64_t channel = threadIdx.x; channel < channels; channel += kOwn * blockDim.x) {
    Walk<Channels> walk = fresh_walk();
    double before = items[1].key;
    DGCN_UNROLL(1)
    for (int first = 1; first <= kChunk; first += kBatch) {
      const Batch<T, A> batch(items + first, false, channel, channels);
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i) {
        const double key = batch.items[i].key;
        step(walk, before - key, batch.taken(i, batch.items[i].is_taken()));
        before = key;
      }
    }
    store_walks(course.states.walks + (own.image * (course.chunks + 1) + own.chunk) * channels, walk, channel,
                channels);
  }
  if (threadIdx.x == 0)
    course.states.falls[own.image * course.chunks + own.chunk] = fall_of(course.sequence, own, course.up);
}

constexpr int kEnterParts = 16;  // of an image's chunks, side by side
constexpr int kEnterThreads = kEnterParts * kWarp;
constexpr int64_t kEnterBytes = kEnterThreads * sizeof(Walk<double>) + kEnterParts * sizeof(double);

/// From what each chunk comes to, what it is entered with; and, after the last, what the image comes to.
template <typename T, typename A>
__global__ void __launch_bounds__(kEnterThreads) enter_kernel(const __grid_constant__ Course<T, A> course) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  Walk<double>* const totals = reinterpret_cast<Walk<double>*>(shared_memory);  // [parts, lanes]
  double* const falls = reinterpret_cast<double*>(totals + kEnterThreads);      // [parts]
  const int lane = threadIdx.x % kWarp, part = threadIdx.x / kWarp;
  const int64_t images = course.shape.images, channels = course.shape.channels, chunks = course.chunks;
  const int64_t image = blockIdx.x % images, channel = blockIdx.x / images * kWarp + lane;
  const int64_t begin = chunks * part / kEnterParts;
  const int64_t end = channel < channels ? chunks * (part + 1) / kEnterParts : begin;
  Walk<double>* const states = course.states.walks + image * (chunks + 1) * channels + channel;
  const double* const course_falls = course.states.falls + image * chunks;
  const auto for_each_chunk = [&](auto body) {
    for (int64_t first = begin; first < end; first += kBatch) {
      Walk<double> walks[kBatch];
      double own_falls[kBatch];
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i) {
        const int64_t k = std::min(first + i, end - 1), chunk = course.up ? chunks - 1 - k : k;
        walks[i] = states[chunk * channels];
        own_falls[i] = course_falls[chunk];
      }
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i)
        if (first + i < end) body(course.up ? chunks - 1 - first - i : first + i, walks[i], own_falls[i]);
    }
  };

  Walk<double> total{kNothing, 0};
  double fall = 0;
  for_each_chunk([&](int64_t, const Walk<double>& own, double own_fall) {
    append(total, own_fall, own);
    fall += own_fall;
  });
  totals[threadIdx.x] = total;
  if (lane == 0) falls[part] = fall;
  __syncthreads();

  Walk<double> walk{kNothing, 0};
  for (int before = 0; before < part; ++before) append(walk, falls[before], totals[before * kWarp + lane]);
  for_each_chunk([&](int64_t chunk, const Walk<double>& own, double own_fall) {
    states[chunk * channels] = walk;
    append(walk, own_fall, own);
  });
  if (part == kEnterParts - 1 && channel < channels) states[chunks * channels] = walk;
}

/// Σ over the lanes of a warp, of each of kBatch numbers: lane l gets that of number l / kLanesPerSum. With every step
/// there are half as many numbers, each of them a sum of twice as many lanes.
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
      const double kept = upper ? numbers[i + count] : numbers[i], given = upper ? numbers[i] : numbers[i + count];
      numbers[i] = kept + __shfl_xor_sync(kAll, given, lanes);
    }
  }
  double sum = numbers[0];
  DGCN_UNROLL()
  for (int mask = kLanesPerSum / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(kAll, sum, mask);
  return sum;
}

template <typename T>
constexpr int64_t walk_bytes(int threads, bool dots) {
  return kStaged * sizeof(Staged<T>) + (dots ? threads / kWarp * kChunk * sizeof(double) : 0);
}

/// Walks each chunk from what it is entered with, and stops. `kDots`, `kOpposite`: with those; the latter has no values.
template <typename T, typename A, bool kDots, bool kOpposite>
__global__ void __launch_bounds__(kMostWalkThreads, kResidentWalks<T>)
    walk_kernel(const __grid_constant__ Course<T, A> course) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  Staged<T>* const items = reinterpret_cast<Staged<T>*>(shared_memory);
  double* const sums = reinterpret_cast<double*>(items + kStaged);  // [warps, kChunk], for dots
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const ChunkOfBlock own(course, course.from_the_last);
  const int64_t channels = course.shape.channels, positions = course.shape.positions;
  const int64_t first_state = own.image * (course.chunks + 1);
  const Walk<double>* const entered = course.states.walks + (first_state + own.chunk) * channels;
  const Walk<double>* const of_image = course.states.walks + (first_state + course.chunks) * channels;
  const double scale = 1.0 / static_cast<double>(positions);
  stage(items, course, own);
  for (int64_t first_channel = 0; first_channel < channels; first_channel += kOwn * blockDim.x) {
    const int64_t channel = first_channel + threadIdx.x;
    Walk<Channels> walk = load_walks(entered, channel, channels), opposite = fresh_walk();
    // relu(…) g_j is NaN where g_j is NaN, met or not: as in the dense form, that reaches all of a channel.
    const Channels nothing = 0.0 * load_walks(of_image, channel, channels).sum;
    double before = items[0].key;
    DGCN_UNROLL(1)
    for (int first = 1; first <= kChunk; first += kBatch) {
      const Batch<T, A> batch(items + first, kDots, channel, channels);
      double products[kBatch];
      DGCN_UNROLL()
      for (int i = 0; i < kBatch; ++i) {
        const Staged<T>& item = batch.items[i];
        step(walk, before - item.key, batch.taken(i, item.is_taken()));
        before = item.key;
        if (kOpposite) {  // comes from the other end, and gets to the first item at last
          const Channels stopped = batch.taken(i, item.is_stop());
          opposite.sum += stopped;
          opposite.ramp += (items[1].key - item.key) * stopped;
        } else if (item.value != nullptr) {
          DGCN_UNROLL()
          for (int v = 0; v < kOwn; ++v)
            if (const int64_t own_channel = channel + v * blockDim.x; own_channel < channels)
              item.value[own_channel] = static_cast<T>(static_cast<A>(walk.ramp.part[v] * scale + nothing.part[v]));
        }
        if (kDots) products[i] = batch.dot(i, walk.sum);  // at a stop; what it is elsewhere is never used
      }
      if (kDots) {
        const double sum = sum_lanes(products);
        double& total = sums[warp * kChunk + first - 1 + lane / kLanesPerSum];
        if (lane % kLanesPerSum == 0) total = first_channel == 0 ? sum : total + sum;
      }
    }
    if (kOpposite)
      store_walks(course.opposite.walks + (first_state + own.chunk) * channels, opposite, channel, channels);
  }
  if (kOpposite && threadIdx.x == 0)
    course.opposite.falls[own.image * course.chunks + own.chunk] = fall_of(course.sequence, own, !course.up);
  if (!kDots) return;
  __syncthreads();
  for (int u = 1 + threadIdx.x; u <= kChunk; u += blockDim.x) {
    if (!items[u].is_stop()) continue;
    bool met = !is_nothing(entered->sum);
    for (int before = 1; !met && before < u; ++before) met = items[before].is_taken();
    double dot = 0;  // and not 0 · NaN where nobody was met
    for (int w = 0; met && w < warps; ++w) dot += sums[w * kChunk + u - 1];
    course.dots[own.image * positions - 1 - items[u].position] = static_cast<A>(dot * scale);
  }
}

// ---- Launch ---------------------------------------------------------------------------------------------------------

/// Steps 2 to 4, by launch(kernel, blocks, threads, shared bytes, arguments...). `summed`: the walk the other way was
/// there before, and has step 2 done.
template <typename T, typename A, typename Launch>
void walk(const Course<T, A>& course, bool summed, Launch launch) {
  const Shape& shape = course.shape;
  const int64_t blocks = shape.images * course.chunks, warps = (shape.channels + kWarp - 1) / kWarp;
  const int threads = static_cast<int>(std::min<int64_t>((warps + kOwn - 1) / kOwn * kWarp, kMostWalkThreads));
  const bool dots = course.dots != nullptr, opposite = course.opposite.walks != nullptr;
  if (!summed) launch(&sum_kernel<T, A>, blocks, threads, walk_bytes<T>(threads, false), course);
  launch(&enter_kernel<T, A>, shape.images * warps, kEnterThreads, kEnterBytes, course);
  launch(opposite ? &walk_kernel<T, A, true, true>
         : dots   ? &walk_kernel<T, A, true, false>
                  : &walk_kernel<T, A, false, false>,
         blocks, threads, walk_bytes<T>(threads, dots), course);
}

}  // namespace dgcn::nonlocal::cuda
