// mLSTM, chunkwise forward. Equations and layouts: common/mlstm.h.
//
// Inside a chunk of L steps all outputs come from one table of weights. Its column j is the running sum D_tj = D_{t-1,j} + lf_t
// that starts as i_j at t = j, and one more column starts as m of the state before the chunk:
//
//   m_t = max_j D_tj = max(m_{t-1} + lf_t, i_t) (rounding is monotone, so both are the same number)
//   A_tj = exp(D_tj - m_t), a_t likewise for the state's column          S = scale A o (q k^T)
//   den = rowsum(S) + scale a (q.n0)      h = (S v + scale a (q C0)) / (max(|den|, lo) + eps)
//   C = a_L C0 + sum_j A_Lj k_j v_j^T, n alike
//
// Running sums never meet infinity minus infinity: f = -inf forgets all, i = -inf is no input, and an empty state has m = -inf.
// One exp for each entry of the causal half costs under a tenth of the products at L = 64. A weight below exp(-87) is 0: no
// denormals. Work above the diagonal is left out, by tiles in q k^T and exactly in S v, so a NaN in step j reaches steps t >= j
// only. Cost per step and head: 2 L D + 4 D^2 flops; the state stays in scratch. A task is one (batch, head), so no sum depends
// on another.
#pragma once
#include "../common/mlstm.h"
#include "gemm.h"
#include "math.h"

namespace xecg::XECG_ISA {

constexpr int64_t mlstm_default_chunk = 64;  // tables fit L1 beside a panel of the state
// Of a forward pass over more steps than that: fewer flops inside a chunk (2 L D) outweigh more passes over the state.
constexpr int64_t mlstm_forward_chunk = 32;
constexpr int64_t mlstm_longest_chunk = 256;
constexpr float mlstm_empty_m = -3.40282346638528859812e38f;
constexpr float minus_infinity = -__builtin_inff();

inline int64_t mlstm_chunk(const MlstmShape& s, int64_t usual = mlstm_default_chunk) {
    const int64_t otherwise = s.T > mlstm_default_chunk ? usual : mlstm_default_chunk;
    const int64_t wanted = s.chunk > 0 ? min_of(s.chunk, mlstm_longest_chunk) : otherwise;
    return max_of(1, min_of(wanted, s.T));
}

// Rows of one (batch, head) in the order of time.
template <class T>
struct Rows {
    T* first;
    int64_t step;
    Rows(const MlstmView& x, int64_t b, int64_t h, int64_t length, bool reverse) {
        const Walk walk = walk_of(length, x.t, reverse);
        first = static_cast<T*>(const_cast<void*>(x.data)) + b * x.b + h * x.h + walk.first;
        step = walk.step;
    }
    T* at(int64_t t) const { return first + t * step; }
};

// Copies rows x n numbers to float32 rows of pitch(n), zero beyond n.
template <class T>
inline void copy_rows(const T* from, int64_t step, int64_t rows, int64_t n, float* to) {
    const int64_t ld = pitch(n), whole = n / W * W;
    for (int64_t r = 0; r < rows; ++r, from += step, to += ld) {
        for (int64_t c = 0; c < whole; c += W) store(to + c, load(from + c));
        if (whole < n) store(to + whole, load_n(from + whole, n - whole));
        store(to + padded(n), zero());
    }
}

inline void clear_floats(float* to, int64_t count) {
    for (int64_t c = 0; c < count; c += W) store(to + c, zero());
}

// copy_rows, and zero in the spare rows.
template <class T>
inline void copy_in(const T* from, int64_t step, int64_t rows, int64_t n, float* to) {
    copy_rows(from, step, rows, n, to);
    clear_floats(to + rows * pitch(n), (spare(rows) - rows) * pitch(n));
}

template <class T>
inline void put_row(T* to, const float* from, int64_t n) {
    int64_t c = 0;
    for (; c + W <= n; c += W) store(to + c, load(from + c));
    if (c < n) store_n(to + c, load(from + c), n - c);
}

template <class T>
inline void clear_rows(const MlstmView& x, int64_t b, int64_t h, int64_t first, int64_t last, int64_t n) {
    for (int64_t t = first; t < last; ++t) {
        T* row = static_cast<T*>(const_cast<void*>(x.data)) + b * x.b + h * x.h + t * x.t;
        for (int64_t c = 0; c < n; c += W) store_n(row + c, zero(), min_of(W, n - c));
    }
}

inline float dot(const float* a, const float* b, int64_t n) {
    vec s = zero();
    for (int64_t c = 0; c < n; c += W) s = fma(load(a + c), load(b + c), s);
    return sum(s);
}

inline void scale_row(float* row, float factor, int64_t n) {
    for (int64_t c = 0; c < n; c += W) store(row + c, set1(factor) * load(row + c));
}

// to += factor row, over padded(n) columns.
inline void add_row(float* to, float factor, const float* row, int64_t n) {
    for (int64_t c = 0; c < n; c += W) store(to + c, fma(set1(factor), load(row + c), load(to + c)));
}

// exp of a log weight, 0 where it would be denormal or close to it.
inline vec weight_of(vec x) { return select(less(x, set1(-87.0f)), zero(), exp(x)); }
inline float weight_of(float x) {
    float t[W];
    store(t, weight_of(set1(x)));
    return t[0];
}
// m to subtract: where m = -inf every weight is exp(-inf) = 0 anyway.
inline float finite(float m) { return m == minus_infinity ? 0.0f : m; }
// The larger one, or NaN if either is NaN.
inline float larger(float a, float b) { return a > b || a != a ? a : b; }

// Gates of a chunk, one number for each step; `spare(L)` of each.
struct MlstmGates {
    float *i, *lf, *m;  // log input gate, log forget gate, stabiliser
    float *a, *low;     // weight of the chunk's first state, exp(-m)
    float *den, *r;     // normaliser, 1 / (max(|den|, low) + eps)
    float *sum, *last;  // running sums of the table's current row; the last row's weights

