// mLSTM, exact backward. Equations and layouts: common/mlstm.h; tables A, a and S as in mlstm.h.
//
// A first walk from the start keeps the state before each chunk (C transposed, which is how both uses want it); a second walk
// from the end carries dC, dn, dm and recomputes the tables. With r = 1 / (max(|den|, lo) + eps), U = r dh and rows t of a chunk:
//
//   dS = U v^T + dden, dP = scale A o dS       dden_t = -r_t (U_t.num_t) sign(den_t) where |den_t| > lo_t, else 0
//   dq = dP k + scale a (C0 U + n0 dden)        U_t.num_t = sum_j S_tj (U_t.v_j) + scale a_t q_t.(C0 U_t): num is never made
//   dk = dP^T q + e, e_j = A_Lj (dC v_j + dn)   dv = S^T U + A_L (dC^T k)
//   dC0 = a_L dC + sum_t scale a_t q_t U_t^T    dn0 = a_L dn + sum_t scale a_t dden_t q_t
//
// G = d loss / d D collects every path into the log weights: S o dS, in the last row also what the state at the end receives
// (k_j.e_j and, in the first state's column, a_L (C0:dC + n0.dn)), and, at the largest entry of row t, the stabiliser's
// g_t = -eps r_t (U_t.num_t) (h depends on m by eps alone), in the last row + dm - the sums just added. Then di_j is the sum of
// column j, dm0 that of the first state's column, and df_t adds up all entries of rows >= t in columns < t: row sums enter and
// column sums leave as t falls, starting afresh in each chunk, so rounding does not grow with T.
// Cost per step and head: 5 L D + 10 D^2 flops. Scratch holds T / L states: O(T).
#pragma once
#include "mlstm.h"

namespace xecg::XECG_ISA {

struct MlstmBackwardScratch {
    int64_t L;
    Scratch scratch;
    MlstmGates g;
    float *raw_i, *raw_f, *dden, *g_m;         // gates as given, gradients of den and m, for each step
    float *rows, *columns, *diagonal, *first;  // sums of G, its diagonal and the first state's column, for each step
    float *q, *k, *v, *u, *kt, *vt;
    float *S, *A, *dS;           // tables; A is times scale, dS becomes dP
    float *from_start, *to_end;  // (L, DK): C0 U, later its share of dq; e
    float *dC, *dCt, *dn;        // dC as (DK, DV) and transposed
    float *states, *m_states;    // before each chunk

