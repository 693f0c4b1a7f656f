// Arguments of the sLSTM recurrence, shared by CPU and CUDA.
//
//   (i, f, z, o) = x_t + b + h_{t-1} R      lf = log sigmoid(f)
//   m_t = max(i, lf + m_{t-1})   F = exp(lf + m_{t-1} - m_t)   I = exp(i - m_t)      where n_{t-1} = 0: m = i, F = 0, I = 1
//   c_t = F c_{t-1} + I tanh z   n_t = F n_{t-1} + I           h_t = sigmoid(o) c_t / n_t   (0 where n_t = 0)
//
// x: (B, T, 4, H, D), units contiguous, element strides x_b, x_t, x_g, x_h. y, dy: (B, T, H, D), strides *_b, *_t, *_h.
// R: (4, H, D in, D out), b: (4, H, D), h, c, n, m and their gradients: (B, H, D); all contiguous float32.
// The state is read and overwritten: the initial one comes in, the final one goes out.
// lengths: (B) int64 or null. Steps >= lengths[b] give y = 0, dx = 0 and never enter the state. reverse: time runs backwards.
#pragma once
#include "types.h"

namespace xecg {

constexpr int64_t slstm_max_units = 512;
constexpr int64_t slstm_pack_rows = 512;  // with fewer rows, copying R into panels costs more than the panels save

struct SlstmShape {
    int64_t B, T, H, D;
    const int64_t* lengths;
    bool reverse;
    DType dtype;  // of x, y, dy
};

// What backward needs of every step, float32, contiguous. The state entries are those before the step.
struct SlstmTape {
    float* gates;              // (B, T, 4, H, D): I, F, tanh z, sigmoid(o); backward overwrites them with d(i, f, z, o)
    float *slope, *h, *c, *n;  // (B, T, H, D): sigmoid(-f), h_{t-1}, c_{t-1}, n_{t-1}
};

struct SlstmForward {
    SlstmShape shape;
    const void* x;
    int64_t x_b, x_t, x_g, x_h;
    const float *R, *b;
    const float* packed;  // R in panels, or null: R is read as it is, which needs D to be a multiple of the vector width
    float *h, *c, *n, *m;
    void* y;  // null when only the tape is wanted
    int64_t y_b, y_t, y_h;
    SlstmTape tape;  // gates null: none
};

struct SlstmBackward {
    SlstmShape shape;
    const void* dy;
    int64_t dy_b, dy_t, dy_h;
    const float* packed;  // R transposed, in panels
    SlstmTape tape;
    float *dh, *dc, *dn, *dm;  // gradient of the final state in, of the initial state out
    float *dR, *db;            // (4, H, D, D), (4, H, D), overwritten
};

}  // namespace xecg
