// Forward for few nodes, where all features of a pixel fit into the registers of one thread. Other nodes: kernels.cuh.
// Legend: graph_conv.h.
//
// A thread has a few pixels, a block's width apart, and all their sums. The only operand that is read again and again
// is M: one access of 16 bytes, the same for the whole warp, feeds four rows of all pixels of a thread.
//
// Features pass through a ring of tiles in shared memory (tile_copies.cuh). Threads that load features themselves wait
// for device memory once for every few nodes, since the sums leave no registers for more: that took twice as long. A
// thread overwrites its own pixels in the tile, which is then stored 16 bytes at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "graph_conv/cuda/kernels.cuh"
#include "graph_conv/cuda/tile_copies.cuh"

namespace dgcn::graph_conv::cuda {

constexpr int kFewNodesThreads = 128;

/// Pixels of a thread, whose sums must fit into registers.
template <typename T, int Nodes>
constexpr int kForwardPixels = sizeof(T) == 2 && Nodes <= 17 ? 4 : 2;

/// Tiles of a block, and blocks whose registers fit into an SM. In float32 more tiles on their way win more than a
/// fifth block; 16-bit features need more instructions a byte, so that threads win more than tiles.
template <typename T>
constexpr int kForwardStages = sizeof(T) == 4 ? 3 : 2;
template <int Nodes>
constexpr int kForwardBlocks = Nodes <= 17 ? 4 : 3;

/// K as a constant, which unrolls all loops; or with `any` the most that it can be.
template <int Most, bool Any>
struct NodeCount {
  static constexpr int most = Most;
  static constexpr bool any = Any;
};
constexpr int kFewNodes = 24;

/// Calls visit(NodeCount, whether channels_last) for K ≤ kFewNodes. CrowdPose has 14 keypoints, MPII 16, COCO 17; 19 and
/// 21 are those of COCO with feet and of a hand. In channels_last only K = 17 has kernels of its own: each takes the
/// compiler seconds.
template <typename Visit>
void for_node_count(int nodes, bool channels_last, Visit visit) {
  const auto in_both = [&](auto count) {
    channels_last ? visit(count, std::true_type()) : visit(count, std::false_type());
  };
  if (nodes == 17) return in_both(NodeCount<17, false>());
  if (!channels_last) {
    if (nodes == 14) return visit(NodeCount<14, false>(), std::false_type());
    if (nodes == 16) return visit(NodeCount<16, false>(), std::false_type());
    if (nodes == 19) return visit(NodeCount<19, false>(), std::false_type());
    if (nodes == 21) return visit(NodeCount<21, false>(), std::false_type());
  }
  in_both(NodeCount<kFewNodes, true>());
}

struct alignas(16) Quad {
  float values[4];
};

/// The pitch of M [K (in), pitch (out)] in shared memory: rows start at multiples of 16 bytes.
__host__ __device__ constexpr int quad_pitch(int nodes) { return static_cast<int>(round_up(nodes, 4)); }

/// A thread's pixels in a tile in shared memory, a block's width apart: the first one is that of the thread's number.
template <typename T, int Nodes, bool kAny, bool kChannelsLast, int Pixels>
class OwnPixels {
 public:
  __device__ OwnPixels(T* tile_memory, const SharedTile<T>& tile)
      : step_(kAny || !kChannelsLast ? tile.pixel_step : pixel_pitch<T>(Nodes)) {
    DGCN_UNROLL()
    for (int i = 0; i < kLeads; ++i) first_[i] = tile_memory + tile.row_lead(i) + threadIdx.x * step_;
  }

  __device__ T& operator()(int node, int pixel) const {
    if (kChannelsLast) return first_[0][node + pixel * kFewNodesThreads * step_];
    return first_[node % kLeads][node * kPitch + pixel * kFewNodesThreads];
  }

 private:
  static constexpr int kLeads = kChannelsLast ? 1 : kPiece<T>;  // in NCHW they repeat after so many nodes
  static constexpr int kPitch = tile_pitch<T>(Pixels * kFewNodesThreads);

  T* first_[kLeads];
  int step_;
};

/// Σ_k M_jk v_k of a few pixels, for all j < Nodes.
template <int Nodes, int Pixels>
struct PixelSums {
  float values[Nodes][Pixels];

  __device__ PixelSums() {
    DGCN_UNROLL()
    for (int j = 0; j < Nodes; ++j) {
      DGCN_UNROLL()
      for (int p = 0; p < Pixels; ++p) values[j][p] = 0;
    }
  }

