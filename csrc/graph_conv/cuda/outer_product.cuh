// dM = Σ_p g_p x_pᵀ and db = Σ_p g_p of a block's tile for few nodes, from shared memory into registers. Part of
// few_nodes_backward.cuh.
#pragma once

#include <cstdint>
#include <type_traits>

#include "graph_conv/cuda/few_nodes.cuh"

#if defined(__CUDACC__)
#include "graph_conv/cuda/tensor_cores.cuh"
#endif

namespace dgcn::graph_conv::cuda {

/// For float32. Thread t adds the pixels of slice t % kSlices to part t / kSlices of dM: kRows rows, every fourth, and
/// kColumns columns, every second. One access of 16 bytes reads four pixels: for K = 17 a thread reads 14 quads for 180
/// multiplications.
template <typename T, int Nodes, int TilePixels>
class FmaOuterProduct {
 public:
  static constexpr int kPitch = TilePixels;  ///< of g and x, elements
  static constexpr int kRowParts = 4, kColumnParts = 2, kSlices = kFewNodesThreads / (kRowParts * kColumnParts);
  static constexpr int kRows = (Nodes + kRowParts - 1) / kRowParts;
  static constexpr int kColumns = (Nodes + kColumnParts - 1) / kColumnParts;
  /// Rows of g and of x in shared memory. Those from K on are read, but what comes of them is not stored.
  static constexpr int kGradRows = kRows * kRowParts, kFeatureRows = kColumns * kColumnParts;

  /// Has nothing to prepare.
  static __device__ void prepare(T*, int) {}

  __device__ void add(const T* g, const T* x) {
    const T* const own_g = g + row() * kPitch;
    const T* const own_x = x + column() * kPitch;
    DGCN_UNROLL(1)
    for (int pixel = slice() * 4; pixel < TilePixels; pixel += kSlices * 4) {
      Quad g_quads[kRows];
      DGCN_UNROLL()
      for (int i = 0; i < kRows; ++i) {
        g_quads[i] = *reinterpret_cast<const Quad*>(own_g + i * kRowParts * kPitch + pixel);
        const float (&g_values)[4] = g_quads[i].values;
        sums_[i] += (g_values[0] + g_values[1]) + (g_values[2] + g_values[3]);
      }
      DGCN_UNROLL()
      for (int j = 0; j < kColumns; ++j) {
        const Quad x_quad = *reinterpret_cast<const Quad*>(own_x + j * kColumnParts * kPitch + pixel);
        DGCN_UNROLL()
        for (int i = 0; i < kRows; ++i) {
          DGCN_UNROLL()
          for (int e = 0; e < 4; ++e) products_[i][j] += g_quads[i].values[e] * x_quad.values[e];
        }
      }
    }
  }

  /// Stores the sums in totals [kSlices, K·K + K].
  __device__ void store(float* totals, int nodes) const {
    float* const dm = totals + slice() * (nodes * nodes + nodes);
    DGCN_UNROLL()
    for (int i = 0; i < kRows; ++i) {
      const int j = row() + i * kRowParts;
      if (j >= nodes) continue;
      if (column() == 0) dm[nodes * nodes + j] = sums_[i];
      DGCN_UNROLL()
      for (int c = 0; c < kColumns; ++c)
        if (const int k = column() + c * kColumnParts; k < nodes) dm[j * nodes + k] = products_[i][c];
    }
  }

 private:
  static __device__ int slice() { return threadIdx.x % kSlices; }
  static __device__ int row() { return threadIdx.x / kSlices / kColumnParts; }
  static __device__ int column() { return threadIdx.x / kSlices % kColumnParts; }

  float products_[kRows][kColumns] = {}, sums_[kRows] = {};
};

/// For 16-bit features, on tensor cores: their products are exact in float32. Each warp adds a slice of the pixels, 16
/// at a time. A row of ones behind the nodes of x makes db the column behind those of dM.
template <typename T, int Nodes, int TilePixels>
class TensorCoreOuterProduct {
 public:
  static constexpr int kPitch = TilePixels + 8;  ///< so that the 16 bytes of eight rows are in different banks
  static constexpr int kSlices = kFewNodesThreads / kWarp;
  static constexpr int kRowTiles = (Nodes + 15) / 16, kColumnTiles = (Nodes + 1 + 15) / 16 * 2;
  static constexpr int kGradRows = kRowTiles * 16, kFeatureRows = kColumnTiles * 8;

  /// Writes the ones.
  static __device__ void prepare(T* x, int nodes) {
    for (int pixel = threadIdx.x; pixel < TilePixels; pixel += kFewNodesThreads)
      x[nodes * kPitch + pixel] = static_cast<T>(1.0F);
  }

  __device__ void add(const T* g, const T* x) {
    const int matrix = threadIdx.x % kWarp / 8, row = threadIdx.x % 8;
    const T* const g_row = g + (matrix % 2 * 8 + row) * kPitch + matrix / 2 * 8;
    const T* const x_row = x + (matrix / 2 * 8 + row) * kPitch + matrix % 2 * 8;
    DGCN_UNROLL(1)
    for (int pixel = slice() * 16; pixel < TilePixels; pixel += kSlices * 16) {
      uint32_t a[kRowTiles][4];
      DGCN_UNROLL()
      for (int i = 0; i < kRowTiles; ++i) load_matrices(a[i], g_row + i * 16 * kPitch + pixel);
      DGCN_UNROLL()
      for (int j = 0; j < kColumnTiles; j += 2) {
        uint32_t b[4];
        load_matrices(b, x_row + j * 8 * kPitch + pixel);
        DGCN_UNROLL()
        for (int i = 0; i < kRowTiles; ++i) {
          multiply_add(sums_[i][j], a[i], b, g);
          multiply_add(sums_[i][j + 1], a[i], b + 2, g);
        }
      }
    }
  }

  __device__ void store(float* totals, int nodes) const {
    float* const dm = totals + slice() * (nodes * nodes + nodes);
    const int lane = threadIdx.x % kWarp;
    DGCN_UNROLL()
    for (int i = 0; i < kRowTiles; ++i) {
      DGCN_UNROLL()
      for (int j = 0; j < kColumnTiles; ++j) {
        DGCN_UNROLL()
        for (int e = 0; e < 4; ++e) {
          const int row = i * 16 + e / 2 * 8 + lane / 4, column = j * 8 + lane % 4 * 2 + e % 2;
          if (row < nodes && column < nodes) dm[row * nodes + column] = sums_[i][j][e];
          if (row < nodes && column == nodes) dm[nodes * nodes + row] = sums_[i][j][e];
        }
      }
    }
  }

 private:
  static __device__ int slice() { return threadIdx.x / kWarp; }

  float sums_[kRowTiles][kColumnTiles][4] = {};
};

template <typename T, int Nodes, int TilePixels>
using OuterProduct = std::conditional_t<sizeof(T) == 2, TensorCoreOuterProduct<T, Nodes, TilePixels>,
                                        FmaOuterProduct<T, Nodes, TilePixels>>;

}  // namespace dgcn::graph_conv::cuda