    MlstmGates(Scratch& scratch, int64_t L) {
        float** const all[] = {&i, &lf, &m, &a, &low, &den, &r, &sum, &last};
        for (float** p : all) *p = scratch.take(spare(L));
    }
};

// Reads the gates of `steps` steps and runs m through them from m0 (-inf: empty). Returns m after the last step.
inline float mlstm_gates(const MlstmShape& s, const Rows<const float>& i, const Rows<const float>& f, int64_t start,
                         int64_t steps, float m0, const MlstmGates& g) {
    for (int64_t t = 0; t < steps; ++t) g.i[t] = *i.at(start + t), g.lf[t] = *f.at(start + t);
    for (int64_t t = steps; t < spare(steps); ++t) g.i[t] = g.lf[t] = 0.0f;
    for (int64_t t = 0; t < steps; t += W) {
        store(g.lf + t, log_sigmoid(load(g.lf + t)));
        if (s.sig) store(g.i + t, log_sigmoid(load(g.i + t)));
    }
    float m = m0, first = m0;
    for (int64_t t = 0; t < steps; ++t) {
        first += g.lf[t];
        if (!s.sig) m = larger(m + g.lf[t], g.i[t]);
        g.m[t] = m;
        g.a[t] = first - finite(m);
        g.low[t] = -m;
    }
    for (int64_t t = steps; t < spare(steps); ++t) g.m[t] = g.a[t] = g.low[t] = 0.0f;
    for (int64_t t = 0; t < steps; t += W) {
        store(g.a + t, weight_of(load(g.a + t)));
        store(g.low + t, exp(load(g.low + t)));
    }
    return m;
}

// Row t of the table: weights A_tj for j <= t, 0 beyond in the last vector, handed to body(j, weights, lanes in use).
template <class F>
XECG_INLINE void mlstm_row(const MlstmGates& g, int64_t t, F body) {
    const vec lf = set1(g.lf[t]), m = set1(finite(g.m[t]));
    int64_t j = 0;
    for (; j + W <= t; j += W) {
        const vec d = load(g.sum + j) + lf;
        store(g.sum + j, d);
        body(j, weight_of(d - m), int64_t(W));
    }
    const vec d = select(first_lanes(t - j), load(g.sum + j) + lf, load(g.i + j));
    store(g.sum + j, d);
    body(j, select(first_lanes(t - j + 1), weight_of(d - m), zero()), t - j + 1);
}

// q_t.n of float32 rows of q.
struct MlstmQueryDot {
    const float* q;
    int64_t step;
    const float* n;
    int64_t DK;
    float operator()(int64_t t) const { return dot(q + t * step, n, DK); }
};

// S over the products P = q k^T in place, den and r; q_n(t) is q_t.n0. g.last receives the weights of the last row, `weights`
// scale A if wanted.
template <class F>
inline void mlstm_table(const MlstmShape& s, const MlstmGates& g, int64_t steps, bool state, F q_n, float* table, int64_t ld,
                        float* weights = nullptr) {
    const vec scale = set1(s.scale);
    for (int64_t t = 0; t < steps; ++t) {
        float* row = table + t * ld;
        const bool last = t + 1 == steps;
        vec total = zero();
        mlstm_row(g, t, [&](int64_t j, vec weight, int64_t used) {
            vec x = scale * weight * load(row + j);
            if (used < W) x = select(first_lanes(used), x, zero());
            store(row + j, x);
            total = total + x;
            if (last) store(g.last + j, weight);
            if (weights) store(weights + t * ld + j, scale * weight);
        });
        if (!state) g.a[t] = 0.0f;
        g.den[t] = sum(total) + (state ? s.scale * g.a[t] * q_n(t) : 0.0f);
    }
    for (int64_t t = 0; t < steps; t += W)
        store(g.r + t, set1(1.0f) / (max(load(g.low + t), abs(load(g.den + t))) + set1(s.eps)));
}

// Moves a contiguous (rows, n) state into scratch rows of pitch(n) and back.
inline void mlstm_load_state(const float* from, int64_t rows, int64_t n, float* to) { copy_rows(from, n, rows, n, to); }
inline void mlstm_store_state(const float* from, int64_t rows, int64_t n, float* to) {
    for (int64_t r = 0; r < rows; ++r) put_row(to + r * n, from + r * pitch(n), n);
}

// Stabiliser of the state before the first step, -inf when there is nothing in it.
inline float mlstm_first_m(const MlstmShape& s, const float* m_in, int64_t stream) {
    if (s.sig) return 0.0f;
    return m_in && !(m_in[stream] <= mlstm_empty_m) ? m_in[stream] : minus_infinity;
}

struct MlstmForwardScratch {
    int64_t L;
    Scratch scratch;
    MlstmGates g;
    float *q, *k, *kt, *v, *table, *C, *n;

