// Host interface of conv1d.cu, and its index arithmetic (also called by the host tests).
#pragma once
#include <cuda_runtime_api.h>

#include "../common/conv1d.h"

namespace xecg {
namespace cuda {

struct Segment {
    int64_t begin, end;
};

constexpr int64_t segment_steps = 256;

// At least one segment, so that T = 0 still writes the final state.
XECG_HOST_DEVICE inline int64_t segments(int64_t T) { return T > 0 ? (T + segment_steps - 1) / segment_steps : 1; }
XECG_HOST_DEVICE inline Segment segment_of(int64_t index, int64_t T) {
    const int64_t begin = index * segment_steps, end = begin + segment_steps;
    return Segment{begin, end < T ? end : T};
}

// Return a cudaError_t as int. scratch: conv1d_backward_scratch floats on the device.
int64_t conv1d_backward_scratch(const Conv1dShape& s);
int conv1d_forward(const Conv1dForward& a, cudaStream_t stream);
int conv1d_backward(const Conv1dBackward& a, float* scratch, cudaStream_t stream);

}  // namespace cuda
}  // namespace xecg
