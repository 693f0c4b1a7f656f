// Offline front end on a GPU for rows that do not fit into shared memory (frontend_row.cuh), one thread a row: equation in
// ../common/frontend.h, the operations and their order those of ../cpu/frontend.h. 32 rows are a warp; its buffers are (time,
// lane), so that neighbouring threads touch neighbouring floats. Counts come in and results go out through a tile of shared
// memory, which turns (lane, time) into (time, lane) and back. A warp moves about 26 bytes a sample between its passes. Also the
// host form of every step: tests run a warp lane by lane.
#pragma once
#include <math.h>

#include "../common/frontend.h"
#include "slstm_thread.cuh"

namespace xecg {
namespace cuda {

constexpr int lanes = 32;
constexpr int tile_row = lanes + 1;  // floats from one row of a tile to the next: columns lie in different banks
constexpr int tile_floats = lanes * tile_row;
constexpr int frontend_most_sections = 6;

// Floats of scratch that `lanes` rows need; pad: the longest edge extension.
XECG_HOST_DEVICE inline int64_t frontend_warp_scratch(int64_t n, int64_t m, int64_t up, int64_t pad) {
    return (n + 2 * pad + (up ? m : 0)) * lanes;
}

// Lane `lane` takes one sample of every row of the warp.
XECG_HOST_DEVICE inline void frontend_fetch(const Frontend& a, int64_t first, int64_t t0, int lane, float* tile) {
    const int64_t t = t0 + lane;
    for (int r = 0; r < lanes; ++r) {
        float v = 0.0f;
        if (first + r < a.rows && t < a.n) {
            const int64_t at = a.x_at[first + r] + t;
            v = a.counts ? float(static_cast<const int16_t*>(a.x)[at]) : static_cast<const float*>(a.x)[at];
        }
        tile[r * tile_row + lane] = v;
    }
}

// And gives one sample of every row to where it belongs.
XECG_HOST_DEVICE inline void frontend_give(const Frontend& a, int64_t first, int64_t t0, int lane, const float* tile) {
    const int64_t t = t0 + lane;
    for (int r = 0; r < lanes && first + r < a.rows; ++r)
        if (t < a.m) a.y[a.y_at[first + r] + t] = tile[r * tile_row + lane];
}

// One row: x and y are its columns of the warp's buffers, `lanes` floats from one time to the next.
struct FrontendRow {
    float *x, *y;
    float shift, scale, start;  // mV = (value - shift) scale, less `start` where there is a filter

    XECG_HOST_DEVICE FrontendRow(const Frontend& a, int64_t row, float* x, float* y)
        : x(x), y(y), shift(0.0f), scale(1.0f), start(0.0f) {
        if (row >= a.rows) return;
        if (a.counts) {
            const float base = a.baseline[row], x0 = float(static_cast<const int16_t*>(a.x)[a.x_at[row]]);
            scale = a.mv_per_count[row];
            shift = a.stages ? x0 : base;
            start = a.stages ? (x0 - base) * scale : 0.0f;
        } else if (a.stages) {
            shift = start = static_cast<const float*>(a.x)[a.x_at[row]];
        }
    }

    // The row's part of a fetched tile into its column.
    XECG_HOST_DEVICE void take(const Frontend& a, int64_t t0, int lane, const float* tile) const {
        for (int k = 0; k < lanes && t0 + k < a.n; ++k) x[(t0 + k) * lanes] = (tile[lane * tile_row + k] - shift) * scale;
    }
    XECG_HOST_DEVICE void put(const Frontend& a, int64_t t0, int lane, float* tile) const {
        for (int k = 0; k < lanes && t0 + k < a.m; ++k) tile[lane * tile_row + k] = y[(t0 + k) * lanes];
    }
};

template <int S>
struct FrontendSections {
    float c[S][5], s1[S], s2[S];

