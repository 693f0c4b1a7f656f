// Arguments of the fused offline front end: zero-phase filters, rational resampling and z-score of many rows (leads of records).
//
//   counts or mV  ->  d = x - x_0  ->  per stage: sosfiltfilt (odd extension by `pad`, steady-state start)  ->  + x_0 * dc
//   ->  y_k = sum_j fir[r][j] x[i - j],  i = (k down + half) div up,  r = (k down + half) mod up,  zero outside  ->  (y - mean) /
//   std
//
// Sections are in delta form (coefficients formed in float64, then rounded):  y = b0 x + s1;  s1 += s2 + b1 x - a1 y;  s2 += b2 x
// - a2 y with b0 = b0, b1 = 2 b0 + b1, b2 = b0 + b1 + b2, a1 = 2 + a1, a2 = 1 + a1 + a2 of the usual transfer function.
// Subtracting the first sample and this form keep a 0.05 Hz corner at 1000 Hz exact to better than 120 dB in float32.
#pragma once
#include "types.h"

namespace xecg {

struct Frontend {
    int64_t rows, n, m;
    const void* x;        // float32 mV, or int16 counts when `counts`
    const int64_t* x_at;  // (rows) element at which a row begins
    bool counts;
    const float *mv_per_count, *baseline;  // (rows), only for counts
    int stages;                            // 0: no filter, and then no offset is taken
    const int *stage_sections, *stage_pad;
    const float* coefficients;     // (sections, 5): b0 b1 b2 a1 a2 in delta form
    const float* steady;           // (sections, 2): s1, s2 for a constant input of 1
    float dc;                      // gain of a constant through all stages, both ways
    int64_t up, down, half, taps;  // up = 0: no resampling, m = n
    const float* fir;              // (up, taps)
    bool zscore;
    float flat_std;  // mV; below it a row is flat: y = 0
    float* y;
    const int64_t* y_at;  // (rows)
    uint8_t* state;       // (rows) 0 good, 1 flat, 2 with samples that are not finite
};

// The same for long rows, in tiles. A is one step of a stage's states (s1, s2 of each section) without input, C A^t its output t
// steps later; the coefficients in them are the rounded ones.
struct FrontendLong : Frontend {
    int64_t tile;           // a multiple of `down`, not below taps - 1
    const double* power;    // per stage (states, states): A^tile
    const float* response;  // per stage (tile, states): C A^t
};

}  // namespace xecg
