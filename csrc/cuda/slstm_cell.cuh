// Arguments of the sLSTM kernels on a GPU, where a step lies in memory, and the arithmetic of one unit, forward and backward.
// Equations: ../common/slstm.h and ../cpu/slstm_backward.h.
#pragma once
#include "../common/slstm.h"
#include "slstm_thread.cuh"

namespace xecg {
namespace cuda {

// Weights in the caller's types, contiguous: R (4, H, D in, D out), for backward transposed, (4, H, D out, D in); b (4, H, D).
struct SlstmWeights {
    const void *R, *b;
    DType R_type, b_type;
};

// The pointers R, b and packed of the call are not used.
struct SlstmCudaForward {
    SlstmForward call;
    SlstmWeights weights;
    bool rounded;  // h enters the products as bfloat16, as on tensor cores; set by the plan
};

// The pointers packed, dR and db of the call are not used: one product of the tape afterwards makes dR and db.
struct SlstmCudaBackward {
    SlstmBackward call;
    SlstmWeights weights;
};

// Steps of a batch row; 0 for rows beyond the batch.
XECG_DEVICE inline int64_t slstm_length(const SlstmShape& s, int64_t row) {
    if (row >= s.B) return 0;
    return s.lengths ? s.lengths[row] : s.T;
}

// Steps of the longest of `rows` batch rows.
XECG_DEVICE inline int64_t slstm_steps(const SlstmShape& s, int64_t first, int64_t rows) {
    int64_t longest = 0;
    for (int64_t r = first; r < first + rows; ++r) {
        const int64_t length = slstm_length(s, r);
        longest = length > longest ? length : longest;
    }
    return longest;
}

// The t-th visited step of a row lies at this time.
XECG_DEVICE inline int64_t slstm_time(const SlstmShape& s, int64_t length, int64_t t) { return s.reverse ? length - 1 - t : t; }

// Offset of a unit in a tape array (B, T, H, D), of its first gate in (B, T, 4, H, D), and in a state array (B, H, D).
XECG_DEVICE inline int64_t slstm_tape_at(const SlstmShape& s, int64_t row, int64_t time, int64_t head, int64_t unit) {
    return ((row * s.T + time) * s.H + head) * s.D + unit;
}
XECG_DEVICE inline int64_t slstm_gates_at(const SlstmShape& s, int64_t row, int64_t time, int64_t head, int64_t unit) {
    return ((row * s.T + time) * 4 * s.H + head) * s.D + unit;
}
XECG_DEVICE inline int64_t slstm_state_at(const SlstmShape& s, int64_t row, int64_t head, int64_t unit) {
    return (row * s.H + head) * s.D + unit;
}

struct SlstmUnit {
    float h, c, n, m;
};

XECG_DEVICE inline float slstm_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// What one step of one unit leaves for backward (SlstmTape, without the state before the step).
struct SlstmMade {
    float I, F, z, open, slope;
};

// One step of one unit; raw: pre-activations i, f, z, o.
XECG_DEVICE inline SlstmMade slstm_advance(const float (&raw)[4], SlstmUnit& s) {
    const float nothing = -INFINITY, i = raw[0], f = raw[1];
    const float log_F = fminf(f, 0.0f) - log1pf(expf(-fabsf(f)));
    const float kept = s.n == 0.0f ? nothing : log_F + s.m;
    const float m = kept != kept || kept > i ? kept : i;
    const float top = m == nothing ? 0.0f : m;  // no -inf - (-inf)
    SlstmMade made;
    made.F = expf(kept - top);
    made.I = expf(i - top);
    made.z = tanhf(raw[2]);
    made.open = slstm_sigmoid(raw[3]);
    made.slope = slstm_sigmoid(-f);
    s.c = fmaf(made.F, s.c, made.I * made.z);
    s.n = fmaf(made.F, s.n, made.I);
    s.h = s.n == 0.0f ? 0.0f : made.open * s.c / s.n;
    s.m = m == nothing ? -3.402823466e38f : m;  // the most negative float32 stands for -inf
    return made;
}

// Writes h and, where backward wants it, the tape of one step of one unit. `before`: its state before the step.
template <class X>
XECG_DEVICE inline void slstm_record(const SlstmForward& a, const SlstmMade& made, const SlstmUnit& before, float h, int64_t row,
                                     int64_t time, int64_t head, int64_t unit) {
    const SlstmShape& s = a.shape;
    if (a.y) put(static_cast<X*>(a.y) + row * a.y_b + time * a.y_t + head * a.y_h + unit, h);
    if (!a.tape.gates) return;
    float* gates = a.tape.gates + slstm_gates_at(s, row, time, head, unit);
    const int64_t gate = s.H * s.D, at = slstm_tape_at(s, row, time, head, unit);
    gates[0] = made.I, gates[gate] = made.F, gates[2 * gate] = made.z, gates[3 * gate] = made.open;
    a.tape.slope[at] = made.slope, a.tape.h[at] = before.h, a.tape.c[at] = before.c, a.tape.n[at] = before.n;
}

XECG_DEVICE inline SlstmUnit slstm_load(const SlstmForward& a, int64_t row, int64_t head, int64_t unit) {
    const int64_t at = slstm_state_at(a.shape, row, head, unit);
    return SlstmUnit{a.h[at], a.c[at], a.n[at], a.m[at]};
}

// The final state of one unit; zeros behind its last step, and in the tape's h, which dR sums over.
template <class X>
XECG_DEVICE inline void slstm_finish(const SlstmForward& a, const SlstmUnit& unit_state, int64_t length, int64_t row,
                                     int64_t head, int64_t unit) {
    const int64_t at = slstm_state_at(a.shape, row, head, unit);
    a.h[at] = unit_state.h, a.c[at] = unit_state.c, a.n[at] = unit_state.n, a.m[at] = unit_state.m;
    for (int64_t time = length; time < a.shape.T; ++time) {
        if (a.y) put(static_cast<X*>(a.y) + row * a.y_b + time * a.y_t + head * a.y_h + unit, 0.0f);
        if (a.tape.gates) a.tape.h[slstm_tape_at(a.shape, row, time, head, unit)] = 0.0f;
    }
}

// What backward reads of one step of one unit.
struct SlstmRead {
    float I, F, z, open, slope, c, n, dy;
};

template <class X>
XECG_DEVICE inline SlstmRead slstm_read(const SlstmBackward& a, int64_t row, int64_t time, int64_t head, int64_t unit) {
    const SlstmShape& s = a.shape;
    const float* gates = a.tape.gates + slstm_gates_at(s, row, time, head, unit);
    const int64_t gate = s.H * s.D, at = slstm_tape_at(s, row, time, head, unit);
    return SlstmRead{gates[0],         gates[gate],
                     gates[2 * gate],  gates[3 * gate],
                     a.tape.slope[at], a.tape.c[at],
                     a.tape.n[at],     get(static_cast<const X*>(a.dy) + row * a.dy_b + time * a.dy_t + head * a.dy_h + unit)};
}

// d: gradient of the state after the step, becomes that before it (but for h, which is the product's); draw: of i, f, z, o.
XECG_DEVICE inline void slstm_retreat(const SlstmRead& r, SlstmUnit& d, float (&draw)[4]) {
    const float c = fmaf(r.F, r.c, r.I * r.z), n = fmaf(r.F, r.n, r.I);
    const float inverse = n == 0.0f ? 0.0f : 1.0f / n, h = r.open * (c * inverse);
    const float dh = d.h + r.dy, scaled = dh * inverse;
    const float dc = fmaf(scaled, r.open, d.c), dn = d.n - scaled * h;
    const float dI = fmaf(dc, r.z, dn) * r.I, dF = fmaf(dc, r.c, dn * r.n) * r.F;
    const float mu = d.m - dI - dF;
    // The kept state won where F = 1 > I; where both are 0, nothing is left and the input counts as the winner.
    const bool kept_won = r.I < 1.0f && r.F == 1.0f;
    const float dkept = dF + (kept_won ? mu : 0.0f);
    draw[0] = dI + (kept_won ? 0.0f : mu);
    draw[1] = dkept * r.slope;
    draw[2] = dc * r.I * (1.0f - r.z * r.z);
    draw[3] = dh * h * (1.0f - r.open);
    d.c = dc * r.F, d.n = dn * r.F, d.m = dkept;
}

XECG_DEVICE inline SlstmUnit slstm_load(const SlstmBackward& a, int64_t row, int64_t head, int64_t unit) {
    const int64_t at = slstm_state_at(a.shape, row, head, unit);
    return SlstmUnit{a.dh[at], a.dc[at], a.dn[at], a.dm[at]};
}

XECG_DEVICE inline void slstm_finish(const SlstmBackward& a, const SlstmUnit& d, int64_t length, int64_t row, int64_t head,
                                     int64_t unit) {
    const SlstmShape& s = a.shape;
    const int64_t at = slstm_state_at(s, row, head, unit);
    a.dh[at] = d.h, a.dc[at] = d.c, a.dn[at] = d.n, a.dm[at] = d.m;
    for (int64_t time = length; time < s.T; ++time)
        for (int64_t g = 0; g < 4; ++g) a.tape.gates[slstm_gates_at(s, row, time, head, unit) + g * s.H * s.D] = 0.0f;
}

}  // namespace cuda
}  // namespace xecg
