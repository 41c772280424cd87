#include <algorithm>

#include "graph_conv/cpu/kernels.h"

namespace dgcn::graph_conv {

PixelTiling::PixelTiling(const MapShape& shape, bool per_sample, int64_t tile_pixels)
    : batch_(shape.images), image_pixels_(shape.height * shape.width) {
  if (batch_ == 0 || image_pixels_ == 0) return;  // no tiles
  samples_ = per_sample ? batch_ : 1;
  const int64_t images = batch_ / samples_;  // that may share a tile
  tile_images_ = image_pixels_ < kTileUnit ? std::clamp<int64_t>(tile_pixels / image_pixels_, 1, images) : 1;
  tile_pixels_ = std::min(tile_pixels, image_pixels_);
  tiles_per_image_ = std::max<int64_t>(1, (image_pixels_ + tile_pixels_ / 2) / tile_pixels_);
  tiles_per_sample_ = (images + tile_images_ - 1) / tile_images_ * tiles_per_image_;
  // Enough chunks to keep every core busy, few enough that their partial sums stay small.
  constexpr int64_t kMostChunks = 64;
  chunks_per_sample_ = std::min(tiles_per_sample_, std::max<int64_t>(1, kMostChunks / samples_));
  const int64_t most = tile_images_ * std::max(tile_pixels_, tile(tiles_per_image_ - 1).pixels);
  capacity_ = (most + kTileUnit - 1) / kTileUnit * kTileUnit;
}

int64_t PixelTiling::capacity() const { return capacity_; }
int64_t PixelTiling::tiles() const { return samples_ * tiles_per_sample_; }
int64_t PixelTiling::chunks() const { return samples_ * chunks_per_sample_; }
int64_t PixelTiling::chunks_per_sample() const { return chunks_per_sample_; }

PixelTile PixelTiling::tile(int64_t index) const {
  const int64_t image = index / tiles_per_image_ * tile_images_, part = index % tiles_per_image_;
  const int64_t pixel = part * tile_pixels_;
  // The last tile takes the rest of an image, half a tile to one and a half: never just a few pixels.
  const bool last = part == tiles_per_image_ - 1;
  return {image, std::min(tile_images_, batch_ - image), pixel, last ? image_pixels_ - pixel : tile_pixels_};
}

int64_t PixelTiling::sample_of_tile(int64_t index) const { return index / tiles_per_sample_; }

TileRange PixelTiling::tiles_of_chunk(int64_t index) const {
  const int64_t first = index / chunks_per_sample_ * tiles_per_sample_, part = index % chunks_per_sample_;
  return {first + part * tiles_per_sample_ / chunks_per_sample_,
          first + (part + 1) * tiles_per_sample_ / chunks_per_sample_};
}

}  // namespace dgcn::graph_conv
