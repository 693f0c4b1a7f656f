// xecg._cpu: the CPU kernels behind raw addresses and sizes. Knows no torch; all checks were made at the Python border
// (xecg.ops).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "../cpu/arena.h"
#include "../cpu/pool.h"
#include "../cpu/table.h"
#include "cpu.h"

namespace py = pybind11;
using namespace xecg;

// Work of fewer channel-steps, multiply-adds, is not worth waking a second thread.
constexpr int64_t conv1d_grain = 1 << 15, slstm_grain = 1 << 18, mlstm_grain = 1 << 17;

static int64_t slstm_task_grain(const SlstmShape& s, int64_t tasks) {
    return 1 + slstm_grain * tasks / (s.B * s.H * s.T * s.D * (4 * s.D + 64) + 1);
}

void bindings::run(const Conv1dForward& a) {
    const Conv1dShape& s = a.shape;
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    const int64_t tasks = k.conv1d_forward_tasks(s), grain = 1 + conv1d_grain * tasks / (s.B * s.C * s.T + 1);
    parallel_for(tasks, grain, [&](int64_t lo, int64_t hi) { k.conv1d_forward(a, lo, hi); });
}

void bindings::run(const SlstmForward& a) {
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    const int64_t tasks = k.slstm_tasks(a.shape);
    parallel_for(tasks, slstm_task_grain(a.shape, tasks), [&](int64_t lo, int64_t hi) { k.slstm_forward(a, lo, hi); });
}

void bindings::run(const MlstmStep& a) {
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    parallel_for(a.B * a.H, 1 + mlstm_grain / (a.DK * a.DV + 1), [&](int64_t lo, int64_t hi) { k.mlstm_step(a, lo, hi); });
}

