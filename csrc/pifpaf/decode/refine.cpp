#include "pifpaf/decode/refine.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "pifpaf/decode/buckets.h"
#include "pifpaf/decode/kernels.h"

namespace dgcn::pifpaf {
namespace {

constexpr int kMinBucketEdge = 64;  // [px]

/// The PIF cells of one keypoint, sorted by the bucket of the position (x, y) to which they point.
class Votes {
 public:
  explicit Votes(PixelSize size) : grid_(size, kMinBucketEdge) {}

  void assign(const std::vector<PifCell>& cells) {
    for (std::vector<float>* component : {&x_, &y_, &confidence_}) component->resize(cells.size());
    const auto bucket = [&](const PifCell& cell) { return grid_.bucket(grid_.row(cell.y), grid_.column(cell.x)); };
    buckets_.reset(grid_.num_buckets());
    for (const PifCell& cell : cells) buckets_.count(bucket(cell));
    buckets_.start_inserting();
    for (const PifCell& cell : cells) {
      const std::size_t i = buckets_.insert(bucket(cell));
      x_[i] = cell.x;
      y_[i] = cell.y;
      confidence_[i] = cell.confidence;
    }
  }

  /// Returns the joint, moved once.
  Joint move(const Joint& joint, float sigma) const {
    const float reach = 3.0F * sigma;
    const int left = grid_.column(joint.x - reach), right = grid_.column(joint.x + reach);
    const int bottom = grid_.row(joint.y + reach);
    Batch batch{joint, sigma};
    for (int row = grid_.row(joint.y - reach); row <= bottom; ++row) {
      // The buckets of a row are neighbours in memory.
      const std::size_t end = buckets_.end(grid_.bucket(row, right));
      for (std::size_t i = buckets_.begin(grid_.bucket(row, left)); i < end; ++i) {
        const float dx = x_[i] - joint.x, dy = y_[i] - joint.y;
        if (dx * dx + dy * dy <= reach * reach) batch.add(x_[i], y_[i], confidence_[i]);
      }
    }
    return batch.mean();
  }

 private:
  /// Votes are weighted many at a time. Their sums are in double, so that the order of the votes hardly matters.
  struct Batch {
    Batch(const Joint& centre, float deviation) : joint(centre), sigma(deviation) {}

    Joint joint;
    float sigma;
    std::size_t count = 0;
    std::array<float, 32> x, y, weight;
    double sum = 0.0, sum_x = 0.0, sum_y = 0.0;

    void add(float vote_x, float vote_y, float confidence) {
      x[count] = vote_x;
      y[count] = vote_y;
      weight[count] = confidence;
      if (++count == x.size()) flush();
    }

    void flush() {
      kernels().apply_gaussian(x.data(), y.data(), count, joint.x, joint.y, sigma, weight.data());
      for (std::size_t i = 0; i < count; ++i) {
        sum += weight[i];
        sum_x += static_cast<double>(weight[i]) * x[i];
        sum_y += static_cast<double>(weight[i]) * y[i];
      }
      count = 0;
    }

    Joint mean() {
      flush();
      if (!(sum > 0.0)) return joint;
      return {joint.confidence, static_cast<float>(sum_x / sum), static_cast<float>(sum_y / sum), joint.scale};
    }
  };

  BucketGrid grid_;
  BucketSort buckets_;
  std::vector<float> x_, y_, confidence_;
};

}  // namespace

void refine(const FieldReader& fields, const DecoderConfig& config, Persons& persons) {
  if (config.refine_rounds == 0 || persons.size() == 0) return;
  const float min_sigma = config.refine_min_sigma * static_cast<float>(fields.stride());
  std::vector<PifCell> cells;
  Votes votes(fields.size());
  for (int k = 0; k < persons.num_keypoints; ++k) {
    fields.read_pif(k, config.refine_threshold, cells);
    votes.assign(cells);
    for (std::size_t p = 0; p < persons.size(); ++p) {
      Joint& joint = persons[p][k];
      if (!joint.found()) continue;
      const float sigma = std::max(min_sigma, config.refine_sigma * joint.scale);
      for (int round = 0; round < config.refine_rounds; ++round) joint = votes.move(joint, sigma);
    }
  }
}

}  // namespace dgcn::pifpaf
