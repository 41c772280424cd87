// The loops in which decoding spends its time. They are compiled once per instruction set (kernels.cpp) and chosen at
// run time; all sets give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/instruction_set.h"
#include "pifpaf/decode/spot.h"

namespace dgcn::pifpaf {

constexpr int block_edge = 4;                   ///< of a block of pixels [px]
constexpr int tile_width = 8, tile_height = 4;  ///< of a tile of places: a bit of a mask to each
constexpr int tile_size = tile_width * tile_height;

/// Pixels from left to right and top to bottom, ends included [px].
struct Window {
  float left, right, top, bottom;
};

/// A tile of places in an image, a value to each and row after row.
struct Tile {
  const float* confidence;
  const float* x;
  const float* y;
  std::size_t row_stride;
  float to_px;  ///< by which x and y are to be multiplied
};

/// The windows around tile_size tiles.
struct TileWindows {
  const float* left;
  const float* right;
  const float* top;
  const float* bottom;
};

struct Kernels {
  /// What spots add up to, one after the other, at the pixels [block_edge, block_edge] of the block at (top, left). It may
  /// stop where all pixels have reached 1.
  void (*add_spots)(const Spot* spots, const int* begin, const int* end, int top, int left, float* pixels);

  /// The smallest window around those of a tile's places that are at least as confident as `threshold`; one that ends
  /// before it begins where there are none. NaN is nowhere.
  Window (*around)(const Tile& tile, float threshold);

  /// Which of the windows have pixels in common with `window`: the i-th is bit i.
  std::uint32_t (*meeting)(const TileWindows& windows, const Window& window);

  /// Which of a tile's places are in the window and at least as confident as both `threshold` and `floor`: the i-th is
  /// bit i.
  std::uint32_t (*find)(const Tile& tile, const Window& window, float threshold, float floor);

  /// Multiplies `count` values, each at a place (x, y), by exp(−½ d²/σ²) for its distance d from (at_x, at_y) [px], rounded
  /// to a float once. The arrays reach up to a multiple of 4.
  void (*weigh)(const float* x, const float* y, std::size_t count, float at_x, float at_y, float sigma, float* values);
};

/// Those of the best instruction set that this machine has.
inline const Kernels& kernels() { return kernels_for<Kernels>(instruction_set()); }

}  // namespace dgcn::pifpaf
