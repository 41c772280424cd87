#include "pifpaf/decode/field_reader.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/dtypes.h"
#include "pifpaf/decode/kernels.h"

namespace dgcn::pifpaf {
namespace {

void require_equal(const char* name, int actual, int required) {
  if (actual != required)
    throw std::invalid_argument(std::string(name) + " must be " + std::to_string(required) +
                                " as in the skeleton, got " + std::to_string(actual));
}

float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float to_float(float value) { return value; }
float to_float(BFloat16 value) { return from_bits(std::uint32_t{value.bits} << 16); }
float to_float(Float16 value) {
  const std::uint32_t sign = (value.bits & 0x8000U) << 16, magnitude = value.bits & 0x7FFFU;
  if (magnitude >= 0x7C00U) return from_bits(sign | 0x7F800000U | (magnitude << 13));  // infinite or NaN
  return from_bits(sign | magnitude << 13) * 0x1p112F;  // the difference of the exponents' biases; subnormals as well
}

/// Calls visit(first number, typed).
template <typename Visit>
auto visit_numbers(Storage storage, const void* data, const Visit& visit) {
  switch (storage) {
    case Storage::kFloat16:
      return visit(static_cast<const Float16*>(data));
    case Storage::kBFloat16:
      return visit(static_cast<const BFloat16*>(data));
    default:
      return visit(static_cast<const float*>(data));
  }
}

/// Copies one component [N, H, W] of all fields. A few cells of all fields at a time: channels_last heads have them in
/// the same cache lines.
template <typename Stored>
void copy_planes(const Stored* from, const Strides& strides, int num_fields, int height, int width, float* to) {
  constexpr int kPiece = 32;
  const std::ptrdiff_t plane = std::ptrdiff_t{height} * width;
  for (int row = 0; row < height; ++row) {
    for (int begin = 0; begin < width; begin += kPiece) {
      const int count = std::min(kPiece, width - begin);
      for (int field = 0; field < num_fields; ++field) {
        const Stored* source = from + field * strides.field + row * strides.row + begin * strides.column;
        float* target = to + field * plane + row * std::ptrdiff_t{width} + begin;
        for (int i = 0; i < count; ++i) target[i] = to_float(source[i * strides.column]);
      }
    }
  }
}

/// The indices of the `size` confidences that are at least `threshold`, ascending. If there are more than `limit`, only the
/// first of them, but more than `limit`.
std::vector<int> find_confident(const float* confidences, std::size_t size, float threshold, std::size_t limit) {
  std::vector<int> indices;
  const auto at_least = kernels().at_least;
  std::size_t begin = 0;
  for (; begin + kTileSize <= size && indices.size() <= limit; begin += kTileSize) {
    for (std::uint32_t found = at_least(confidences + begin, threshold); found != 0; found &= found - 1)
      indices.push_back(static_cast<int>(begin) + __builtin_ctz(found));
  }
  for (; begin < size && indices.size() <= limit; ++begin) {
    if (confidences[begin] >= threshold) indices.push_back(static_cast<int>(begin));
  }
  return indices;
}

}  // namespace

PixelSize check_fields(const Fields& fields, int stride, const Skeleton& skeleton, const DecoderConfig& config) {
  require_equal("the number of PIF fields", fields.num_keypoints, skeleton.num_keypoints());
  require_equal("the number of PAF fields", fields.num_limbs, skeleton.num_limbs());
  if (stride < 1) throw std::invalid_argument("stride must be at least 1, got " + std::to_string(stride));
  if (fields.height < 0 || fields.width < 0)
    throw std::invalid_argument("field sizes must not be negative, got " + std::to_string(fields.height) + " x " +
                                std::to_string(fields.width));
  if (fields.height == 0 || fields.width == 0) return {0, 0};

  const std::int64_t height = std::int64_t{fields.height - 1} * stride + 1;
  const std::int64_t width = std::int64_t{fields.width - 1} * stride + 1;
  if (height > config.max_map_pixels / width)
    throw std::invalid_argument("fields of " + std::to_string(fields.height) + " x " + std::to_string(fields.width) +
                                " cells at stride " + std::to_string(stride) + " must describe at most max_map_pixels" +
                                " = " + std::to_string(config.max_map_pixels) + " pixels, got " +
                                std::to_string(height) + " x " + std::to_string(width));
  return {static_cast<int>(height), static_cast<int>(width)};
}

FieldReader::Array::Array(const FieldArray& numbers, int num_components, int height, int width)
    : data(numbers.data), storage(numbers.storage) {
  const std::ptrdiff_t plane = std::ptrdiff_t{height} * width;
  strides = numbers.strides.value_or(Strides{num_components * plane, plane, width, 1});
  is_planar = storage == Storage::kFloat32 && strides.column == 1 && strides.row == width;
}

inline float FieldReader::Array::at(int field, int component, int row, int column) const {
  const std::ptrdiff_t i =
      field * strides.field + component * strides.component + row * strides.row + column * strides.column;
  if (storage == Storage::kFloat32)
    return static_cast<const float*>(data)[i];  // no call: a twentieth of force-complete
  return visit_numbers(storage, data, [i](const auto* numbers) { return to_float(numbers[i]); });
}

FieldReader::FieldReader(const Fields& fields, int stride, const Skeleton& skeleton, const DecoderConfig& config)
    : is_heads_(fields.form == Form::kHeads),
      height_(fields.height),
      width_(fields.width),
      stride_(stride),
      size_(check_fields(fields, stride, skeleton, config)),
      skeleton_(&skeleton),
      pif_(fields.pif, 5, height_, width_),
      paf_(fields.paf, is_heads_ ? 7 : 8, height_, width_) {
  if (size_.height == 0) return;
  pif_confidences_ = find_planes(pif_, fields.num_keypoints, copies_[0]);
  paf_confidences_ = find_planes(paf_, fields.num_limbs, copies_[1]);
}

std::vector<const float*> FieldReader::find_planes(const Array& array, int num_fields,
                                                   std::unique_ptr<float[]>& copies) const {
  std::vector<const float*> planes(static_cast<std::size_t>(num_fields));
  const std::ptrdiff_t first = is_heads_ ? 0 : array.strides.component;
  if (!array.is_planar) {
    copies.reset(new float[planes.size() * plane()]);
    visit_numbers(array.storage, array.data, [&](const auto* numbers) {
      copy_planes(numbers + first, array.strides, num_fields, height_, width_, copies.get());
    });
  }
  for (int i = 0; i < num_fields; ++i) {
    planes[static_cast<std::size_t>(i)] = array.is_planar
                                              ? static_cast<const float*>(array.data) + first + i * array.strides.field
                                              : copies.get() + static_cast<std::size_t>(i) * plane();
  }
  return planes;
}

/// The threshold for stored confidences. That of logits lies below, by more than the rounding of either function.
float FieldReader::to_stored(float confidence) const {
  if (!is_heads_) return confidence;
  const double lower = confidence * (1.0 - 0x1p-22);
  return static_cast<float>(std::log(lower / (1.0 - lower)) - 1e-6);
}

/// A coordinate as it is stored [cells], of a cell in row or column `origin`.
float FieldReader::to_px(float coordinate, int origin) const {
  return (is_heads_ ? coordinate + static_cast<float>(origin) : coordinate) * static_cast<float>(stride_);
}

void FieldReader::read_pif(int keypoint, float threshold, std::vector<PifCell>& cells) const {
  cells.clear();
  const float* stored = pif_confidences_[static_cast<std::size_t>(keypoint)];
  const std::vector<int> indices = find_confident(stored, plane(), to_stored(threshold), plane());
  const std::size_t count = indices.size();
  std::vector<float> confidences(count + Kernels::kPadding), scales(count + Kernels::kPadding);
  for (std::size_t i = 0; i < count; ++i) {
    confidences[i] = stored[indices[i]];
    scales[i] = pif_.at(keypoint, 4, indices[i] / width_, indices[i] % width_);
  }
  if (is_heads_) {
    kernels().sigmoid(confidences.data(), count);
    kernels().softplus(scales.data(), count);
  }

  const int x_component = is_heads_ ? 1 : 2;
  for (std::size_t i = 0; i < count; ++i) {
    const int row = indices[i] / width_, column = indices[i] % width_;
    const PifCell cell{
        indices[i], std::min(confidences[i], 1.0F), to_px(pif_.at(keypoint, x_component, row, column), column),
        to_px(pif_.at(keypoint, x_component + 1, row, column), row), scales[i] * static_cast<float>(stride_)};
    if (confidences[i] >= threshold && std::isfinite(confidences[i]) && is_valid_px(cell.x) && is_valid_px(cell.y) &&
        is_valid_px(cell.scale))
      cells.push_back(cell);
  }
}

std::vector<int> FieldReader::find_paf(int limb, float threshold, std::size_t limit) const {
  return find_confident(paf_confidences_[static_cast<std::size_t>(limb)], plane(), to_stored(threshold), limit);
}

PafCells FieldReader::copy_paf(int limb, const std::vector<int>& cells) const {
  const std::size_t count = cells.size();
  std::unique_ptr<float[]> copies(new float[PafCells::kComponents * count + Kernels::kPadding]);
  float* const confidence = copies.get();
  const float* stored = paf_confidences_[static_cast<std::size_t>(limb)];
  for (std::size_t i = 0; i < count; ++i) confidence[i] = stored[cells[i]];
  if (is_heads_) kernels().sigmoid(confidence, count);

  visit_numbers(paf_.storage, paf_.data, [&](const auto* numbers) {
    const auto* const first = numbers + limb * paf_.strides.field + (is_heads_ ? 1 : 2) * paf_.strides.component;
    for (std::size_t i = 0; i < count; ++i) {
      const int row = cells[i] / width_, column = cells[i] % width_;
      const auto* const cell = first + row * paf_.strides.row + column * paf_.strides.column;
      bool is_valid = std::isfinite(confidence[i]);
      for (std::size_t c = 0; c < 4; ++c) {
        const float value = to_float(cell[static_cast<std::ptrdiff_t>(c) * paf_.strides.component]);
        const float px = to_px(value, c % 2 == 0 ? column : row);
        confidence[(c + 1) * count + i] = px;
        is_valid &= is_valid_px(px);
      }
      if (!is_valid) confidence[i] = 0.0F;
    }
  });
  return {confidence, confidence + count, confidence + 2 * count, confidence + 3 * count, confidence + 4 * count,
          1.0F,       std::move(copies)};
}

PafCells FieldReader::paf(int limb) const {
  if (is_heads_ || !paf_.is_planar) {
    std::vector<int> all(plane());
    std::iota(all.begin(), all.end(), 0);
    return copy_paf(limb, all);
  }
  const float* confidence = paf_confidences_[static_cast<std::size_t>(limb)];
  const auto component = [&](int c) { return confidence + c * paf_.strides.component; };
  return {confidence, component(1), component(2), component(3), component(4), static_cast<float>(stride_), nullptr};
}

bool FieldReader::has_valid_scales(int limb, int cell) const {
  if (is_heads_) return true;
  const int row = cell / width_, column = cell % width_;
  return is_valid_px(to_px(paf_.at(limb, 6, row, column), 0)) && is_valid_px(to_px(paf_.at(limb, 7, row, column), 0));
}

float FieldReader::paf_scale(int limb, bool second, int cell, float x, float y) const {
  if (!is_heads_) return to_px(paf_.at(limb, second ? 7 : 6, cell / width_, cell % width_), 0);
  const auto [joint1, joint2] = skeleton_->limb(limb);
  const float to_cells = 1.0F / static_cast<float>(stride_);
  float scale[1 + Kernels::kPadding] = {};
  scale[0] = pif_.at(second ? joint2 : joint1, 4, clamp_to_int(std::nearbyint(y * to_cells), 0, height_ - 1),
                     clamp_to_int(std::nearbyint(x * to_cells), 0, width_ - 1));
  kernels().softplus(scale, 1);
  scale[0] *= static_cast<float>(stride_);
  return is_valid_px(scale[0]) ? scale[0] : 0.0F;
}

}  // namespace dgcn::pifpaf
