#include <vector>

#include "check.h"
#include "pifpaf/decode/seeds.h"

using namespace dgcn::pifpaf;

int main() {
  const DecoderConfig config;
  // Eight equal cells at (8, 8): the map there is 8 · 0.8 / 16 = 0.4.
  const std::vector<PifCell> cells(8, {0, 0.8F, 8.0F, 8.0F, 4.0F});
  ConfidenceMap map(cells, {17, 17}, config);

  std::vector<Seed> seeds;
  append_seeds(3, {{5, 0.8F, 8.0F, 8.0F, 4.0F}}, map, config, seeds);
  CHECK(seeds.size() == 1);
  CHECK(seeds[0].keypoint == 3 && seeds[0].cell == 5);
  CHECK_NEAR(seeds[0].joint.confidence, 0.9 * 0.4 + 0.1 * 0.8, 1e-6);
  CHECK(seeds[0].joint.x == 8.0F && seeds[0].joint.y == 8.0F && seeds[0].joint.scale == 4.0F);

  seeds.clear();
  append_seeds(0,
               {{0, 0.19F, 8.0F, 8.0F, 4.0F},    // confidence of the cell below seed_threshold
                {1, 1.0F, 2.0F, 2.0F, 4.0F},     // the map is empty there
                {2, 1.0F, -40.0F, 8.0F, 4.0F}},  // outside of the image
               map, config, seeds);
  CHECK(seeds.empty());

  DecoderConfig permissive;
  permissive.seed_threshold = 0.0F;
  permissive.seed_map_weight = 0.0F;
  append_seeds(0, {{0, 0.0F, 8.0F, 8.0F, 4.0F}}, map, permissive, seeds);
  CHECK(seeds.empty());  // confidence 0 means "not found"

  seeds = {{0, 0, {0.4F}}, {1, 4, {0.5F}}, {1, 9, {0.5F}}, {2, 0, {0.5F}}, {7, 7, {0.6F}}};
  sort_seeds({}, seeds);
  const int order[][2] = {{7, 7}, {1, 4}, {1, 9}, {2, 0}, {0, 0}};
  CHECK(seeds.size() == 5);
  for (std::size_t i = 0; i < 5; ++i) CHECK(seeds[i].keypoint == order[i][0] && seeds[i].cell == order[i][1]);

  DecoderConfig few;
  few.max_seeds = 2;
  sort_seeds(few, seeds);
  CHECK(seeds.size() == 2 && seeds[1].cell == 4);
  return check_result();
}
