#include "qrs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace xecg {

namespace {

struct Candidate {
    int64_t at;
    double strength, slope;
    int64_t peak;
};

// The last `most` values.
class Recent {
  public:
    explicit Recent(int64_t most) : most_(size_t(most)) {}
    void start(double value) { values_.assign(1, value); }
    void add(double value) {
        if (values_.size() == most_) values_.erase(values_.begin());
        values_.push_back(value);
    }
    bool empty() const { return values_.empty(); }
    double median() const { return median_of(values_); }
    static double median_of(std::vector<double> v) {
        std::sort(v.begin(), v.end());
        const size_t half = v.size() / 2;
        return v.size() % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
    }

  private:
    size_t most_;
    std::vector<double> values_;
};

class Judge {
  public:
    Judge(const QrsPlan& plan, const std::vector<Candidate>& early)
        : plan_(plan), beats_(plan.memory), noise_(plan.memory), rr_(plan.memory) {
        learn(early, level(early, 0, plan.learn_s));
    }

    void see(const Candidate& c, std::vector<int64_t>& found) {
        search_back(c, found);
        relearn(c, found);
        const double since = has_last_ ? double(c.at - last_.at) / plan_.rate_hz : std::numeric_limits<double>::infinity();
        if (since < plan_.refractory_s) return;
        const bool t_wave = has_last_ && since < plan_.t_wave_s && c.slope < plan_.t_slope * last_.slope;
        if (c.strength > threshold() && !t_wave) return accept(c, found);
        noise_.add(c.strength);
        rejected_.push_back(c);
        if (int64_t(rejected_.size()) > plan_.most_rejected) {
            rejected_.erase(rejected_.begin(), rejected_.begin() + plan_.most_rejected / 2);
            quiet_from_ = std::max(quiet_from_, rejected_.front().at);
        }
    }

  private:
    double level(const std::vector<Candidate>& candidates, int64_t start, double seconds) const {
        std::vector<double> best(size_t(std::max(1.0, std::floor(seconds))), 0.0);
        for (const Candidate& c : candidates) {
            const auto second = int64_t(double(c.at - start) / plan_.rate_hz);
            if (second < 0 || second >= int64_t(best.size())) continue;
            best[size_t(second)] = std::max(best[size_t(second)], c.strength);
        }
        return Recent::median_of(best);
    }

    void learn(const std::vector<Candidate>& candidates, double level) {
        beats_.start(level);
        double least = candidates.empty() ? 0.0 : candidates.front().strength;
        for (const Candidate& c : candidates) least = std::min(least, c.strength);
        noise_.start(least);
    }

    void relearn(const Candidate& now, std::vector<int64_t>& found) {
        const double quiet_s = double(now.at - quiet_from_) / plan_.rate_hz;
        if (quiet_s <= plan_.relearn_s || rejected_.empty()) return;
        const double level = this->level(rejected_, quiet_from_, quiet_s);
        if (level < plan_.relearn_share * beats_.median()) return;
        std::vector<Candidate> again;
        again.swap(rejected_);
        learn(again, level);
        quiet_from_ = now.at;
        has_last_ = false;
        for (const Candidate& c : again) see(c, found);
    }

    double threshold() const {
        const double high = beats_.median(), low = std::min(noise_.median(), plan_.noise_share * high);
        return low + plan_.threshold * (high - low);
    }

    void search_back(const Candidate& now, std::vector<int64_t>& found) {
        while (has_last_) {
            const double rr = rr_.empty() ? plan_.rate_hz : rr_.median();
            if (double(now.at - last_.at) <= plan_.search_rr * rr) return;
            const double enough = plan_.search_share * threshold();
            const double early = double(last_.at) + plan_.t_wave_s * plan_.rate_hz;
            const double late = double(now.at) - plan_.refractory_s * plan_.rate_hz;
            const Candidate* best = nullptr;
            for (const Candidate& c : rejected_)
                if (early < double(c.at) && double(c.at) < late && c.strength > enough &&
                    (best == nullptr || c.strength >= best->strength))
                    best = &c;
            if (best == nullptr) return;
            const Candidate taken = *best;
            std::vector<Candidate> later;
            for (const Candidate& c : rejected_)
                if (c.at > taken.at) later.push_back(c);
            accept(taken, found);
            rejected_.swap(later);
        }
    }

