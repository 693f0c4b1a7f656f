// Facts of a recording that tell its quality. What they mean and their numbers: xecg/signal/quality.py, which is the definition.
#pragma once
#include <cstdint>

namespace xecg {

// x (leads, n) mV, valid (leads, n) bytes, 0 where a sample is missing; one that is not finite is missing too. Windows of `size`
// samples stand side by side from the first sample on, `count` of them in a lead; what is left at the end is in none.
struct Quality {
    int64_t leads, n;
    const float* x;
    int64_t x_lead;
    const uint8_t* valid;
    int64_t valid_lead;
    int64_t size, count;
    const float* taper;  // (size)
    const float* roots;  // (size, 2): cosine and minus sine of 2 pi k / size
    const float* bands;  // (size / 2 + 1, 4): 0 or 1, whether a frequency counts as ECG, 50 Hz, 60 Hz, noise
    int64_t limbs[3];    // rows of I, II, III; limbs[0] < 0: none
    float flat_mv, rail_range_mv, noise_ratio;
    double gap_limit;

    uint8_t* whole;    // (leads): nothing is missing
    int64_t* present;  // (leads): samples that are there
    double* clipped;   // (leads): larger share of samples at the highest or at the lowest value
    double* range_mv;  // (leads): from the 1st to the 99th percentile
    double* triangle;  // (1): root mean square of I + III - II, NaN where that is nowhere known
    uint8_t* flags;    // (leads, count): bits `used`, `still`, `noisy`
    float* ecg;        // (leads, count): power in the band of the ECG
    float* hum;        // (leads, count): the larger power of 50 and 60 Hz
};

enum : uint8_t { window_used = 1, window_still = 2, window_noisy = 4 };

// Prime factors of a window's length above this are not served.
constexpr int64_t quality_longest_factor = 512;

}  // namespace xecg
