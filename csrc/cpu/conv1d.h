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

// The taps of a forward tile, tap after tap: 8 kB of weights stay in L1 beside the K rows of x in use.
constexpr int64_t conv1d_tile_weights = 2048;

inline int64_t conv1d_tile_channels(int64_t K) { return max_of(W, conv1d_tile_weights / K / W * W); }

struct Conv1dTile {
    alignas(64) float w[conv1d_tile_weights + W * conv1d_max_taps];
    alignas(64) float bias[conv1d_tile_weights];
    int64_t first, channels;

    Conv1dTile(const Conv1dForward& a, int64_t index) {
        const int64_t K = a.shape.K, size = conv1d_tile_channels(K);
        first = index * size;
        channels = min_of(size, a.shape.C - first);
        for (int64_t c = 0; c < channels; ++c) {
            for (int64_t j = 0; j < K; ++j) w[j * channels + c] = a.weight[(first + c) * K + j];
            bias[c] = a.bias ? a.bias[first + c] : 0.0f;
        }
    }
};

// K rows of inputs, oldest first, some of them rows of the initial state (float32) or before it (null: zero).
template <class T>
struct Conv1dWindow {
    const T* x[conv1d_max_taps];
    const float* state[conv1d_max_taps];

    Conv1dWindow(const T* newest, int64_t step, const float* initial, int64_t C, int64_t t, int64_t K) {
        for (int64_t j = 0; j < K; ++j) {
            const int64_t p = t - K + 1 + j;
            x[j] = p >= 0 ? newest - (K - 1 - j) * step : nullptr;
            state[j] = p < 0 && initial ? initial + (p + K - 1) * C : nullptr;
        }
    }
    vec at(int64_t j, int64_t c, int64_t n) const {
        if (x[j]) return load_n(x[j] + c, n);
        return state[j] ? load_n(state[j] + c, n) : zero();
    }
};

// One step of one tile. `inside`: all K inputs are rows of x, `step` elements apart.
template <int K_, bool inside, class T>
inline void conv1d_forward_step(const Conv1dTile& tile, const Conv1dWindow<T>& window, const T* newest, int64_t step, T* y,
                                int64_t K, bool activate) {
    const int64_t taps = K_ > 0 ? K_ : K;
    for (int64_t c = 0; c < tile.channels; c += W) {
        const int64_t n = min_of(W, tile.channels - c);
        vec sum = load_n(tile.bias + c, n);
        for (int64_t j = 0; j < taps; ++j) {
            const vec x = inside ? load_n(newest - (taps - 1 - j) * step + c, n) : window.at(j, c, n);
            sum = fma(load_n(tile.w + j * tile.channels + c, n), x, sum);
        }
        store_n(y + c, activate ? silu(sum) : sum, n);
    }
}

template <int K_, class T>
inline void conv1d_forward_row(const Conv1dForward& a, const Conv1dTile& tile, int64_t b) {
    const Conv1dShape& s = a.shape;
    const int64_t length = s.lengths ? s.lengths[b] : s.T, K = s.K;
    const Walk in = walk_of(length, a.x_t, s.reverse), out = walk_of(length, a.y_t, s.reverse);
    const T* x = static_cast<const T*>(a.x) + b * a.x_b + tile.first + in.first;
    T* y = static_cast<T*>(a.y) + b * a.y_b + tile.first;
    const float* state = a.state_in ? a.state_in + b * (K - 1) * s.C + tile.first : nullptr;
    for (int64_t t = 0; t < length; ++t) {
        const T* newest = x + t * in.step;
        T* row = y + out.first + t * out.step;
        const Conv1dWindow<T> window(newest, in.step, state, s.C, t, t < K - 1 ? K : 0);
        t < K - 1 ? conv1d_forward_step<K_, false, T>(tile, window, newest, in.step, row, K, s.silu)
                  : conv1d_forward_step<K_, true, T>(tile, window, newest, in.step, row, K, s.silu);
    }
    if (a.state_out && K > 1) {
        // Row j of the new state is row j + 1 or later of the old one, so ascending order serves a state that is overwritten in
        // place.
        const Conv1dWindow<T> last(x + (length - 1) * in.step, in.step, state, s.C, length - 1, K);
        float* next = a.state_out + b * (K - 1) * s.C + tile.first;
        for (int64_t j = 1; j < K; ++j)
            for (int64_t c = 0; c < tile.channels; c += W) {
                const int64_t n = min_of(W, tile.channels - c);
                store_n(next + (j - 1) * s.C + c, last.at(j, c, n), n);
            }
    }
    for (int64_t t = length; t < s.T; ++t)
        for (int64_t c = 0; c < tile.channels; c += W) store_n(y + t * a.y_t + c, zero(), min_of(W, tile.channels - c));
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
inline void conv1d_forward_run(const Conv1dForward& a, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end;) {  // task = tile * B + b: rows of one tile share the loaded taps
        const int64_t index = task / a.shape.B, last = min_of(end, (index + 1) * a.shape.B);
        const Conv1dTile tile(a, index);
        for (; task < last; ++task) conv1d_forward_row<K_, T>(a, tile, task - index * a.shape.B);
    }
}

template <int K_, class T>
inline void conv1d_backward_run(const Conv1dBackward& a, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        const int64_t c = block * W, n = min_of(W, a.shape.C - c);
        n == W ? conv1d_backward_block<true, K_, T>(a, c, n) : conv1d_backward_block<false, K_, T>(a, c, n);
    }
}

inline int64_t conv1d_forward_tasks(const Conv1dShape& s) {
    const int64_t size = conv1d_tile_channels(s.K);
    return (s.C + size - 1) / size * s.B;
}

inline int64_t conv1d_backward_tasks(const Conv1dShape& s) { return (s.C + W - 1) / W; }

inline void conv1d_forward(const Conv1dForward& a, int64_t begin, int64_t end) {
    const bool half = a.shape.dtype == DType::bf16;
    if (a.shape.K == 4)
        half ? conv1d_forward_run<4, bf16>(a, begin, end) : conv1d_forward_run<4, float>(a, begin, end);
    else
        half ? conv1d_forward_run<0, bf16>(a, begin, end) : conv1d_forward_run<0, float>(a, begin, end);
}

inline void conv1d_backward(const Conv1dBackward& a, int64_t begin, int64_t end) {
    const bool half = a.shape.dtype == DType::bf16;
    if (a.shape.K == 4)
        half ? conv1d_backward_run<4, bf16>(a, begin, end) : conv1d_backward_run<4, float>(a, begin, end);
    else
        half ? conv1d_backward_run<0, bf16>(a, begin, end) : conv1d_backward_run<0, float>(a, begin, end);
}

}  // namespace xecg::XECG_ISA
