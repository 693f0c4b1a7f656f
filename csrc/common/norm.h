// Arguments of the norm over each head's features with what follows it in a block, and of its gradient.
//
//   y = (norm(x) (1 + weight) + skip skip_weight) SiLU(gate),   norm(x) = (x - mean) / sqrt(var + eps) over the D features of a
//   head
//
// A null skip adds nothing, a null skip_weight is 1, a null gate multiplies by 1. With one head this is layer norm.
// x: (rows, H, D), last dimension contiguous, strides x_r and x_h. skip, gate, dy: (rows, H D), last dimension contiguous, row
// strides *_r. y, dx, dskip, dgate: (rows, H D) contiguous. weight, skip_weight and their gradients: (H D) float32.
// Arithmetic in float32.
#pragma once
#include "types.h"

namespace xecg {

struct NormShape {
    int64_t rows, H, D;
    float eps;
    DType inner;  // of x, gate, dx, dgate
    DType outer;  // of skip, y, dy, dskip
};

struct NormForward {
    NormShape shape;
    const void* x;
    int64_t x_r, x_h;
    const float* weight;
    const void* skip;
    int64_t skip_r;
    const float* skip_weight;
    const void* gate;
    int64_t gate_r;
    void* y;
};

// Gradients of absent arguments are null. partials: (norm_chunks, 3, H D) float32: sums of dweight and dskip_weight over a chunk
// of rows, and scratch.
struct NormBackward {
    NormForward forward;  // its y is not looked at
    const void* dy;
    int64_t dy_r;
    void *dx, *dskip, *dgate;
    float* partials;
    float *dweight, *dskip_weight;
};

constexpr int64_t norm_chunk_rows = 64;

inline int64_t norm_chunks(int64_t rows) { return (rows + norm_chunk_rows - 1) / norm_chunk_rows; }

}  // namespace xecg
