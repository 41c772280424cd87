// Philox4x32-10 against Random123's published known answers, and the edge-draw convention built on it.
#include "check.h"
#include "common/philox.h"

using dgcn::Philox4;

static void check_known_answer(Philox4 counter, uint32_t key0, uint32_t key1, Philox4 expected) {
  const Philox4 bits = dgcn::philox4x32_10(counter, key0, key1);
  for (int lane = 0; lane < 4; ++lane) CHECK(bits.word[lane] == expected.word[lane]);
}

int main() {
  check_known_answer({{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  check_known_answer({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  check_known_answer({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0,
                     {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});

  // The low word of the seed is the first key word; quad and sample are counter words 0 and 2.
  const Philox4 bits = dgcn::edge_bits(0x299f31d0a4093822, 5, 7);
  const Philox4 same = dgcn::philox4x32_10({{5, 0, 7, 0}}, 0xa4093822, 0x299f31d0);
  for (int lane = 0; lane < 4; ++lane) CHECK(bits.word[lane] == same.word[lane]);
  CHECK(dgcn::edge_bits(-1, 0, 0).word[0] == dgcn::philox4x32_10({{0, 0, 0, 0}}, ~0u, ~0u).word[0]);

  CHECK(dgcn::uniform_from_bits(0) == 0.0f);
  CHECK(dgcn::uniform_from_bits(~0u) == 1.0f - 0x1p-24f);
  CHECK(dgcn::uniform_from_bits(0xff) == 0.0f);  // the eight low bits do not count

  CHECK(!dgcn::edge_present(0u, 0.0f) && !dgcn::edge_present(0u, 0.0));
  CHECK(dgcn::edge_present(~0u, 1.0f) && dgcn::edge_present(~0u, 1.0));
  CHECK(!dgcn::edge_present(0x80000000u, 0.5f));  // present iff u < p, strictly
  CHECK(dgcn::edge_present(0x7fffffffu, 0.5f));
  return check_result();
}
