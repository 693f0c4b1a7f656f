// Fused offline front end. Equation and layouts: common/frontend.h.
//
// Lanes are rows: W rows are transposed into a buffer (time, lane), filtered there in place forward and backward, resampled into
// a second buffer, normalised and transposed back. A row's operations do not depend on its lane or its companions, so neither do
// its bits. Cost per row sample: 2 passes x sections x 6 operations / W, taps / down multiply-adds / W, two transposes. The
// buffer of a 10-s record at 500 Hz (320 kB) stays in L2.
#pragma once
#include "../common/frontend.h"
#include "math.h"

namespace xecg::XECG_ISA {

inline int64_t frontend_pad(const Frontend& a) {
    int64_t pad = 0;
    for (int s = 0; s < a.stages; ++s) pad = max_of(pad, a.stage_pad[s]);
    return pad;
}

inline int64_t frontend_tasks(const Frontend& a) { return (a.rows + W - 1) / W; }

// Floats of scratch that one thread needs.
inline int64_t frontend_scratch(const Frontend& a) { return (a.n + 2 * frontend_pad(a) + W) * W + (a.up ? (a.m + W) * W : 0); }

// buffer[(t, lane)] = mV of row `first + lane`, less the row's first sample when there is a filter; returns that first sample in
// mV.
inline vec frontend_read(const Frontend& a, int64_t first, int64_t lanes_used, float* buffer) {
    float zero_of[W] = {}, scale_of[W], start_of[W] = {};
    for (int l = 0; l < W; ++l) scale_of[l] = 1.0f;
    for (int64_t l = 0; l < lanes_used; ++l) {
        const int64_t r = first + l;
        if (a.counts) {
            const float base = a.baseline[r], x0 = float(static_cast<const int16_t*>(a.x)[a.x_at[r]]);
            scale_of[l] = a.mv_per_count[r];
            zero_of[l] = a.stages ? x0 : base;
            start_of[l] = a.stages ? (x0 - base) * scale_of[l] : 0.0f;
        } else if (a.stages) {
            zero_of[l] = start_of[l] = static_cast<const float*>(a.x)[a.x_at[r]];
        }
    }
    const vec shift = load(zero_of), scale = load(scale_of);
    for (int64_t t = 0; t < a.n; t += W) {
        const int64_t n = min_of(W, a.n - t);
        vec block[W];
        for (int l = 0; l < W; ++l) {
            if (l >= lanes_used)
                block[l] = zero();
            else if (a.counts)
                block[l] = load_n(static_cast<const int16_t*>(a.x) + a.x_at[first + l] + t, n);
            else
                block[l] = load_n(static_cast<const float*>(a.x) + a.x_at[first + l] + t, n);
        }
        transpose(block);
        for (int64_t k = 0; k < n; ++k) store(buffer + (t + k) * W, (block[k] - shift) * scale);
    }
    return load(start_of);
}

template <int S>
struct Sections {
    vec c[S][5], s1[S], s2[S];

