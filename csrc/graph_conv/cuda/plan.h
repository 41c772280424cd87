// What the host decides before it launches kernels.cuh: how large the tiles are, how many blocks there are, and
// where their matrices go. Free of torch and of CUDA calls.
#pragma once

#include <algorithm>
#include <cstdint>

#include "graph_conv/cuda/kernels.cuh"

namespace dgcn::cuda {

struct DeviceLimits {
  int multiprocessors;
  int64_t block_shared_bytes;           ///< that one block can be given
  int64_t multiprocessor_shared_bytes;  ///< that the blocks of one SM share
};

struct Plan {
  Tiling tiling;
  int blocks, threads;
  int64_t shared_bytes;     ///< of a block
  bool matrices_in_shared;  ///< `kShared`
  int64_t workspace;        ///< elements of the accumulation dtype, for the matrices if they are not
  Parts parts;              ///< of dM, for backward
};

/// What make_plan() has to find room for.
struct Needs {
  int threads;
  bool shared_allowed;            ///< `kShared`, if memory allows
  int resident_blocks;            ///< that should fit into an SM side by side
  int tiles;                      ///< that a block holds at a time
  int least_pixels, most_pixels;  ///< of a tile; see kPixelUnit. Fewer than the least only if shared memory is short
  int64_t kept, scratch;          ///< elements of the accumulation dtype
  Parts parts;
};

/// Up to here, 256 threads hold all of dM, and the matrices of backward can be in shared memory.
constexpr int kMostSharedNodes = 64;
/// Up to here, forward has more and smaller blocks: one that loads is never far.
constexpr int kFewNodes = 2 * kPixelOutputs;
/// Where the matrices are in the workspace: more blocks would only need more of it.
constexpr int kWorkspaceBlocks = 1;
/// Tiles have a multiple of this, so that rows are an even number of pieces; at most they have this much less than a power
/// of two, so that a row and its lead are a whole number of pieces for each thread of a warp.
constexpr int kPixelUnit = 16;
/// An SM keeps this much of every block's shared memory to itself.
constexpr int64_t kReservedBytes = 1024;

/// Cuts features into tiles of `pixels` pixels.
template <typename T>
void set_tile_pixels(Tiling& tiling, int64_t batch, int pixels, int threads) {
  tiling.pixels = pixels;
  tiling.tiles_per_image = (tiling.image_pixels + pixels - 1) / pixels;
  tiling.tiles = batch * tiling.tiles_per_image;
  tiling.size = batch * tiling.nodes * tiling.image_pixels;
  if (!tiling.channels_last) {
    tiling.pitch = pixels + kPiece<T>;  // room for the lead, and an odd number of pieces: rows start on other banks
    tiling.elements = tiling.nodes * tiling.pitch;
    tiling.row_threads = 32;
  } else if (tiling.nodes % (2 * kPiece<T>) == 0) {
    tiling.pitch = tiling.nodes + kPiece<T>;
    tiling.elements = pixels * tiling.pitch;
    tiling.row_threads = 2;
    while (tiling.row_threads < 32 && tiling.row_threads * kPiece<T> < tiling.nodes) tiling.row_threads *= 2;
  } else {
    tiling.pitch = tiling.nodes;
    tiling.elements = static_cast<int>(round_up(int64_t{pixels} * tiling.nodes + kPiece<T> - 1, kPiece<T>));
    tiling.row_threads = threads;
  }
}

/// The largest tiles that fit and leave no SM without work. `features` has K, N, layout and alignment. Returns false if
/// not even tiles of kPixelUnit pixels fit.
template <typename T, typename A>
bool make_plan(Plan& plan, const Tiling& features, int64_t batch, const Needs& needs, const DeviceLimits& limits) {
  plan.tiling = features;
  plan.threads = needs.threads;
  plan.parts = needs.parts;
  for (const bool in_shared : {true, false}) {
    if (in_shared && !needs.shared_allowed) continue;
    plan.matrices_in_shared = in_shared;
    const int64_t resident = in_shared ? needs.resident_blocks : kWorkspaceBlocks;
    const int64_t slots = resident * limits.multiprocessors, pixels_a_slot = batch * features.image_pixels / slots;
    const int64_t most_pixels = std::min(
        {std::max<int64_t>(pixels_a_slot, needs.least_pixels), features.image_pixels, int64_t{needs.most_pixels}});
    // Where the wanted number of blocks does not fit into an SM with any tiles, one block may have it all.
    for (const int64_t share :
         {limits.multiprocessor_shared_bytes / resident - kReservedBytes, limits.block_shared_bytes})
      for (int64_t pixels = round_up(most_pixels, kPixelUnit); pixels > 0; pixels -= kPixelUnit) {
        set_tile_pixels<T>(plan.tiling, batch, static_cast<int>(pixels), plan.threads);
        const int64_t kept = in_shared ? needs.kept * sizeof(A) : 0,
                      scratch = in_shared ? needs.scratch * sizeof(A) : 0;
        const int64_t tiles = needs.tiles * int64_t{plan.tiling.elements} * sizeof(T);
        plan.shared_bytes = kept + std::max(tiles, scratch);
        plan.blocks = static_cast<int>(std::min(plan.tiling.tiles, slots));
        plan.workspace = in_shared ? 0 : plan.blocks * (needs.kept + needs.scratch);
        if (plan.shared_bytes <= std::min(share, limits.block_shared_bytes)) return true;
      }
  }
  return false;
}

template <typename T, typename A>
bool plan_forward(Plan& plan, const Tiling& features, int64_t batch, const DeviceLimits& limits) {
  const int K = features.nodes;
  Needs needs{};
  needs.shared_allowed = true;
  needs.threads = K <= kFewNodes ? kForwardThreads / 2 : kForwardThreads;
  needs.resident_blocks = K <= kFewNodes ? 3 : 2;
  needs.tiles = 2;  // x and y
  needs.least_pixels = 64;
  needs.most_pixels = 496;
  needs.kept = forward_kept(K);
  needs.scratch = forward_scratch(K);
  return make_plan<T, A>(plan, features, batch, needs, limits);
}

template <typename T, typename A>
bool plan_backward(Plan& plan, const Tiling& features, int64_t batch, const DeviceLimits& limits) {
  const int K = features.nodes;
  Needs needs{};
  needs.parts.rows = (K + kPartRows - 1) / kPartRows;
  needs.parts.columns = (K + kPartColumns - 1) / kPartColumns;
  // Up to a warp that reads side by side. Where a thread has several parts, four pixels of eight nodes: 32 banks.
  needs.shared_allowed = K <= kMostSharedNodes;
  needs.parts.slices = needs.shared_allowed ? std::min(32, kBackwardThreads / needs.parts.count()) : 4;
  needs.threads = kBackwardThreads;
  needs.resident_blocks = 2;
  needs.tiles = 3;  // g, x, and y, then grad_x
  needs.least_pixels = 128;
  needs.most_pixels = 496;
  needs.kept = backward_kept(K);
  needs.scratch = backward_scratch(K, needs.parts.slices);
  return make_plan<T, A>(plan, features, batch, needs, limits);
}

}  // namespace dgcn::cuda
