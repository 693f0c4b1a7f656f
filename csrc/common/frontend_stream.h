// Arguments of the live front end: one chunk of the same length for many patients, all rows (leads) of each.
//
//   counts or mV  ->  d = x - x_0  ->  sections in delta form (frontend.h), carried  ->  + x_0 * dc
//   ->  y_k = sum_j fir[r][j] x[i - j],  i = (offset + k down) div up,  r = (offset + k down) mod up,  over the carried history
//   ->  running z-score:  w <- a w + c,  u <- u + (c / w)(y - u),  q <- a q + c (y - u_before)(y - u),  c = 1 - a,
//       z = (y - u) / sqrt(q / w), over valid samples only
//
// The z-score is the exponentially weighted mean and variance with both sums divided by their weight w, in Welford's form, in
// float64; everything else is float32. x_0 is the row's first sample.
#pragma once
#include "types.h"

namespace xecg {

// State of all slots, each pointer (slots, rows, ...) and contiguous.
struct FrontendStreamState {
    float* sections;   // (.., sections, 2)
    float* shift;      // x_0, mV
    uint8_t* started;  // x_0 is known
    float* history;    // (.., taps - 1) newest samples after the filters
    uint8_t* valid;    // (.., taps - 1) their validity; all 1 before a row's first sample
    int64_t* since;    // samples since the last one in a long gap
    double* z;         // (.., 3) w, u, q
    float* last;       // last valid sample, mV
    uint8_t* seen;     // there is one
    int64_t* run;      // missing samples since
    int64_t* samples;  // (slots) through the filter so far
};

struct FrontendStream {
    int64_t patients, rows, n, m;
    const int64_t* slots;  // (patients), each once
    const void* x;         // float32 mV, or int16 counts when `counts`
    bool counts;
    int64_t x_patient;                     // elements from patient to patient
    const int64_t* x_row;                  // (rows) elements from a patient's first sample
    const float *mv_per_count, *baseline;  // (rows), only for counts
    const uint8_t* gap;                    // (patients, rows, n) 1 inside a long gap; null: no sample is missing
    const int64_t* begin;                  // (patients, rows) sample at which a row that has not started does; null: 0
    int64_t sections;
    const float* coefficients;             // (sections, 5)
    bool subtract;                         // x_0 is subtracted: the filters begin in their steady state; else with zeros
    float dc;                              // gain of a constant
    int64_t up, down, half, taps, offset;  // up = 0: no resampling, m = n
    const float* fir;                      // (up, taps)
    int64_t settle;                        // samples masked after a long gap
    bool zscore;
    double decay;
    float flat_std;
    FrontendStreamState state;
    float* y;     // 0 where not ok
    uint8_t* ok;  // like y
    int64_t y_patient;
    const int64_t* y_row;
    uint8_t* refused;  // (patients) 1: a sample is not finite or absurd; the patient's state and output are untouched
};

}  // namespace xecg
