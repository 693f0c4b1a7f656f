// The QRS detector of xecg._cpu.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "../cpu/qrs.h"
#include "cpu.h"

namespace py = pybind11;

namespace xecg::bindings {

namespace {

using Address = uintptr_t;

// Filters: 12 coefficients and 4 of state. The rest in the order of QrsPlan.
QrsPlan qrs_plan(const std::array<double, 16>& band, const std::array<double, 16>& peak, double rate_hz,
                 const std::array<int64_t, 10>& samples, const std::array<double, 13>& rules) {
    const auto filter = [](const std::array<double, 16>& f) {
        QrsFilter to;
        std::copy(f.begin(), f.begin() + 12, to.sos.begin());
        std::copy(f.begin() + 12, f.end(), to.zi.begin());
        return to;
    };
    const auto [band_delay, peak_delay, lag, window, alone, near, arm, learn, most_rejected, memory] = samples;
    const auto [r_share, threshold, noise_share, refractory_s, t_wave_s, t_slope, search_rr, search_share, relearn_s,
                relearn_share, learn_s, longest_rr_s, floor_mv] = rules;
    return QrsPlan{filter(band), filter(peak), rate_hz,  band_delay,    peak_delay,   lag,       window,
                   alone,        near,         arm,      learn,         r_share,      threshold, noise_share,
                   refractory_s, t_wave_s,     t_slope,  search_rr,     search_share, relearn_s, relearn_share,
                   learn_s,      longest_rr_s, floor_mv, most_rejected, memory};
}

template <class... Plan>
std::vector<int64_t> qrs(Address x, int64_t n, const Plan&... plan) {
    py::gil_scoped_release free;
    return qrs_detect(qrs_plan(plan...), reinterpret_cast<const double*>(x), n);
}

template <class... Plan>
double peakedness(Address x, int64_t n, const Plan&... plan) {
    py::gil_scoped_release free;
    return qrs_peakedness(qrs_plan(plan...), reinterpret_cast<const double*>(x), n);
}

}  // namespace

void define_qrs(py::module_& m) {
    m.def("qrs", &qrs<std::array<double, 16>, std::array<double, 16>, double, std::array<int64_t, 10>, std::array<double, 13>>);
    m.def("qrs_peakedness",
          &peakedness<std::array<double, 16>, std::array<double, 16>, double, std::array<int64_t, 10>, std::array<double, 13>>);
}

}  // namespace xecg::bindings
