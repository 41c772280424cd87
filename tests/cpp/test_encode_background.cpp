#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "pifpaf/encode/background.h"

using namespace dgcn::pifpaf;

namespace {

const FieldGrid kGrid{5, 6, 8};

/// The field as text, a row a line: '?' for NaN, '.' for 0.
std::string background(const std::vector<Box>& ignored) {
  std::vector<float> confidence(kGrid.size() + 1, 7.0F);
  fill_background(ignored.data(), static_cast<int>(ignored.size()), kGrid, confidence.data());
  CHECK(confidence.back() == 7.0F);
  std::string text;
  for (int row = 0; row < kGrid.height; ++row, text += ' ') {
    for (int column = 0; column < kGrid.width; ++column) {
      const float value = confidence[kGrid.index(row, column)];
      text += std::isnan(value) ? '?' : value == 0.0F ? '.' : '!';
    }
  }
  return text;
}

const char* const kNothing = "...... ...... ...... ...... ...... ";
const char* const kEverything = "?????? ?????? ?????? ?????? ?????? ";

}  // namespace

int main() {
  CHECK(background({}) == kNothing);
  CHECK(background({{8, 16, 16, 8}}) == "...... ...... .???.. .???.. ...... ");   // from kGrid line to kGrid line
  CHECK(background({{9, 17, 14, 6}}) == "...... ...... .???.. .???.. ...... ");   // a little less
  CHECK(background({{7, 15, 18, 10}}) == "...... ?????. ?????. ?????. ?????. ");  // a little more
  CHECK(background({{16, 8, 0, 0}}) == "...... ..?... ...... ...... ...... ");    // an empty box touches one cell
  CHECK(background({{-100, -100, 1000, 1000}}) == kEverything);
  CHECK(background({{30, -20, 50, 30}}) == "...??? ...??? ...??? ...... ...... ");  // partly outside
  CHECK(background({{0, 0, 4, 4}, {36, 28, 2, 2}}) == "??.... ??.... ...... ....?? ....?? ");

  // Outside, reversed, or no box at all.
  for (const Box& box : {Box{-100, 0, 50, 50}, Box{0, 60, 50, 50}, Box{500, 500, 5, 5}, Box{30, 30, -28, 4}})
    CHECK(background({box}) == kNothing);
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {nan, infinity, -infinity, 1.1e9, -1e300}) {
    for (int i = 0; i < 4; ++i) {
      double values[] = {0, 0, 10, 10};
      values[i] = bad;
      CHECK(background({{values[0], values[1], values[2], values[3]}}) == kNothing);
    }
  }
  CHECK(background({{-1e9, -1e9, 1e9, 1e9}}) == "?..... ...... ...... ...... ...... ");

  std::vector<float> values(5, 1.0F);
  fill_nan(values.data() + 1, 3);
  CHECK(values[0] == 1.0F && std::isnan(values[1]) && std::isnan(values[3]) && values[4] == 1.0F);
  return check_result();
}
