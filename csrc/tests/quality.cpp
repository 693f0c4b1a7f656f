// Facts of leads and windows at one ISA level against plain sorting and sums in double precision; and exchanged electrodes, on
// anything.
#include <algorithm>
#include <limits>

#include "../cpu/reversal.h"
#include "check.h"
#include "levels.h"

namespace xecg::tests {
namespace {

struct Given {
    int64_t leads, n, size;
    std::vector<float> x, taper, roots, bands;
    std::vector<uint8_t> valid;

    Given(int64_t leads, int64_t n, int64_t size, bool holes) : leads(leads), n(n), size(size) {
        Random random;
        x = random.normals(leads * n);
        valid.assign(size_t(leads * n), 1);
        for (int64_t t = 0; t < n; t += 3) x[size_t(t)] = 0.75f;  // a rail, where many samples are
        for (int64_t t = 0; t < n; ++t) x[size_t(t)] = std::min(x[size_t(t)], 0.75f);
        for (size_t k = size_t(n); k < x.size() && k < size_t(n + size); ++k) x[k] = 1.5f;  // a still window of the second lead
        for (int64_t k = 0; k < 12 && n > 600; ++k)
            x[x.size() - size_t(n) + size_t(k * (n / 256))] -= 20;  // where a guess is made of
        for (size_t k = 0; holes && k < x.size(); k += 7 + k % 5) valid[k] = 0;
        if (holes) x[x.size() / 2] = std::numeric_limits<float>::quiet_NaN(), x.back() = std::numeric_limits<float>::infinity();
        for (int64_t k = 0; k < size; ++k) {
            const double turn = 2 * M_PI * double(k) / double(size);
            taper.push_back(float(0.5 - 0.5 * std::cos(turn)));
            roots.insert(roots.end(), {float(std::cos(turn)), float(-std::sin(turn))});
        }
        for (int64_t k = 0; k <= size / 2; ++k)
            for (int64_t band = 0; band < 4; ++band) bands.push_back(float(k % 5 == band));
    }
    bool there(size_t at) const { return valid[at] && std::isfinite(x[at]); }
};

struct Found {
    std::vector<uint8_t> whole, flags;
    std::vector<int64_t> present;
    std::vector<double> clipped, range;
    std::vector<float> ecg, hum;
    double triangle = 0.0;
};

// In one call, or task by task from the last to the first.
Found facts(const KernelTable& k, const Given& g, bool apart) {
    const int64_t count = g.n / g.size;
    const auto many = size_t(g.leads), windows = size_t(g.leads * count);
    Found f{std::vector<uint8_t>(many), std::vector<uint8_t>(windows), std::vector<int64_t>(many), std::vector<double>(many),
            std::vector<double>(many),  std::vector<float>(windows),   std::vector<float>(windows)};
    Quality a{};
    a.leads = g.leads, a.n = g.n, a.x = g.x.data(), a.x_lead = g.n, a.valid = g.valid.data(), a.valid_lead = g.n;
    a.size = g.size, a.count = count, a.taper = g.taper.data(), a.roots = g.roots.data(), a.bands = g.bands.data();
    for (int64_t k = 0; k < 3; ++k) a.limbs[k] = g.leads < 3 ? -1 : k;
    a.flat_mv = 0.01f, a.rail_range_mv = 0.2f, a.gap_limit = 0.2, a.noise_ratio = 0.5f;
    a.whole = f.whole.data(), a.present = f.present.data(), a.clipped = f.clipped.data(), a.range_mv = f.range.data();
    a.triangle = &f.triangle, a.flags = f.flags.data(), a.ecg = f.ecg.data(), a.hum = f.hum.data();
    const auto run = [&](auto body, int64_t tasks, int64_t floats) {
        for (int64_t t = apart ? tasks : 1; t-- > 0;) {
            Scratch64 scratch(floats);
            body(a, t, apart ? t + 1 : tasks, scratch.data);
        }
    };
    run(k.quality_leads, k.quality_lead_tasks(a), k.quality_lead_scratch(a));
    run(k.quality_windows, k.quality_window_tasks(a), k.quality_window_scratch(a));
    return f;
}

void check_lead(const Given& g, const Found& f, int64_t lead, const std::string& what) {
    std::vector<double> v;
    for (int64_t t = 0; t < g.n; ++t)
        if (g.there(size_t(lead * g.n + t))) v.push_back(double(g.x[size_t(lead * g.n + t)]));
    std::sort(v.begin(), v.end());
    const auto at = size_t(lead);
    expect(f.present[at] == int64_t(v.size()), what + ": samples are counted");
    expect(f.whole[at] == (v.size() == size_t(g.n)), what + ": a lead is whole");
    if (v.empty()) return;
    const auto quantile = [&](double q) {
        const double place = q * double(v.size() - 1);
        const auto k = size_t(place);
        return v[k] + (v[std::min(k + 1, v.size() - 1)] - v[k]) * (place - double(k));
    };
    expect(std::fabs(f.range[at] - (quantile(0.99) - quantile(0.01))) < 1e-6, what + ": range of the percentiles");
    const auto low = std::count(v.begin(), v.end(), v.front()), high = std::count(v.begin(), v.end(), v.back());
    const double share = v.back() - v.front() >= 0.2 ? double(std::max(low, high)) / double(v.size()) : 0.0;
    expect(std::fabs(f.clipped[at] - share) < 1e-12, what + ": samples at a rail");
}

void check_window(const Given& g, const Found& f, int64_t lead, int64_t w, const std::string& what) {
    std::vector<double> v;
    int64_t there = 0;
    for (int64_t t = 0; t < g.size; ++t) {
        const auto at = size_t(lead * g.n + w * g.size + t);
        v.push_back(g.there(at) ? double(g.x[at]) : 0.0);
        there += g.there(at);
    }
    double mean = 0.0, total = 0.0, power[4] = {};
    for (double x : v) mean += x / double(g.size);
    for (int64_t t = 0; t < g.size; ++t) total += std::pow((v[size_t(t)] - mean) * double(g.taper[size_t(t)]), 2);
    for (int64_t k = 0; k <= g.size / 2; ++k) {
        double re = 0.0, im = 0.0;
        for (int64_t t = 0; t < g.size; ++t) {
            const double x = (v[size_t(t)] - mean) * double(g.taper[size_t(t)]),
                         turn = 2 * M_PI * double(k * t % g.size) / double(g.size);
            re += x * std::cos(turn), im += x * std::sin(turn);
        }
        for (int64_t band = 0; band < 4; ++band) power[band] += (re * re + im * im) * double(g.bands[size_t(4 * k + band)]);
    }
    const auto at = size_t(lead * (g.n / g.size) + w);
    const double bound = 1e-5 * (total * double(g.size) + 1e-6);
    expect(std::fabs(double(f.ecg[at]) - power[0]) <= bound, what + ": power of the ECG");
    expect(std::fabs(double(f.hum[at]) - std::max(power[1], power[2])) <= bound, what + ": power of the mains");
    const double moves = *std::max_element(v.begin(), v.end()) - *std::min_element(v.begin(), v.end());
    const bool still = moves < 0.01, noisy = !still && power[3] > 0.25 * power[0];
    const bool close = std::fabs(power[3] - 0.25 * power[0]) <= 2 * bound;
    expect(bool(f.flags[at] & window_used) == (double(there) >= 0.8 * double(g.size)), what + ": a window is used");
    expect(bool(f.flags[at] & window_still) == still, what + ": a window is still");
    expect(close || bool(f.flags[at] & window_noisy) == noisy, what + ": a window is noisy");
}

void all(const KernelTable& k) {
    for (int64_t size : {1, 2, 3, 7, 30, 64, 49, 100, 131, 360})
        for (int64_t windows : {1, 5})
            for (bool holes : {false, true}) {
                const Given g(windows + 2, size * windows + size / 2, size, holes);
                const Found f = facts(k, g, false), apart = facts(k, g, true);
                const std::string what = std::to_string(windows) + " windows of " + std::to_string(size);
                const bool same_triangle = f.triangle == apart.triangle || (std::isnan(f.triangle) && std::isnan(apart.triangle));
                expect(f.flags == apart.flags && f.ecg == apart.ecg && f.range == apart.range && same_triangle,
                       what + ": tasks do not depend on each other");
                for (int64_t lead = 0; lead < g.leads; ++lead) {
                    check_lead(g, f, lead, what);
                    for (int64_t w = 0; w < windows; ++w) check_window(g, f, lead, w, what);
                }
            }
}

void reversal_of_anything() {
    const QrsFilter band{{0.2, 0, -0.2, 1, -0.7, 0, 1, 0, 0, 1, -0.2, 0}, {}},
        peak{{0.3, 0, 0, 1, -0.7, 0, 1, 0, 0, 1, 0, 0}, {}};
    const QrsPlan plan{band, peak, 250,  6,   2,    2,   25, 38,  6, 12, 500,  0.8, 0.45,
                       0.7,  0.2,  0.36, 0.5, 1.66, 0.6, 4,  0.1, 2, 3,  1e-6, 256, 8};
    const ReversalRules rules{0.28, 0.45, 3.0, -0.5, 0.02};
    // P, QRS and T wave, one beat a second for `seconds`.
    const auto ecg = [](int64_t seconds, float sign, float p_wave = 1) {
        std::vector<float> x(size_t(seconds * 250), 0.0f);
        const auto wave = [&](double at, double width, double size) {
            for (size_t k = 0; k < x.size(); ++k)
                x[k] += sign * float(size * std::exp(-0.5 * std::pow((std::fmod(double(k) / 250.0, 1.0) - at) / width, 2)));
        };
        wave(0.34, 0.02, 0.15 * double(p_wave));
        wave(0.5, 0.012, 1.0);
        wave(0.75, 0.04, 0.3);
        return x;
    };
    for (int64_t seconds : {0, 1, 3, 10, 47}) {
        const auto n = seconds * 250;
        const std::vector<float> up = ecg(seconds, 1), down = ecg(seconds, -1), without = ecg(seconds, -1, 0),
                                 atrial = ecg(seconds, 1, -1);
        const auto judged = [&](const std::vector<float>& one, const std::vector<float>& two) {
            return limb_reversal(plan, rules, one.data(), two.data(), up.data(), n);
        };
        const bool enough = seconds >= 10;
        const std::string what = std::to_string(seconds) + " s";
        expect(judged(up, up) == Reversal::none, what + ": nothing is exchanged");
        expect(judged(down, up) == (enough ? Reversal::right_arm_left_arm : Reversal::none) || seconds == 3, what + ": arms");
        expect(judged(up, down) == (enough ? Reversal::right_arm_left_leg : Reversal::none) || seconds == 3,
               what + ": arm and leg");
        expect(judged(without, without) == Reversal::none, what + ": no P wave, no judgement");
        expect(judged(atrial, atrial) == Reversal::none, what + ": the P wave alone is upside down");
    }
}

}  // namespace

void add_quality_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"quality." + isa, [isa] { all(level(isa)); }});
}

void add_reversal_cases(std::vector<Case>& cases) { cases.push_back({"reversal", reversal_of_anything}); }

}  // namespace xecg::tests
