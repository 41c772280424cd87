#include <cmath>
#include <vector>

#include "check.h"
#include "pifpaf/encode/nearest.h"

using namespace dgcn::pifpaf;

namespace {

const FieldGrid grid{3, 4, 8};

/// Equally far from every cell.
struct Shape {
  double to_any_cell;
  double distance(int, int) const { return to_any_cell; }
};

/// The confidence of a field without shapes: 0, and NaN in one cell.
std::vector<float> blank() {
  std::vector<float> confidence(grid.size(), 0.0F);
  confidence[6] = std::nanf("");
  return confidence;
}

/// Covers the columns [begin, end) of a row by a shape at this distance: the cells that are assigned to it.
std::vector<std::size_t> assigned(NearestShapes<Shape>& shapes, double distance, int row, int begin, int end) {
  std::vector<std::size_t> cells;
  shapes.add({distance});
  shapes.cover(row, begin, end, [&](int column, std::size_t cell) {
    CHECK(cell == grid.index(row, column));
    cells.push_back(cell);
  });
  return cells;
}

void test_nearest_shape_gets_a_cell() {
  using Cells = std::vector<std::size_t>;
  NearestShapes<Shape> shapes(grid);
  std::vector<float> confidence = blank();
  shapes.start_field(confidence.data());
  CHECK((assigned(shapes, 2.0, 1, 0, 2) == Cells{4, 5}));
  CHECK((assigned(shapes, 2.0, 1, 1, 3) == Cells{6}));  // the first of equals keeps it
  CHECK((assigned(shapes, 3.0, 1, 0, 4) == Cells{7}));
  CHECK((assigned(shapes, 1.0, 1, 1, 2) == Cells{5}));
  CHECK((assigned(shapes, 1.5, 1, 0, 4) == Cells{4, 6, 7}));  // all but cell 5, to which the last shape is nearer
  CHECK(assigned(shapes, 0.0, 2, 3, 3).empty());
  for (std::size_t cell = 0; cell < grid.size(); ++cell) CHECK(confidence[cell] == (cell / 4 == 1 ? 1.0F : 0.0F));

  // A new field: no cell is assigned, and the confidence of the one before is unchanged.
  const std::vector<float> before = confidence;
  std::vector<float> other = blank();
  shapes.start_field(other.data());
  CHECK((assigned(shapes, 1e300, 1, 0, 4) == Cells{4, 5, 6, 7}));
  CHECK(assigned(shapes, 1e300, 1, 0, 4).empty());
  CHECK(confidence == before);
}

void test_rounding() {
  for (const double x : {0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999999999999994, 1.4999999999999998,
                         1.5000000000000002, 80.5, -1.2, 7.7, 1e-310, 2147483646.5, 2147483647.0, -2147483648.0})
    CHECK(round_to_int(x) == static_cast<int>(std::nearbyint(x)));
}

}  // namespace

int main() {
  CHECK(grid.size() == 12 && grid.index(2, 1) == 9);
  test_nearest_shape_gets_a_cell();
  test_rounding();
  return check_result();
}
