// Signal quality of xecg._cpu: the kernels' facts of leads and windows, put together.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "../cpu/arena.h"
#include "../cpu/pool.h"
#include "../cpu/reversal.h"
#include "../cpu/table.h"
#include "cpu.h"

namespace py = pybind11;

namespace xecg::bindings {

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

constexpr int64_t quality_grain = 1 << 17;  // samples: fewer are not worth waking a second thread

// What is known of each lead, and of all.
struct Facts {
    std::vector<double> gap, clipped, flat, noise, range_mv;
    std::vector<bool> mains;
    double triangle = 0.0;
    Reversal reversal = Reversal::none;
};

struct Room {
    std::vector<uint8_t> whole, flags;
    std::vector<int64_t> present;
    std::vector<float> ecg, hum;
};

// Fills the outputs of `a`, which point into `room` and `facts`.
void run(const Quality& a) {
    const KernelTable& k = kernels();
    const int64_t lead_scratch = k.quality_lead_scratch(a), window_scratch = k.quality_window_scratch(a);
    parallel_for(k.quality_lead_tasks(a), 1 + quality_grain / a.n,
                 [&](int64_t lo, int64_t hi) { k.quality_leads(a, lo, hi, Arena(lead_scratch).data()); });
    parallel_for(k.quality_window_tasks(a), 1 + quality_grain / (a.size * k.width),
                 [&](int64_t lo, int64_t hi) { k.quality_windows(a, lo, hi, Arena(window_scratch).data()); });
}

void add_windows(const Quality& a, int64_t lead, Facts& facts) {
    int64_t used = 0, still = 0, noisy = 0;
    double hum = 0.0, ecg = 0.0;
    for (int64_t w = lead * a.count; w < (lead + 1) * a.count; ++w) {
        if (!(a.flags[w] & window_used)) continue;
        ++used;
        still += (a.flags[w] & window_still) != 0;
        noisy += (a.flags[w] & window_noisy) != 0;
        hum += double(a.hum[w]), ecg += double(a.ecg[w]);
    }
    const auto all = double(std::max<int64_t>(1, used));
    facts.flat.push_back(double(still) / all);
    facts.noise.push_back(double(noisy) / all);
    facts.mains.push_back(hum > ecg && still < used);
}

// `rows`: of leads I, II and of a chest lead. n: samples that are looked at.
Reversal reversal(const Quality& a, const std::array<int64_t, 3>& rows, int64_t n, const QrsPlan& plan,
                  const ReversalRules& rules) {
    const float* x[3];
    for (size_t k = 0; k < 3; ++k) {
        x[k] = a.x + rows[k] * a.x_lead;
        const uint8_t* valid = a.valid + rows[k] * a.valid_lead;
        if (a.whole[rows[k]]) continue;
        for (int64_t t = 0; t < n; ++t)
            if (!valid[t] || !(x[k][t] - x[k][t] == 0.0f)) return Reversal::none;
    }
    return limb_reversal(plan, rules, x[0], x[1], x[2], n);
}

// x: (leads, n) float32 and valid: bytes, each with the distance of its rows; tables: taper, roots, bands of common/quality.h;
// limbs: rows of I, II, III or -1; swapped: rows of I, II and a chest lead or -1, and how many samples are looked at; the numbers
// of quality.py.
py::tuple quality(int64_t leads, int64_t n, Address x, int64_t x_lead, Address valid, int64_t valid_lead, int64_t size,
                  const std::array<Address, 3>& tables, const std::array<int64_t, 3>& limbs,
                  const std::array<int64_t, 4>& swapped, const std::array<double, 9>& rules, const QrsPlan* plan) {
    const auto [flat_mv, rail_range_mv, noise_ratio, gap_limit, before_s, after_s, clear, mirror, p_wave_mv] = rules;
    Facts facts;
    {
        py::gil_scoped_release free;
        const int64_t count = n / size;
        const auto many = size_t(leads), windows = size_t(leads * count);
        Room room{std::vector<uint8_t>(many), std::vector<uint8_t>(windows), std::vector<int64_t>(many),
                  std::vector<float>(windows), std::vector<float>(windows)};
        facts.clipped.resize(many);
        facts.range_mv.resize(many);
        const Quality a{leads,
                        n,
                        at<const float>(x),
                        x_lead,
                        at<const uint8_t>(valid),
                        valid_lead,
                        size,
                        count,
                        at<const float>(tables[0]),
                        at<const float>(tables[1]),
                        at<const float>(tables[2]),
                        {limbs[0], limbs[1], limbs[2]},
                        float(flat_mv),
                        float(rail_range_mv),
                        float(noise_ratio),
                        gap_limit,
                        room.whole.data(),
                        room.present.data(),
                        facts.clipped.data(),
                        facts.range_mv.data(),
                        &facts.triangle,
                        room.flags.data(),
                        room.ecg.data(),
                        room.hum.data()};
        run(a);
        std::vector<double> ranges;
        for (int64_t lead = 0; lead < leads; ++lead) {
            facts.gap.push_back(1.0 - double(a.present[lead]) / double(n));
            add_windows(a, lead, facts);
            if (a.present[lead]) ranges.push_back(a.range_mv[lead]);
        }
        facts.range_mv.swap(ranges);
        const auto [one, two, chest, looked_at] = swapped;
        if (chest >= 0 && plan)
            facts.reversal = reversal(a, {one, two, chest}, looked_at, *plan, {before_s, after_s, clear, mirror, p_wave_mv});
    }
    return py::make_tuple(std::move(facts.gap), std::move(facts.clipped), std::move(facts.flat), std::move(facts.noise),
                          std::move(facts.mains), std::move(facts.range_mv), facts.triangle, int(facts.reversal));
}

}  // namespace

void define_quality(py::module_& m) {
    m.attr("quality_longest_factor") = quality_longest_factor;
    m.def("quality", &quality);
}

}  // namespace xecg::bindings
