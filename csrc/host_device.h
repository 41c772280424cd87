// Functions that host and device code share.
#pragma once

// Internal linkage: these headers are compiled once per instruction set, and the linker must never merge, say, the
// AVX-512 copy of a function into the portable kernels.
#if defined(__CUDACC__)
#define DGCN_HOST_DEVICE static __forceinline__ __host__ __device__
#else
#define DGCN_HOST_DEVICE static inline
#endif
