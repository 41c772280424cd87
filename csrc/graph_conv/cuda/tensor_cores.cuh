// Matrix products of tensor cores in inline PTX. tests/cpp/cuda_on_host.h has the same functions for the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace dgcn::graph_conv::cuda {

/// Loads four 8×8 matrices of 16-bit numbers from shared memory. Lane 8·i + r gives the address of row r of matrix i,
/// 16 bytes; lane l gets the numbers 2·(l % 4) and 2·(l % 4) + 1 of row l / 4 of each.
__device__ inline void load_matrices(uint32_t (&parts)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
               : "r"(address)
               : "memory");
}

/// sums [16, 8] += a [16, 16] · b [16, 8]; products are exact, sums float32 and truncated. Lane l has the rows l / 4
/// and l / 4 + 8 and the columns 2·(l % 4) and 2·(l % 4) + 1 of `sums`, in row-major order. `a`: the matrices of the
/// rows from 0 and from 8 and the columns from 0, then from 8. `b`, transposed: the matrices of the columns from 0 and
/// from 8.
#define DGCN_MULTIPLY_ADD(Number, name)                                                                             \
  __device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t* b, const Number*) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                             \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                             \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                               \
  }
DGCN_MULTIPLY_ADD(__nv_bfloat16, "bf16")
DGCN_MULTIPLY_ADD(__half, "f16")
#undef DGCN_MULTIPLY_ADD

}  // namespace dgcn::graph_conv::cuda
