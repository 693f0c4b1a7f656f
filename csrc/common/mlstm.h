// Arguments of the mLSTM (xLSTM, arXiv 2405.04517), shared by CPU and CUDA. Per batch b and head h, lf = log sigmoid(f):
//
//   exp gate: m_t = max(lf_t + m_{t-1}, i_t), F = exp(lf_t + m_{t-1} - m_t), I = exp(i_t - m_t), lo_t = exp(-m_t)
//   sig gate: m = 0, F = sigmoid(f_t), I = sigmoid(i_t), lo_t = 1
//   C_t = F C_{t-1} + I k_t v_t^T, n_t = F n_{t-1} + I k_t, h_t = scale C_t^T q_t / (max(|scale q_t.n_t|, lo_t) + eps)
//
// q, k (B, T, H, DK), v, h (B, T, H, DV) of `dtype`, features contiguous; gates i, f (B, T, H) float32: views with element
// strides. States C (B, H, DK, DV), n (B, H, DK), m (B, H): contiguous float32. No initial state (null) is the empty one: C = n =
// 0, m = -inf; outside the kernels -inf is the lowest float, and a state with that m is empty whatever its C and n hold (exp
// gate). lengths: (B) int64 or null. Steps >= lengths[b] give h = 0 and gradient 0 and never enter the state. reverse: time runs
// backwards.
#pragma once
#include "types.h"

namespace xecg {

struct MlstmShape {
    int64_t B, T, H, DK, DV;
    const int64_t* lengths;
    bool reverse, sig;
    float scale, eps;
    int64_t chunk;  // steps a chunk, 0: the kernel chooses; results differ by rounding only
    DType dtype;
};

// Widest head (DK, DV) that the CPU kernels serve: a step keeps a row of q and k on the stack.
constexpr int64_t mlstm_widest_head = 4096;

struct MlstmView {
    const void* data;
    int64_t b, t, h;  // strides in elements
};

struct MlstmForward {
    MlstmShape shape;
    MlstmView q, k, v, i, f, h;
    const float *C_in, *n_in, *m_in;  // null: empty
    float *C_out, *n_out, *m_out;     // null: unwanted
};

struct MlstmBackward {
    MlstmShape shape;
    MlstmView dh, q, k, v, i, f;
    const float *dC_out, *dn_out, *dm_out;  // null: zero
    const float *C_in, *n_in, *m_in;
    MlstmView dq, dk, dv, di, df;
    float *dC_in, *dn_in, *dm_in;  // null without an initial state
};

// One step in place: q, k (B, H, DK), v (B, H, DV), i, f (B, H) with strides b and h; out (B, H, DV) contiguous.
struct MlstmStep {
    int64_t B, H, DK, DV;
    bool sig;
    float scale, eps;
    DType dtype;
    MlstmView q, k, v, i, f;
    float *C, *n, *m;
    void* out;
};

}  // namespace xecg
