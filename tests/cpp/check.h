// The test framework of the C++ tests: macros that count and report failures; main returns check_result().
//
//     int main() {
//       CHECK(1 + 1 == 2);
//       CHECK_NEAR(0.1 + 0.2, 0.3, 1e-12);
//       return check_result();
//     }
#pragma once

#include <cmath>
#include <cstdio>

namespace check {

inline int& failures() {
  static int count = 0;
  return count;
}

inline void fail(const char* file, int line, const char* expression) {
  ++failures();
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, expression);
}

inline void fail_near(const char* file, int line, const char* a, const char* b, double va, double vb,
                      double tolerance) {
  ++failures();
  std::fprintf(stderr, "%s:%d: CHECK_NEAR failed: %s = %.9g, %s = %.9g, |difference| = %.3g > %.3g\n", file, line, a,
               va, b, vb, std::fabs(va - vb), tolerance);
}

}  // namespace check

#define CHECK(condition)                                           \
  do {                                                             \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition); \
  } while (false)

// Equal values pass whatever the tolerance (so that infinities can be compared); a NaN on either side fails.
#define CHECK_NEAR(a, b, tolerance)                                                                   \
  do {                                                                                                \
    const double check_a = static_cast<double>(a), check_b = static_cast<double>(b);                  \
    if (!(check_a == check_b || std::fabs(check_a - check_b) <= (tolerance)))                         \
      check::fail_near(__FILE__, __LINE__, #a, #b, check_a, check_b, static_cast<double>(tolerance)); \
  } while (false)

// Passes when evaluating `expression` throws `exception_type`.
#define CHECK_THROWS(expression, exception_type)                                                \
  do {                                                                                          \
    bool check_thrown = false;                                                                  \
    try {                                                                                       \
      static_cast<void>(expression);                                                            \
    } catch (const exception_type&) {                                                           \
      check_thrown = true;                                                                      \
    }                                                                                           \
    if (!check_thrown) check::fail(__FILE__, __LINE__, #expression " throws " #exception_type); \
  } while (false)

inline int check_result() {
  if (check::failures() != 0) std::fprintf(stderr, "%d checks failed\n", check::failures());
  return check::failures() == 0 ? 0 : 1;
}
