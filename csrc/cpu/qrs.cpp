#include "qrs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace xecg {

namespace {

constexpr int64_t block = 1 << 10;  // samples filtered at a time: six rows of them stay near, and in memory that malloc keeps
constexpr double most_samples = 9007199254740992.0;  // 2^53: whole numbers up to here are doubles

double median_of(double* v, size_t n) {
    std::sort(v, v + n);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// Two filters side by side: each is a chain of dependent operations, which take as long as one alone.
typedef double pair __attribute__((vector_size(16)));

struct Pair {
    pair c[12], z[4];

    Pair(const QrsFilter& a, const QrsFilter& b, const std::array<double, 4> (&states)[2]) {
        for (size_t k = 0; k < 12; ++k) c[k] = pair{a.sos[k], b.sos[k]};
        for (size_t k = 0; k < 4; ++k) z[k] = pair{states[0][k], states[1][k]};
    }
    pair operator()(double value) {
        const pair x{value, value};
        const pair y = c[0] * x + z[0];
        z[0] = c[1] * x - c[4] * y + z[1];
        z[1] = c[2] * x - c[5] * y;
        const pair w = c[6] * y + z[2];
        z[2] = c[7] * y - c[10] * w + z[3];
        z[3] = c[8] * y - c[11] * w;
        return w;
    }
};

bool is_count(double value, double most) { return value >= 0 && value <= most && value == std::floor(value); }

void put(std::vector<double>& to, const QrsCandidate& c) {
    to.insert(to.end(), {double(c.at), c.strength, c.slope, double(c.peak)});
}

void put(std::vector<double>& to, const QrsRecent& r) {
    to.push_back(double(r.size()));
    to.insert(to.end(), r.data(), r.data() + r.size());
}

// Reads what `put` wrote; `good` turns false at the first value that cannot be.
struct Saved {
    const double* at;
    const double* end;
    bool good = true;

    double number() {
        good = good && at < end;
        return good ? *at++ : 0.0;
    }
    int64_t count(double most) {
        const double value = number();
        good = good && is_count(value, most);
        return good ? int64_t(value) : 0;
    }
    std::vector<double> numbers(int64_t n) {
        good = good && n <= end - at;
        std::vector<double> v(at, at + (good ? n : 0));
        at += v.size();
        return v;
    }
    QrsCandidate candidate(double most) {
        QrsCandidate c{};
        c.at = count(most), c.strength = number(), c.slope = number(), c.peak = count(most);
        return c;
    }
    std::vector<QrsCandidate> candidates(double seen) {
        std::vector<QrsCandidate> v;
        for (int64_t left = count(double(end - at)); good && left > 0; --left) v.push_back(candidate(seen));
        return v;
    }
    QrsRecent recent(int64_t most) {
        QrsRecent r(most);
        for (double v : numbers(count(double(most)))) r.add(v);
        return r;
    }
};

}  // namespace

void QrsRecent::add(double value) {
    if (size_ == most_) {
        std::copy(values_ + 1, values_ + size_, values_);
        --size_;
    }
    values_[size_++] = value;
}

double QrsRecent::median() const {
    double v[qrs_most_memory];
    std::copy(values_, values_ + size_, v);
    return median_of(v, size_t(size_));
}

QrsDetector::QrsDetector(const QrsPlan& plan) : plan_(plan), beats_(plan.memory), noise_(plan.memory), rr_(plan.memory) {
    for (auto& row : rows_) row.assign(size_t(keep()), 0.0);
}

void QrsDetector::push(const double* x, int64_t n, std::vector<int64_t>& found) {
    for (int64_t first = 0; first < n; first += block) {
        extend(x + first, std::min(block, n - first));
        decide(seen_ - plan_.alone, false, found);
    }
}

void QrsDetector::flush(std::vector<int64_t>& found) {
    // The end of the record goes on as it is, for the arms of the last peaks.
    for (auto& row : rows_) row.resize(row.size() + size_t(plan_.arm), row.back());
    decide(seen_, true, found);
}

// Signals.

void QrsDetector::extend(const double* x, int64_t n) {
    if (!started_) {
        started_ = true;
        last_value_ = std::isfinite(x[0]) ? x[0] : 0.0;
        for (size_t k = 0; k < 4; ++k)
            states_[0][k] = plan_.band.zi[k] * last_value_, states_[1][k] = plan_.peak.zi[k] * last_value_;
    }
    const int64_t old = columns();
    for (auto& row : rows_) row.resize(size_t(old + n));
    double *b = rows_[band].data(), *s = rows_[square].data(), *p = rows_[peak].data();
    Pair filters(plan_.band, plan_.peak, states_);
    double value = last_value_;
    for (int64_t k = 0; k < n; ++k) {
        if (std::isfinite(x[k])) value = x[k];
        const pair y = filters(value);
        b[old + k] = y[0];
        p[old + k] = y[1];
    }
    last_value_ = value;
    for (size_t k = 0; k < 4; ++k) states_[0][k] = filters.z[k][0], states_[1][k] = filters.z[k][1];
    for (int64_t k = old; k < old + n; ++k) {
        const double rise = b[k] - b[k - plan_.lag];
        s[k] = rise * rise;
    }
    integrate(old);
    seen_ += n;
}

// Roots of the mean of `window` squares from sums of 1, 2, 4, ...: the same tree of additions for every sample.
void QrsDetector::integrate(int64_t old) {
    const int64_t size = plan_.window, n = columns() - old;
    sums_.assign(rows_[square].begin() + (old - size + 1), rows_[square].end());
    total_.assign(size_t(n), 0.0);
    double *sums = sums_.data(), *total = total_.data(), *to = rows_[strength].data() + old;
    int64_t done = 0, left = int64_t(sums_.size());
    for (int64_t length = 1; length <= size; length *= 2) {
        if (length > 1) {
            left -= length / 2;
            for (int64_t k = 0; k < left; ++k) sums[k] += sums[k + length / 2];
        }
        if (!(size & length)) continue;
        for (int64_t k = 0; k < n; ++k) total[k] += sums[done + k];
        done += length;
    }
    for (int64_t k = 0; k < n; ++k) to[k] = std::sqrt(total[k] / double(size));
}

// Peaks of the strength from sample `looked_` up to `until`; then forgets what is no longer needed.
void QrsDetector::candidates(int64_t until) {
    if (until <= looked_) return;
    const int64_t first = keep(), origin = looked_ - first, last = until - origin;
    const double* s = rows_[strength].data();
    for (int64_t i = first; i < last; ++i) {
        const bool rises = s[i] > s[i - 1], goes_on = s[i + 1] > s[i];  // nearly always the one or not the other
        if (rises & !goes_on && s[i] > plan_.floor_mv && stands_alone(i)) waiting_.push_back(candidate(i, origin));
    }
    for (auto& row : rows_) row.erase(row.begin(), row.begin() + (last - first));
    looked_ = until;
}

// Whether the strength, which rose to here, is highest here of all samples up to `alone` away.
bool QrsDetector::stands_alone(int64_t i) const {
    const double* s = rows_[strength].data();
    const double here = s[i];
    const int64_t right = std::min(plan_.alone, columns() - 1 - i);
    for (int64_t d = 1; d <= right; ++d)
        if (s[i + d] > here) return false;
    for (int64_t d = 1; d <= plan_.alone; ++d)
        if (s[i - d] > here) return false;
    return true;
}

QrsCandidate QrsDetector::candidate(int64_t i, int64_t origin) const {
    const int64_t start = i - plan_.window - plan_.lag + 1, shift = plan_.peak_delay - plan_.band_delay, k = plan_.arm;
    const auto squares = rows_[square].begin();
    const double slope = std::sqrt(*std::max_element(squares + start, squares + i + 1));
    const double* x = rows_[peak].data();
    int64_t high = start + shift, low = high;
    double highest = -std::numeric_limits<double>::infinity(), lowest = -highest;
    for (int64_t t = start + shift; t <= i + shift; ++t) {
        const double bend = x[t] - (x[t - k] + x[t + k]) / 2;
        if (bend > highest) highest = bend, high = t;
        if (bend < lowest) lowest = bend, low = t;
    }
    const bool upright = highest >= -plan_.r_share * lowest;
    const int64_t coarse = upright ? high : low, end = std::min(coarse + plan_.near + 1, columns());
    const double sign = upright ? 1.0 : -1.0;
    int64_t best = coarse - plan_.near;
    for (int64_t t = best; t < end; ++t)
        if (sign * x[t] > sign * x[best]) best = t;
    return {i + origin, rows_[strength][size_t(i)], slope, std::max<int64_t>(0, best + origin - plan_.peak_delay)};
}

// Decisions.

void QrsDetector::decide(int64_t until, bool final, std::vector<int64_t>& found) {
    candidates(until);
    if (!judging_) {
        if (looked_ < plan_.learn && !final) return;
        std::vector<QrsCandidate> early;
        for (const QrsCandidate& c : waiting_)
            if (c.at < plan_.learn) early.push_back(c);
        learn(early, level(early, 0, plan_.learn_s));
        judging_ = true;
    }
    for (const QrsCandidate& c : waiting_) see(c, found);
    waiting_.clear();
}

void QrsDetector::see(const QrsCandidate& c, std::vector<int64_t>& found) {
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

double QrsDetector::level(const std::vector<QrsCandidate>& candidates, int64_t start, double seconds) const {
    std::vector<double> best(size_t(std::max(1.0, std::floor(seconds))), 0.0);
    for (const QrsCandidate& c : candidates) {
        const auto second = int64_t(double(c.at - start) / plan_.rate_hz);
        if (second < 0 || second >= int64_t(best.size())) continue;
        best[size_t(second)] = std::max(best[size_t(second)], c.strength);
    }
    return median_of(best.data(), best.size());
}

void QrsDetector::learn(const std::vector<QrsCandidate>& candidates, double level) {
    beats_.start(level);
    double least = candidates.empty() ? 0.0 : candidates.front().strength;
    for (const QrsCandidate& c : candidates) least = std::min(least, c.strength);
    noise_.start(least);
}

void QrsDetector::relearn(const QrsCandidate& now, std::vector<int64_t>& found) {
    const double quiet_s = double(now.at - quiet_from_) / plan_.rate_hz;
    if (quiet_s <= plan_.relearn_s || rejected_.empty()) return;
    const double level = this->level(rejected_, quiet_from_, quiet_s);
    if (level < plan_.relearn_share * beats_.median()) return;
    std::vector<QrsCandidate> again;
    again.swap(rejected_);
    learn(again, level);
    quiet_from_ = now.at;
    has_last_ = false;
    for (const QrsCandidate& c : again) see(c, found);
}

double QrsDetector::threshold() const {
    const double high = beats_.median(), low = std::min(noise_.median(), plan_.noise_share * high);
    return low + plan_.threshold * (high - low);
}

void QrsDetector::search_back(const QrsCandidate& now, std::vector<int64_t>& found) {
    while (has_last_) {
        const double rr = rr_.size() ? rr_.median() : plan_.rate_hz;
        if (double(now.at - last_.at) <= plan_.search_rr * rr) return;
        const double enough = plan_.search_share * threshold();
        const double early = double(last_.at) + plan_.t_wave_s * plan_.rate_hz;
        const double late = double(now.at) - plan_.refractory_s * plan_.rate_hz;
        const QrsCandidate* best = nullptr;
        for (const QrsCandidate& c : rejected_)
            if (early < double(c.at) && double(c.at) < late && c.strength > enough &&
                (best == nullptr || c.strength >= best->strength))
                best = &c;
        if (best == nullptr) return;
        const QrsCandidate taken = *best;
        std::vector<QrsCandidate> later;
        for (const QrsCandidate& c : rejected_)
            if (c.at > taken.at) later.push_back(c);
        accept(taken, found);
        rejected_.swap(later);
    }
}

void QrsDetector::accept(const QrsCandidate& c, std::vector<int64_t>& found) {
    if (has_last_ && double(c.at - last_.at) < plan_.longest_rr_s * plan_.rate_hz) rr_.add(double(c.at - last_.at));
    beats_.add(c.strength);
    last_ = c;
    has_last_ = true;
    quiet_from_ = std::max(quiet_from_, c.at);
    rejected_.clear();
    found.push_back(c.peak);
}

// State.

std::vector<double> QrsDetector::save() const {
    std::vector<double> to{double(seen_), double(looked_), last_value_, double(started_)};
    for (const auto& z : states_) to.insert(to.end(), z.begin(), z.end());
    for (const auto& row : rows_) to.insert(to.end(), row.begin(), row.end());
    to.push_back(double(waiting_.size()));
    for (const QrsCandidate& c : waiting_) put(to, c);
    to.push_back(judging_);
    if (!judging_) return to;
    for (const QrsRecent* r : {&beats_, &noise_, &rr_}) put(to, *r);
    to.insert(to.end(), {double(quiet_from_), double(has_last_)});
    put(to, last_);
    to.push_back(double(rejected_.size()));
    for (const QrsCandidate& c : rejected_) put(to, c);
    return to;
}

bool QrsDetector::restore(const double* state, int64_t n) {
    Saved from{state, state + n};
    QrsDetector made(plan_);
    made.seen_ = from.count(most_samples);
    made.looked_ = from.count(double(made.seen_));
    made.last_value_ = from.number();
    made.started_ = from.count(1) != 0;
    for (auto& z : made.states_)
        for (double& v : z) v = from.number();
    for (auto& row : made.rows_) row = from.numbers(keep() + made.seen_ - made.looked_);
    const auto seen = double(made.seen_);
    made.waiting_ = from.candidates(seen);
    made.judging_ = from.count(1) != 0;
    if (made.judging_) {
        made.beats_ = from.recent(plan_.memory), made.noise_ = from.recent(plan_.memory), made.rr_ = from.recent(plan_.memory);
        made.quiet_from_ = from.count(seen);
        made.has_last_ = from.count(1) != 0;
        made.last_ = from.candidate(seen);
        made.rejected_ = from.candidates(seen);
        from.good = from.good && made.beats_.size() && made.noise_.size();
    }
    if (!from.good || from.at != from.end) return false;
    *this = std::move(made);
    return true;
}

std::vector<int64_t> qrs_detect(const QrsPlan& plan, const double* x, int64_t n) {
    std::vector<int64_t> found;
    if (n == 0) return found;
    QrsDetector detector(plan);
    detector.push(x, n, found);
    detector.flush(found);
    return found;
}

double qrs_peakedness(const QrsPlan& plan, const double* x, int64_t n) {
    Pair filter(plan.band, plan.band, {});
    double power = 0.0, fourth = 0.0;
    for (int64_t k = 0; k < n; ++k) {
        const double y = filter(std::isfinite(x[k]) ? x[k] : 0.0)[0], square = y * y;
        power += square;
        fourth += square * square;
    }
    power /= double(n);
    return power > plan.floor_mv * plan.floor_mv ? fourth / double(n) / (power * power) - 3.0 : -3.0;
}

}  // namespace xecg
