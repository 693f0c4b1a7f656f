// Element types and row views that CPU and CUDA kernels share. No Python, no torch.
#pragma once
#include <cstdint>

namespace xecg {

enum class DType : int { f32 = 0, bf16 = 1, f16 = 2 };

// One sequence as a kernel walks it: `step` elements from one time to the next, negative when time runs backwards.
struct Walk {
    int64_t first;  // offset of the first visited step, in elements
    int64_t step;   // elements between visited steps
};

#ifdef __CUDACC__
#define XECG_HOST_DEVICE __host__ __device__
#else
#define XECG_HOST_DEVICE
#endif

// Reverse is a walk from the last valid step to the first: nothing is flipped in memory.
XECG_HOST_DEVICE inline Walk walk_of(int64_t length, int64_t stride, bool reverse) {
    if (reverse && length > 0) return Walk{(length - 1) * stride, -stride};
    return Walk{0, stride};
}

}  // namespace xecg