    void accept(const Candidate& c, std::vector<int64_t>& found) {
        if (has_last_ && double(c.at - last_.at) < plan_.longest_rr_s * plan_.rate_hz) rr_.add(double(c.at - last_.at));
        beats_.add(c.strength);
        last_ = c;
        has_last_ = true;
        quiet_from_ = std::max(quiet_from_, c.at);
        rejected_.clear();
        found.push_back(c.peak);
    }

    const QrsPlan& plan_;
    Recent beats_, noise_, rr_;
    int64_t quiet_from_ = 0;
    bool has_last_ = false;
    Candidate last_{};
    std::vector<Candidate> rejected_;
};

// A filter's coefficients and state, copied into the loop that runs it: as members, every output could overwrite them.
struct Filter {
    double c[12], z[4];

    Filter(const QrsFilter& f, double first) {
        std::copy(f.sos.begin(), f.sos.end(), c);
        for (size_t k = 0; k < 4; ++k) z[k] = f.zi[k] * first;
    }
    double operator()(double x) {
        const double y = c[0] * x + z[0];
        z[0] = c[1] * x - c[4] * y + z[1];
        z[1] = c[2] * x - c[5] * y;
        const double w = c[6] * y + z[2];
        z[2] = c[7] * y - c[10] * w + z[3];
        z[3] = c[8] * y - c[11] * w;
        return w;
    }
};

// Signals of the last `keep` samples before `looked` and of all after it.
class Signals {
  public:
    Signals(const QrsPlan& plan, double first)
        : plan_(plan),
          band_filter_(plan.band, first),
          peak_filter_(plan.peak, first),
          keep_(plan.alone + 2 * (plan.window + plan.lag) + plan.band_delay) {
        for (auto* row : {&band_, &square_, &strength_, &peak_}) row->assign(size_t(keep_), 0.0);
    }

    void extend(const double* x, int64_t n, double& last) {
        const size_t old = band_.size();
        for (auto* row : {&band_, &square_, &strength_, &peak_}) row->resize(old + size_t(n));
        Filter band = band_filter_, peak = peak_filter_;
        double value = last;
        for (int64_t k = 0; k < n; ++k) {
            if (std::isfinite(x[k])) value = x[k];
            band_[old + size_t(k)] = band(value);
            peak_[old + size_t(k)] = peak(value);
        }
        last = value, band_filter_ = band, peak_filter_ = peak;
        for (size_t k = old; k < band_.size(); ++k) {
            const double rise = band_[k] - band_[k - size_t(plan_.lag)];
            square_[k] = rise * rise;
        }
        integrate(old);
        seen += n;
    }

    // The end of the record goes on as it is, for the arms of the last peaks.
    void pad() {
        for (auto* row : {&band_, &square_, &strength_, &peak_}) row->resize(row->size() + size_t(plan_.arm), row->back());
    }

    void candidates(int64_t until, std::vector<Candidate>& found) {
        if (until <= looked) return;
        const int64_t origin = looked - keep_, last = until - origin;
        for (int64_t i = keep_; i < last; ++i)
            if (stands_alone(i)) found.push_back(candidate(i, origin));
        for (auto* row : {&band_, &square_, &strength_, &peak_}) row->erase(row->begin(), row->begin() + (last - keep_));
        looked = until;
    }

    int64_t seen = 0, looked = 0;  // samples pushed; samples searched

  private:
    // Whether the strength is highest here of all samples up to `alone` away.
    bool stands_alone(int64_t i) const {
        const double* s = strength_.data();
        const double here = s[i];
        if (!(here > s[i - 1] && here > plan_.floor_mv)) return false;
        const int64_t right = std::min(plan_.alone, int64_t(strength_.size()) - 1 - i);
        for (int64_t d = 1; d <= right; ++d)
            if (s[i + d] > here) return false;
        for (int64_t d = 1; d <= plan_.alone; ++d)
            if (s[i - d] > here) return false;
        return true;
    }