  /// Adds the products of `value` with a row of quads in shared memory.
  template <bool kAny>
  __device__ void add(const float* row, int nodes, const float (&value)[Pixels]) {
    DGCN_UNROLL()
    for (int first = 0; first < Nodes; first += 4) {
      if (kAny && first >= nodes) break;
      const Quad quad = *reinterpret_cast<const Quad*>(row + first);
      DGCN_UNROLL()
      for (int i = 0; i < 4; ++i) {
        DGCN_UNROLL()
        for (int p = 0; p < Pixels; ++p)
          if (first + i < Nodes) values[first + i][p] += quad.values[i] * value[p];
      }
    }
  }
};

/// The larger number, or NaN if one of them is NaN.
__device__ inline float max_or_nan(float a, float b) {
#if defined(__CUDA_ARCH__)
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));  // one instruction
  return larger;
#else
  return a < b || b != b ? b : a;
#endif
}

/// y = act(M x + b) (+ residual) and ReLU's gate at the pixels of a thread. y overwrites x. `residual` is read only if
/// `has_residual`. `gate`: at the first pixel, or null; beyond the first `present` it is not written. `nodes` is K;
/// `Nodes` its value, or with `kAny` the most that it can be.
template <int Nodes, bool kAny, int Pixels, typename Features>
__device__ void forward_pixels(const float* m_transposed, const float* bias, int nodes, Features x, Features residual,
                               bool has_residual, uint32_t* gate, int present, bool relu) {
  const int pitch = kAny ? quad_pitch(nodes) : quad_pitch(Nodes);
  PixelSums<Nodes, Pixels> sums;
  DGCN_UNROLL()
  for (int k = 0; k < Nodes; ++k) {
    if (kAny && k >= nodes) break;
    float value[Pixels];
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p) value[p] = static_cast<float>(x(k, p));
    sums.template add<kAny>(m_transposed + k * pitch, nodes, value);
  }

  // Whole quads of b and of the residual are read before a store could change them, as far as the compiler knows.
  const float least = relu ? 0.0F : -INFINITY;
  const auto store = [&](auto add_residual, auto keep_gate) {
    uint32_t bits[Pixels] = {};
    Quad next_bias = *reinterpret_cast<const Quad*>(bias);
    DGCN_UNROLL()
    for (int first = 0; first < Nodes; first += 4) {
      if (kAny && first >= nodes) break;
      const Quad own_bias = next_bias;
      if (first + 4 < Nodes) next_bias = *reinterpret_cast<const Quad*>(bias + first + 4);
      const auto for_each = [&](auto visit) {
        DGCN_UNROLL()
        for (int i = 0; i < 4; ++i) {
          DGCN_UNROLL()
          for (int p = 0; p < Pixels; ++p)
            if (first + i < Nodes && !(kAny && first + i >= nodes)) visit(i, p);
        }
      };
      float added[4][Pixels] = {};
      if (add_residual) for_each([&](int i, int p) { added[i][p] = static_cast<float>(residual(first + i, p)); });
      for_each([&](int i, int p) {
        const int j = first + i;
        float value =
            sums.values[j][p] + own_bias.values[i];  // last: a large bias first would round off small products
        if (keep_gate && !(value <= 0.0F)) bits[p] |= 1U << j;
        value = max_or_nan(value, least);
        if (add_residual) value += added[i][p];
        x(j, p) = static_cast<std::decay_t<decltype(x(j, p))>>(value);
      });
    }
    DGCN_UNROLL()
    for (int p = 0; p < Pixels; ++p)
      if (keep_gate && p < present) gate[p * kFewNodesThreads] = bits[p];
  };
  // Separate code for each: what is not wanted costs no instructions.
  if (!has_residual && gate == nullptr)
    store(std::false_type(), std::false_type());
  else if (!has_residual)
    store(std::false_type(), std::true_type());
  else if (gate == nullptr)
    store(std::true_type(), std::false_type());
  else
    store(std::true_type(), std::true_type());
}

/// What a block keeps: M and b, and what their computation needs.
class FewNodesMatrices {
 public:
  __device__ FewNodesMatrices(unsigned char* shared_memory, const GraphParams<float>& params)
      : m_transposed_(reinterpret_cast<float*>(shared_memory)),
        bias_(m_transposed_ + params.nodes * quad_pitch(params.nodes)),
        s_(bias_ + round_up(params.nodes, 4)),
        weight_copy_(s_ + matrix_size(params.nodes)),
        scratch_(weight_copy_ + copy_size(params.nodes)),
        params_(params) {}

