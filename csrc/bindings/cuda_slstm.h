// Python functions of the CUDA sLSTM: addresses, sizes and strides into the structs of ../cuda/slstm_cell.cuh. The real module
// and the emulated one of the tests share it.
#pragma once
#include <pybind11/pybind11.h>

#include "../cuda/slstm_cell.cuh"

namespace xecg {
namespace cuda {

using Address = uintptr_t;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

inline SlstmTape slstm_tape_of(Address gates, Address slope, Address h, Address c, Address n) {
    return SlstmTape{pointer<float>(gates), pointer<float>(slope), pointer<float>(h), pointer<float>(c), pointer<float>(n)};
}

// run(arguments, stream) of each function raises or returns nothing.
template <class Forward, class Backward, class Step>
void define_slstm(pybind11::module_& m, Forward forward, Backward backward, Step step) {
    m.attr("slstm_max_units") = slstm_max_units;
    m.def("slstm_forward", [forward](int64_t B, int64_t T, int64_t H, int64_t D, Address lengths, bool reverse, int dtype,
                                     Address x, int64_t x_b, int64_t x_t, int64_t x_g, int64_t x_h, Address R, int R_type,
                                     Address b, int b_type, Address h, Address c, Address n, Address m, Address y, int64_t y_b,
                                     int64_t y_t, int64_t y_h, Address gates, Address slope, Address tape_h, Address tape_c,
                                     Address tape_n, Address stream) {
        SlstmCudaForward a{};
        a.call.shape = SlstmShape{B, T, H, D, pointer<const int64_t>(lengths), reverse, DType(dtype)};
        a.call.x = pointer<const void>(x), a.call.x_b = x_b, a.call.x_t = x_t, a.call.x_g = x_g, a.call.x_h = x_h;
        a.call.h = pointer<float>(h), a.call.c = pointer<float>(c), a.call.n = pointer<float>(n), a.call.m = pointer<float>(m);
        a.call.y = pointer<void>(y), a.call.y_b = y_b, a.call.y_t = y_t, a.call.y_h = y_h;
        a.call.tape = slstm_tape_of(gates, slope, tape_h, tape_c, tape_n);
        a.weights = SlstmWeights{pointer<const void>(R), pointer<const void>(b), DType(R_type), DType(b_type)};
        forward(a, stream);
    });
    m.def("slstm_backward", [backward](int64_t B, int64_t T, int64_t H, int64_t D, Address lengths, bool reverse, int dtype,
                                       Address dy, int64_t dy_b, int64_t dy_t, int64_t dy_h, Address R_transposed, int R_type,
                                       Address gates, Address slope, Address tape_h, Address tape_c, Address tape_n, Address dh,
                                       Address dc, Address dn, Address dm, Address stream) {
        SlstmCudaBackward a{};
        a.call.shape = SlstmShape{B, T, H, D, pointer<const int64_t>(lengths), reverse, DType(dtype)};
        a.call.dy = pointer<const void>(dy), a.call.dy_b = dy_b, a.call.dy_t = dy_t, a.call.dy_h = dy_h;
        a.call.tape = slstm_tape_of(gates, slope, tape_h, tape_c, tape_n);
        a.call.dh = pointer<float>(dh), a.call.dc = pointer<float>(dc);
        a.call.dn = pointer<float>(dn), a.call.dm = pointer<float>(dm);
        a.weights = SlstmWeights{pointer<const void>(R_transposed), nullptr, DType(R_type), DType::f32};
        backward(a, stream);
    });
    m.def("slstm_step", [step](int64_t B, int64_t H, int64_t D, int dtype, Address x, int64_t x_b, int64_t x_g, int64_t x_h,
                               Address R, int R_type, Address b, int b_type, Address h, Address c, Address n, Address m,
                               Address out, Address stream) {
        SlstmCudaForward a{};
        a.call.shape = SlstmShape{B, 1, H, D, nullptr, false, DType(dtype)};
        a.call.x = pointer<const void>(x), a.call.x_b = x_b, a.call.x_g = x_g, a.call.x_h = x_h;
        a.call.h = pointer<float>(h), a.call.c = pointer<float>(c), a.call.n = pointer<float>(n), a.call.m = pointer<float>(m);
        a.call.y = pointer<void>(out), a.call.y_b = H * D, a.call.y_h = D;
        a.weights = SlstmWeights{pointer<const void>(R), pointer<const void>(b), DType(R_type), DType(b_type)};
        step(a, stream);
    });
}

}  // namespace cuda
}  // namespace xecg
