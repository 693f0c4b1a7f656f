// Causal depthwise convolution, forward and backward. Equation and layouts: common/conv1d.h.
//
// Lanes are channels, so rows of memory are read once, in order, and no sum crosses lanes: results do not depend on threads or
// batch. The last K-1 inputs stay in registers while time advances. Backward recomputes the pre-activation (it costs less than
// storing it) and keeps K rolling sums of dx: dx_p = sum_j w_j dpre_{p+K-1-j} is complete when step p+K-1 was visited. Cost: 2 B
// T C K flops and B T C (read + write) forward; three times the flops and B T C (2 reads + 1 write) backward. A task is one
// channel block; backward sums dweight and dbias over the whole batch inside it, in order, in partial sums of 128 steps.
#pragma once
#include "../common/conv1d.h"
#include "math.h"

namespace xecg::XECG_ISA {

constexpr int64_t conv1d_partial_steps = 128;

// K_ = 0 means "K at run time", with the window in memory instead of registers.
template <int K_>
struct Taps {
    static constexpr int size = K_ > 0 ? K_ : int(conv1d_max_taps);
    vec w[size];
    vec bias;
    int K;

    Taps(const float* weight, const float* bias_in, int64_t K_in, int64_t c, int64_t n) : K(int(K_in)) {
        for (int j = 0; j < count(); ++j) {
            float t[W] = {};
            for (int64_t l = 0; l < n; ++l) t[l] = weight[(c + l) * K + j];
            w[j] = load(t);
        }
        bias = bias_in ? load_n(bias_in + c, n) : zero();
    }
    int count() const { return K_ > 0 ? K_ : K; }
};

template <bool whole, int K_, class T>
inline void conv1d_forward_row(const Conv1dForward& a, const Taps<K_>& taps, int64_t b, int64_t c, int64_t n) {
    const Conv1dShape& s = a.shape;
    const int K = taps.count();
    const int64_t length = s.lengths ? s.lengths[b] : s.T;
    const Walk in = walk_of(length, a.x_t, s.reverse), out = walk_of(length, a.y_t, s.reverse);
    const T* x = static_cast<const T*>(a.x) + b * a.x_b + c + in.first;
    T* y = static_cast<T*>(a.y) + b * a.y_b + c + out.first;
    vec window[Taps<K_>::size];
    for (int j = 0; j + 1 < K; ++j) window[j + 1] = a.state_in ? get<whole>(a.state_in + (b * (K - 1) + j) * s.C + c, n) : zero();
    for (int64_t t = 0; t < length; ++t) {
        for (int j = 0; j + 1 < K; ++j) window[j] = window[j + 1];
        window[K - 1] = get<whole>(x + t * in.step, n);
        vec sum = taps.bias;
        for (int j = 0; j < K; ++j) sum = fma(taps.w[j], window[j], sum);
        put<whole>(y + t * out.step, s.silu ? silu(sum) : sum, n);
    }
    for (int j = 0; j + 1 < K && a.state_out; ++j) put<whole>(a.state_out + (b * (K - 1) + j) * s.C + c, window[j + 1], n);
    T* pad = static_cast<T*>(a.y) + b * a.y_b + c;
    for (int64_t t = length; t < s.T; ++t) put<whole>(pad + t * a.y_t, zero(), n);
}

template <bool whole, int K_, class T>
inline void conv1d_backward_block(const Conv1dBackward& a, int64_t c, int64_t n) {
    const Conv1dShape& s = a.shape;
    const Taps<K_> taps(a.weight, a.bias, s.K, c, n);
    const int K = taps.count();
    constexpr int size = Taps<K_>::size;
    vec dw_total[size], dw[size], db_total = zero(), db = zero();
    for (int j = 0; j < K; ++j) dw_total[j] = dw[j] = zero();
    for (int64_t b = 0; b < s.B; ++b) {
        const int64_t length = s.lengths ? s.lengths[b] : s.T;
        const Walk wx = walk_of(length, a.x_t, s.reverse), wy = walk_of(length, a.dy_t, s.reverse);
        const Walk wd = walk_of(length, a.dx_t, s.reverse);
        const T* x = static_cast<const T*>(a.x) + b * a.x_b + c + wx.first;
        const T* dy = static_cast<const T*>(a.dy) + b * a.dy_b + c + wy.first;
        T* dx = static_cast<T*>(a.dx) + b * a.dx_b + c + wd.first;
        const float* state = a.state_in ? a.state_in + b * (K - 1) * s.C + c : nullptr;
        const float* dstate = a.dstate_out ? a.dstate_out + b * (K - 1) * s.C + c : nullptr;
        float* dfirst = a.dstate_in ? a.dstate_in + b * (K - 1) * s.C + c : nullptr;
        // Position p of the input (p < 0: initial state) receives its finished gradient, and that of the final state it became.
        auto finish = [&](int64_t p, vec g) {
            const int64_t slot = p - length + K - 1;
            if (dstate && slot >= 0) g = g + get<whole>(dstate + slot * s.C, n);
            if (p >= 0)
                put<whole>(dx + p * wd.step, g, n);
            else if (dfirst)
                put<whole>(dfirst + (p + K - 1) * s.C, g, n);
        };
        vec window[size], sums[size];
        for (int j = 0; j < K; ++j) sums[j] = zero();
        for (int j = 0; j + 1 < K; ++j) window[j + 1] = state ? get<whole>(state + j * s.C, n) : zero();
        for (int64_t t = 0; t < length; ++t) {
            for (int j = 0; j + 1 < K; ++j) window[j] = window[j + 1];
            window[K - 1] = get<whole>(x + t * wx.step, n);
            vec g = get<whole>(dy + t * wy.step, n);
            if (s.silu) {
                vec pre = taps.bias;
                for (int j = 0; j < K; ++j) pre = fma(taps.w[j], window[j], pre);
                g = g * silu_slope(pre);
            }
            for (int j = 0; j < K; ++j) {
                sums[j] = fma(taps.w[j], g, sums[j]);
                dw[j] = fma(window[j], g, dw[j]);
            }
            db = db + g;
            finish(t - K + 1, sums[0]);
            for (int j = 0; j + 1 < K; ++j) sums[j] = sums[j + 1];
            sums[K - 1] = zero();
            if ((t + 1) % conv1d_partial_steps == 0 || t + 1 == length) {
                for (int j = 0; j < K; ++j) dw_total[j] = dw_total[j] + dw[j], dw[j] = zero();
                db_total = db_total + db, db = zero();
            }
        }
        for (int j = 0; j + 1 < K; ++j) finish(length - K + 1 + j, sums[j]);
        T* pad = static_cast<T*>(a.dx) + b * a.dx_b + c;
        for (int64_t t = length; t < s.T; ++t) put<whole>(pad + t * a.dx_t, zero(), n);
    }
    for (int j = 0; j < K; ++j) {
        float t[W];
        store(t, dw_total[j]);
        for (int64_t l = 0; l < n; ++l) a.dweight[(c + l) * K + j] = t[l];
    }
    if (a.dbias) put<whole>(a.dbias + c, db_total, n);
}

template <int K_, class T>
inline void conv1d_forward_tasks(const Conv1dForward& a, int64_t begin, int64_t end) {
    const Conv1dShape& s = a.shape;
    for (int64_t task = begin; task < end;) {  // task = block * B + b: rows of one block share the loaded taps
        const int64_t block = task / s.B, c = block * W, n = min_of(W, s.C - c);
        const int64_t last = min_of(end, (block + 1) * s.B);
        const Taps<K_> taps(a.weight, a.bias, s.K, c, n);
        for (; task < last; ++task)
            n == W ? conv1d_forward_row<true, K_, T>(a, taps, task - block * s.B, c, n)
                   : conv1d_forward_row<false, K_, T>(a, taps, task - block * s.B, c, n);
    }
}

template <int K_, class T>
inline void conv1d_backward_tasks(const Conv1dBackward& a, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        const int64_t c = block * W, n = min_of(W, a.shape.C - c);
        n == W ? conv1d_backward_block<true, K_, T>(a, c, n) : conv1d_backward_block<false, K_, T>(a, c, n);
    }
}

inline int64_t conv1d_blocks(const Conv1dShape& s) { return (s.C + W - 1) / W; }

inline void conv1d_forward(const Conv1dForward& a, int64_t begin, int64_t end) {
    const bool half = a.shape.dtype == DType::bf16;
    if (a.shape.K == 4)
        half ? conv1d_forward_tasks<4, bf16>(a, begin, end) : conv1d_forward_tasks<4, float>(a, begin, end);
    else
        half ? conv1d_forward_tasks<0, bf16>(a, begin, end) : conv1d_forward_tasks<0, float>(a, begin, end);
}

inline void conv1d_backward(const Conv1dBackward& a, int64_t begin, int64_t end) {
    const bool half = a.shape.dtype == DType::bf16;
    if (a.shape.K == 4)
        half ? conv1d_backward_tasks<4, bf16>(a, begin, end) : conv1d_backward_tasks<4, float>(a, begin, end);
    else
        half ? conv1d_backward_tasks<0, bf16>(a, begin, end) : conv1d_backward_tasks<0, float>(a, begin, end);
}

}  // namespace xecg::XECG_ISA
