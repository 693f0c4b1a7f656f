// mLSTM forward of bfloat16 inputs on AMX tiles. Equations: mlstm.h, whose gates, tables and normaliser it uses in float32.
//
// q, k and v enter products as they are; S, the state and the weighted values, which are float32, as two bfloat16 numbers each
// (tiles_amx.h), so outputs are as good as those of float32 products. Terms of sums over time are paired (j, j + 16), which no
// sum minds and no shuffle is needed for. A tile knows no triangle: in S v a NaN or an infinity in v_j would reach the steps
// before j. From a chunk that holds one in q, k or v on, the stream goes on in mlstm.h's form.
#pragma once
#include "mlstm.h"
#include "tiles_amx.h"

namespace xecg::XECG_ISA {

struct MlstmTiles {
    MlstmForwardScratch plain;  // gates, C and n serve both forms, the rest is for chunks that are not finite
    int64_t L, lt;
    float *table, *q_n, *first, *second;  // (L, L) products; q.n0; two squares of results
    Operand q, k, kt, v, weighted, S, C;

    MlstmTiles(const MlstmShape& s, float* base) : plain(s, base, mlstm_default_chunk) {
        const int64_t DK = whole_squares(s.DK), DV = whole_squares(s.DV);
        L = whole_squares(plain.L), lt = pitch(L);
        table = plain.scratch.take(L * lt);
        q_n = plain.scratch.take(L);
        first = plain.scratch.take(square * square), second = plain.scratch.take(square * square);
        q = take(L, DK, false), k = take(L, DK, false), kt = take(DK, L, false);
        v = take(DV, L, false), weighted = take(DV, L, true), S = take(L, L, true), C = take(DV, DK, true);
        plain.C = plain.scratch.take(DK * pitch(s.DV));  // whole squares of rows
    }

