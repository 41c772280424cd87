// How the kernels for few nodes load and store their tiles. Part of few_nodes*.cuh.
#pragma once

#include <cstdint>

#include "graph_conv/cuda/matrices.cuh"
#include "graph_conv/cuda/tiles.cuh"

#if defined(__CUDACC__)
#include "graph_conv/cuda/bulk_copies.cuh"
#endif

namespace dgcn::graph_conv::cuda {

/// A ring of `kStages` tiles in shared memory. While a block computes one, the next ones are on their way. All threads
/// call the functions: load() for each stage first, then wait(), store() and load() for each tile.
///
/// On Hopper and later GPUs one warp, each time another one, starts bulk copies, a lane for each row: copies by all
/// threads, 16 bytes each, take as many instructions as all multiplications. A row may start and end within a piece of
/// 16 bytes. Then whole pieces are loaded, and the lane stores the elements before and after those.
template <typename T, int kStages>
class TileCopies {
 public:
  static constexpr int64_t kBarrierBytes = kStages * 16;  ///< what follows is aligned

  /// `memory`: kBarrierBytes of shared memory.
  __device__ TileCopies(const TileLayout& layout, unsigned char* memory)
      : layout_(layout), barriers_(reinterpret_cast<BulkBarrier*>(memory)), bulk_(kHasBulkCopies && layout.bulk) {
    if (!bulk_) return;
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) init_barrier(barriers_ + stage);
      fence_bulk_copies();
    }
    __syncthreads();
  }

  /// The stage of the tile that is computed.
  __device__ int stage() const { return turn_ % kStages; }

  /// Starts to load a tile of `first` and, unless that is null, of `second`, behind each other.
  __device__ void load(T* to, const T* first, const T* second, const SharedTile<T>& tile) {
    if (!bulk_) {
      load_tile(to, first, layout_, tile);
      if (second != nullptr) load_tile(to + layout_.elements, second, layout_, tile);
    } else if (is_worker()) {
      load_rows(barriers_[stage()], to, first, tile);
      if (second != nullptr) load_rows(barriers_[stage()], to + layout_.elements, second, tile);
      __syncwarp();
      if (lane() == 0) arrive(barriers_ + stage());
    }
  }

  /// After each load(), or where no tile is left to load: the next stage.
  __device__ void end_load() {
    commit_loads();
    ++turn_;
  }

  /// Until the stage is loaded.
  __device__ void wait() {
    if (!bulk_) return wait_for_loads<kStages - 1>();
    wait_for_phase(barriers_ + stage(), (turn_ / kStages + 1) % 2);  // the first phases end when each was loaded once
  }

  /// Waits for the threads that overwrite the stage, and stores it unless `to` is null. Then it may be loaded again.
  __device__ void store(T* to, T* from, const SharedTile<T>& tile) {
    if (bulk_) fence_bulk_copies();
    __syncthreads();
    if (to != nullptr && !bulk_) {
      store_tile(to, from, layout_, tile);
      __syncthreads();
    } else if (to != nullptr && is_worker()) {
      store_rows(to, from, tile);
      wait_for_bulk_reads();
      __syncwarp();
    }
  }

 private:
  static __device__ int lane() { return threadIdx.x % kWarp; }
  __device__ bool is_worker() const { return threadIdx.x / kWarp == turn_ % (blockDim.x / kWarp); }

  __device__ void load_rows(BulkBarrier& barrier, T* to, const T* from, const SharedTile<T>& tile) {
    const int row = lane();
    if (row >= tile.rows) return;
    const int lead = tile.row_lead(row), end = lead + tile.row_length;
    const int64_t global = tile.start + row * tile.stride - lead;
    // The last piece of the last row may end beyond the features.
    int whole = static_cast<int>(round_up(end, kPiece<T>));
    if (global + whole > layout_.size) whole = end / kPiece<T> * kPiece<T>;
    T* const row_to = to + row * layout_.pitch;
    for (int e = whole; e < end; ++e) row_to[e] = from[global + e];
    if (whole == 0) return;
    expect_bytes(&barrier, whole * sizeof(T));
    bulk_load(row_to, from + global, whole * sizeof(T), &barrier);
  }

  __device__ void store_rows(T* to, const T* from, const SharedTile<T>& tile) {
    const int row = lane();
    if (row >= tile.rows) return;
    const int lead = tile.row_lead(row), end = lead + tile.row_length;
    const int begin = lead == 0 ? 0 : kPiece<T>, whole = end / kPiece<T> * kPiece<T>;
    T* const row_to = to + tile.start + row * tile.stride - lead;
    const T* const row_from = from + row * layout_.pitch;
    if (whole > begin) bulk_store(row_to + begin, row_from + begin, (whole - begin) * sizeof(T));
    DGCN_UNROLL()
    for (int e = 0; e < kPiece<T>; ++e) {
      if (lead <= e && e < begin && e < end) row_to[e] = row_from[e];
      if (begin <= whole + e && whole + e < end) row_to[whole + e] = row_from[whole + e];
    }
  }

  const TileLayout& layout_;
  BulkBarrier* barriers_;
  unsigned turn_ = 0;  ///< the number of loads, which tells the stage, the phase of its barrier and the copying warp
  bool bulk_;
};

}  // namespace dgcn::graph_conv::cuda
