// Steps of xecg._cpu that take the tensors themselves: checks and call in one, for loops over single streams, where the checks in
// Python cost more than the step. Each returns false, with nothing touched, for a call that it does not serve or that is wrong:
// the public op then makes its checks and either takes the general way or says what is wrong. float32 only.
#include "cpu.h"

#include <cmath>

#include "../cpu/pool.h"
#include "../cpu/table.h"
#include "tensor.h"

namespace py = pybind11;

namespace xecg::bindings {

namespace {

TensorTypes types;

MlstmView heads(const dlpack::Tensor& t) { return MlstmView{data_of<void>(t), t.strides[0], 0, t.strides[1]}; }

bool mlstm_step(py::handle q_, py::handle k_, py::handle v_, py::handle i_, py::handle f_, py::handle C_, py::handle n_,
                py::handle m_, py::handle out_, bool sig, py::handle scale_, double eps) {
    dlpack::Tensor q, k, v, i, f, C, n, m, out;
    if (!types.describe(q_, 3, q) || !types.describe(v_, 3, v)) return false;
    const int64_t B = q.shape[0], H = q.shape[1], DK = q.shape[2], DV = v.shape[2];
    const bool fits = types.describe(k_, 3, k) && has_shape(k, B, H, DK) && has_shape(v, B, H) && types.describe(i_, 2, i) &&
                      has_shape(i, B, H) && types.describe(f_, 2, f) && has_shape(f, B, H) && types.describe(C_, 4, C) &&
                      has_shape(C, B, H, DK, DV) && types.describe(n_, 3, n) && has_shape(n, B, H, DK) &&
                      types.describe(m_, 2, m) && has_shape(m, B, H) && types.describe(out_, 3, out) && has_shape(out, B, H, DV);
    if (!fits || DK > mlstm_widest_head || DV > mlstm_widest_head) return false;
    if (!is_contiguous(C) || !is_contiguous(n) || !is_contiguous(m) || !is_contiguous(out)) return false;
    if (!are_apart({&C, &n, &m, &out}, {&q, &k, &v, &i, &f})) return false;
    const double scale = scale_.is_none() ? std::pow(double(DK), -0.5) : scale_.cast<double>();
    run(MlstmStep{B, H, DK, DV, sig, float(scale), float(eps), DType::f32, heads(q), heads(k), heads(v), heads(i), heads(f),
                  data_of(C), data_of(n), data_of(m), data_of(out)});
    types.wrote(C_, n_, m_, out_);
    return true;
}

bool slstm_step(py::handle x_, py::handle R_, py::handle b_, py::handle h_, py::handle c_, py::handle n_, py::handle m_,
                py::handle out_) {
    dlpack::Tensor x, R, b, out, state[4];
    if (!types.describe(x_, 4, x)) return false;
    const int64_t B = x.shape[0], H = x.shape[2], D = x.shape[3];
    if (x.shape[1] != 4 || D > slstm_max_units || B >= slstm_pack_rows || !kernels().slstm_reads_plain(D)) return false;
    if (!types.describe(R_, 4, R) || !has_shape(R, 4, H, D, D) || !is_contiguous(R)) return false;
    if (!types.describe(b_, 3, b) || !has_shape(b, 4, H, D) || !is_contiguous(b)) return false;
    if (!types.describe(out_, 3, out) || !has_shape(out, B, H, D) || !is_contiguous(out)) return false;
    const py::handle given[4] = {h_, c_, n_, m_};
    for (int s = 0; s < 4; ++s)
        if (!types.describe(given[s], 3, state[s]) || !has_shape(state[s], B, H, D) || !is_contiguous(state[s])) return false;
    if (!are_apart({&state[0], &state[1], &state[2], &state[3], &out}, {&x, &R, &b})) return false;
    const SlstmShape shape{B, 1, H, D, nullptr, false, DType::f32};
    run(SlstmForward{shape, data_of<void>(x), x.strides[0], 0, x.strides[1], x.strides[2], data_of(R), data_of(b), nullptr,
                     data_of(state[0]), data_of(state[1]), data_of(state[2]), data_of(state[3]), data_of<void>(out), H * D, 0, D,
                     SlstmTape{}});
    types.wrote(h_, c_, n_, m_, out_);
    return true;
}

bool conv1d_step(py::handle x_, py::handle weight_, py::handle bias_, py::handle state_, py::handle out_, bool silu) {
    dlpack::Tensor x, weight, bias, state, out;
    if (!types.describe(x_, 2, x) || !types.describe(weight_, 2, weight)) return false;
    const int64_t B = x.shape[0], C = x.shape[1], K = weight.shape[1];
    if (K < 2 || K > conv1d_max_taps || weight.shape[0] != C || !is_contiguous(weight)) return false;
    if (!bias_.is_none() && (!types.describe(bias_, 1, bias) || !has_shape(bias, C))) return false;
    if (!types.describe(state_, 3, state) || !has_shape(state, B, K - 1, C) || !is_contiguous(state)) return false;
    if (!types.describe(out_, 2, out) || !has_shape(out, B, C)) return false;
    const bool apart =
        bias_.is_none() ? are_apart({&state, &out}, {&x, &weight}) : are_apart({&state, &out}, {&x, &weight, &bias});
    if (!apart) return false;
    run(Conv1dForward{Conv1dShape{B, 1, C, K, nullptr, false, silu, DType::f32}, data_of<void>(x), x.strides[0], 0,
                      data_of(weight), bias_.is_none() ? nullptr : data_of(bias), data_of(state), data_of<void>(out),
                      out.strides[0], 0, data_of(state)});
    types.wrote(state_, out_);
    return true;
}

}  // namespace

void define_steps(py::module_& m) {
    m.def("learn_tensors",
          [](py::handle tensor, py::handle parameter, py::handle wrote) { return types.learn(tensor, parameter, wrote); });
    m.def("mlstm_step_of_tensors", &mlstm_step);
    m.def("slstm_step_of_tensors", &slstm_step);
    m.def("conv1d_step_of_tensors", &conv1d_step);
}

}  // namespace xecg::bindings
