#include "reversal.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace xecg {

namespace {

float median_of(std::vector<float> v) {
    std::sort(v.begin(), v.end());
    const size_t half = v.size() / 2;
    return v.size() % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
}

// Sorts the columns of (rows, n): Batcher's merge exchange, Knuth, The Art of Computer Programming 3, algorithm 5.2.2 M. The
// order of comparisons depends on nothing but the number of rows, so whole rows are compared at a time.
void sort_columns(float* x, size_t rows, size_t n) {
    size_t top = 1;
    while (2 * top < rows) top *= 2;
    for (size_t p = top; p > 0 && rows > 1; p /= 2) {
        size_t q = top, r = 0, d = p;
        while (true) {
            for (size_t i = 0; i + d < rows; ++i) {
                if ((i & p) != r) continue;
                float *low = x + i * n, *high = x + (i + d) * n;
                for (size_t k = 0; k < n; ++k) {
                    const float a = low[k], b = high[k];
                    low[k] = a < b ? a : b;
                    high[k] = a < b ? b : a;
                }
            }
            if (q == p) break;
            d = q - p;
            q /= 2;
            r = p;
        }
    }
}

// The average beat of one lead, the median of its beats, made where it is asked for.
class Beat {
  public:
    Beat(const float* x, const std::vector<int64_t>& peaks, double rate_hz, const ReversalRules& rules)
        : x_(x), peaks_(peaks), rate_hz_(rate_hz), rules_(rules) {}

    // From so many seconds after the R peak to so many.
    std::vector<float> part(double start_s, double end_s) const {
        const int64_t before = std::llrint(rules_.before_s * rate_hz_), length = before + std::llrint(rules_.after_s * rate_hz_);
        const auto at = [&](double s) { return std::clamp<int64_t>(std::llrint((s + rules_.before_s) * rate_hz_), 0, length); };
        const int64_t first = at(start_s) - before;
        const auto n = size_t(std::max<int64_t>(0, at(end_s) - at(start_s))), rows = peaks_.size(), half = rows / 2;
        std::vector<float> beats(rows * n), middle(n);
        for (size_t k = 0; k < rows; ++k) std::copy_n(x_ + peaks_[k] + first, n, beats.data() + k * n);
        sort_columns(beats.data(), rows, n);
        const float *high = beats.data() + half * n, *low = rows % 2 ? high : high - n;
        for (size_t k = 0; k < n; ++k) middle[k] = (low[k] + high[k]) / 2;
        return middle;
    }

    // The P wave less the line between its ends, where it is largest.
    double p_wave() const {
        const std::vector<float> p = part(-0.22, -0.06);
        if (p.empty()) return 0.0;
        const auto edge = std::max<int64_t>(1, int64_t(p.size()) / 8);
        const double first = median_of({p.begin(), p.begin() + edge}), last = median_of({p.end() - edge, p.end()});
        double largest = 0.0;
        for (size_t k = 0; k < p.size(); ++k) {
            const double line = first + (last - first) * double(k) / double(std::max<size_t>(1, p.size() - 1));
            if (std::fabs(p[k] - line) > std::fabs(largest)) largest = p[k] - line;
        }
        return largest;
    }

  private:
    const float* x_;
    const std::vector<int64_t>& peaks_;
    double rate_hz_;
    const ReversalRules& rules_;
};

double correlation(const std::vector<float>& a, const std::vector<float>& b) {
    double mean_a = 0, mean_b = 0, aa = 0, bb = 0, ab = 0;
    for (size_t k = 0; k < a.size(); ++k) mean_a += a[k], mean_b += b[k];
    mean_a /= double(a.size()), mean_b /= double(b.size());
    for (size_t k = 0; k < a.size(); ++k) {
        const double u = a[k] - mean_a, v = b[k] - mean_b;
        aa += u * u, bb += v * v, ab += u * v;
    }
    const double size = std::sqrt(aa * bb);
    return size > 0 ? ab / size : 0.0;
}

// Peaks of the first lead whose beats stand out, or else of the one where they do most.
std::vector<int64_t> clearest_peaks(const QrsPlan& plan, const ReversalRules& rules, const float* const (&leads)[3], int64_t n) {
    std::vector<double> x(static_cast<size_t>(n)), best;
    double most = -std::numeric_limits<double>::infinity();
    for (const float* lead : leads) {
        std::copy(lead, lead + n, x.begin());
        const double peaked = qrs_peakedness(plan, x.data(), n);
        if (peaked >= rules.clear) return qrs_detect(plan, x.data(), n);
        if (peaked > most) most = peaked, best = x;
    }
    return qrs_detect(plan, best.data(), int64_t(best.size()));
}

}  // namespace

Reversal limb_reversal(const QrsPlan& plan, const ReversalRules& rules, const float* one, const float* two, const float* chest,
                       int64_t n) {
    const int64_t before = std::llrint(rules.before_s * plan.rate_hz), after = std::llrint(rules.after_s * plan.rate_hz);
    std::vector<int64_t> peaks;
    for (int64_t peak : clearest_peaks(plan, rules, {one, two, chest}, n))
        if (peak >= before && peak < n - after) peaks.push_back(peak);
    if (peaks.size() < 3) return Reversal::none;
    const Beat reference(chest, peaks, plan.rate_hz, rules);
    const auto inverted = [&](const float* x) {
        const Beat limb(x, peaks, plan.rate_hz, rules);
        const auto mirrored = [&](double start_s, double end_s) {
            return correlation(limb.part(start_s, end_s), reference.part(start_s, end_s)) < rules.mirror;
        };
        return limb.p_wave() < -rules.p_wave_mv && mirrored(-0.06, 0.08) && mirrored(-0.25, 0.42);
    };
    if (inverted(two)) return Reversal::right_arm_left_leg;
    return inverted(one) ? Reversal::right_arm_left_arm : Reversal::none;
}

}  // namespace xecg