namespace {

using Address = uintptr_t;  // 0 stands for "absent"

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

Conv1dShape conv1d_shape(int64_t B, int64_t T, int64_t C, int64_t K, Address lengths, bool reverse, bool silu, int dtype) {
    return Conv1dShape{B, T, C, K, at<const int64_t>(lengths), reverse, silu, DType(dtype)};
}

void conv1d_forward(int64_t B, int64_t T, int64_t C, int64_t K, Address lengths, bool reverse, bool silu, int dtype, Address x,
                    int64_t x_b, int64_t x_t, Address weight, Address bias, Address state_in, Address y, int64_t y_b, int64_t y_t,
                    Address state_out) {
    const Conv1dForward a{conv1d_shape(B, T, C, K, lengths, reverse, silu, dtype),
                          at<const void>(x),
                          x_b,
                          x_t,
                          at<const float>(weight),
                          at<const float>(bias),
                          at<const float>(state_in),
                          at<void>(y),
                          y_b,
                          y_t,
                          at<float>(state_out)};
    bindings::run(a);
}

void conv1d_backward(int64_t B, int64_t T, int64_t C, int64_t K, Address lengths, bool reverse, bool silu, int dtype, Address x,
                     int64_t x_b, int64_t x_t, Address dy, int64_t dy_b, int64_t dy_t, Address weight, Address bias,
                     Address state_in, Address dstate_out, Address dx, int64_t dx_b, int64_t dx_t, Address dweight, Address dbias,
                     Address dstate_in) {
    const Conv1dBackward a{conv1d_shape(B, T, C, K, lengths, reverse, silu, dtype),
                           at<const void>(x),
                           x_b,
                           x_t,
                           at<const void>(dy),
                           dy_b,
                           dy_t,
                           at<const float>(weight),
                           at<const float>(bias),
                           at<const float>(state_in),
                           at<const float>(dstate_out),
                           at<void>(dx),
                           dx_b,
                           dx_t,
                           at<float>(dweight),
                           at<float>(dbias),
                           at<float>(dstate_in)};
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    const int64_t grain = 1 + conv1d_grain / (k.width * (B * T + 1));
    parallel_for(k.conv1d_backward_tasks(a.shape), grain, [&](int64_t lo, int64_t hi) { k.conv1d_backward(a, lo, hi); });
}

constexpr int64_t linear_grain = 1 << 18;  // multiply-adds

void linear(int64_t rows, int64_t groups, int64_t N, int64_t K, int dtype, int weight_dtype, Address x, int64_t x_r, int64_t x_g,
            Address weight, Address bias, Address y, int64_t y_r, int64_t y_g) {
    const Linear a{rows,
                   groups,
                   N,
                   K,
                   DType(dtype),
                   DType(weight_dtype),
                   at<const void>(x),
                   x_r,
                   x_g,
                   at<const void>(weight),
                   at<const float>(bias),
                   at<void>(y),
                   y_r,
                   y_g};
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    const int64_t tasks = k.linear_tasks(a);
    const int64_t grain = 1 + linear_grain * tasks / (rows * groups * N * K + 1), scratch = k.linear_scratch(a);
    parallel_for(tasks, grain, [&](int64_t lo, int64_t hi) { k.linear(a, Arena(scratch).data(), lo, hi); });
}

constexpr int64_t gated_grain = 1 << 14;  // elements

void gated_forward(int64_t rows, int64_t n, bool gelu, int dtype, Address a, int64_t a_r, Address b, int64_t b_r, Address y) {
    const Gated g{rows,    n, gelu,    DType(dtype), at<const void>(a), a_r, at<const void>(b), b_r, at<void>(y),
                  nullptr, 0, nullptr, nullptr};
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    parallel_for(rows, 1 + gated_grain / (n + 1), [&](int64_t lo, int64_t hi) { k.gated_forward(g, lo, hi); });
}

void gated_backward(int64_t rows, int64_t n, bool gelu, int dtype, Address a, int64_t a_r, Address b, int64_t b_r, Address dy,
                    int64_t dy_r, Address da, Address db) {
    const Gated g{rows,
                  n,
                  gelu,
                  DType(dtype),
                  at<const void>(a),
                  a_r,
                  at<const void>(b),
                  b_r,
                  nullptr,
                  at<const void>(dy),
                  dy_r,
                  at<void>(da),
                  at<void>(db)};
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    parallel_for(rows, 1 + gated_grain / (n + 1), [&](int64_t lo, int64_t hi) { k.gated_backward(g, lo, hi); });
}

NormForward norm_arguments(int64_t rows, int64_t H, int64_t D, float eps, int inner, int outer, Address x, int64_t x_r,
                           int64_t x_h, Address weight, Address skip, int64_t skip_r, Address skip_weight, Address gate,
                           int64_t gate_r, Address y) {
    return NormForward{{rows, H, D, eps, DType(inner), DType(outer)},
                       at<const void>(x),
                       x_r,
                       x_h,
                       at<const float>(weight),
                       at<const void>(skip),
                       skip_r,
                       at<const float>(skip_weight),
                       at<const void>(gate),
                       gate_r,
                       at<void>(y)};
}

void norm_forward(int64_t rows, int64_t H, int64_t D, float eps, int inner, int outer, Address x, int64_t x_r, int64_t x_h,
                  Address weight, Address skip, int64_t skip_r, Address skip_weight, Address gate, int64_t gate_r, Address y) {
    const NormForward a =
        norm_arguments(rows, H, D, eps, inner, outer, x, x_r, x_h, weight, skip, skip_r, skip_weight, gate, gate_r, y);
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    parallel_for(rows, 1 + gated_grain / (H * D + 1), [&](int64_t lo, int64_t hi) { k.norm_forward(a, lo, hi); });
}

void norm_backward(int64_t rows, int64_t H, int64_t D, float eps, int inner, int outer, Address x, int64_t x_r, int64_t x_h,
                   Address weight, Address skip, int64_t skip_r, Address skip_weight, Address gate, int64_t gate_r, Address dy,
                   int64_t dy_r, Address dx, Address dskip, Address dgate, Address partials, Address dweight,
                   Address dskip_weight) {
    const NormBackward a{
        norm_arguments(rows, H, D, eps, inner, outer, x, x_r, x_h, weight, skip, skip_r, skip_weight, gate, gate_r, 0),
        at<const void>(dy),
        dy_r,
        at<void>(dx),
        at<void>(dskip),
        at<void>(dgate),
        at<float>(partials),
        at<float>(dweight),
        at<float>(dskip_weight)};
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    const int64_t grain = 1 + gated_grain / (norm_chunk_rows * H * D + 1);
    parallel_for(norm_chunks(rows), grain, [&](int64_t lo, int64_t hi) { k.norm_backward(a, lo, hi); });
    parallel_for(k.norm_weights_tasks(a.forward.shape), 64, [&](int64_t lo, int64_t hi) { k.norm_weights_backward(a, lo, hi); });
}

void frontend(int64_t rows, int64_t n, int64_t m, Address x, Address x_at, bool counts, Address mv_per_count, Address baseline,
              int stages, Address stage_sections, Address stage_pad, Address coefficients, Address steady, float dc, int64_t up,
              int64_t down, int64_t half, int64_t taps, Address fir, bool zscore, float flat_std, Address y, Address y_at,
              Address state, int64_t tile, Address power, Address response) {
    const Frontend a{rows,
                     n,
                     m,
                     at<const void>(x),
                     at<const int64_t>(x_at),
                     counts,
                     at<const float>(mv_per_count),
                     at<const float>(baseline),
                     stages,
                     at<const int>(stage_sections),
                     at<const int>(stage_pad),
                     at<const float>(coefficients),
                     at<const float>(steady),
                     dc,
                     up,
                     down,
                     half,
                     taps,
                     at<const float>(fir),
                     zscore,
                     flat_std,
                     at<float>(y),
                     at<const int64_t>(y_at),
                     at<uint8_t>(state)};
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    if (tile) {  // long rows
        const FrontendLong b{a, tile, at<const double>(power), at<const float>(response)};
        const int64_t scratch = k.frontend_long_scratch(b);
        return parallel_for(rows, 1, [&](int64_t lo, int64_t hi) {
            Arena arena(scratch);
            k.frontend_long(b, lo, hi, arena.data());
        });
    }
    const int64_t scratch = k.frontend_scratch(a);
    parallel_for(k.frontend_tasks(a), 1, [&](int64_t lo, int64_t hi) {
        Arena arena(scratch);
        k.frontend(a, lo, hi, arena.data());
    });
}

// Sizes, addresses and numbers in the order of the structs.
void frontend_stream(const std::array<int64_t, 4>& sizes, Address slots, Address x, bool counts, int64_t x_patient, Address x_row,
                     Address mv_per_count, Address baseline, Address gap, Address begin, int64_t sections, Address coefficients,
                     bool subtract, float dc, const std::array<int64_t, 5>& resampler, Address fir, int64_t settle, bool zscore,
                     double decay, float flat_std, const std::array<Address, 11>& s, Address y, Address ok, int64_t y_patient,
                     Address y_row, Address refused) {
    const FrontendStreamState state{at<float>(s[0]),   at<float>(s[1]),   at<uint8_t>(s[2]), at<float>(s[3]),
                                    at<uint8_t>(s[4]), at<int64_t>(s[5]), at<double>(s[6]),  at<float>(s[7]),
                                    at<uint8_t>(s[8]), at<int64_t>(s[9]), at<int64_t>(s[10])};
    const auto [patients, rows, n, m] = sizes;
    const auto [up, down, half, taps, offset] = resampler;
    const FrontendStream a{patients,
                           rows,
                           n,
                           m,
                           at<const int64_t>(slots),
                           at<const void>(x),
                           counts,
                           x_patient,
                           at<const int64_t>(x_row),
                           at<const float>(mv_per_count),
                           at<const float>(baseline),
                           at<const uint8_t>(gap),
                           at<const int64_t>(begin),
                           sections,
                           at<const float>(coefficients),
                           subtract,
                           dc,
                           up,
                           down,
                           half,
                           taps,
                           offset,
                           at<const float>(fir),
                           settle,
                           zscore,
                           decay,
                           flat_std,
                           state,
                           at<float>(y),
                           at<uint8_t>(ok),
                           y_patient,
                           at<const int64_t>(y_row),
                           at<uint8_t>(refused)};
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    const int64_t scratch = k.frontend_stream_scratch(a);
    parallel_for(k.frontend_stream_tasks(a), 1, [&](int64_t lo, int64_t hi) {
        Arena arena(scratch);
        k.frontend_stream(a, lo, hi, arena.data());
    });
}

void slstm_pack(Address R, int64_t H, int64_t D, bool transposed, Address packed) {
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    parallel_for(H * k.slstm_blocks(D), 1 + slstm_grain / (4 * D * k.width + 1),
                 [&](int64_t lo, int64_t hi) { k.slstm_pack(at<const float>(R), H, D, transposed, at<float>(packed), lo, hi); });
}

void slstm_forward(int64_t B, int64_t T, int64_t H, int64_t D, Address lengths, bool reverse, int dtype, Address x, int64_t x_b,
                   int64_t x_t, int64_t x_g, int64_t x_h, Address R, Address b, Address packed, Address h, Address c, Address n,
                   Address m, Address y, int64_t y_b, int64_t y_t, int64_t y_h, Address gates, Address slope, Address tape_h,
                   Address tape_c, Address tape_n) {
    const SlstmShape shape{B, T, H, D, at<const int64_t>(lengths), reverse, DType(dtype)};
    const SlstmTape tape{at<float>(gates), at<float>(slope), at<float>(tape_h), at<float>(tape_c), at<float>(tape_n)};
    const SlstmForward a{shape,
                         at<const void>(x),
                         x_b,
                         x_t,
                         x_g,
                         x_h,
                         at<const float>(R),
                         at<const float>(b),
                         at<const float>(packed),
                         at<float>(h),
                         at<float>(c),
                         at<float>(n),
                         at<float>(m),
                         at<void>(y),
                         y_b,
                         y_t,
                         y_h,
                         tape};
    bindings::run(a);
}

// One step: x (B, 4, H, D), y (B, H, D) contiguous.
void slstm_step(int64_t B, int64_t H, int64_t D, int dtype, Address x, int64_t x_b, int64_t x_g, int64_t x_h, Address R,
                Address b, Address packed, Address h, Address c, Address n, Address m, Address y) {
    slstm_forward(B, 1, H, D, 0, false, dtype, x, x_b, 0, x_g, x_h, R, b, packed, h, c, n, m, y, H * D, 0, D, 0, 0, 0, 0, 0);
}

void slstm_backward(int64_t B, int64_t T, int64_t H, int64_t D, Address lengths, bool reverse, int dtype, Address dy,
                    int64_t dy_b, int64_t dy_t, int64_t dy_h, Address packed, Address gates, Address slope, Address tape_h,
                    Address tape_c, Address tape_n, Address dh, Address dc, Address dn, Address dm, Address dR, Address db) {
    const SlstmShape shape{B, T, H, D, at<const int64_t>(lengths), reverse, DType(dtype)};
    const SlstmTape tape{at<float>(gates), at<float>(slope), at<float>(tape_h), at<float>(tape_c), at<float>(tape_n)};
    const SlstmBackward a{shape,        at<const void>(dy), dy_b,          dy_t,          dy_h,          at<const float>(packed),
                          tape,         at<float>(dh),      at<float>(dc), at<float>(dn), at<float>(dm), at<float>(dR),
                          at<float>(db)};
    py::gil_scoped_release free;
    const KernelTable& k = kernels();
    const int64_t tasks = k.slstm_tasks(shape);
    parallel_for(tasks, slstm_task_grain(shape, tasks), [&](int64_t lo, int64_t hi) { k.slstm_backward(a, lo, hi); });
    parallel_for(4 * H, slstm_task_grain(shape, 4 * H), [&](int64_t lo, int64_t hi) { k.slstm_weights_backward(a, lo, hi); });
}

using View = std::array<int64_t, 4>;   // address, strides of batch, time, head
using State = std::array<Address, 3>;  // C, n, m

MlstmView view(const View& x) { return MlstmView{at<const void>(Address(x[0])), x[1], x[2], x[3]}; }

MlstmShape mlstm_shape(const std::array<int64_t, 5>& sizes, Address lengths, bool reverse, bool sig, float scale, float eps,
                       int64_t chunk, int dtype) {
    const auto [B, T, H, DK, DV] = sizes;
    return MlstmShape{B, T, H, DK, DV, at<const int64_t>(lengths), reverse, sig, scale, eps, chunk, DType(dtype)};
}

int64_t mlstm_task_grain(const MlstmShape& s) { return 1 + mlstm_grain / ((s.T + 1) * (s.DK + 1) * (s.DV + 1)); }

void mlstm_forward(const std::array<int64_t, 5>& sizes, Address lengths, bool reverse, bool sig, float scale, float eps,
                   int64_t chunk, int dtype, const View& q, const View& k, const View& v, const View& i, const View& f,
                   const View& h, const State& first, const State& last) {
    const MlstmForward a{mlstm_shape(sizes, lengths, reverse, sig, scale, eps, chunk, dtype),
                         view(q),
                         view(k),
                         view(v),
                         view(i),
                         view(f),
                         view(h),
                         at<const float>(first[0]),
                         at<const float>(first[1]),
                         at<const float>(first[2]),
                         at<float>(last[0]),
                         at<float>(last[1]),
                         at<float>(last[2])};
    py::gil_scoped_release free;
    const KernelTable& table = kernels();
    const int64_t floats = table.mlstm_forward_scratch(a.shape);
    parallel_for(a.shape.B * a.shape.H, mlstm_task_grain(a.shape),
                 [&](int64_t lo, int64_t hi) { table.mlstm_forward(a, Arena(floats).data(), lo, hi); });
}

void mlstm_backward(const std::array<int64_t, 5>& sizes, Address lengths, bool reverse, bool sig, float scale, float eps,
                    int64_t chunk, int dtype, const View& dh, const View& q, const View& k, const View& v, const View& i,
                    const View& f, const State& last, const State& first, const View& dq, const View& dk, const View& dv,
                    const View& di, const View& df, const State& dfirst) {
    const MlstmBackward a{mlstm_shape(sizes, lengths, reverse, sig, scale, eps, chunk, dtype),
                          view(dh),
                          view(q),
                          view(k),
                          view(v),
                          view(i),
                          view(f),
                          at<const float>(last[0]),
                          at<const float>(last[1]),
                          at<const float>(last[2]),
                          at<const float>(first[0]),
                          at<const float>(first[1]),
                          at<const float>(first[2]),
                          view(dq),
                          view(dk),
                          view(dv),
                          view(di),
                          view(df),
                          at<float>(dfirst[0]),
                          at<float>(dfirst[1]),
                          at<float>(dfirst[2])};
    py::gil_scoped_release free;
    const KernelTable& table = kernels();
    const int64_t floats = table.mlstm_backward_scratch(a.shape);
    parallel_for(a.shape.B * a.shape.H, mlstm_task_grain(a.shape),
                 [&](int64_t lo, int64_t hi) { table.mlstm_backward(a, Arena(floats).data(), lo, hi); });
}

void mlstm_step(int64_t B, int64_t H, int64_t DK, int64_t DV, bool sig, float scale, float eps, int dtype, Address q, int64_t q_b,
                int64_t q_h, Address k, int64_t k_b, int64_t k_h, Address v, int64_t v_b, int64_t v_h, Address i, int64_t i_b,
                int64_t i_h, Address f, int64_t f_b, int64_t f_h, Address C, Address n, Address m, Address out) {
    const MlstmStep a{B,
                      H,
                      DK,
                      DV,
                      sig,
                      scale,
                      eps,
                      DType(dtype),
                      {at<const void>(q), q_b, 0, q_h},
                      {at<const void>(k), k_b, 0, k_h},
                      {at<const void>(v), v_b, 0, v_h},
                      {at<const void>(i), i_b, 0, i_h},
                      {at<const void>(f), f_b, 0, f_h},
                      at<float>(C),
                      at<float>(n),
                      at<float>(m),
                      at<void>(out)};
    bindings::run(a);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU kernels of xecg: raw addresses in, raw addresses out. Use xecg.ops.";
    m.attr("conv1d_max_taps") = conv1d_max_taps;
    m.attr("mlstm_widest_head") = mlstm_widest_head;
    m.def("isa", [] { return std::string(kernels().isa); });
    m.def("isa_levels", &isa_levels);
    m.def("num_threads", &num_threads);
    m.def("set_num_threads", &set_num_threads);
    m.def("conv1d_forward", &conv1d_forward);
    m.def("conv1d_backward", &conv1d_backward);
    m.def("linear", &linear);
    m.def("gated_forward", &gated_forward);
    m.def("gated_backward", &gated_backward);
    m.attr("norm_chunk_rows") = norm_chunk_rows;
    m.def("norm_forward", &norm_forward);
    m.def("norm_backward", &norm_backward);
    m.def("frontend", &frontend);
    m.def("frontend_stream", &frontend_stream);
    m.attr("slstm_max_units") = slstm_max_units;
    m.attr("slstm_pack_rows") = slstm_pack_rows;
    m.def("slstm_packed_size", [](int64_t H, int64_t D) { return kernels().slstm_packed_size(H, D); });
    m.def("slstm_reads_plain", [](int64_t D) { return kernels().slstm_reads_plain(D); });
    m.def("slstm_pack", &slstm_pack);
    m.def("slstm_forward", &slstm_forward);
    m.def("slstm_step", &slstm_step);
    m.def("slstm_backward", &slstm_backward);
    m.def("mlstm_forward", &mlstm_forward);
    m.def("mlstm_backward", &mlstm_backward);
    m.def("mlstm_step", &mlstm_step);
    bindings::define_qrs(m);
    bindings::define_quality(m);
    bindings::define_steps(m);
}
