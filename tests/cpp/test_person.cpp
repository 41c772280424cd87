#include <vector>

#include "check.h"
#include "pifpaf/person.h"

using namespace dgcn::pifpaf;

int main() {
  const DecoderConfig config;
  std::vector<Joint> person(17);
  for (std::size_t k = 0; k < 17; ++k) person[k].confidence = static_cast<float>(k) / 17.0F;
  // 3·(16 + 15 + 14) + (0 + … + 13) over 17·23
  CHECK_NEAR(person_score(person.data(), 17, config), (135.0 + 91.0) / (17.0 * 23.0), 1e-6);
  CHECK_NEAR(mean_confidence(person.data(), 17), 136.0 / 289.0, 1e-6);

  const Joint two[] = {{0.2F}, {0.6F}};
  CHECK_NEAR(person_score(two, 2, config), 0.4, 1e-6);  // fewer keypoints than score_top: a plain mean

  DecoderConfig top_five;
  top_five.score_top = 5;
  top_five.score_top_weight = 2.0F;
  // 2·(16 + … + 12) + (0 + … + 11) over 17·22
  CHECK_NEAR(person_score(person.data(), 17, top_five), (140.0 + 66.0) / (17.0 * 22.0), 1e-6);

  DecoderConfig top_only;
  top_only.score_top = 1;
  top_only.score_top_weight = 0.0F;
  CHECK(person_score(two, 1, top_only) == 0.0F);  // no weight at all

  Persons persons{2, {{0.1F}, {0.2F}, {0.3F}, {0.4F}}};
  CHECK(persons.size() == 2);
  CHECK(persons[1][0].confidence == 0.3F);
  CHECK(Persons().size() == 0);
  return check_result();
}
