// Batch-invariant linear map. Equation and layouts: common/linear.h.
//
// Lane l sums k = l, l + W, ... in order; the lanes are then added in the fixed tree of `sum`. Blocking over rows and outputs
// only decides how often x and w are loaded, never the order of a sum. Cost: 2 rows N K flops; w is read once per block of 4
// rows.
#pragma once
#include "../common/linear.h"
#include "simd.h"

namespace xecg::XECG_ISA {

constexpr int64_t linear_task_outputs = 16;

template <int R, int N>
inline void linear_tile(const Linear& a, int64_t row, int64_t out) {
    vec acc[R][N];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) acc[r][n] = zero();
    const float* x = a.x + row * a.x_r;
    const float* w = a.weight + out * a.K;
    const int64_t whole = a.K / W * W;
    for (int64_t k = 0; k < whole; k += W) {
        vec xs[R];
        for (int r = 0; r < R; ++r) xs[r] = load(x + r * a.x_r + k);
        for (int n = 0; n < N; ++n) {
            const vec ws = load(w + n * a.K + k);
            for (int r = 0; r < R; ++r) acc[r][n] = fma(xs[r], ws, acc[r][n]);
        }
    }
    if (whole < a.K) {
        for (int n = 0; n < N; ++n) {
            const vec ws = load_n(w + n * a.K + whole, a.K - whole);
            for (int r = 0; r < R; ++r) acc[r][n] = fma(load_n(x + r * a.x_r + whole, a.K - whole), ws, acc[r][n]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) a.y[(row + r) * a.y_r + out + n] = sum(acc[r][n]) + (a.bias ? a.bias[out + n] : 0.0f);
}

template <int R>
inline void linear_rows(const Linear& a, int64_t row, int64_t first, int64_t last) {
    int64_t n = first;
    for (; n + 4 <= last; n += 4) linear_tile<R, 4>(a, row, n);
    for (; n < last; ++n) linear_tile<R, 1>(a, row, n);
}

inline int64_t linear_tasks(const Linear& a) { return a.groups * ((a.N + linear_task_outputs - 1) / linear_task_outputs); }

inline Linear linear_group(const Linear& a, int64_t g) {
    Linear one = a;
    one.x += g * a.x_g;
    one.weight += g * a.N * a.K;
    if (a.bias) one.bias += g * a.N;
    one.y += g * a.y_g;
    return one;
}

inline void linear(const Linear& a, int64_t begin, int64_t end) {
    const int64_t tiles = linear_tasks(a) / max_of(1, a.groups);
    for (int64_t task = begin; task < end; ++task) {
        const Linear one = linear_group(a, task / tiles);
        const int64_t first = task % tiles * linear_task_outputs, last = min_of(a.N, first + linear_task_outputs);
        int64_t row = 0;
        for (; row + 4 <= a.rows; row += 4) linear_rows<4>(one, row, first, last);
        for (; row < a.rows; ++row) linear_rows<1>(one, row, first, last);
    }
}

}  // namespace xecg::XECG_ISA