  /// Numbers of all of them.
  static __host__ __device__ constexpr int64_t size(int nodes) {
    return nodes * quad_pitch(nodes) + round_up(nodes, 4) + matrix_size(nodes) + operand_size(nodes) +
           2 * copy_size(nodes);
  }

  /// Starts to load the parameters.
  __device__ void fetch() {
    cuda::fetch<true>(bias_, params_.bias, params_.nodes);
    weight_ = fetch_matrix<true>(weight_copy_, params_.weight, params_.nodes);
    fetched_ = fetch_parameters<true>(s_, scratch_, scratch_, params_);
    commit_loads();
  }
  /// Once they are loaded: computes M of image `sample`.
  __device__ void compute(int64_t sample) {
    compute_matrices<true, float>(m_transposed_, nullptr, quad_pitch(params_.nodes), s_, scratch_, weight_, scratch_,
                                  fetched_, sample);
  }

  __device__ const float* m_transposed() const { return m_transposed_; }
  __device__ const float* bias() const { return bias_; }

 private:
  float *m_transposed_, *bias_, *s_, *weight_copy_, *scratch_;
  const float* weight_ = nullptr;
  const GraphParams<float>& params_;
  GraphParams<float> fetched_{};
};

template <typename T, int Nodes, bool kAny, bool kChannelsLast>
__global__ void __launch_bounds__(kFewNodesThreads, kForwardBlocks<Nodes>)
    few_nodes_forward_kernel(const __grid_constant__ CudaForwardArguments<T, float> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const TileLayout& layout = arguments.layout;
  const int K = kAny ? arguments.params.nodes : Nodes;
  FewNodesMatrices matrices(shared_memory, arguments.params);
  unsigned char* const after = shared_memory + FewNodesMatrices::size(K) * sizeof(float);
  TileCopies<T, kForwardStages<T>> copies(layout, after);
  T* const ring = reinterpret_cast<T*>(after + copies.kBarrierBytes);
  const int stage_size = (arguments.residual == nullptr ? 1 : 2) * layout.elements;
  BlockTiles tiles(layout, arguments.per_sample);
  const auto load = [&](int ahead) {
    BlockTiles at = tiles;
    DGCN_UNROLL()
    for (int i = 0; i < ahead; ++i) at.next();
    if (at.exists())
      copies.load(ring + copies.stage() * stage_size, arguments.x, arguments.residual,
                  SharedTile<T>(layout, at.image(), at.tile()));
    copies.end_load();
  };

  matrices.fetch();
  DGCN_UNROLL()
  for (int stage = 0; stage < kForwardStages<T>; ++stage) load(stage);
  wait_for_loads<kForwardStages<T>>();  // for the parameters
  int sample = arguments.per_sample ? tiles.image() : 0;
  matrices.compute(sample);
  for (; tiles.exists(); tiles.next()) {
    const SharedTile<T> tile(layout, tiles.image(), tiles.tile());
    if (arguments.per_sample && tiles.image() != sample) {
      sample = tiles.image();
      matrices.fetch();
      wait_for_loads();
      matrices.compute(sample);
    }
    copies.wait();
    T* const x = ring + copies.stage() * stage_size;
    const auto compute = [&](auto pixels) {
      // Beyond the image a thread computes what nobody reads: the tile has room for it.
      using Features = OwnPixels<T, Nodes, kAny, kChannelsLast, decltype(pixels)::value>;
      forward_pixels<Nodes, kAny, decltype(pixels)::value>(
          matrices.m_transposed(), matrices.bias(), K, Features(x, tile), Features(x + layout.elements, tile),
          arguments.residual != nullptr,
          arguments.gate == nullptr
              ? nullptr
              : arguments.gate + tile.image * layout.image_pixels + tile.first_pixel + threadIdx.x,
          (tile.pixels - static_cast<int>(threadIdx.x) + kFewNodesThreads - 1) / kFewNodesThreads, arguments.relu);
    };
    if (layout.pixels == kFewNodesThreads)
      compute(std::integral_constant<int, 1>());
    else
      compute(std::integral_constant<int, kForwardPixels<T, Nodes>>());
    copies.store(arguments.y, x, tile);
    load(kForwardStages<T>);
  }
}

}  // namespace dgcn::graph_conv::cuda
