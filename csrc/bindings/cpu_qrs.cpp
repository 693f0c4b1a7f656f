// The QRS detector of xecg._cpu.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "../cpu/qrs.h"
#include "cpu.h"

namespace py = pybind11;

namespace xecg::bindings {

namespace {

using Address = uintptr_t;
using Sections = std::array<double, 16>;  // 12 coefficients and 4 of state
using Samples = std::array<int64_t, 10>;
using Rules = std::array<double, 13>;

// In the order of QrsPlan.
QrsPlan qrs_plan(const Sections& band, const Sections& peak, double rate_hz, const Samples& samples, const Rules& rules) {
    const auto filter = [](const Sections& f) {
        QrsFilter to;
        std::copy(f.begin(), f.begin() + 12, to.sos.begin());
        std::copy(f.begin() + 12, f.end(), to.zi.begin());
        return to;
    };
    const auto [band_delay, peak_delay, lag, window, alone, near, arm, learn, most_rejected, memory] = samples;
    const auto [r_share, threshold, noise_share, refractory_s, t_wave_s, t_slope, search_rr, search_share, relearn_s,
                relearn_share, learn_s, longest_rr_s, floor_mv] = rules;
    if (memory < 1 || memory > qrs_most_memory) throw std::invalid_argument("memory is out of range");
    return QrsPlan{filter(band), filter(peak), rate_hz,  band_delay,    peak_delay,   lag,       window,
                   alone,        near,         arm,      learn,         r_share,      threshold, noise_share,
                   refractory_s, t_wave_s,     t_slope,  search_rr,     search_share, relearn_s, relearn_share,
                   learn_s,      longest_rr_s, floor_mv, most_rejected, memory};
}

std::vector<int64_t> qrs(Address x, int64_t n, const QrsPlan& plan) {
    py::gil_scoped_release free;
    return qrs_detect(plan, reinterpret_cast<const double*>(x), n);
}

double peakedness(Address x, int64_t n, const QrsPlan& plan) {
    py::gil_scoped_release free;
    return qrs_peakedness(plan, reinterpret_cast<const double*>(x), n);
}

}  // namespace

void define_qrs(py::module_& m) {
    py::class_<QrsPlan>(m, "QrsPlan").def(py::init(&qrs_plan));
    m.def("qrs", &qrs);
    m.def("qrs_peakedness", &peakedness);
    // Keeps the GIL, which is what keeps two threads out of one detector.
    py::class_<QrsDetector>(m, "QrsDetector")
        .def(py::init<const QrsPlan&>())
        .def("push",
             [](QrsDetector& self, Address x, int64_t n) {
                 std::vector<int64_t> found;
                 self.push(reinterpret_cast<const double*>(x), n, found);
                 return found;
             })
        .def("flush",
             [](QrsDetector& self) {
                 std::vector<int64_t> found;
                 self.flush(found);
                 return found;
             })
        .def("save",
             [](const QrsDetector& self) {
                 const std::vector<double> state = self.save();
                 return py::bytes(reinterpret_cast<const char*>(state.data()), state.size() * sizeof(double));
             })
        .def("restore",
             [](QrsDetector& self, Address state, int64_t n) { return self.restore(reinterpret_cast<const double*>(state), n); });
}

}  // namespace xecg::bindings
