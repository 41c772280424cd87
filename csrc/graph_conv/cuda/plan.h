// What the host decides before it launches kernels.cuh: the size of the tiles, the number of blocks, and where their
// matrices are. Free of torch and of CUDA calls.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/device_limits.h"
#include "graph_conv/cuda/few_nodes_backward.cuh"
#include "graph_conv/cuda/kernels.cuh"

namespace dgcn::graph_conv::cuda {

struct LaunchPlan {
  TileLayout layout;
  int blocks, threads;
  int64_t shared_bytes;     ///< of a block
  bool matrices_in_shared;  ///< `kShared` of the kernels
  int64_t workspace;        ///< elements of the accumulation dtype, for matrices that are not in shared memory
  OuterProductParts parts;  ///< of dM, for backward
};

/// What a block needs, for make_plan().
struct BlockNeeds {
  int threads;
  bool shared_allowed;            ///< whether the matrices may be in shared memory
  int resident_blocks;            ///< that should fit into an SM at the same time
  int tiles;                      ///< that a block holds at a time
  int64_t pixel_bytes;            ///< that it holds beside them for each pixel
  int least_pixels, most_pixels;  ///< of a tile; see kPixelUnit. Fewer than the least only if shared memory is short
  int64_t kept, scratch;          ///< elements of the accumulation dtype; see forward_kept()
  OuterProductParts parts;
};

/// Up to this K, 256 threads hold all of dM, and the matrices of backward can be in shared memory.
constexpr int kMostSharedNodes = 64;
/// Up to this K, forward has more and smaller blocks: while some compute, others load.
constexpr int kSmallBlockNodes = 2 * kPixelOutputs;
/// Blocks per SM if the matrices are in the workspace: more blocks would need more workspace.
constexpr int kWorkspaceBlocks = 1;
/// The pixels of a tile are a multiple of this, so that rows have an even number of pieces. The largest tiles have 496
/// pixels: with its lead, a row then fits into 512 elements, which are whole rounds of copies by 32 threads.
constexpr int kPixelUnit = 16;
/// Shared memory that CUDA reserves in each block.
constexpr int64_t kReservedBytes = 1024;

/// Cuts features into tiles of `pixels` pixels.
template <typename T>
void set_tile_pixels(TileLayout& layout, int64_t batch, int pixels, int threads) {
  layout.pixels = pixels;
  layout.tiles_per_image = static_cast<int>((layout.image_pixels + pixels - 1) / pixels);
  layout.tiles = static_cast<int>(batch * layout.tiles_per_image);
  layout.size = batch * layout.nodes * layout.image_pixels;
  if (!layout.channels_last) {
    layout.pitch = tile_pitch<T>(pixels);
    layout.elements = layout.nodes * layout.pitch;
    layout.row_shift = 5;
    return;
  }
  layout.pitch = pixel_pitch<T>(layout.nodes);
  if (layout.pitch > layout.nodes) {
    layout.elements = pixels * layout.pitch;
    layout.row_shift = 1;
    while (layout.row_shift < 5 && (kPiece<T> << layout.row_shift) < layout.nodes) ++layout.row_shift;
  } else {
    layout.elements = static_cast<int>(round_up(int64_t{pixels} * layout.nodes + kPiece<T> - 1, kPiece<T>));
    layout.row_shift = 0;
    while (1 << layout.row_shift < threads) ++layout.row_shift;
  }
}

/// Plans the largest tiles that fit and give every SM work. `features` has K, N, memory format and alignment. Returns
/// false if not even tiles of kPixelUnit pixels fit.
template <typename T, typename A>
bool make_plan(LaunchPlan& plan, const TileLayout& features, int64_t batch, const BlockNeeds& needs,
               const DeviceLimits& limits) {
  plan.layout = features;
  plan.threads = needs.threads;
  plan.parts = needs.parts;
  for (const bool in_shared : {true, false}) {
    if (in_shared && !needs.shared_allowed) continue;
    plan.matrices_in_shared = in_shared;
    const int64_t resident = in_shared ? needs.resident_blocks : kWorkspaceBlocks;
    const int64_t slots = resident * limits.multiprocessors, pixels_a_slot = batch * features.image_pixels / slots;
    const int64_t most_pixels = std::min(
        {std::max<int64_t>(pixels_a_slot, needs.least_pixels), features.image_pixels, int64_t{needs.most_pixels}});
    // If `resident` blocks do not fit into an SM even with the smallest tiles, one block may use all shared memory.
    for (const int64_t share :
         {limits.multiprocessor_shared_bytes / resident - kReservedBytes, limits.block_shared_bytes})
      for (int64_t pixels = round_up(most_pixels, kPixelUnit); pixels > 0; pixels -= kPixelUnit) {
        set_tile_pixels<T>(plan.layout, batch, static_cast<int>(pixels), plan.threads);
        const int64_t kept = in_shared ? needs.kept * sizeof(A) : 0,
                      scratch = in_shared ? needs.scratch * sizeof(A) : 0;
        const int64_t tiles = needs.tiles * int64_t{plan.layout.elements} * sizeof(T) + needs.pixel_bytes * pixels;
        plan.shared_bytes = kept + std::max(tiles, scratch);
        plan.blocks = static_cast<int>(std::min<int64_t>(plan.layout.tiles, slots));
        plan.workspace = in_shared ? 0 : plan.blocks * (needs.kept + needs.scratch);
        if (plan.shared_bytes <= std::min(share, limits.block_shared_bytes)) return true;
      }
  }
  return false;
}

template <typename T, typename A>
bool plan_forward(LaunchPlan& plan, const TileLayout& features, int64_t batch, const DeviceLimits& limits) {
  const int K = features.nodes;
  BlockNeeds needs{};
  needs.shared_allowed = true;
  needs.threads = K <= kSmallBlockNodes ? kForwardThreads / 2 : kForwardThreads;
  needs.resident_blocks = K <= kSmallBlockNodes ? 3 : 2;
  needs.tiles = 2;  // x and y
  needs.pixel_bytes = gate_words(K) * sizeof(uint32_t);
  needs.least_pixels = 64;
  needs.most_pixels = 496;
  needs.kept = forward_kept(K);
  needs.scratch = forward_scratch(K);
  return make_plan<T, A>(plan, features, batch, needs, limits);
}

template <typename T, typename A>
bool plan_backward(LaunchPlan& plan, const TileLayout& features, int64_t batch, const DeviceLimits& limits) {
  const int K = features.nodes;
  BlockNeeds needs{};
  needs.parts.rows = (K + kPartRows - 1) / kPartRows;
  needs.parts.columns = (K + kPartColumns - 1) / kPartColumns;
  // At most 32 slices: the threads of a warp read neighbouring pixels. Where a thread has several parts, 4 slices: a
  // warp reads four pixels of eight nodes, from 32 different banks.
  needs.shared_allowed = K <= kMostSharedNodes;
  needs.parts.slices = needs.shared_allowed ? std::min(32, kBackwardThreads / needs.parts.count()) : 4;
  needs.threads = kBackwardThreads;
  needs.resident_blocks = 2;
  needs.tiles = 3;  // g, x and grad_x
  needs.least_pixels = 128;
  needs.most_pixels = 496;
  needs.kept = backward_kept(K);
  needs.scratch = backward_scratch(K, needs.parts.slices);
  return make_plan<T, A>(plan, features, batch, needs, limits);
}

/// Whether the kernels of few_nodes*.cuh take these features. Those of kernels.cuh are for every K and dtype.
template <typename T>
bool has_few_nodes(const TileLayout& features) {
  return sizeof(T) <= 4 && features.nodes <= kFewNodes;
}

/// Plans the kernels of few_nodes*.cuh: the `kept` bytes of a block and `tiles` tiles of `most` pixels a thread, or of
/// `least` if these are too few for all SMs, or too large. At most `resident` blocks fit into an SM for their registers.
template <typename T>
LaunchPlan plan_few_nodes(const TileLayout& features, int64_t batch, int most, int least, int tiles, int64_t kept,
                          int resident, const DeviceLimits& limits) {
  LaunchPlan plan{};
  plan.layout = features;
  plan.threads = kFewNodesThreads;
  for (const int thread_pixels : {most, least}) {
    set_tile_pixels<T>(plan.layout, batch, thread_pixels * kFewNodesThreads, plan.threads);
    plan.layout.bulk = features.aligned && (!features.channels_last || plan.layout.pitch == features.nodes);
    plan.shared_bytes = kept + tiles * int64_t{plan.layout.elements} * sizeof(T);
    const int64_t fitting = limits.multiprocessor_shared_bytes / (plan.shared_bytes + kReservedBytes);
    const int64_t slots = std::max<int64_t>(1, std::min<int64_t>(resident, fitting)) * limits.multiprocessors;
    plan.blocks = static_cast<int>(std::min<int64_t>(plan.layout.tiles, slots));
    if (plan.layout.tiles >= slots && plan.shared_bytes <= limits.block_shared_bytes) break;
  }
  return plan;
}

template <typename T, int Nodes>
LaunchPlan plan_few_nodes_forward(const TileLayout& features, int64_t batch, bool residual,
                                  const DeviceLimits& limits) {
  constexpr int kStages = kForwardStages<T>;
  const int64_t kept = FewNodesMatrices::size(features.nodes) * sizeof(float) + TileCopies<T, kStages>::kBarrierBytes;
  return plan_few_nodes<T>(features, batch, kForwardPixels<T, Nodes>, 1, kStages * (residual ? 2 : 1), kept,
                           kForwardBlocks<Nodes>, limits);
}

template <typename T, int Nodes>
LaunchPlan plan_few_nodes_backward(const TileLayout& features, int64_t batch, const DeviceLimits& limits) {
  constexpr int kPixels = kBackwardPixels<T, Nodes>;
  using Outer = OuterProduct<T, Nodes, kPixels * kFewNodesThreads>;
  const int64_t kept = FewNodesGradients<T, Outer>::bytes(features.nodes) + TileCopies<T, 1>::kBarrierBytes;
  return plan_few_nodes<T>(features, batch, kPixels, kPixels, 2, kept, kBackwardBlocks<T, Nodes>, limits);
}

}  // namespace dgcn::graph_conv::cuda
