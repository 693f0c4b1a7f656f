// Arguments of the causal depthwise convolution, shared by CPU and CUDA.
//
//   y_t = act(bias + sum_j w[:, j] x_{t-K+1+j}),  j = 0..K-1 (the last tap is the current sample), act = identity or SiLU
//
// x, y, dy, dx: (B, T, C), channels contiguous, element strides *_b and *_t.  weight (C, K) and bias (C) contiguous float32.
// state_in, state_out, dstate_in, dstate_out: (B, K-1, C) contiguous float32, oldest input first; null means zero / unwanted.
// lengths: (B) int64 or null. Steps >= lengths[b] give y = 0, dx = 0 and never enter the state. reverse: time runs backwards.
// dweight (C, K), dbias (C): float32, overwritten.
#pragma once
#include "types.h"

namespace xecg {

struct Conv1dShape {
    int64_t B, T, C, K;
    const int64_t* lengths;
    bool reverse, silu;
    DType dtype;  // of x, y, dy, dx
};

struct Conv1dForward {
    Conv1dShape shape;
    const void* x;
    int64_t x_b, x_t;
    const float *weight, *bias, *state_in;
    void* y;
    int64_t y_b, y_t;
    float* state_out;
};

struct Conv1dBackward {
    Conv1dShape shape;
    const void* x;
    int64_t x_b, x_t;
    const void* dy;
    int64_t dy_b, dy_t;
    const float *weight, *bias, *state_in, *dstate_out;
    void* dx;
    int64_t dx_b, dx_t;
    float *dweight, *dbias, *dstate_in;
};

constexpr int64_t conv1d_max_taps = 32;

}  // namespace xecg
