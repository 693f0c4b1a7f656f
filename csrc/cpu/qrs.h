// R peaks of a whole record, one lead. The method, its numbers and their reasons: xecg/signal/qrs.py, which is the definition and
// the form for streams; this one gives the same peaks. Double precision, one instruction set, serial by nature: a recursive
// filter and decisions one after the other. Memory: blocks of some seconds, whatever the record's length.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace xecg {

// Second-order sections b0 b1 b2 a0 a1 a2 (a0 = 1), direct form II transposed, two of them; zi: their state after an endless 1.
struct QrsFilter {
    std::array<double, 12> sos;
    std::array<double, 4> zi;
};

struct QrsPlan {
    QrsFilter band, peak;  // 5-20 Hz for finding, 0.5-40 Hz for placing
    double rate_hz;
    int64_t band_delay, peak_delay;  // samples
    int64_t lag, window, alone, near, arm, learn;
    double r_share, threshold, noise_share, refractory_s, t_wave_s, t_slope, search_rr, search_share, relearn_s, relearn_share;
    double learn_s, longest_rr_s, floor_mv;
    int64_t most_rejected, memory;
};

// x: n samples in mV; those that are no numbers repeat the last one that is. Ascending sample indices.
std::vector<int64_t> qrs_detect(const QrsPlan& plan, const double* x, int64_t n);

// Kurtosis of the band-passed lead less that of noise: how far its beats stand out. Samples that are no numbers count as 0.
double qrs_peakedness(const QrsPlan& plan, const double* x, int64_t n);

}  // namespace xecg
