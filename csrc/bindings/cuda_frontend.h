// The Python function of the front end on a GPU, shared by the real module and by the host form of the tests.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "../cuda/frontend.cuh"

namespace xecg {
namespace cuda {

// run(arguments, scratch, pad, stream) raises or returns nothing.
template <class Run>
void define_frontend(pybind11::module_& m, Run run) {
    m.attr("frontend_most_sections") = frontend_most_sections;
    m.attr("frontend_lanes") = lanes;
    m.def("frontend_warp_scratch", &frontend_warp_scratch);
    // sizes: rows, n, m; resampler: up (0: none), down, half, taps; rows_at: x_at, mv_per_count, baseline, y_at, state;
    // plan: sections, pads, coefficients, steady, fir.
    m.def("frontend",
          [run](const std::array<int64_t, 3>& sizes, uintptr_t x, bool counts, const std::array<uintptr_t, 5>& rows_at,
                int stages, const std::array<uintptr_t, 5>& plan, float dc, const std::array<int64_t, 4>& resampler, bool zscore,
                float flat_std, uintptr_t y, uintptr_t scratch, int64_t pad, uintptr_t stream) {
              Frontend a{};
              a.rows = sizes[0], a.n = sizes[1], a.m = sizes[2];
              a.x = reinterpret_cast<const void*>(x), a.counts = counts;
              a.x_at = reinterpret_cast<const int64_t*>(rows_at[0]);
              a.mv_per_count = reinterpret_cast<const float*>(rows_at[1]);
              a.baseline = reinterpret_cast<const float*>(rows_at[2]);
              a.y_at = reinterpret_cast<const int64_t*>(rows_at[3]);
              a.state = reinterpret_cast<uint8_t*>(rows_at[4]);
              a.stages = stages;
              a.stage_sections = reinterpret_cast<const int*>(plan[0]);
              a.stage_pad = reinterpret_cast<const int*>(plan[1]);
              a.coefficients = reinterpret_cast<const float*>(plan[2]);
              a.steady = reinterpret_cast<const float*>(plan[3]);
              a.fir = reinterpret_cast<const float*>(plan[4]);
              a.dc = dc, a.zscore = zscore, a.flat_std = flat_std, a.y = reinterpret_cast<float*>(y);
              a.up = resampler[0], a.down = resampler[1], a.half = resampler[2], a.taps = resampler[3];
              run(a, reinterpret_cast<float*>(scratch), pad, stream);
          });
}

}  // namespace cuda
}  // namespace xecg
