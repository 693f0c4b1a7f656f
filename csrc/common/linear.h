// Arguments of the batch-invariant linear map: y[r, g, n] = bias[g, n] + sum_k x[r, g, k] w[g, n, k].
//
// Each output accumulates over k in one fixed order whatever `rows` is, so a row's bits never depend on its companions.
// x (rows, K), y (rows, N): last dimension contiguous, row strides x_r and y_r. weight (N, K) and bias (N) contiguous; bias may
// be null.
#pragma once
#include "types.h"

namespace xecg {

struct Linear {
    int64_t rows, groups, N, K;
    DType dtype, weight_dtype;  // of x and y; float32, or bfloat16 where x is
    const void* x;
    int64_t x_r, x_g;
    const void* weight;
    const float* bias;
    void* y;
    int64_t y_r, y_g;
};

}  // namespace xecg