    MlstmForwardScratch(const MlstmShape& s, float* base, int64_t usual_chunk = mlstm_forward_chunk)
        : L(mlstm_chunk(s, usual_chunk)),
          scratch{base},
          g(scratch, L),
          q(scratch.take(spare(L) * pitch(s.DK))),
          k(scratch.take(spare(L) * pitch(s.DK))),
          kt(scratch.take(padded(s.DK) * pitch(L))),
          v(scratch.take(spare(L) * pitch(s.DV))),
          table(scratch.take(spare(L) * pitch(L))),
          C(scratch.take(spare(s.DK) * pitch(s.DV))),
          n(scratch.take(pitch(s.DK))) {}
};

// x = a b^T (steps, steps) by its lower tiles; bt is b transposed, x has its pitch lb.
inline void mlstm_lower_product(const float* a, int64_t la, const float* bt, int64_t lb, int64_t steps, int64_t inner, float* x) {
    for_each_lower_tile(steps, [&](int64_t r, int64_t c, auto vectors) {
        Tile<decltype(vectors)::count> tile;
        clear(tile);
        add_product<false>(tile, a + r * la, la, bt + c, lb, inner);
        save(tile, x + r * lb + c, lb);
    });
}

// Writes a tile of columns c.. to rows t.. of the caller's tensor, which ends at `steps` and `columns`.
template <int N, class T>
XECG_INLINE void mlstm_put_tile(const Tile<N>& x, const Rows<T>& to, int64_t start, int64_t t, int64_t steps, int64_t c,
                                int64_t columns) {
    for (int r = 0; r < min_of(tile_rows, steps - t); ++r)
        for (int k = 0; k < N; ++k) {
            const int64_t left = columns - c - k * W;
            T* row = to.at(start + t + r) + c + k * W;
            if (left >= W)
                store(row, x.x[r][k]);
            else if (left > 0)
                store_n(row, x.x[r][k], left);
        }
}

// h of one chunk: columns in panels, S v behind q C0 in the same registers.
template <class T>
inline void mlstm_outputs(const MlstmShape& s, const MlstmForwardScratch& w, const float* q, int64_t lk, int64_t steps,
                          bool state, const Rows<T>& h, int64_t start) {
    const int64_t lv = pitch(s.DV), lt = pitch(w.L);
    for_each_tile(steps, s.DV, [&](int64_t t, int64_t c, auto vectors) {
        Tile<decltype(vectors)::count> x;
        clear(x);
        if (state) {
            add_product<false>(x, q + t * lk, lk, w.C + c, lv, s.DK);
            float factor[tile_rows];
            for (int r = 0; r < tile_rows; ++r) factor[r] = s.scale * w.g.a[t + r];
            scale_rows(x, factor);
        }
        add_lower(x, t, w.table + t * lt, lt, w.v + c, lv);
        scale_rows(x, w.g.r + t);
        mlstm_put_tile(x, h, start, t, steps, c, s.DV);
    });
}

// to (rows, columns) = factor from + a^T b over `steps` rows of a and b; from may be to, or null for nothing.
inline void mlstm_accumulate(float* to, const float* from, float factor, const float* a, const float* b, int64_t steps,
                             int64_t rows, int64_t columns) {
    const int64_t ld = pitch(columns), la = pitch(rows);
    for_each_tile(rows, columns, [&](int64_t r, int64_t c, auto vectors) {
        Tile<decltype(vectors)::count> x;
        if (from)
            load_scaled(x, from + r * ld + c, ld, factor);
        else
            clear(x);
        add_product<true>(x, a + r, la, b + c, ld, steps);
        save(x, to + r * ld + c, ld);
    });
}

// Inputs of one (batch, head) in the order of time.
template <class T>
struct MlstmInputs {
    Rows<const T> q, k, v;
    Rows<const float> i, f;
    template <class Args>
    MlstmInputs(const Args& a, int64_t b, int64_t h, int64_t length)
        : q(a.q, b, h, length, a.shape.reverse),
          k(a.k, b, h, length, a.shape.reverse),
          v(a.v, b, h, length, a.shape.reverse),
          i(a.i, b, h, length, a.shape.reverse),
          f(a.f, b, h, length, a.shape.reverse) {}
};

// The state of one (batch, head) between two chunks: C and n in scratch unless empty, and m.
struct MlstmCarry {
    float m;
    bool state;
};

// Whether a product may read q where it is: float32, whole tiles of rows and whole vectors. With a state there are two products,
// which a copy serves better.
inline bool mlstm_queries_in_place(const Rows<const float>& rows, int64_t start, int64_t steps, int64_t DK, const float*& q,
                                   int64_t& step) {
    if (steps % tile_rows || DK % W) return false;
    q = rows.at(start), step = rows.step;
    return true;
}
inline bool mlstm_queries_in_place(const Rows<const bf16>&, int64_t, int64_t, int64_t, const float*&, int64_t&) { return false; }

// Chunks of the steps from `start` to `length`.
template <class T>
inline void mlstm_forward_steps(const MlstmForward& a, const MlstmInputs<T>& in, const Rows<T>& h, int64_t start, int64_t length,
                                const MlstmForwardScratch& w, MlstmCarry& carry) {
    const MlstmShape& s = a.shape;
    const int64_t lk = pitch(s.DK), lt = pitch(w.L);
    for (; start < length; start += w.L) {
        const int64_t steps = min_of(w.L, length - start);
        const float* q = w.q;
        int64_t lq = lk;
        const bool last = start + steps == length && !a.C_out;
        if (carry.state || !mlstm_queries_in_place(in.q, start, steps, s.DK, q, lq))
            copy_in(in.q.at(start), in.q.step, steps, s.DK, w.q);
        if (!last) copy_in(in.k.at(start), in.k.step, steps, s.DK, w.k);
        copy_in(in.v.at(start), in.v.step, steps, s.DV, w.v);
        carry.m = mlstm_gates(s, in.i, in.f, start, steps, carry.m, w.g);
        last ? transpose(in.k.at(start), in.k.step, steps, s.DK, w.kt, lt) : transpose(w.k, lk, steps, s.DK, w.kt, lt);
        mlstm_lower_product(q, lq, w.kt, lt, steps, s.DK, w.table);
        mlstm_table(s, w.g, steps, carry.state, MlstmQueryDot{q, lq, w.n, s.DK}, w.table, lt);
        mlstm_outputs(s, w, q, lq, steps, carry.state, h, start);
        if (last) break;
        const float keep = w.g.a[steps - 1];
        carry.state ? scale_row(w.n, keep, s.DK) : clear_floats(w.n, lk);
        for (int64_t j = 0; j < steps; ++j) {
            scale_row(w.k + j * lk, w.g.last[j], s.DK);
            add_row(w.n, 1.0f, w.k + j * lk, s.DK);
        }
        mlstm_accumulate(w.C, carry.state ? w.C : nullptr, keep, w.k, w.v, steps, s.DK, s.DV);
        carry.state = true;
    }
}

// The state before the first step, into scratch.
inline MlstmCarry mlstm_begin(const MlstmForward& a, int64_t stream, float* C, float* n) {
    const MlstmShape& s = a.shape;
    const float m = mlstm_first_m(s, a.m_in, stream);
    const bool state = a.C_in && m != minus_infinity;
    if (state) {
        mlstm_load_state(a.C_in + stream * s.DK * s.DV, s.DK, s.DV, C);
        mlstm_load_state(a.n_in + stream * s.DK, 1, s.DK, n);
    }
    return {m, state};
}

// The state after the last step, to the caller.
inline void mlstm_end(const MlstmForward& a, int64_t stream, const float* C, const float* n, MlstmCarry carry) {
    const MlstmShape& s = a.shape;
    if (!a.C_out) return;
    if (carry.state) {
        mlstm_store_state(C, s.DK, s.DV, a.C_out + stream * s.DK * s.DV);
        mlstm_store_state(n, 1, s.DK, a.n_out + stream * s.DK);
    } else {
        __builtin_memset(a.C_out + stream * s.DK * s.DV, 0, size_t(s.DK * s.DV) * sizeof(float));
        __builtin_memset(a.n_out + stream * s.DK, 0, size_t(s.DK) * sizeof(float));
    }
    a.m_out[stream] = carry.m == minus_infinity ? mlstm_empty_m : carry.m;
}

template <class T>
inline void mlstm_forward_stream(const MlstmForward& a, int64_t b, int64_t head, const MlstmForwardScratch& w) {
    const MlstmShape& s = a.shape;
    const int64_t length = s.lengths ? s.lengths[b] : s.T, stream = b * s.H + head;
    MlstmCarry carry = mlstm_begin(a, stream, w.C, w.n);
    mlstm_forward_steps<T>(a, MlstmInputs<T>(a, b, head, length), Rows<T>(a.h, b, head, length, s.reverse), 0, length, w, carry);
    clear_rows<T>(a.h, b, head, length, s.T, s.DV);
    mlstm_end(a, stream, w.C, w.n, carry);
}

// Floats of scratch, 64-byte aligned, for one call of the body.
inline int64_t mlstm_forward_scratch(const MlstmShape& s) { return MlstmForwardScratch(s, nullptr).scratch.used; }

inline void mlstm_forward(const MlstmForward& a, float* scratch, int64_t begin, int64_t end) {
    const MlstmForwardScratch w(a.shape, scratch);
    for (int64_t task = begin; task < end; ++task) {
        if (a.shape.dtype == DType::bf16)
            mlstm_forward_stream<bf16>(a, task / a.shape.H, task % a.shape.H, w);
        else
            mlstm_forward_stream<float>(a, task / a.shape.H, task % a.shape.H, w);
    }
}

}  // namespace xecg::XECG_ISA
