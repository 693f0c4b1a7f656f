// Batch-invariant linear map. Equation and layouts: common/linear.h.
//
// Lanes are outputs. A tile of W outputs by W inputs is transposed in registers and multiplied with all rows of a chunk before
// the next tile is loaded, so the weights are read once a chunk and no sum crosses lanes: every output adds its inputs in
// ascending order, one fma each, however many rows there are. Cost: 2 rows N K flops. Groups of 4 x 4 (mLSTM's query, key and
// value maps) have a form of their own: lanes are outputs of W / 4 groups, and four rotations inside each group of four bring
// every input past every output. It is bound by memory. Which form serves a call follows from its sizes and strides alone.
#pragma once
#include "../common/linear.h"
#include "simd.h"

namespace xecg::XECG_ISA {

constexpr int64_t linear_chunk_rows = 128;
constexpr int linear_rows_at_once = n_registers == 32 ? 8 : 4;  // chains of additions that hide the latency of one
constexpr int64_t quad_task_rows = 64, quad_task_channels = 512;

inline float one_float(const float* p) { return *p; }
inline float one_float(const bf16* p) { return to_float(*p); }

// sums[r] += x[r][0..inputs) times the transposed tile.
template <int R, class T>
inline void linear_multiply(const vec (&tile)[W], const T* x, int64_t x_r, int64_t inputs, float* sums) {
    vec acc[R];
    for (int r = 0; r < R; ++r) acc[r] = load(sums + r * W);
    for (int64_t k = 0; k < inputs; ++k)
        for (int r = 0; r < R; ++r) acc[r] = fma(set1(one_float(x + r * x_r + k)), tile[k], acc[r]);
    for (int r = 0; r < R; ++r) store(sums + r * W, acc[r]);
}

template <int R, class T>
inline void linear_multiply_whole(const vec (&tile)[W], const T* x, int64_t x_r, float* sums) {
    vec acc[R];
    for (int r = 0; r < R; ++r) acc[r] = load(sums + r * W);
    XECG_UNROLL
    for (int k = 0; k < W; ++k)
        for (int r = 0; r < R; ++r) acc[r] = fma(set1(one_float(x + r * x_r + k)), tile[k], acc[r]);
    for (int r = 0; r < R; ++r) store(sums + r * W, acc[r]);
}

template <class V, class T>
inline void linear_chunk(const Linear& a, const T* x, int64_t rows, int64_t g, int64_t out, int64_t outputs, float* sums) {
    const V* weight = static_cast<const V*>(a.weight) + (g * a.N + out) * a.K;
    for (int64_t k = 0; k < a.K; k += W) {
        const int64_t inputs = min_of(W, a.K - k);
        vec tile[W];
        for (int l = 0; l < W; ++l) tile[l] = l < outputs ? load_n(weight + l * a.K + k, inputs) : zero();
        transpose(tile);
        int64_t r = 0;
        for (; r + linear_rows_at_once <= rows; r += linear_rows_at_once)
            inputs == W ? linear_multiply_whole<linear_rows_at_once>(tile, x + r * a.x_r + k, a.x_r, sums + r * W)
                        : linear_multiply<linear_rows_at_once>(tile, x + r * a.x_r + k, a.x_r, inputs, sums + r * W);
        for (; r < rows; ++r) linear_multiply<1>(tile, x + r * a.x_r + k, a.x_r, inputs, sums + r * W);
    }
}

// A task is W outputs of one group, all rows.
template <class T, class V>
inline void linear_general(const Linear& a, int64_t begin, int64_t end) {
    const int64_t blocks = (a.N + W - 1) / W;
    alignas(64) float sums[linear_chunk_rows * W];
    for (int64_t task = begin; task < end; ++task) {
        const int64_t g = task / blocks, out = task % blocks * W, outputs = min_of(W, a.N - out);
        const vec start = a.bias ? load_n(a.bias + g * a.N + out, outputs) : zero();
        for (int64_t row = 0; row < a.rows; row += linear_chunk_rows) {
            const int64_t rows = min_of(linear_chunk_rows, a.rows - row);
            for (int64_t r = 0; r < rows; ++r) store(sums + r * W, start);
            linear_chunk<V>(a, static_cast<const T*>(a.x) + g * a.x_g + row * a.x_r, rows, g, out, outputs, sums);
            T* y = static_cast<T*>(a.y) + g * a.y_g + row * a.y_r + out;
            for (int64_t r = 0; r < rows; ++r) store_n(y + r * a.y_r, load(sums + r * W), outputs);
        }
    }
}

inline bool linear_is_quad(const Linear& a) { return a.N == 4 && a.K == 4 && a.groups > 1 && a.x_g == 4 && a.y_g == 4; }

// A task is a chunk of rows by a tile of channels (channel = 4 group + output).
template <class T, class V>
inline void linear_quad(const Linear& a, int64_t begin, int64_t end) {
    const int64_t channels = 4 * a.groups, tiles = (channels + quad_task_channels - 1) / quad_task_channels;
    const V* weight = static_cast<const V*>(a.weight);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % tiles * quad_task_channels, count = min_of(quad_task_channels, channels - first);
        const int64_t row = task / tiles * quad_task_rows, last = min_of(a.rows, row + quad_task_rows);
        alignas(64) float turned[4][quad_task_channels];  // turned[r][c]: weight of input (c + r) mod 4 of c's group
        for (int64_t c = 0; c < count; ++c)
            for (int64_t r = 0; r < 4; ++r) turned[r][c] = to_float(weight[(first + c) * 4 + ((c + r) & 3)]);
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
    return a.groups * ((a.N + W - 1) / W);
}

template <class T, class V>
inline void linear_of(const Linear& a, int64_t begin, int64_t end) {
    linear_is_quad(a) ? linear_quad<T, V>(a, begin, end) : linear_general<T, V>(a, begin, end);
}

inline void linear(const Linear& a, float*, int64_t begin, int64_t end) {
    if (a.dtype == DType::f32)
        linear_of<float, float>(a, begin, end);
    else
        a.weight_dtype == DType::bf16 ? linear_of<bf16, bf16>(a, begin, end) : linear_of<bf16, float>(a, begin, end);
}

inline int64_t linear_scratch(const Linear&) { return 0; }

}  // namespace xecg::XECG_ISA
