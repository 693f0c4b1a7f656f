// Arguments of the gated product y = act(a) * b, act = SiLU or GELU (exact, erf), and its gradient.
//
// a, b, dy, y, da, db: (rows, n), last dimension contiguous, row strides *_r. float32 or bfloat16; arithmetic in float32.
#pragma once
#include "types.h"

namespace xecg {

struct Gated {
    int64_t rows, n;
    bool gelu;  // else SiLU
    DType dtype;
    const void* a;
    int64_t a_r;
    const void* b;
    int64_t b_r;
    void* y;  // forward only
    const void* dy;
    int64_t dy_r;  // backward only
    void *da, *db;
};

}  // namespace xecg
