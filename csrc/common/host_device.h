// Functions that host and device code share.
#pragma once

// Internal linkage: these headers are compiled once per instruction set, and the linker must never merge, say, the
// AVX-512 copy of a function into the portable kernels.
#if defined(__CUDACC__)
#define DGCN_HOST_DEVICE static __forceinline__ __host__ __device__
#define DGCN_PRAGMA(text) _Pragma(#text)
#define DGCN_UNROLL(count) DGCN_PRAGMA(unroll count)
#else
#define DGCN_HOST_DEVICE static inline
#define DGCN_UNROLL(count)  // a host compiler does not know this pragma
#endif