    // Roots of the mean of `window` squares from sums of 1, 2, 4, ...: the same tree of additions for every sample.
    void integrate(size_t old) {
        const auto size = size_t(plan_.window), n = square_.size() - old;
        sums_.assign(square_.begin() + int64_t(old - size + 1), square_.end());
        total_.assign(n, 0.0);
        size_t done = 0, length = 1;
        while (true) {
            if (size & length) {
                for (size_t k = 0; k < n; ++k) total_[k] += sums_[done + k];
                done += length;
            }
            length *= 2;
            if (length > size) break;
            const size_t half = length / 2, left = sums_.size() - half;
            for (size_t k = 0; k < left; ++k) sums_[k] += sums_[k + half];
            sums_.resize(left);
        }
        for (size_t k = 0; k < n; ++k) strength_[old + k] = std::sqrt(total_[k] / double(size));
    }

    Candidate candidate(int64_t i, int64_t origin) const {
        const int64_t start = i - plan_.window - plan_.lag + 1, shift = plan_.peak_delay - plan_.band_delay, k = plan_.arm;
        const double slope = std::sqrt(*std::max_element(square_.begin() + start, square_.begin() + i + 1));
        const double* x = peak_.data();
        int64_t high = start + shift, low = high;
        double highest = -std::numeric_limits<double>::infinity(), lowest = -highest;
        for (int64_t t = start + shift; t <= i + shift; ++t) {
            const double bend = x[t] - (x[t - k] + x[t + k]) / 2;
            if (bend > highest) highest = bend, high = t;
            if (bend < lowest) lowest = bend, low = t;
        }
        const bool upright = highest >= -plan_.r_share * lowest;
        const int64_t coarse = upright ? high : low, end = std::min(coarse + plan_.near + 1, int64_t(peak_.size()));
        const double sign = upright ? 1.0 : -1.0;
        int64_t peak = coarse - plan_.near;
        for (int64_t t = peak; t < end; ++t)
            if (sign * x[t] > sign * x[peak]) peak = t;
        return {i + origin, strength_[size_t(i)], slope, std::max<int64_t>(0, peak + origin - plan_.peak_delay)};
    }

    const QrsPlan& plan_;
    Filter band_filter_, peak_filter_;
    int64_t keep_;
    std::vector<double> band_, square_, strength_, peak_, sums_, total_;
};

constexpr int64_t block = 1 << 14;  // samples filtered at a time

}  // namespace

std::vector<int64_t> qrs_detect(const QrsPlan& plan, const double* x, int64_t n) {
    std::vector<int64_t> found;
    if (n == 0) return found;
    double last = std::isfinite(x[0]) ? x[0] : 0.0;
    Signals signals(plan, last);
    std::vector<Candidate> waiting;
    std::vector<Judge> judge;  // none before enough was seen
    const auto decide = [&](int64_t until, bool final) {
        signals.candidates(until, waiting);
        if (judge.empty()) {
            if (signals.looked < plan.learn && !final) return;
            std::vector<Candidate> early;
            for (const Candidate& c : waiting)
                if (c.at < plan.learn) early.push_back(c);
            judge.emplace_back(plan, early);
        }
        for (const Candidate& c : waiting) judge.front().see(c, found);
        waiting.clear();
    };
    for (int64_t first = 0; first < n; first += block) {
        signals.extend(x + first, std::min(block, n - first), last);
        decide(signals.seen - plan.alone, false);
    }
    signals.pad();
    decide(signals.seen, true);
    return found;
}

double qrs_peakedness(const QrsPlan& plan, const double* x, int64_t n) {
    Filter filter(plan.band, 0.0);
    double power = 0.0, fourth = 0.0;
    for (int64_t k = 0; k < n; ++k) {
        const double y = filter(std::isfinite(x[k]) ? x[k] : 0.0), square = y * y;
        power += square;
        fourth += square * square;
    }
    power /= double(n);
    return power > plan.floor_mv * plan.floor_mv ? fourth / double(n) / (power * power) - 3.0 : -3.0;
}

}  // namespace xecg
