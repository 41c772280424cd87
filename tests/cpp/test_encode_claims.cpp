#include "check.h"
#include "pifpaf/encode_claims.h"

using namespace dgcn::pifpaf;

int main() {
  const Grid grid{3, 4, 8};
  CHECK(grid.size() == 12 && grid.index(2, 1) == 9);

  Claims claims(grid);
  CHECK(claims.claim(5, 2.0));
  CHECK(!claims.claim(5, 2.0));  // the first of equals keeps it
  CHECK(!claims.claim(5, 3.0));
  CHECK(claims.claim(5, 1.0));
  CHECK(!claims.claim(5, 1.5));
  CHECK(claims.claim(6, 100.0));  // cells do not know of each other
  CHECK(claims.claim(0, 0.0));
  CHECK(!claims.claim(0, 0.0));

  claims.clear();
  for (std::size_t cell = 0; cell < grid.size(); ++cell) CHECK(claims.claim(cell, 1e300));
  claims.clear();
  claims.clear();
  CHECK(claims.claim(11, 7.0));
  return check_result();
}
