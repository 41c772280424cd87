// Macros for functions that host and device code share.
#pragma once

// Static, since the CPU kernels that call such a function are compiled once per instruction set: see instruction_set.h.
#if defined(__CUDACC__)
#define DGCN_HOST_DEVICE static __forceinline__ __host__ __device__
#define DGCN_HOST_DEVICE_MEMBER __forceinline__ __host__ __device__
#define DGCN_PRAGMA(text) _Pragma(#text)
#define DGCN_UNROLL(count) DGCN_PRAGMA(unroll count)
#else
#define DGCN_HOST_DEVICE static inline
#define DGCN_HOST_DEVICE_MEMBER inline
#define DGCN_UNROLL(count)  // host compilers do not have this pragma
#endif