    MlstmBackwardScratch(const MlstmShape& s, float* base) : L(mlstm_chunk(s)), scratch{base}, g(scratch, L) {
        float** const steps[] = {&raw_i, &raw_f, &dden, &g_m, &rows, &columns, &diagonal, &first};
        for (float** p : steps) *p = scratch.take(spare(L));
        const int64_t lk = pitch(s.DK), lv = pitch(s.DV), chunks = max_of(1, (s.T + L - 1) / L);
        float** const keys[] = {&q, &k, &from_start, &to_end};
        for (float** p : keys) *p = scratch.take(spare(L) * lk);
        float** const values[] = {&v, &u};
        for (float** p : values) *p = scratch.take(spare(L) * lv);
        float** const tables[] = {&S, &A, &dS};
        for (float** p : tables) *p = scratch.take(spare(L) * pitch(L));
        kt = scratch.take(padded(s.DK) * pitch(L));
        vt = scratch.take(padded(s.DV) * pitch(L));
        dC = scratch.take(spare(s.DK) * lv);
        dCt = scratch.take(spare(s.DV) * lk);
        dn = scratch.take(lk);
        states = scratch.take(chunks * state_floats(s));
        m_states = scratch.take(chunks);
    }
    static int64_t state_floats(const MlstmShape& s) { return (spare(s.DV) + 1) * pitch(s.DK); }
    float* state(const MlstmShape& s, int64_t c) const { return states + c * state_floats(s); }
    float* state_n(const MlstmShape& s, int64_t c) const { return state(s, c) + spare(s.DV) * pitch(s.DK); }
};

// Weights of a chunk's steps in the state at its end, without the rest of the table.
inline void mlstm_last_row(const MlstmGates& g, int64_t steps) {
    float after = 0.0f;
    const float m = finite(g.m[steps - 1]);
    for (int64_t j = steps - 1; j >= 0; --j) {
        g.last[j] = g.i[j] + after - m;
        after += g.lf[j];
    }
    for (int64_t j = 0; j < steps; j += W) store(g.last + j, weight_of(load(g.last + j)));
}

// States before chunks 1, 2, ...; chunk 0's is in place, empty unless `state`. Each is C transposed, then n; m_states beside
// them.
template <class T>
inline void mlstm_keep_states(const MlstmShape& s, const MlstmInputs<T>& in, int64_t length, bool state,
                              const MlstmBackwardScratch& w) {
    const int64_t lk = pitch(s.DK), lv = pitch(s.DV), L = w.L;
    for (int64_t c = 0; (c + 1) * L < length; ++c) {
        const float *from = w.state(s, c), *from_n = w.state_n(s, c);
        float *to = w.state(s, c + 1), *n = w.state_n(s, c + 1);
        copy_in(in.k.at(c * L), in.k.step, L, s.DK, w.k);
        copy_in(in.v.at(c * L), in.v.step, L, s.DV, w.v);
        w.m_states[c + 1] = mlstm_gates(s, in.i, in.f, c * L, L, w.m_states[c], w.g);
        mlstm_last_row(w.g, L);
        const float keep = w.g.a[L - 1];
        clear_floats(n, lk);
        if (state) add_row(n, keep, from_n, s.DK);
        for (int64_t j = 0; j < L; ++j) {
            scale_row(w.v + j * lv, w.g.last[j], s.DV);
            add_row(n, w.g.last[j], w.k + j * lk, s.DK);
        }
        mlstm_accumulate(to, state ? from : nullptr, keep, w.v, w.k, L, s.DV, s.DK);
        state = true;
    }
}

// Tables A (times scale) and S, den, r, U in place of dh, and U v^T in dS. `state`: the chunk's first state is not empty.
inline void mlstm_backward_tables(const MlstmShape& s, const MlstmBackwardScratch& w, int64_t steps, bool state,
                                  const float* n0) {
    const int64_t lk = pitch(s.DK), lv = pitch(s.DV), lt = pitch(w.L);
    const MlstmGates& g = w.g;
    transpose(w.k, lk, steps, s.DK, w.kt, lt);
    mlstm_lower_product(w.q, lk, w.kt, lt, steps, s.DK, w.S);
    mlstm_table(s, g, steps, state, MlstmQueryDot{w.q, lk, n0, s.DK}, w.S, lt, w.A);
    for (int64_t t = 0; t < steps; ++t) scale_row(w.u + t * lv, g.r[t], s.DV);
    transpose(w.v, lv, steps, s.DV, w.vt, lt);
    mlstm_lower_product(w.u, lv, w.vt, lt, steps, s.DV, w.dS);
}

// What the chunk's outputs send: dden, g, sums of G = S o dS by row and column without its diagonal, dP in place of dS.
inline void mlstm_backward_rows(const MlstmShape& s, const MlstmBackwardScratch& w, int64_t steps, bool state, const float* n0) {
    const int64_t lk = pitch(s.DK), lt = pitch(w.L);
    const MlstmGates& g = w.g;
    clear_floats(w.columns, spare(w.L));
    for (int64_t t = 0; t < steps; ++t) {
        const float *S = w.S + t * lt, *A = w.A + t * lt, *q = w.q + t * lk;
        float *dS = w.dS + t * lt, *start = w.from_start + t * lk;
        vec total = zero();
        for (int64_t j = 0; j <= t; j += W) {
            const vec x = load(S + j) * load(dS + j);
            total = total + (j + W <= t ? x : select(first_lanes(t - j + 1), x, zero()));
        }
        const float weight = s.scale * g.a[t], first = state ? weight * dot(q, start, s.DK) : 0.0f;
        const float slope = g.r[t] * (sum(total) + first), den = g.den[t];
        const float dden = den > g.low[t] ? -slope : -den > g.low[t] ? slope : 0.0f;
        w.g_m[t] = s.sig ? 0.0f : -s.eps * slope;
        w.dden[t] = dden;
        w.diagonal[t] = S[t] * (dS[t] + dden);
        vec row = zero();
        for (int64_t j = 0; j <= t; j += W) {
            const vec d = load(dS + j) + set1(dden);
            vec G = load(S + j) * d, dP = load(A + j) * d;
            if (j + W > t) {
                G = select(first_lanes(t - j), G, zero());
                dP = select(first_lanes(t - j + 1), dP, zero());
            }
            store(dS + j, dP);
            store(w.columns + j, load(w.columns + j) + G);
            row = row + G;
        }
        w.first[t] = state ? first + dden * weight * dot(q, n0, s.DK) : 0.0f;
        w.rows[t] = sum(row) + w.first[t];
        if (!state) continue;
        add_row(start, dden, n0, s.DK);
        scale_row(start, weight, s.DK);
    }
}

// What the state at the end of the chunk sends: e and the last row's share of G. Returns what reaches the first state's column.
inline float mlstm_backward_end(const MlstmShape& s, const MlstmBackwardScratch& w, int64_t steps, bool state, const float* C0t,
                                const float* n0, float dm) {
    const int64_t lk = pitch(s.DK), lv = pitch(s.DV), last = steps - 1;
    const MlstmGates& g = w.g;
    for_each_tile(steps, s.DK, [&](int64_t t, int64_t c, auto vectors) {
        Tile<decltype(vectors)::count> x;
        clear(x);
        add_product<false>(x, w.v + t * lv, lv, w.dCt + c, lk, s.DV);
        save(x, w.to_end + t * lk + c, lk);
    });
    float through = 0.0f;
    for (int64_t j = 0; j < steps; ++j) {
        float *e = w.to_end + j * lk, *k = w.k + j * lk;
        vec sums = zero();
        for (int64_t d = 0; d < s.DK; d += W) {
            const vec x = set1(g.last[j]) * (load(e + d) + load(w.dn + d));
            store(e + d, x);
            sums = fma(load(k + d), x, sums);
        }
        const float received = sum(sums);
        (j < last ? w.columns : w.diagonal)[j] += received;
        if (j < last) w.rows[last] += received;
        through += received;
    }
    float first = 0.0f;
    if (state) {
        vec sums = zero();
        for (int64_t r = 0; r < s.DV; ++r)
            for (int64_t d = 0; d < s.DK; d += W) sums = fma(load(C0t + r * lk + d), load(w.dCt + r * lk + d), sums);
        first = g.a[last] * (dot(n0, w.dn, s.DK) + sum(sums));
        w.rows[last] += first;
    }
    if (!s.sig) w.g_m[last] += dm - through - first;
    return first;
}

// Sends g_t to the largest entry of each row, then turns the sums of G into di and df. Returns what reaches the first state's m.
inline float mlstm_backward_gates(const MlstmShape& s, const MlstmBackwardScratch& w, int64_t steps, float m0,
                                  const Rows<float>& di, const Rows<float>& df, int64_t start) {
    const MlstmGates& g = w.g;
    float dm = 0.0f, m = m0;
    int64_t largest = -1;  // the first state's column
    for (int64_t t = 0; t < steps; ++t) {
        if (!s.sig && g.i[t] > m + g.lf[t]) largest = t;
        m = g.m[t];
        dm += w.first[t];
        if (largest == t) {
            w.diagonal[t] += w.g_m[t];
            continue;
        }
        w.rows[t] += w.g_m[t];
        (largest < 0 ? dm : w.columns[largest]) += w.g_m[t];
    }
    for (int64_t t = 0; t < steps; t += W) {  // sigmoid(-x) = d log sigmoid / dx
        store(w.raw_f + t, sigmoid(zero() - load(w.raw_f + t)));
        store(w.raw_i + t, s.sig ? sigmoid(zero() - load(w.raw_i + t)) : set1(1.0f));
    }
    float later = 0.0f;
    for (int64_t t = steps - 1; t >= 0; --t) {
        later += w.rows[t] - w.columns[t];
        *df.at(start + t) = later * w.raw_f[t];
        *di.at(start + t) = (w.columns[t] + w.diagonal[t]) * w.raw_i[t];
    }
    return s.sig ? 0.0f : dm;
}

// dq, dk, dv of one chunk. `state`: the first state is not empty; `end`: the state at the end has a gradient.
template <class T>
inline void mlstm_backward_inputs(const MlstmShape& s, const MlstmBackwardScratch& w, int64_t steps, bool state, bool end,
                                  const Rows<T>& dq, const Rows<T>& dk, const Rows<T>& dv, int64_t start) {
    const int64_t lk = pitch(s.DK), lv = pitch(s.DV), lt = pitch(w.L);
    for_each_tile(steps, s.DK, [&](int64_t t, int64_t c, auto vectors) {
        Tile<decltype(vectors)::count> x;
        if (state)
            load_scaled(x, w.from_start + t * lk + c, lk, 1.0f);
        else
            clear(x);
        add_lower(x, t, w.dS + t * lt, lt, w.k + c, lk);
        mlstm_put_tile(x, dq, start, t, steps, c, s.DK);
    });
    for_each_tile(steps, s.DK, [&](int64_t j, int64_t c, auto vectors) {
        Tile<decltype(vectors)::count> x;
        if (end)
            load_scaled(x, w.to_end + j * lk + c, lk, 1.0f);
        else
            clear(x);
        add_lower_flipped(x, j, w.dS, lt, w.q + c, lk, steps);
        mlstm_put_tile(x, dk, start, j, steps, c, s.DK);
    });
    for_each_tile(steps, s.DV, [&](int64_t j, int64_t c, auto vectors) {
        Tile<decltype(vectors)::count> x;
        clear(x);
        if (end) {
            add_product<false>(x, w.k + j * lk, lk, w.dC + c, lv, s.DK);
            scale_rows(x, w.g.last + j);
        }
        add_lower_flipped(x, j, w.S, lt, w.u + c, lv, steps);
        mlstm_put_tile(x, dv, start, j, steps, c, s.DV);
    });
}

template <class T>
inline void mlstm_backward_stream(const MlstmBackward& a, int64_t b, int64_t head, const MlstmBackwardScratch& w) {
    const MlstmShape& s = a.shape;
    const int64_t length = s.lengths ? s.lengths[b] : s.T, stream = b * s.H + head, size = s.DK * s.DV, L = w.L;
    const int64_t lk = pitch(s.DK), lv = pitch(s.DV);
    const MlstmInputs<T> in(a, b, head, length);
    const Rows<const T> dh(a.dh, b, head, length, s.reverse);
    const Rows<T> dq(a.dq, b, head, length, s.reverse), dk(a.dk, b, head, length, s.reverse),
        dv(a.dv, b, head, length, s.reverse);
    const Rows<float> di(a.di, b, head, length, s.reverse), df(a.df, b, head, length, s.reverse);
    w.m_states[0] = mlstm_first_m(s, a.m_in, stream);
    const bool given = a.C_in && w.m_states[0] != minus_infinity;
    if (given) {
        copy_in(a.C_in + stream * size, s.DV, s.DK, s.DV, w.dC);
        transpose(w.dC, lv, s.DK, s.DV, w.state(s, 0), lk);
        copy_rows(a.n_in + stream * s.DK, s.DK, 1, s.DK, w.state_n(s, 0));
    }
    mlstm_keep_states(s, in, length, given, w);
    bool end = a.dC_out;
    float dm = end && !s.sig ? a.dm_out[stream] : 0.0f;
    clear_floats(w.dn, lk);
    if (end) {
        copy_in(a.dC_out + stream * size, s.DV, s.DK, s.DV, w.dC);
        transpose(w.dC, lv, s.DK, s.DV, w.dCt, lk);
        copy_rows(a.dn_out + stream * s.DK, s.DK, 1, s.DK, w.dn);
    }
    for (int64_t c = (length + L - 1) / L - 1; c >= 0; --c) {
        const int64_t start = c * L, steps = min_of(L, length - start);
        const float *C0t = w.state(s, c), *n0 = w.state_n(s, c), m0 = w.m_states[c];
        const bool state = c > 0 || given;
        copy_in(in.q.at(start), in.q.step, steps, s.DK, w.q);
        copy_in(in.k.at(start), in.k.step, steps, s.DK, w.k);
        copy_in(in.v.at(start), in.v.step, steps, s.DV, w.v);
        copy_in(dh.at(start), dh.step, steps, s.DV, w.u);
        for (int64_t t = 0; t < steps; ++t) w.raw_i[t] = *in.i.at(start + t), w.raw_f[t] = *in.f.at(start + t);
        mlstm_gates(s, in.i, in.f, start, steps, m0, w.g);
        mlstm_backward_tables(s, w, steps, state, n0);
        if (state)
            for_each_tile(steps, s.DK, [&](int64_t t, int64_t col, auto vectors) {
                Tile<decltype(vectors)::count> x;
                clear(x);
                add_product<false>(x, w.u + t * lv, lv, C0t + col, lk, s.DV);
                save(x, w.from_start + t * lk + col, lk);
            });
        mlstm_backward_rows(s, w, steps, state, n0);
        const float through = end ? mlstm_backward_end(s, w, steps, state, C0t, n0, dm) : 0.0f;
        dm = through + mlstm_backward_gates(s, w, steps, m0, di, df, start);
        mlstm_backward_inputs(s, w, steps, state, end, dq, dk, dv, start);
        if (!state) break;
        const float keep = w.g.a[steps - 1];
        scale_row(w.dn, keep, s.DK);
        for (int64_t t = 0; t < steps; ++t) {
            scale_row(w.q + t * lk, s.scale * w.g.a[t], s.DK);
            add_row(w.dn, w.dden[t], w.q + t * lk, s.DK);
        }
        mlstm_accumulate(w.dCt, end ? w.dCt : nullptr, keep, w.u, w.q, steps, s.DV, s.DK);
        transpose(w.dCt, lk, s.DV, s.DK, w.dC, lv);
        end = true;
    }
    clear_rows<T>(a.dq, b, head, length, s.T, s.DK);
    clear_rows<T>(a.dk, b, head, length, s.T, s.DK);
    clear_rows<T>(a.dv, b, head, length, s.T, s.DV);
    clear_rows<float>(a.di, b, head, length, s.T, 1);
    clear_rows<float>(a.df, b, head, length, s.T, 1);
    if (!a.dC_in) return;
    if (given && end) {
        mlstm_store_state(w.dC, s.DK, s.DV, a.dC_in + stream * size);
        mlstm_store_state(w.dn, 1, s.DK, a.dn_in + stream * s.DK);
    } else {
        __builtin_memset(a.dC_in + stream * size, 0, size_t(size) * sizeof(float));
        __builtin_memset(a.dn_in + stream * s.DK, 0, size_t(s.DK) * sizeof(float));
    }
    a.dm_in[stream] = s.sig ? 0.0f : dm;
}

// Floats of scratch, 64-byte aligned, for one call of the body.
inline int64_t mlstm_backward_scratch(const MlstmShape& s) { return MlstmBackwardScratch(s, nullptr).scratch.used; }

inline void mlstm_backward(const MlstmBackward& a, float* scratch, int64_t begin, int64_t end) {
    const MlstmBackwardScratch w(a.shape, scratch);
    for (int64_t task = begin; task < end; ++task) {
        if (a.shape.dtype == DType::bf16)
            mlstm_backward_stream<bf16>(a, task / a.shape.H, task % a.shape.H, w);
        else
            mlstm_backward_stream<float>(a, task / a.shape.H, task % a.shape.H, w);
    }
}

}  // namespace xecg::XECG_ISA
