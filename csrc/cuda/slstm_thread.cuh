// What the sLSTM kernels ask of the machine: a thread's place in its block, the barrier, one tensor-core product, element types.
// Kernel bodies are templates over `Thread` and take nothing else from CUDA, so that the C++ and Python tests run the same
// bodies, index arithmetic and launch sizes on the host (csrc/tests/emulator.h).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../common/types.h"

#ifdef __CUDACC__
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define XECG_DEVICE __device__
#define XECG_DEVICE_UNROLL _Pragma("unroll")
#else
#define XECG_DEVICE
#define XECG_DEVICE_UNROLL
#endif

namespace xecg {
namespace cuda {

struct Bf16 {
    uint16_t bits;
};
struct F16 {
    uint16_t bits;
};

// Four floats that move as one.
struct alignas(16) Quad {
    float v[4];
};

template <class To, class From>
XECG_DEVICE inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

XECG_DEVICE inline float get(const float* p) { return *p; }
XECG_DEVICE inline float get(const Bf16* p) { return bits_as<float>(uint32_t(p->bits) << 16); }
XECG_DEVICE inline void put(float* p, float v) { *p = v; }

#ifdef __CUDACC__
XECG_DEVICE inline Bf16 narrow(float v) { return Bf16{__bfloat16_as_ushort(__float2bfloat16_rn(v))}; }
XECG_DEVICE inline float get(const F16* p) { return __half2float(__ushort_as_half(p->bits)); }
XECG_DEVICE inline void put(F16* p, float v) { p->bits = __half_as_ushort(__float2half_rn(v)); }
#else
inline Bf16 narrow(float v) {
    const uint32_t u = bits_as<uint32_t>(v);
    if (v != v) return Bf16{0x7fff};
    return Bf16{uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
inline float get(const F16* p) {
    const uint32_t sign = uint32_t(p->bits & 0x8000u) << 16, e = (p->bits >> 10) & 31u, f = p->bits & 1023u;
    if (e == 31) return bits_as<float>(sign | 0x7f800000u | f << 13);
    if (e == 0) return (sign ? -1.0f : 1.0f) * float(f) * 0x1p-24f;
    return bits_as<float>(sign | (e + 112) << 23 | f << 13);
}
inline void put(F16* p, float v) {
    const uint32_t u = bits_as<uint32_t>(v), sign = (u >> 16) & 0x8000u, size = u & 0x7fffffffu;
    uint32_t to;
    if (v != v)
        to = 0x7fff;
    else if (std::fabs(v) >= 65520.0f)
        to = 0x7c00;
    else if (std::fabs(v) < 0x1p-14f)
        to = uint32_t(std::nearbyint(std::fabs(v) * 0x1p24f));
    else
        to = ((size + 0xfffu + ((size >> 13) & 1u)) >> 13) - (112u << 10);
    p->bits = uint16_t(sign | to);
}
#endif
XECG_DEVICE inline void put(Bf16* p, float v) { *p = narrow(v); }

// A parameter whose type is known at run time only.
XECG_DEVICE inline float get_as(DType type, const void* p, int64_t at) {
    if (type == DType::bf16) return get(static_cast<const Bf16*>(p) + at);
    if (type == DType::f16) return get(static_cast<const F16*>(p) + at);
    return static_cast<const float*>(p)[at];
}

#ifdef __CUDACC__
// A block, or a cluster of them side by side along x, works on one tile of batch rows (x) of one head (y).
template <int cluster>
struct DeviceThread {
    static constexpr int blocks = cluster;
    __device__ int index() const { return int(threadIdx.x); }
    __device__ int count() const { return int(blockDim.x); }
    __device__ int rank() const { return int(blockIdx.x % cluster); }  // of the block in its cluster
    __device__ int64_t tile() const { return blockIdx.x / cluster; }
    __device__ int64_t head() const { return blockIdx.y; }
    __device__ void* shared() const {
        extern __shared__ Quad block_memory[];
        return block_memory;
    }
    // The same place in the shared memory of another block of the cluster.
    template <class T>
    __device__ T* remote(T* own, int rank) const {
#if __CUDA_ARCH__ >= 900
        if constexpr (cluster > 1) return cooperative_groups::this_cluster().map_shared_rank(own, unsigned(rank));
#endif
        return own;
    }
    // All threads of the cluster; what they wrote before it is seen after it.
    __device__ void everyone() const {
#if __CUDA_ARCH__ >= 900
        if constexpr (cluster > 1) return cooperative_groups::this_cluster().sync();
#endif
        __syncthreads();
    }
    // The lanes of a warp, whose ways may have parted, meet again: products need all of them at once.
    __device__ void converge() const { __syncwarp(); }
    // The word of the lane whose number differs in these bits.
    __device__ uint32_t swap(uint32_t word, int bits) const { return __shfl_xor_sync(0xffffffffu, word, bits); }
    __device__ void barrier() const { __syncthreads(); }
    // c += a b by the whole warp: a 16x16 by rows, b 16x8 by columns, bfloat16, in the register layout of mma.m16n8k16 (PTX ISA).
    __device__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};
#endif

}  // namespace cuda
}  // namespace xecg