  private:
    Operand take(int64_t lines, int64_t terms, bool split) {
        auto part = [&] { return reinterpret_cast<bf16*>(plain.scratch.take(lines * terms / 2)); };
        bf16* high = part();
        return {high, split ? part() : nullptr, terms / tile_terms};
    }
};

// q and k of a chunk, k also transposed with its terms paired for sums over time. Rows behind the last step are zero.
inline void mlstm_tiles_in(const MlstmTiles& w, const MlstmInputs<bf16>& in, int64_t start, int64_t steps, int64_t DK,
                           Magnitude& seen) {
    const int64_t lines = whole_squares(steps);
    put_left(in.q.at(start), in.q.step, steps, DK, lines, w.q, seen);
    put_right(in.k.at(start), in.k.step, steps, DK, lines, w.k, seen);
    for (int64_t j = 0; j < lines; j += tile_terms)
        for (int64_t d = 0; d < whole_squares(DK); d += 2) {
            const int64_t line = d % tile_terms / 2 * tile_terms;
            words x, y;
            split_pairs(load_words(w.k.high + w.k.at(j, d) + line, tile_terms),
                        load_words(w.k.high + w.k.at(j + strip, d) + line, tile_terms), x, y);
            bf16* to = w.kt.high + w.kt.at(d, j) + d % strip * tile_terms;
            store_words(to, x);
            store_words(to + tile_terms, y);
        }
}

// One row of v, 16 columns from c, as float32.
inline vec mlstm_tiles_value(const Rows<const bf16>& v, int64_t t, int64_t end, int64_t c, int64_t DV) {
    return t < end && c < DV ? load_n(v.at(t) + c, min_of(W, DV - c)) : zero();
}

// v of a chunk, and weighted by the last row of the table if the state is wanted.
inline void mlstm_tiles_values(const MlstmTiles& w, const Rows<const bf16>& v, int64_t start, int64_t steps, int64_t DV,
                               bool state) {
    const float* weights = w.plain.g.last;
    for (int64_t c = 0; c < whole_squares(DV); c += strip)
        for (int64_t j = 0; j < whole_squares(steps); j += tile_terms)
            for (int64_t p = 0; p < strip; ++p) {
                const int64_t at = w.v.at(c, j) + p * tile_terms, t = j + p, u = t + strip;
                const vec x = mlstm_tiles_value(v, start + t, start + steps, c, DV);
                const vec y = mlstm_tiles_value(v, start + u, start + steps, c, DV);
                store_words(w.v.high + at, pair(x, y));
                if (!state) continue;
                words high, low;
                split_pair(x * set1(t < steps ? weights[t] : 0.0f), y * set1(u < steps ? weights[u] : 0.0f), high, low);
                store_words(w.weighted.high + at, high);
                store_words(w.weighted.low + at, low);
            }
}

// The table of a chunk as a left operand, 0 above the diagonal.
inline void mlstm_tiles_table(const MlstmTiles& w, int64_t steps) {
    for (int64_t t = 0; t < steps; ++t)
        for (int64_t j = 0; j <= t; j += tile_terms) {
            const float* row = w.table + t * w.lt + j;
            words high, low;
            split_pair(load(row), j + strip <= t ? load(row + strip) : zero(), high, low);
            const int64_t at = w.S.at(t, j) + t % strip * tile_terms;
            store_words(w.S.high + at, high);
            store_words(w.S.low + at, low);
        }
}

inline void mlstm_tiles_outputs(const MlstmShape& s, const MlstmTiles& w, int64_t steps, bool state, const Rows<bf16>& h,
                                int64_t start) {
    const MlstmGates& g = w.plain.g;
    for (int64_t c = 0; c < s.DV; c += square)
        for (int64_t t = 0; t < steps; t += square) {
            if (state) {
                clear_square();
                add_square<Split::right>(w.q, t, w.C, c, w.C.tiles);
                store_square(w.first, square);
            }
            clear_square();
            add_square<Split::left>(w.S, t, w.v, c, t / tile_terms + 1);
            store_square(w.second, square);
            for (int64_t r = 0; r < min_of(square, steps - t); ++r) {
                const float *x = w.first + r * square, *y = w.second + r * square;
                const vec before = set1(s.scale * g.a[t + r]), norm = set1(g.r[t + r]);
                vec low = load(y), high = load(y + strip);
                if (state) low = fma(before, load(x), low), high = fma(before, load(x + strip), high);
                store_words_n(h.at(start + t + r) + c, join(norm * low, norm * high), min_of(square, s.DV - c));
            }
        }
}

// n0 = keep n0 + k^T (last row's weights).
inline void mlstm_tiles_normaliser(const MlstmTiles& w, const Rows<const bf16>& k, int64_t start, int64_t steps, int64_t DK,
                                   float keep, bool state) {
    constexpr int64_t at_once = 4;
    for (int64_t c = 0; c < DK; c += at_once * W) {
        vec sums[at_once];
        for (int64_t n = 0; n < at_once; ++n)
            sums[n] = state && c + n * W < DK ? set1(keep) * load(w.plain.n + c + n * W) : zero();
        for (int64_t j = 0; j < steps; ++j) {
            const vec weight = set1(w.plain.g.last[j]);
            for (int64_t n = 0; n < at_once; ++n)
                sums[n] = fma(weight, mlstm_tiles_value(k, start + j, start + steps, c + n * W, DK), sums[n]);
        }
        for (int64_t n = 0; n < at_once; ++n)
            if (c + n * W < DK) store(w.plain.n + c + n * W, sums[n]);
    }
}

// C = keep C + k^T (weighted v), and as a right operand.
inline void mlstm_tiles_state(const MlstmShape& s, const MlstmTiles& w, int64_t steps, float keep, bool state) {
    const int64_t ld = pitch(s.DV);
    for (int64_t c = 0; c < s.DV; c += square)
        for (int64_t d = 0; d < s.DK; d += square) {
            clear_square();
            add_square<Split::right>(w.kt, d, w.weighted, c, whole_tiles(steps));
            store_square(w.first, square);
            for (int64_t r = 0; r < square; r += 2)
                for (int64_t half = 0; half < square; half += strip) {
                    const float* x = w.first + r * square + half;
                    float* to = w.plain.C + (d + r) * ld + c + half;
                    vec above = load(x), below = load(x + square);
                    if (state) above = fma(set1(keep), load(to), above), below = fma(set1(keep), load(to + ld), below);
                    store(to, above);
                    store(to + ld, below);
                    words high, low;
                    split_pair(above, below, high, low);
                    const int64_t at = w.C.at(c + half, d) + r / 2 * tile_terms;
                    store_words(w.C.high + at, high);
                    store_words(w.C.low + at, low);
                }
        }
}

// The state as the caller gave it, as a right operand.
inline void mlstm_tiles_first_state(const MlstmShape& s, const MlstmTiles& w) {
    const int64_t ld = pitch(s.DV);
    clear_floats(w.plain.C + s.DK * ld, (whole_squares(s.DK) - s.DK) * ld);
    for (int64_t c = 0; c < whole_squares(s.DV); c += strip)
        for (int64_t d = 0; d < whole_squares(s.DK); d += 2) {
            const float* from = w.plain.C + d * ld + c;
            const int64_t at = w.C.at(c, d) + d % tile_terms / 2 * tile_terms;
            words high, low;
            split_pair(load(from), load(from + ld), high, low);
            store_words(w.C.high + at, high);
            store_words(w.C.low + at, low);
        }
}

// Chunks until the end or until one that is not finite; returns the step it stopped at.
inline int64_t mlstm_tiles_steps(const MlstmForward& a, const MlstmInputs<bf16>& in, const Rows<bf16>& h, int64_t length,
                                 const MlstmTiles& w, MlstmCarry& carry) {
    const MlstmShape& s = a.shape;
    if (carry.state) mlstm_tiles_first_state(s, w);
    for (int64_t start = 0; start < length; start += w.plain.L) {
        const int64_t steps = min_of(w.plain.L, length - start);
        const bool last = start + steps == length && !a.C_out;
        Magnitude seen;
        mlstm_tiles_in(w, in, start, steps, s.DK, seen);
        for (int64_t t = 0; t < steps; ++t)
            for (int64_t c = 0; c < s.DV; c += tile_terms)
                seen.see(load_words(in.v.at(start + t) + c, min_of(tile_terms, s.DV - c)));
        if (!seen.finite()) return start;
        carry.m = mlstm_gates(s, in.i, in.f, start, steps, carry.m, w.plain.g);
        for (int64_t t = 0; t < steps; t += square)
            for (int64_t j = 0; j <= t; j += square) {
                clear_square();
                add_square<Split::none>(w.q, t, w.k, j, w.q.tiles);
                store_square(w.table + t * w.lt + j, w.lt);
            }
        const auto q_n = [&](int64_t t) {
            vec sum_ = zero();
            for (int64_t c = 0; c < s.DK; c += W)
                sum_ = fma(load_n(in.q.at(start + t) + c, min_of(W, s.DK - c)), load(w.plain.n + c), sum_);
            return sum(sum_);
        };
        mlstm_table(s, w.plain.g, steps, carry.state, q_n, w.table, w.lt);
        mlstm_tiles_table(w, steps);
        mlstm_tiles_values(w, in.v, start, steps, s.DV, !last);
        mlstm_tiles_outputs(s, w, steps, carry.state, h, start);
        if (last) break;
        const float keep = w.plain.g.a[steps - 1];
        mlstm_tiles_normaliser(w, in.k, start, steps, s.DK, keep, carry.state);
        mlstm_tiles_state(s, w, steps, keep, carry.state);
        carry.state = true;
    }
    return length;
}

inline int64_t mlstm_tiles_scratch(const MlstmShape& s) { return MlstmTiles(s, nullptr).plain.scratch.used; }

inline void mlstm_tiles_forward(const MlstmForward& a, float* scratch, int64_t begin, int64_t end) {
    const MlstmShape& s = a.shape;
    const MlstmTiles w(s, scratch);
    const TileRegisters registers;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / s.H, head = task % s.H, length = s.lengths ? s.lengths[b] : s.T;
        const MlstmInputs<bf16> in(a, b, head, length);
        const Rows<bf16> h(a.h, b, head, length, s.reverse);
        MlstmCarry carry = mlstm_begin(a, task, w.plain.C, w.plain.n);
        const int64_t stopped = mlstm_tiles_steps(a, in, h, length, w, carry);
        mlstm_forward_steps<bf16>(a, in, h, stopped, length, w.plain, carry);
        clear_rows<bf16>(a.h, b, head, length, s.T, s.DV);
        mlstm_end(a, task, w.plain.C, w.plain.n, carry);
    }
}

}  // namespace xecg::XECG_ISA
