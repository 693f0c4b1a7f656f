// The Python functions of the front end on a GPU, shared by the real module and by the host form of the tests.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "../cuda/frontend_row.cuh"
#include "../cuda/frontend_stream.cuh"

namespace xecg {
namespace cuda {

// What both ways of the kernel take. sizes: rows, n, m; rows_at: x_at, mv_per_count, baseline, y_at, state; resampler: up (0:
// none), down, half, taps.
struct FrontendCall {
    Frontend of{};

    FrontendCall(const std::array<int64_t, 3>& sizes, uintptr_t x, bool counts, const std::array<uintptr_t, 5>& rows_at,
                 int stages, float dc, const std::array<int64_t, 4>& resampler, uintptr_t fir, bool zscore, float flat_std,
                 uintptr_t y) {
        of.rows = sizes[0], of.n = sizes[1], of.m = sizes[2];
        of.x = reinterpret_cast<const void*>(x), of.counts = counts;
        of.x_at = reinterpret_cast<const int64_t*>(rows_at[0]);
        of.mv_per_count = reinterpret_cast<const float*>(rows_at[1]);
        of.baseline = reinterpret_cast<const float*>(rows_at[2]);
        of.y_at = reinterpret_cast<const int64_t*>(rows_at[3]);
        of.state = reinterpret_cast<uint8_t*>(rows_at[4]);
        of.stages = stages, of.dc = dc, of.fir = reinterpret_cast<const float*>(fir);
        of.zscore = zscore, of.flat_std = flat_std, of.y = reinterpret_cast<float*>(y);
        of.up = resampler[0], of.down = resampler[1], of.half = resampler[2], of.taps = resampler[3];
    }
};

// shared() gives the bytes that a block may ask for; rows(arguments, stages, stream) and tiled(arguments, scratch, pad, stream)
// raise or return nothing.
template <class Shared, class Rows, class Tiled, class Live>
void define_frontend(pybind11::module_& m, Shared shared, Rows rows, Tiled tiled, Live live) {
    namespace py = pybind11;
    m.attr("frontend_most_sections") = frontend_most_sections;
    m.attr("frontend_most_stages") = row_most_stages;
    m.attr("frontend_lanes") = lanes;
    m.def("frontend_warp_scratch", &frontend_warp_scratch);
    m.def("frontend_shared_bytes", shared);
    py::class_<FrontendCall>(m, "FrontendCall", py::module_local())  // the tests load an emulated module beside this one
        .def(py::init<const std::array<int64_t, 3>&, uintptr_t, bool, const std::array<uintptr_t, 5>&, int, float,
                      const std::array<int64_t, 4>&, uintptr_t, bool, float, uintptr_t>());
    // Bytes of shared memory that a row takes, and the stretch of a thread.
    m.def("frontend_row", [](int64_t n, int64_t m, const std::array<int64_t, 4>& resampler, int pad, int sections) {
        Frontend a{};
        a.n = n, a.m = m, a.up = resampler[0], a.down = resampler[1], a.half = resampler[2], a.taps = resampler[3];
        const RowPlan plan = row_plan(a, pad, sections);
        return py::make_tuple(plan.bytes(), plan.stretch);
    });
    // sections, pads and tables lie on the host, taps and the arrays of a tiled plan on the device.
    m.def("frontend_rows", [rows](const FrontendCall& call, uintptr_t sections, uintptr_t pads, uintptr_t tables, uintptr_t taps,
                                  uintptr_t stream) {
        rows(call.of,
             FrontendRowStages{reinterpret_cast<const int*>(sections), reinterpret_cast<const int*>(pads),
                               reinterpret_cast<const float*>(tables), reinterpret_cast<const float*>(taps)},
             stream);
    });
    m.def("frontend_tiled", [tiled](const FrontendCall& call, const std::array<uintptr_t, 4>& plan, uintptr_t scratch,
                                    int64_t pad, uintptr_t stream) {
        Frontend a = call.of;
        a.stage_sections = reinterpret_cast<const int*>(plan[0]);
        a.stage_pad = reinterpret_cast<const int*>(plan[1]);
        a.coefficients = reinterpret_cast<const float*>(plan[2]);
        a.steady = reinterpret_cast<const float*>(plan[3]);
        tiled(a, reinterpret_cast<float*>(scratch), pad, stream);
    });
    // As xecg._cpu's, all addresses on the device, and after them the room: 8 patients + patients rows (taps - 1 + n) bytes.
    m.def("frontend_stream",
          [live](const std::array<int64_t, 4>& sizes, uintptr_t slots, uintptr_t x, bool counts, int64_t x_patient,
                 uintptr_t x_row, uintptr_t mv_per_count, uintptr_t baseline, uintptr_t gap, uintptr_t begin, int64_t sections,
                 uintptr_t coefficients, bool subtract, float dc, const std::array<int64_t, 5>& resampler, uintptr_t fir,
                 int64_t settle, bool zscore, double decay, float flat_std, const std::array<uintptr_t, 11>& s, uintptr_t y,
                 uintptr_t ok, int64_t y_patient, uintptr_t y_row, uintptr_t refused, uintptr_t room, uintptr_t stream) {
              FrontendStream a{};
              a.patients = sizes[0], a.rows = sizes[1], a.n = sizes[2], a.m = sizes[3];
              a.slots = reinterpret_cast<const int64_t*>(slots);
              a.x = reinterpret_cast<const void*>(x), a.counts = counts, a.x_patient = x_patient;
              a.x_row = reinterpret_cast<const int64_t*>(x_row);
              a.mv_per_count = reinterpret_cast<const float*>(mv_per_count);
              a.baseline = reinterpret_cast<const float*>(baseline);
              a.gap = reinterpret_cast<const uint8_t*>(gap), a.begin = reinterpret_cast<const int64_t*>(begin);
              a.sections = sections, a.coefficients = reinterpret_cast<const float*>(coefficients);
              a.subtract = subtract, a.dc = dc, a.fir = reinterpret_cast<const float*>(fir);
              a.up = resampler[0], a.down = resampler[1], a.half = resampler[2], a.taps = resampler[3], a.offset = resampler[4];
              a.settle = settle, a.zscore = zscore, a.decay = decay, a.flat_std = flat_std;
              a.state = FrontendStreamState{
                  reinterpret_cast<float*>(s[0]),   reinterpret_cast<float*>(s[1]),   reinterpret_cast<uint8_t*>(s[2]),
                  reinterpret_cast<float*>(s[3]),   reinterpret_cast<uint8_t*>(s[4]), reinterpret_cast<int64_t*>(s[5]),
                  reinterpret_cast<double*>(s[6]),  reinterpret_cast<float*>(s[7]),   reinterpret_cast<uint8_t*>(s[8]),
                  reinterpret_cast<int64_t*>(s[9]), reinterpret_cast<int64_t*>(s[10])};
              a.y = reinterpret_cast<float*>(y), a.ok = reinterpret_cast<uint8_t*>(ok), a.y_patient = y_patient;
              a.y_row = reinterpret_cast<const int64_t*>(y_row), a.refused = reinterpret_cast<uint8_t*>(refused);
              live(a, reinterpret_cast<void*>(room), stream);
          });
}

}  // namespace cuda
}  // namespace xecg
