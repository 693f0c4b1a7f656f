// Arguments of the batch-invariant linear map: y[r, n] = bias[n] + sum_k x[r, k] w[n, k], float32.
//
// Each output accumulates over k in one fixed order whatever `rows` is, so a row's bits never depend on its companions.
// x (rows, K), y (rows, N): last dimension contiguous, row strides x_r and y_r. weight (N, K) and bias (N) contiguous; bias may
// be null.
#pragma once
#include "types.h"

namespace xecg {

struct Linear {
    int64_t rows, N, K;
    const float* x;
    int64_t x_r;
    const float *weight, *bias;
    float* y;
    int64_t y_r;
};

}  // namespace xecg
