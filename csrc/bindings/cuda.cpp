// xecg._cuda: the CUDA kernels behind raw addresses, sizes and a stream handle. Imports on machines without a driver.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "../cuda/conv1d.cuh"
#include "../cuda/slstm.cuh"
#include "cuda_slstm.h"

namespace xecg {
namespace cuda {
void bind_frontend(pybind11::module_& m);  // cuda_frontend.cpp
}
}  // namespace xecg

namespace py = pybind11;
using namespace xecg;

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

void raise_on_error(int code) {
    if (code != 0) throw std::runtime_error("CUDA error " + std::to_string(code) + ": " + cudaGetErrorString(cudaError_t(code)));
}

int device_count() {
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

Conv1dShape conv1d_shape(int64_t B, int64_t T, int64_t C, int64_t K, Address lengths, bool reverse, bool silu, int dtype) {
    return Conv1dShape{B, T, C, K, at<const int64_t>(lengths), reverse, silu, DType(dtype)};
}

void conv1d_forward(int64_t B, int64_t T, int64_t C, int64_t K, Address lengths, bool reverse, bool silu, int dtype, Address x,
                    int64_t x_b, int64_t x_t, Address weight, Address bias, Address state_in, Address y, int64_t y_b, int64_t y_t,
                    Address state_out, Address stream) {
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
    raise_on_error(cuda::conv1d_forward(a, at<CUstream_st>(stream)));
}

int64_t conv1d_backward_scratch(int64_t B, int64_t T, int64_t C, int64_t K) {
    return cuda::conv1d_backward_scratch(conv1d_shape(B, T, C, K, 0, false, false, 0));
}

void conv1d_backward(int64_t B, int64_t T, int64_t C, int64_t K, Address lengths, bool reverse, bool silu, int dtype, Address x,
                     int64_t x_b, int64_t x_t, Address dy, int64_t dy_b, int64_t dy_t, Address weight, Address bias,
                     Address state_in, Address dstate_out, Address dx, int64_t dx_b, int64_t dx_t, Address dweight, Address dbias,
                     Address dstate_in, Address scratch, Address stream) {
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
    raise_on_error(cuda::conv1d_backward(a, at<float>(scratch), at<CUstream_st>(stream)));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of xecg: raw device addresses and a stream handle. Use xecg.ops.";
    m.attr("conv1d_max_taps") = conv1d_max_taps;
    m.def("device_count", &device_count);
    m.def("conv1d_forward", &conv1d_forward);
    m.def("conv1d_backward_scratch", &conv1d_backward_scratch);
    m.def("conv1d_backward", &conv1d_backward);
    cuda::define_slstm(
        m, [](const auto& a, Address stream) { raise_on_error(cuda::slstm_forward(a, at<CUstream_st>(stream))); },
        [](const auto& a, Address stream) { raise_on_error(cuda::slstm_backward(a, at<CUstream_st>(stream))); },
        [](const auto& a, Address stream) { raise_on_error(cuda::slstm_step(a, at<CUstream_st>(stream))); });
    cuda::bind_frontend(m);
}
