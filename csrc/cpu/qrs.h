// R peaks of one lead, of a whole record or as its samples come. The method, its numbers and their reasons:
// xecg/signal/qrs_definition.py, which is the definition; this one gives the same peaks and the same state, to the bit. Double
// precision, one instruction set, serial by nature: a recursive filter and decisions one after the other.
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

constexpr int64_t qrs_most_memory = 16;  // QrsPlan::memory at most

struct QrsCandidate {
    int64_t at;
    double strength, slope;
    int64_t peak;
};

// The last `most` values.
class QrsRecent {
  public:
    explicit QrsRecent(int64_t most) : most_(most) {}
    void start(double value) { values_[0] = value, size_ = 1; }
    void add(double value);
    double median() const;
    int64_t size() const { return size_; }
    const double* data() const { return values_; }

  private:
    int64_t most_, size_ = 0;
    double values_[qrs_most_memory] = {};
};

// One lead as its samples come. Memory: the last second or so, whatever was pushed before.
class QrsDetector {
  public:
    explicit QrsDetector(const QrsPlan& plan);

    // n samples in mV; those that are no numbers repeat the last one that is. Appends the beats now decided, as ascending indices
    // counted from the first sample ever pushed.
    void push(const double* x, int64_t n, std::vector<int64_t>& found);
    // The beats of the last samples, judged with what is there. Push no more.
    void flush(std::vector<int64_t>& found);

    // Everything that it remembers, in the order of `_Definition.save`.
    std::vector<double> save() const;
    // Continues what `save` wrote under the same plan; false, and nothing is changed, where it is not that.
    bool restore(const double* state, int64_t n);

  private:
    enum Row { band, square, strength, peak, n_rows };

    int64_t keep() const { return plan_.alone + 2 * (plan_.window + plan_.lag) + plan_.band_delay; }
    int64_t columns() const { return int64_t(rows_[band].size()); }
    void extend(const double* x, int64_t n);
    void integrate(int64_t old);
    void decide(int64_t until, bool final, std::vector<int64_t>& found);
    void candidates(int64_t until);
    bool stands_alone(int64_t i) const;
    QrsCandidate candidate(int64_t i, int64_t origin) const;

    double level(const std::vector<QrsCandidate>& candidates, int64_t start, double seconds) const;
    void learn(const std::vector<QrsCandidate>& candidates, double level);
    void see(const QrsCandidate& c, std::vector<int64_t>& found);
    void relearn(const QrsCandidate& now, std::vector<int64_t>& found);
    double threshold() const;
    void search_back(const QrsCandidate& now, std::vector<int64_t>& found);
    void accept(const QrsCandidate& c, std::vector<int64_t>& found);

    QrsPlan plan_;
    bool started_ = false, judging_ = false, has_last_ = false;
    double last_value_ = 0.0;
    int64_t seen_ = 0, looked_ = 0;         // samples pushed; samples searched
    std::array<double, 4> states_[2] = {};  // of the filters
    std::vector<double> rows_[n_rows];      // samples from looked_ - keep() to seen_
    std::vector<double> sums_, total_;      // scratch
    std::vector<QrsCandidate> waiting_;
    QrsRecent beats_, noise_, rr_;
    int64_t quiet_from_ = 0;
    QrsCandidate last_{};
    std::vector<QrsCandidate> rejected_;
};

// x: n samples in mV of a whole record. Ascending sample indices.
std::vector<int64_t> qrs_detect(const QrsPlan& plan, const double* x, int64_t n);

// Kurtosis of the band-passed lead less that of noise: how far its beats stand out. Samples that are no numbers count as 0.
double qrs_peakedness(const QrsPlan& plan, const double* x, int64_t n);

}  // namespace xecg