    XECG_HOST_DEVICE FrontendSections(const float* coefficients, const float* steady, float level) {
        for (int k = 0; k < S; ++k) {
            for (int j = 0; j < 5; ++j) c[k][j] = coefficients[5 * k + j];
            s1[k] = steady[2 * k] * level;
            s2[k] = steady[2 * k + 1] * level;
        }
    }
    XECG_HOST_DEVICE FrontendSections(const float* coefficients, const float (&state)[2 * S]) {
        for (int k = 0; k < S; ++k) {
            for (int j = 0; j < 5; ++j) c[k][j] = coefficients[5 * k + j];
            s1[k] = state[2 * k];
            s2[k] = state[2 * k + 1];
        }
    }
    XECG_HOST_DEVICE float next(float v) {
        XECG_DEVICE_UNROLL
        for (int k = 0; k < S; ++k) {
            const float y = fmaf(c[k][0], v, s1[k]);
            s1[k] = fmaf(-c[k][3], y, s1[k] + fmaf(c[k][1], v, s2[k]));
            s2[k] = fmaf(-c[k][4], y, fmaf(c[k][2], v, s2[k]));
            v = y;
        }
        return v;
    }
};

// sosfiltfilt of a column, which has `pad` free places on each side.
template <int S>
XECG_HOST_DEVICE inline void frontend_stage(const float* coefficients, const float* steady, float* x, int64_t n, int64_t pad) {
    const float first = x[0], last = x[(n - 1) * lanes];
    for (int64_t k = 1; k <= pad; ++k) {
        x[-k * lanes] = first + first - x[k * lanes];
        x[(n - 1 + k) * lanes] = last + last - x[(n - 1 - k) * lanes];
    }
    FrontendSections<S> forward(coefficients, steady, x[-pad * lanes]);
    for (int64_t t = -pad; t < n + pad; ++t) x[t * lanes] = forward.next(x[t * lanes]);
    FrontendSections<S> backward(coefficients, steady, x[(n + pad - 1) * lanes]);
    for (int64_t t = n + pad - 1; t >= 0; --t) x[t * lanes] = backward.next(x[t * lanes]);
}

XECG_HOST_DEVICE inline void frontend_filter(const Frontend& a, const FrontendRow& row) {
    const float *c = a.coefficients, *z = a.steady;
    for (int s = 0; s < a.stages; ++s) {
        const int S = a.stage_sections[s];
        const int64_t pad = a.stage_pad[s];
        switch (S) {
            case 1: frontend_stage<1>(c, z, row.x, a.n, pad); break;
            case 2: frontend_stage<2>(c, z, row.x, a.n, pad); break;
            case 3: frontend_stage<3>(c, z, row.x, a.n, pad); break;
            case 4: frontend_stage<4>(c, z, row.x, a.n, pad); break;
            case 5: frontend_stage<5>(c, z, row.x, a.n, pad); break;
            default: frontend_stage<6>(c, z, row.x, a.n, pad); break;
        }
        c += 5 * S;
        z += 2 * S;
    }
    if (a.stages && a.dc != 0.0f)
        for (int64_t t = 0; t < a.n; ++t) row.x[t * lanes] = row.x[t * lanes] + row.start * a.dc;
}

// Inside the row taps go to four partial sums, at its edges to one, as on the CPU.
XECG_HOST_DEVICE inline void frontend_resample(const Frontend& a, const FrontendRow& row) {
    for (int64_t k = 0; k < a.m; ++k) {
        const int64_t q = k * a.down + a.half, newest = q / a.up;
        const float *h = a.fir + q % a.up * a.taps, *x = row.x + newest * lanes;
        float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (newest >= a.taps - 1 && newest < a.n) {
            int64_t j = 0;
            for (; j + 4 <= a.taps; j += 4)
                for (int u = 0; u < 4; ++u) s[u] = fmaf(h[j + u], x[-(j + u) * lanes], s[u]);
            for (; j < a.taps; ++j) s[0] = fmaf(h[j], x[-j * lanes], s[0]);
        } else {
            const int64_t j0 = newest < a.n ? 0 : newest - a.n + 1, j1 = newest + 1 < a.taps ? newest + 1 : a.taps;
            for (int64_t j = j0; j < j1; ++j) s[0] = fmaf(h[j], x[-j * lanes], s[0]);
        }
        row.y[k * lanes] = (s[0] + s[1]) + (s[2] + s[3]);
    }
}

// Mean over m places of (y - start - mean)^power in blocks of 256 places, each of four partial sums.
XECG_HOST_DEVICE inline float frontend_moment(const float* y, int64_t m, float start, float mean, bool square) {
    const float inverse = 1.0f / float(m);
    float total = 0.0f;
    for (int64_t t = 0; t < m;) {
        float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        const int64_t end = t + 256 < m ? t + 256 : m;
        const auto add = [&](int64_t at, float& sum) {
            const float d = y[at * lanes] - start, e = d - mean;
            sum = square ? fmaf(e, e, sum) : sum + d;
        };
        for (; t + 4 <= end; t += 4)
            for (int u = 0; u < 4; ++u) add(t + u, part[u]);
        for (; t < end; ++t) add(t, part[0]);
        total = fmaf((part[0] + part[1]) + (part[2] + part[3]), inverse, total);
    }
    return total;
}

// Everything between reading and writing a row; returns its state.
XECG_HOST_DEVICE inline uint8_t frontend_work(const Frontend& a, const FrontendRow& row) {
    frontend_filter(a, row);
    if (a.up) frontend_resample(a, row);
    bool flat = false;
    if (a.zscore) {
        const float start = row.y[0];
        const float mean = frontend_moment(row.y, a.m, start, 0.0f, false);
        const float std = sqrtf(frontend_moment(row.y, a.m, start, mean, true));
        flat = std < a.flat_std;
        const float factor = flat ? 0.0f : 1.0f / std;
        for (int64_t t = 0; t < a.m; ++t) row.y[t * lanes] = ((row.y[t * lanes] - start) - mean) * factor;
    }
    float trace = 0.0f;
    for (int64_t t = 0; t < a.m; ++t) trace += row.y[t * lanes] - row.y[t * lanes];
    return trace != trace ? 2 : uint8_t(flat);
}

}  // namespace cuda
}  // namespace xecg
