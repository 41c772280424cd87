// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
// and how the graph convolution draws its edges with it. One header for host and device, free of torch.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dgcn {

/// Four 32-bit words: a Philox counter, or the random bits that it is mapped to.
struct Philox4 {
  uint32_t word[4];
};

/// Ten rounds on `counter` with a 64-bit key, of which key0 is the low word.
DGCN_HOST_DEVICE Philox4 philox4x32_10(Philox4 counter, uint32_t key0, uint32_t key1) {
  uint32_t (&c)[4] = counter.word;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c[2];
    c[0] = static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0;
    c[1] = static_cast<uint32_t>(product1);
    c[2] = static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1;
    c[3] = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;  // the key schedule is a Weyl sequence: golden ratio,
    key1 += 0xBB67AE85u;  // and sqrt(3) - 1
  }
  return counter;
}

/// Uniform in [0, 1), from the 24 high bits: exact in float32, so comparisons with it are the same on every device.
DGCN_HOST_DEVICE float uniform_from_bits(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// Random bits of the edges 4·quad … 4·quad + 3 of image `sample` (0 if the whole batch has one draw). Edge (i, j) of
/// the K×K adjacency has the number i·K + j.
DGCN_HOST_DEVICE Philox4 edge_bits(int64_t seed, uint32_t quad, uint32_t sample) {
  const uint64_t key = static_cast<uint64_t>(seed);
  return philox4x32_10({{quad, 0, sample, 0}}, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
}

/// One draw from Bernoulli(probability): always true for 1, never for 0.
template <typename T>
DGCN_HOST_DEVICE bool edge_present(uint32_t bits, T probability) {
  return static_cast<T>(uniform_from_bits(bits)) < probability;
}

}  // namespace dgcn
