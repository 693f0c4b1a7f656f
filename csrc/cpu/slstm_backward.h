// sLSTM backward, exact: also what the final c, n and m, stabilised as they are, owe to m. Layouts: common/slstm.h.
//
// From the last step to the first, with dh, dc, dn, dm carried (h_t = sigmoid(o) c_t / n_t does not depend on m):
//   do = dh h (1 - sigmoid(o))   dc += dh sigmoid(o) / n   dn -= dh h / n   dz = dc I (1 - tanh^2 z)
//   dI = (dc tanh z + dn) I      dF = (dc c_{t-1} + dn n_{t-1}) F           mu = dm - dI - dF
//   di = dI (+ mu where the input won the maximum)                          df = dkept sigmoid(-f)
//   dkept = dF (+ mu where the kept state won)                              dc, dn, dm of the step before: dc F, dn F, dkept
//   dh of the step before: sum over gates and outputs of d(gate) R
// Gates come from the tape that the forward pass wrote; c_t, n_t and h_t are recomputed from it with the same operations.
// Tasks and row order are those of the forward pass. Cost of a step and unit: 8 D flops, 32 bytes read, 16 written.
//
// Then dR = sum h_{t-1}^T d(gates) and db = sum d(gates): a task is one head and gate, sums run over batch and time in memory
// order in partial sums of 128 steps, so bits do not depend on threads. Cost: another 8 D flops.
#pragma once
#include "slstm.h"

namespace xecg::XECG_ISA {

constexpr int64_t slstm_partial_steps = 128;
constexpr int slstm_gates_row = 4 * int(slstm_max_units) + 16;  // floats between rows of d(gates) in scratch

template <bool whole, class T>
inline void slstm_gates_backward(const SlstmBackward& a, const SlstmRow& row, int64_t t, int64_t head, int64_t u, int64_t n,
                                 const float* dh_in, float* draw) {
    const SlstmShape& s = a.shape;
    const vec one = set1(1.0f), none = zero();
    const int64_t gate = s.H * s.D, at = slstm_tape_at(s, row, t, head) + u;
    float* gates = a.tape.gates + slstm_tape_gates(s, row, t, head) + u;
    const vec I = get<whole>(gates, n), F = get<whole>(gates + gate, n);
    const vec tz = get<whole>(gates + 2 * gate, n), open = get<whole>(gates + 3 * gate, n);
    const vec c_old = get<whole>(a.tape.c + at, n), n_old = get<whole>(a.tape.n + at, n);
    const vec c = fma(F, c_old, I * tz), n_new = fma(F, n_old, I);
    const vec inverse = select(equal(n_new, none), none, one / n_new), h = open * (c * inverse);

    float *dcs = a.dc + row.state + u, *dns = a.dn + row.state + u, *dms = a.dm + row.state + u;
    const T* dy = static_cast<const T*>(a.dy) + row.b * a.dy_b + slstm_position(s, row, t) * a.dy_t + head * a.dy_h + u;
    const vec dh = load(dh_in) + get<whole>(dy, n), scaled = dh * inverse;
    const vec dc = fma(scaled, open, get<whole>(dcs, n)), dn = get<whole>(dns, n) - scaled * h;
    const vec dI = fma(dc, tz, dn) * I, dF = fma(dc, c_old, dn * n_old) * F;
    const vec mu = get<whole>(dms, n) - dI - dF;
    // The kept state won where F = 1 > I; where both are 0, nothing is left and the input counts as the winner.
    const vec kept_mu = select(less(I, one), select(equal(F, one), mu, none), none);
    const vec input_mu = select(less(I, one), select(equal(F, one), none, mu), mu);
    const vec dkept = dF + kept_mu;
    const vec d[4] = {dI + input_mu, dkept * get<whole>(a.tape.slope + at, n), dc * I * (one - tz * tz), dh * h * (one - open)};
    for (int g = 0; g < 4; ++g) {
        put<whole>(gates + g * gate, d[g], n);
        put<whole>(draw + g * s.D + u, d[g], n);
    }
    put<whole>(dcs, dc * F, n);
    put<whole>(dns, dn * F, n);
    put<whole>(dms, dkept, n);
}

template <class T>
inline void slstm_backward_tile(const SlstmBackward& a, int64_t head, int64_t first) {
    const SlstmShape& s = a.shape;
    alignas(64) float dh[slstm_tile * slstm_row];
    alignas(64) float draw[slstm_tile * slstm_gates_row];
    SlstmRow rows[slstm_tile] = {};
    const int64_t count = slstm_rows(s, first, head, rows), blocks = slstm_blocks(s.D), K = 4 * s.D;
    const float* R = a.packed + head * blocks * K * W;
    for (int64_t r = 0; r < count; ++r) std::memcpy(dh + r * slstm_row, a.dh + rows[r].state, size_t(s.D) * sizeof(float));
    int64_t active = 0;
    for (int64_t t = rows[0].length - 1; t >= 0; --t) {
        while (active < count && rows[active].length > t) ++active;
        for (int64_t r = 0; r < active; ++r) {
            for (int64_t u = 0; u < s.D; u += W) {
                const int64_t n = min_of(W, s.D - u);
                float *in = dh + r * slstm_row + u, *out = draw + r * slstm_gates_row;
                n == W ? slstm_gates_backward<true, T>(a, rows[r], t, head, u, n, in, out)
                       : slstm_gates_backward<false, T>(a, rows[r], t, head, u, n, in, out);
            }
        }
        int64_t block = 0;
        for (; block + 4 <= blocks; block += 4)
            product<4, slstm_gates_row>(active, draw, K, R + block * K * W, K * W, W, dh + block * W, slstm_row);
        for (; block + 2 <= blocks; block += 2)
            product<2, slstm_gates_row>(active, draw, K, R + block * K * W, K * W, W, dh + block * W, slstm_row);
        for (; block < blocks; ++block)
            product<1, slstm_gates_row>(active, draw, K, R + block * K * W, K * W, W, dh + block * W, slstm_row);
    }
    for (int64_t r = 0; r < count; ++r) {
        std::memcpy(a.dh + rows[r].state, dh + r * slstm_row, size_t(s.D) * sizeof(float));
        for (int64_t t = rows[r].length; t < s.T; ++t)
            for (int64_t g = 0; g < 4; ++g)
                std::memset(a.tape.gates + (((rows[r].b * s.T + t) * 4 + g) * s.H + head) * s.D, 0, size_t(s.D) * sizeof(float));
    }
}

inline void slstm_backward(const SlstmBackward& a, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
        int64_t head, first;
        slstm_task_of(a.shape, task, &head, &first);
        a.shape.dtype == DType::bf16 ? slstm_backward_tile<bf16>(a, head, first) : slstm_backward_tile<float>(a, head, first);
    }
}