    Sections(const float* coefficients, const float* steady, vec level) {
        for (int k = 0; k < S; ++k) {
            for (int j = 0; j < 5; ++j) c[k][j] = set1(coefficients[5 * k + j]);
            s1[k] = set1(steady[2 * k]) * level;
            s2[k] = set1(steady[2 * k + 1]) * level;
        }
    }
    // States (S, 2, W) as `save` leaves them.
    Sections(const float* coefficients, const float* states) {
        for (int k = 0; k < S; ++k) {
            for (int j = 0; j < 5; ++j) c[k][j] = set1(coefficients[5 * k + j]);
            s1[k] = load(states + 2 * k * W);
            s2[k] = load(states + (2 * k + 1) * W);
        }
    }
    void save(float* states) const {
        for (int k = 0; k < S; ++k) {
            store(states + 2 * k * W, s1[k]);
            store(states + (2 * k + 1) * W, s2[k]);
        }
    }
    vec next(vec x) {
        for (int k = 0; k < S; ++k) {
            const vec y = fma(c[k][0], x, s1[k]);
            // The old s1 comes in last but one: each section is a chain of two operations a sample, not three.
            s1[k] = fma(zero() - c[k][3], y, s1[k] + fma(c[k][1], x, s2[k]));
            s2[k] = fma(zero() - c[k][4], y, fma(c[k][2], x, s2[k]));
            x = y;
        }
        return x;
    }
};

// sosfiltfilt of `n` rows of `buffer`, which has `pad` free rows on each side.
template <int S>
inline void frontend_stage(const float* coefficients, const float* steady, float* buffer, int64_t n, int64_t pad) {
    const vec first = load(buffer), last = load(buffer + (n - 1) * W);
    for (int64_t k = 1; k <= pad; ++k) {
        store(buffer - k * W, first + first - load(buffer + k * W));
        store(buffer + (n - 1 + k) * W, last + last - load(buffer + (n - 1 - k) * W));
    }
    Sections<S> forward(coefficients, steady, load(buffer - pad * W));
    for (int64_t t = -pad; t < n + pad; ++t) store(buffer + t * W, forward.next(load(buffer + t * W)));
    Sections<S> backward(coefficients, steady, load(buffer + (n + pad - 1) * W));
    for (int64_t t = n + pad - 1; t >= 0; --t) store(buffer + t * W, backward.next(load(buffer + t * W)));
}

// Longer cascades than six sections run in pieces would change the steady start: they are refused at the border.
constexpr int frontend_max_sections = 6;

inline void frontend_filter(const Frontend& a, float* buffer) {
    const float *c = a.coefficients, *z = a.steady;
    for (int s = 0; s < a.stages; ++s) {
        const int S = a.stage_sections[s];
        const int64_t pad = a.stage_pad[s];
        switch (S) {
            case 1: frontend_stage<1>(c, z, buffer, a.n, pad); break;
            case 2: frontend_stage<2>(c, z, buffer, a.n, pad); break;
            case 3: frontend_stage<3>(c, z, buffer, a.n, pad); break;
            case 4: frontend_stage<4>(c, z, buffer, a.n, pad); break;
            case 5: frontend_stage<5>(c, z, buffer, a.n, pad); break;
            default: frontend_stage<6>(c, z, buffer, a.n, pad); break;
        }
        c += 5 * S;
        z += 2 * S;
    }
}

// O outputs of one phase, `down` samples apart, or one: taps in a fixed pattern of four partial sums, whatever O, because the
// chain of dependent additions would cost more than the additions. x: the newest sample that the first reads.
template <int O>
inline void fir_outputs(const float* h, int64_t taps, int64_t down, const float* x, float* y, int64_t y_step) {
    vec s[O][4];
    for (int o = 0; o < O; ++o)
        for (int u = 0; u < 4; ++u) s[o][u] = zero();
    int64_t j = 0;
    for (; j + 4 <= taps; j += 4)
        for (int u = 0; u < 4; ++u) {
            const vec tap = set1(h[j + u]);
            for (int o = 0; o < O; ++o) s[o][u] = fma(tap, load(x + (o * down - j - u) * W), s[o][u]);
        }
    for (; j < taps; ++j)
        for (int o = 0; o < O; ++o) s[o][0] = fma(set1(h[j]), load(x + (o * down - j) * W), s[o][0]);
    for (int o = 0; o < O; ++o) store(y + o * y_step * W, (s[o][0] + s[o][1]) + (s[o][2] + s[o][3]));
}

// Outputs [begin, end), none of which reads outside x, to y.
inline void frontend_fir(const Frontend& a, int64_t begin, int64_t end, const float* x, float* y) {
    constexpr int O = n_registers / 8;
    for (int64_t k = begin; k < end;) {
        const bool together = k + O * a.up <= end;
        const int64_t phases = together ? a.up : end - k;
        for (int64_t r = k; r < k + phases; ++r) {
            const int64_t q = r * a.down + a.half;
            const float *h = a.fir + q % a.up * a.taps, *newest = x + q / a.up * W;
            if (together)
                fir_outputs<O>(h, a.taps, a.down, newest, y + (r - begin) * W, a.up);
            else
                fir_outputs<1>(h, a.taps, a.down, newest, y + (r - begin) * W, 1);
        }
        k += together ? O * a.up : phases;
    }
}

inline void frontend_resample(const Frontend& a, const float* x, float* y) {
    // Outputs in [inner, outer) read all their taps inside the row.
    const int64_t inner = min_of(a.m, max_of(0, ((a.taps - 1) * a.up - a.half + a.down - 1) / a.down));
    const int64_t outer = max_of(inner, min_of(a.m, (a.n * a.up - a.half + a.down - 1) / a.down));
    frontend_fir(a, inner, outer, x, y + inner * W);
    for (int64_t k = inner ? 0 : outer; k < a.m; k = k + 1 == inner ? outer : k + 1) {
        const int64_t q = k * a.down + a.half, newest = q / a.up;
        const float* h = a.fir + (q % a.up) * a.taps;
        const int64_t j0 = max_of(0, newest - a.n + 1), j1 = min_of(a.taps, newest + 1);
        vec s = zero();
        for (int64_t j = j0; j < j1; ++j) s = fma(set1(h[j]), load(x + (newest - j) * W), s);
        store(y + k * W, s);
    }
}

// Mean over rows [0, m) of what f adds to a partial sum, in blocks of 256 rows, each of four partial sums: one would be a chain
// of dependent additions.
template <class F>
inline vec frontend_mean(const float* y, int64_t m, F f) {
    const vec inverse = set1(1.0f / float(m));
    vec mean = zero();
    for (int64_t t = 0; t < m;) {
        vec part[4] = {zero(), zero(), zero(), zero()};
        const int64_t end = min_of(m, t + 256);
        for (; t + 4 <= end; t += 4)
            for (int u = 0; u < 4; ++u) part[u] = f(load(y + (t + u) * W), part[u]);
        for (; t < end; ++t) part[0] = f(load(y + t * W), part[0]);
        mean = fma((part[0] + part[1]) + (part[2] + part[3]), inverse, mean);
    }
    return mean;
}

// What makes z-scores of the rows, lane by lane: ((y - start) - mean) * factor.
struct FrontendScore {
    vec start, mean, factor, flat;  // flat: 1 where the lane is, else 0
};

// Of m rows of `y`; sums of d = y - y_0.
inline FrontendScore frontend_score(const Frontend& a, const float* y) {
    const vec start = load(y);
    const vec mean = frontend_mean(y, a.m, [start](vec v, vec part) { return part + (v - start); });
    const vec variance = frontend_mean(y, a.m, [start, mean](vec v, vec part) {
        const vec d = (v - start) - mean;
        return fma(d, d, part);
    });
    const vec std = sqrt(variance);
    const mask flat = less(std, set1(a.flat_std));
    return {start, mean, select(flat, zero(), set1(1.0f) / std), select(flat, set1(1.0f), zero())};
}

// Writes the rows out, as they are or as z-scores, and returns, lane by lane, NaN where a sample was not finite (x - x is 0 or
// NaN), else 0.
template <bool scored>
inline vec frontend_write(const Frontend& a, int64_t first, int64_t lanes_used, const float* y, const FrontendScore& z) {
    vec traces[2] = {zero(), zero()};
    for (int64_t t = 0; t < a.m; t += W) {
        const int64_t n = min_of(W, a.m - t);
        vec block[W];
        for (int k = 0; k < W; ++k) {
            block[k] = k < n ? load(y + (t + k) * W) : zero();
            if (scored && k < n) block[k] = ((block[k] - z.start) - z.mean) * z.factor;
            traces[k % 2] = traces[k % 2] + (block[k] - block[k]);
        }
        transpose(block);
        for (int64_t l = 0; l < lanes_used; ++l) store_n(a.y + a.y_at[first + l] + t, block[l], n);
    }
    return traces[0] + traces[1];
}

inline void frontend(const Frontend& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t pad = frontend_pad(a);
    float* buffer = scratch + pad * W;
    float* sampled = a.up ? buffer + (a.n + pad + W) * W : buffer;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task * W, used = min_of(W, a.rows - first);
        const vec start = frontend_read(a, first, used, buffer);
        if (a.stages) {
            frontend_filter(a, buffer);
            if (a.dc != 0.0f) {
                const vec level = start * set1(a.dc);
                for (int64_t t = 0; t < a.n; ++t) store(buffer + t * W, load(buffer + t * W) + level);
            }
        }
        if (a.up) frontend_resample(a, buffer, sampled);
        FrontendScore z{zero(), zero(), zero(), zero()};
        if (a.zscore) z = frontend_score(a, sampled);
        float trace[W], flat[W];
        store(flat, z.flat);
        store(trace,
              a.zscore ? frontend_write<true>(a, first, used, sampled, z) : frontend_write<false>(a, first, used, sampled, z));
        for (int64_t l = 0; l < used; ++l) a.state[first + l] = trace[l] != trace[l] ? 2 : flat[l] != 0.0f;
    }
}

}  // namespace xecg::XECG_ISA
