#include <cstddef>
#include <utility>
#include <vector>

#include "check.h"
#include "pifpaf/decode/suppress.h"

using namespace dgcn::pifpaf;

namespace {

constexpr PixelSize kSize{200, 200};

Persons run(std::vector<Joint> joints, const DecoderConfig& config = {}) {
  Persons persons{2, std::move(joints)};
  Occupancy occupancy(2, kSize, config);
  suppress(occupancy, config, persons);
  return persons;
}

void test_order_and_duplicates() {
  const Persons persons = run({{0.6F, 22.0F, 22.0F, 8.0F},
                               {0.5F, 120.0F, 20.0F, 8.0F},  // keypoint 0 where the best person has it
                               {0.4F, 100.0F, 100.0F, 8.0F},
                               {0.4F, 150.0F, 150.0F, 8.0F},  // away from all others
                               {0.9F, 20.0F, 20.0F, 8.0F},
                               {0.7F, 60.0F, 60.0F, 8.0F}});  // best
  CHECK(persons.size() == 3);
  CHECK(persons[0][0].x == 20.0F);
  CHECK(persons[1][0].x == 100.0F);
  CHECK(persons[2][1].x == 120.0F);  // its mean was 0.55, and is 0.25 without keypoint 0
  const Joint& lost = persons[2][0];
  CHECK(lost.confidence == 0.0F && lost.x == 0.0F && lost.y == 0.0F && lost.scale == 0.0F);
}

void test_thresholds() {
  CHECK(run({{0.15F, 20.0F, 20.0F, 8.0F}, {0.9F, 60.0F, 60.0F, 8.0F}})[0][0].confidence == 0.0F);  // not above 0.15
  CHECK(run({{0.16F, 20.0F, 20.0F, 8.0F}, {0.9F, 60.0F, 60.0F, 8.0F}})[0][0].confidence == 0.16F);
  CHECK(run({{0.29F, 20.0F, 20.0F, 8.0F}, {}}).size() == 0);  // mean 0.145
  CHECK(run({{0.31F, 20.0F, 20.0F, 8.0F}, {}}).size() == 1);
  CHECK(run({}).size() == 0);
}

void test_without_thresholds_joints_stay() {
  DecoderConfig config;
  config.keypoint_threshold = config.instance_threshold = 0.0F;
  const Persons persons = run({{0.5F, 20.0F, 20.0F, 8.0F}, {}, {0.4F, 20.0F, 20.0F, 8.0F}, {}}, config);
  CHECK(persons.size() == 2);
  CHECK_NEAR(persons[1][0].confidence, 0.4e-5, 1e-10);
  CHECK(persons[1][0].x == 20.0F);
}

void test_persons_without_joints_are_dropped() {
  DecoderConfig config;
  config.keypoint_threshold = config.instance_threshold = config.suppression_factor = 0.0F;
  CHECK(run({{0.5F, 20.0F, 20.0F, 8.0F}, {}, {0.4F, 20.0F, 20.0F, 8.0F}, {}}, config).size() == 1);
}

void test_ties_keep_their_order() {
  const Persons persons = run({{0.5F, 20.0F, 20.0F, 8.0F}, {}, {0.5F, 90.0F, 20.0F, 8.0F}, {}});
  CHECK(persons[0][0].x == 20.0F && persons[1][0].x == 90.0F);

  std::vector<Joint> many;
  for (int p = 0; p < 40; ++p) many.insert(many.end(), {{0.5F, 5.0F * static_cast<float>(p), 20.0F, 0.0F}, {}});
  const Persons row = run(many);
  CHECK(row.size() == 40);
  for (std::size_t p = 0; p < row.size(); ++p) CHECK(row[p][0].x == 5.0F * static_cast<float>(p));
}

}  // namespace

int main() {
  test_order_and_duplicates();
  test_thresholds();
  test_without_thresholds_joints_stay();
  test_persons_without_joints_are_dropped();
  test_ties_keep_their_order();
  return check_result();
}
