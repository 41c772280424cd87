// How kernels.cpp reads and writes the pixels of a tile: in place where the layout allows it, else through packed
// buffers. In an unnamed namespace, with few functions of the standard library: see instruction_set.h.
#pragma once

#include "graph_conv/cpu/kernels.h"
#include "graph_conv/cpu/pixel_rows.h"

namespace dgcn::graph_conv {
namespace {

/// Calls body(pointer, offset in the tile, count) for every run of pixels of the tile that are `column_stride` apart.
template <typename Stored, typename Body>
inline void for_each_run(const MapView<Stored>& map, const MapShape& shape, const PixelTile& tile, Body body) {
  const bool flat = map.row_stride == shape.width * map.column_stride;
  int64_t done = 0;
  for (int64_t image = tile.first_image; image < tile.first_image + tile.images; ++image) {
    Stored* base = map.data + image * map.image_stride;
    for (int64_t pixel = tile.first_pixel, end = pixel + tile.pixels; pixel < end;) {
      const int64_t row = flat ? 0 : pixel / shape.width, column = pixel - row * shape.width;
      const int64_t rest = flat || end - pixel < shape.width - column ? end - pixel : shape.width - column;
      body(base + row * map.row_stride + column * map.column_stride, done, rest);
      pixel += rest;
      done += rest;
    }
  }
}

constexpr int64_t kSpan =
    384;  // [pixels]: K rows of a small graph fit into L1; of a large graph, a block's rows of M do

/// Divides a tile into spans of whole units, at most kSpan pixels each, and calls body(pixel, pixel in the buffer,
/// count). If `pixels` is no multiple of `unit`, the last span is the last `unit` pixels of the tile, some of them for
/// the second time; it has a place of its own in the buffer. For 20 pixels in units of 8: (0, 0, 16), then (12, 16, 8).
template <typename Body>
inline void for_each_span(int64_t pixels, int64_t unit, Body body) {
  const int64_t whole = pixels / unit * unit;
  for (int64_t pixel = 0; pixel < whole; pixel += kSpan)
    body(pixel, pixel, whole - pixel < kSpan ? whole - pixel : kSpan);
  if (whole < pixels) body(pixels - unit, whole, unit);
}

/// The number of pixels to compute: a tile of less than a unit is packed and filled up with zeros.
inline int64_t padded_pixels(const PixelTile& tile, int64_t unit) {
  const int64_t pixels = tile.images * tile.pixels;
  return pixels < unit ? unit : pixels;
}

/// Whether the kernels can read and write the tile without a buffer.
template <typename Stored>
inline bool is_in_place(const MapView<Stored>& map, const MapShape& shape, const PixelTile& tile) {
  return tile.images == 1 && map.column_stride == 1 && map.row_stride == shape.width &&
         tile.pixels >= Pixels<std::remove_const_t<Stored>>::kUnit;
}

template <typename Stored>
inline NodeRows<Stored> rows_in_place(const MapView<Stored>& map, const PixelTile& tile) {
  return {map.data + tile.first_image * map.image_stride + tile.first_pixel, map.node_stride};
}

/// The tile as K rows: in place where that is possible, else packed into `buffer`.
template <typename Stored>
NodeRows<const Stored> read_tile(const MapView<const Stored>& map, const MapShape& shape, const PixelTile& tile,
                                 NodeRows<Stored> buffer) {
  if (is_in_place(map, shape, tile)) return rows_in_place(map, tile);
  for_each_run(map, shape, tile, [&](const Stored* from, int64_t pixel, int64_t count) {
    copy_matrix(from, map.node_stride, map.column_stride, buffer.at(0, pixel), buffer.stride, 1, shape.nodes, count);
  });
  const int64_t pixels = tile.images * tile.pixels, padding = padded_pixels(tile, Pixels<Stored>::kUnit) - pixels;
  for (int k = 0; k < shape.nodes && padding > 0; ++k) memset(buffer.at(k, pixels), 0, padding * sizeof(Stored));
  return buffer;
}

/// Where the kernels write a tile of results: in place, or to `buffer`, which write_tile() copies.
template <typename Stored>
NodeRows<Stored> tile_destination(const MapView<Stored>& map, const MapShape& shape, const PixelTile& tile,
                                  NodeRows<Stored> buffer) {
  return is_in_place(map, shape, tile) ? rows_in_place(map, tile) : buffer;
}

template <typename Stored>
void write_tile(NodeRows<Stored> rows, const MapView<Stored>& map, const MapShape& shape, const PixelTile& tile) {
  if (is_in_place(map, shape, tile)) return;
  for_each_run(map, shape, tile, [&](Stored* to, int64_t pixel, int64_t count) {
    copy_matrix<Stored>(rows.at(0, pixel), rows.stride, 1, to, map.node_stride, map.column_stride, shape.nodes, count);
  });
}

/// Whether all pixels lie one after the other, the K nodes of each side by side; true of an absent map.
template <typename Stored>
inline bool is_channels_last(const MapView<Stored>& map, const MapShape& shape) {
  const int64_t K = shape.nodes;
  return map.data == nullptr ||
         (K > 1 && map.node_stride == 1 && map.column_stride == K && map.row_stride == K * shape.width &&
          map.image_stride == map.row_stride * shape.height);
}

/// The first pixel of a tile of a channels_last map; null if that is absent.
template <typename Stored>
inline Stored* pixels_in_place(const MapView<Stored>& map, const MapShape& shape, const PixelTile& tile) {
  if (map.data == nullptr) return nullptr;
  return map.data + (tile.first_image * shape.height * shape.width + tile.first_pixel) * shape.nodes;
}

/// Buffers of one thread, each K rows of `stride` elements.
template <typename Element>
class TileBuffers {
 public:
  TileBuffers(int count, int K, int64_t stride) : stride_(stride), size_(K * stride), elements_(count * size_) {}

  NodeRows<Element> operator[](int index) const { return {elements_.data() + index * size_, stride_}; }

 private:
  int64_t stride_, size_;
  AlignedArray<Element> elements_;
};

}  // namespace
}  // namespace dgcn::graph_conv
