// How a batch is cut into tiles, and the tiles into chunks.
#include <algorithm>

#include "graph_conv/cpu/kernels.h"

namespace dgcn {

Tiling::Tiling(const FeatureShape& shape, bool per_sample, int64_t tile_pixels)
    : batch_(shape.images), image_pixels_(shape.height * shape.width) {
  if (batch_ == 0 || image_pixels_ == 0) return;  // no tiles
  samples_ = per_sample ? batch_ : 1;
  const int64_t images = batch_ / samples_;  // that may share a tile
  images_ = image_pixels_ < kTileUnit ? std::clamp<int64_t>(tile_pixels / image_pixels_, 1, images) : 1;
  pixels_ = std::min(tile_pixels, image_pixels_);
  tiles_per_image_ = std::max<int64_t>(1, (image_pixels_ + pixels_ / 2) / pixels_);
  tiles_per_sample_ = (images + images_ - 1) / images_ * tiles_per_image_;
  // Enough chunks to keep every core busy, few enough that their partial sums stay small.
  constexpr int64_t kMostChunks = 64;
  chunks_per_sample_ = std::min(tiles_per_sample_, std::max<int64_t>(1, kMostChunks / samples_));
  const int64_t most = images_ * std::max(pixels_, tile(tiles_per_image_ - 1).pixels);
  capacity_ = (most + kTileUnit - 1) / kTileUnit * kTileUnit;
}

Tile Tiling::tile(int64_t index) const {
  const int64_t image = index / tiles_per_image_ * images_, part = index % tiles_per_image_, pixel = part * pixels_;
  // The last tile takes the rest of an image, half a tile to one and a half: never just a few pixels.
  const bool last = part == tiles_per_image_ - 1;
  return {image, std::min(images_, batch_ - image), pixel, last ? image_pixels_ - pixel : pixels_};
}

int64_t Tiling::sample_of_tile(int64_t index) const { return index / tiles_per_sample_; }

std::pair<int64_t, int64_t> Tiling::tiles_of_chunk(int64_t index) const {
  const int64_t first = index / chunks_per_sample_ * tiles_per_sample_, part = index % chunks_per_sample_;
  return {first + part * tiles_per_sample_ / chunks_per_sample_,
          first + (part + 1) * tiles_per_sample_ / chunks_per_sample_};
}

}  // namespace dgcn
