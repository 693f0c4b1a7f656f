// Batch-invariant linear map. Equation and layouts: common/linear.h.
//
// Lane l sums k = l, l + W, ... in order; the lanes are then added in the fixed tree of `sum`. Blocking over rows and outputs
// only decides how often x and w are loaded, never the order of a sum. Cost: 2 rows N K flops; w is read once per block of 4
// rows. Groups of 4 x 4 (mLSTM's query, key and value maps) have a form of their own: lanes are outputs of W / 4 groups, and four
// rotations inside each group of four bring every input past every output. It is bound by memory. Which form serves a call
// follows from its sizes and strides alone.
#pragma once
#include "../common/linear.h"
#include "simd.h"

namespace xecg::XECG_ISA {

constexpr int64_t linear_task_outputs = 16;
constexpr int64_t quad_task_rows = 64, quad_task_channels = 512;

inline void put_one(float* p, float v) { *p = v; }
inline void put_one(bf16* p, float v) { store_n(p, set1(v), 1); }

template <int R, int N, class T>
inline void linear_tile(const Linear& a, int64_t g, int64_t row, int64_t out) {
    vec acc[R][N];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) acc[r][n] = zero();
    const T* x = static_cast<const T*>(a.x) + g * a.x_g + row * a.x_r;
    const float* w = a.weight + (g * a.N + out) * a.K;
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
    T* y = static_cast<T*>(a.y) + g * a.y_g + row * a.y_r + out;
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) put_one(y + r * a.y_r + n, sum(acc[r][n]) + (a.bias ? a.bias[g * a.N + out + n] : 0.0f));
}

template <int R, class T>
inline void linear_rows(const Linear& a, int64_t g, int64_t row, int64_t first, int64_t last) {
    int64_t n = first;
    for (; n + 4 <= last; n += 4) linear_tile<R, 4, T>(a, g, row, n);
    for (; n < last; ++n) linear_tile<R, 1, T>(a, g, row, n);
}

template <class T>
inline void linear_general(const Linear& a, int64_t begin, int64_t end) {
    const int64_t tiles = (a.N + linear_task_outputs - 1) / linear_task_outputs;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t g = task / tiles, first = task % tiles * linear_task_outputs;
        const int64_t last = min_of(a.N, first + linear_task_outputs);
        int64_t row = 0;
        for (; row + 4 <= a.rows; row += 4) linear_rows<4, T>(a, g, row, first, last);
        for (; row < a.rows; ++row) linear_rows<1, T>(a, g, row, first, last);
    }
}

inline bool linear_is_quad(const Linear& a) { return a.N == 4 && a.K == 4 && a.groups > 1 && a.x_g == 4 && a.y_g == 4; }

// A task is a chunk of rows by a tile of channels (channel = 4 group + output).
template <class T>
inline void linear_quad(const Linear& a, int64_t begin, int64_t end) {
    const int64_t channels = 4 * a.groups, tiles = (channels + quad_task_channels - 1) / quad_task_channels;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % tiles * quad_task_channels, count = min_of(quad_task_channels, channels - first);
        const int64_t row = task / tiles * quad_task_rows, last = min_of(a.rows, row + quad_task_rows);
        alignas(64) float turned[4][quad_task_channels];  // turned[r][c]: weight of input (c + r) mod 4 of c's group
        for (int64_t c = 0; c < count; ++c)
            for (int64_t r = 0; r < 4; ++r) turned[r][c] = a.weight[(first + c) * 4 + ((c + r) & 3)];
        for (int64_t i = row; i < last; ++i) {
            const T* x = static_cast<const T*>(a.x) + i * a.x_r + first;
            T* y = static_cast<T*>(a.y) + i * a.y_r + first;
            for (int64_t c = 0; c < count; c += W) {
                const int64_t n = min_of(W, count - c);
                const vec in = load_n(x + c, n);
                vec s = a.bias ? load_n(a.bias + first + c, n) : zero();
                s = fma(load_n(turned[0] + c, n), in, s);
                s = fma(load_n(turned[1] + c, n), quad_rotate<1>(in), s);
                s = fma(load_n(turned[2] + c, n), quad_rotate<2>(in), s);
                s = fma(load_n(turned[3] + c, n), quad_rotate<3>(in), s);
                store_n(y + c, s, n);
            }
        }
    }
}

inline int64_t linear_tasks(const Linear& a) {
    if (linear_is_quad(a))
        return (a.rows + quad_task_rows - 1) / quad_task_rows * ((4 * a.groups + quad_task_channels - 1) / quad_task_channels);
    return a.groups * ((a.N + linear_task_outputs - 1) / linear_task_outputs);
}

inline void linear(const Linear& a, int64_t begin, int64_t end) {
    const bool half = a.dtype == DType::bf16;
    if (linear_is_quad(a))
        half ? linear_quad<bf16>(a, begin, end) : linear_quad<float>(a, begin, end);
    else
        half ? linear_general<bf16>(a, begin, end) : linear_general<float>(a, begin, end);
}

}  // namespace xecg::XECG_ISA
