// mLSTM, one step in place for many streams. Equations and layouts: common/mlstm.h.
//
// C is read and written once: each of its rows becomes F C + (I k) v and is added, times scale q, to h in registers; lanes are
// columns of C, up to step_vectors at a time. Gates are computed for W streams at once. Cost: 6 DK DV flops and 8 DK DV bytes a
// stream: bound by memory. A task is one (batch, head); no sum crosses tasks.
#pragma once
#include "mlstm.h"

namespace xecg::XECG_ISA {

constexpr int step_vectors = W == 16 ? 8 : 4;  // sums and v of a block: half the registers
// Floats between a row and the one asked for in advance, streams lying one behind the other: hardware prefetch stops at every
// page and this brings a step from 1.3 to 1.1 times a plain sweep over C (B = 2000, D = 64).
constexpr int64_t step_ahead = 2048;

struct MlstmStepGates {
    float keep[W], write[W], low[W];  // F, I, exp(-m)
    bool empty[W];
};

// Gates of `count` <= W streams from `first`; m is overwritten.
inline void mlstm_step_gates(const MlstmStep& a, int64_t first, int64_t count, MlstmStepGates& g) {
    float i[W] = {}, f[W] = {}, m[W] = {};
    for (int64_t l = 0; l < count; ++l) {
        const int64_t b = (first + l) / a.H, h = (first + l) % a.H;
        i[l] = static_cast<const float*>(a.i.data)[b * a.i.b + h * a.i.h];
        f[l] = static_cast<const float*>(a.f.data)[b * a.f.b + h * a.f.h];
        m[l] = a.sig ? 0.0f : a.m[first + l];
        g.empty[l] = !a.sig && m[l] <= mlstm_empty_m;
        if (g.empty[l]) m[l] = minus_infinity;
    }
    const vec infinity = set1(-minus_infinity), lf = log_sigmoid(load(f));
    vec decayed = lf + load(m), li = load(i), next = zero();
    if (a.sig) {
        li = log_sigmoid(li);
    } else {
        next = max(decayed, li);  // a NaN in li stays; one in `decayed` is put back
        next = select(is_nan(decayed), decayed, next);
    }
    const vec top = select(equal(next, zero() - infinity), zero(), next);
    store(g.keep, weight_of(decayed - top));
    store(g.write, weight_of(li - top));
    store(g.low, exp(zero() - next));
    store_n(a.m + first, max(set1(mlstm_empty_m), next), count);
}

// Columns c.. of one stream's C in `vectors` vectors, the last of n lanes.
template <int vectors, bool whole, class T>
XECG_INLINE void mlstm_step_columns(float* C, int64_t DK, int64_t DV, const float* q, const float* k, const T* v, float keep,
                                    bool empty, float r, T* out, int64_t n) {
    vec value[vectors], h[vectors];
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
        value[j] = j + 1 < vectors ? load(v + j * W) : get<whole>(v + j * W, n);
        h[j] = zero();
    }
    const vec factor = set1(keep);
    for (int64_t d = 0; d < DK; ++d) {
        const vec kd = set1(k[d]), qd = set1(q[d]);
        float* row = C + d * DV;
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) {
            if (j * W % 16 == 0) __builtin_prefetch(row + j * W + step_ahead, 1, 3);
            const vec old = empty ? zero() : j + 1 < vectors ? load(row + j * W) : get<whole>(row + j * W, n);
            const vec now = fma(factor, old, kd * value[j]);
            h[j] = fma(qd, now, h[j]);
            if (j + 1 < vectors)
                store(row + j * W, now);
            else
                put<whole>(row + j * W, now, n);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
        const vec x = h[j] * set1(r);
        if (j + 1 < vectors)
            store(out + j * W, x);
        else
            put<whole>(out + j * W, x, n);
    }
}

template <class T>
inline void mlstm_step_stream(const MlstmStep& a, int64_t stream, float keep, float write, float low, bool empty) {
    const int64_t b = stream / a.H, head = stream % a.H;
    const T* q = static_cast<const T*>(a.q.data) + b * a.q.b + head * a.q.h;
    const T* k = static_cast<const T*>(a.k.data) + b * a.k.b + head * a.k.h;
    const T* v = static_cast<const T*>(a.v.data) + b * a.v.b + head * a.v.h;
    T* out = static_cast<T*>(a.out) + stream * a.DV;
    float* n = a.n + stream * a.DK;
    float sq[mlstm_widest_head], wk[mlstm_widest_head];
    vec total = zero();
    for (int64_t d = 0; d < a.DK; d += W) {
        const int64_t left = min_of(W, a.DK - d);
        const vec qs = set1(a.scale) * load_n(q + d, left), ks = set1(write) * load_n(k + d, left);
        const vec now = fma(set1(keep), empty ? zero() : load_n(n + d, left), ks);
        store_n(n + d, now, left);
        total = fma(qs, now, total);
        store(sq + d, qs);
        store(wk + d, ks);
    }
    const float den = __builtin_fabsf(sum(total));
    const float r = 1.0f / ((den > low || den != den ? den : low) + a.eps);
    float* C = a.C + stream * a.DK * a.DV;
    int64_t c = 0;
    for (; c + step_vectors * W <= a.DV; c += step_vectors * W)
        mlstm_step_columns<step_vectors, true>(C + c, a.DK, a.DV, sq, wk, v + c, keep, empty, r, out + c, W);
    for (; c + 4 * W <= a.DV; c += 4 * W)
        mlstm_step_columns<4, true>(C + c, a.DK, a.DV, sq, wk, v + c, keep, empty, r, out + c, W);
    for (; c + 2 * W <= a.DV; c += 2 * W)
        mlstm_step_columns<2, true>(C + c, a.DK, a.DV, sq, wk, v + c, keep, empty, r, out + c, W);
    for (; c < a.DV; c += W)
        mlstm_step_columns<1, false>(C + c, a.DK, a.DV, sq, wk, v + c, keep, empty, r, out + c, min_of(W, a.DV - c));
}

inline void mlstm_step(const MlstmStep& a, int64_t begin, int64_t end) {
    MlstmStepGates g;
    for (int64_t first = begin; first < end; first += W) {
        const int64_t count = min_of(W, end - first);
        mlstm_step_gates(a, first, count, g);
        for (int64_t l = 0; l < count; ++l) {
            if (a.dtype == DType::bf16)
                mlstm_step_stream<bf16>(a, first + l, g.keep[l], g.write[l], g.low[l], g.empty[l]);
            else
                mlstm_step_stream<float>(a, first + l, g.keep[l], g.write[l], g.low[l], g.empty[l]);
        }
    }
}

}  // namespace xecg::XECG_ISA