// to[i][v] += sum over steps of h[step][i] d[step][v] for a block of inputs i; rows of h are h_t floats apart, rows of d two
// vectors. n: how many of the 2 W outputs exist.
template <int inputs>
inline void slstm_outer_block(const float* h, int64_t h_t, const float* d, int64_t steps, float* to, int64_t to_i, int64_t n) {
    vec acc[inputs][2];
    XECG_UNROLL
    for (int i = 0; i < inputs; ++i) acc[i][0] = acc[i][1] = zero();
    for (int64_t t = 0; t < steps; ++t, h += h_t, d += 2 * W) {
        const vec left = load(d), right = load(d + W);
        XECG_UNROLL
        for (int i = 0; i < inputs; ++i) {
            const vec hs = set1(h[i]);
            acc[i][0] = fma(hs, left, acc[i][0]);
            acc[i][1] = fma(hs, right, acc[i][1]);
        }
    }
    const int64_t n_left = min_of(W, n), n_right = n - n_left;
    XECG_UNROLL
    for (int i = 0; i < inputs; ++i) {
        store_n(to + i * to_i, load_n(to + i * to_i, n_left) + acc[i][0], n_left);
        if (n_right) store_n(to + i * to_i + W, load_n(to + i * to_i + W, n_right) + acc[i][1], n_right);
    }
}

// The share of `steps` steps in dR and db of one head and gate. Two vectors of d at a time are gathered in scratch: where they
// lie, their rows are powers of two apart and would evict one another.
inline void slstm_outer(const float* h, int64_t h_t, const float* d, int64_t d_t, int64_t steps, int64_t D, float* dR,
                        float* db) {
    alignas(64) float gathered[slstm_partial_steps * 2 * W];
    const float one = 1.0f;
    for (int64_t u = 0; u < D; u += 2 * W) {
        const int64_t n = min_of(2 * W, D - u), n_left = min_of(W, n), n_right = n - n_left;
        for (int64_t t = 0; t < steps; ++t) {
            store(gathered + t * 2 * W, load_n(d + t * d_t + u, n_left));
            store(gathered + t * 2 * W + W, n_right ? load_n(d + t * d_t + u + W, n_right) : zero());
        }
        int64_t i = 0;
        for (; i + slstm_max_rows <= D; i += slstm_max_rows)
            slstm_outer_block<slstm_max_rows>(h + i, h_t, gathered, steps, dR + i * D + u, D, n);
        for (; i < D; ++i) slstm_outer_block<1>(h + i, h_t, gathered, steps, dR + i * D + u, D, n);
        slstm_outer_block<1>(&one, 0, gathered, steps, db + u, D, n);
    }
}

// Tasks are (head, gate).
inline void slstm_weights_backward(const SlstmBackward& a, int64_t begin, int64_t end) {
    const SlstmShape& s = a.shape;
    const int64_t D = s.D, h_t = s.H * D, d_t = 4 * s.H * D;
    const int64_t sequences = s.lengths ? s.B : 1;  // without lengths, batch and time are one long sequence
    for (int64_t task = begin; task < end; ++task) {
        const int64_t head = task / 4, gate = task % 4;
        float *dR = a.dR + (gate * s.H + head) * D * D, *db = a.db + (gate * s.H + head) * D;
        std::memset(dR, 0, size_t(D * D) * sizeof(float));
        std::memset(db, 0, size_t(D) * sizeof(float));
        for (int64_t b = 0; b < sequences; ++b) {
            const int64_t length = s.lengths ? s.lengths[b] : s.B * s.T;
            for (int64_t t = 0; t < length; t += slstm_partial_steps) {
                const float* h = a.tape.h + (b * s.T + t) * h_t + head * D;
                const float* d = a.tape.gates + (b * s.T + t) * d_t + (gate * s.H + head) * D;
                slstm_outer(h, h_t, d, d_t, min_of(slstm_partial_steps, length - t), D, dR, db);
            }
        }
    }
}

}  // namespace xecg::XECG_ISA
