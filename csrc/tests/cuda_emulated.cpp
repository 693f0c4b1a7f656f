// A Python module with the sLSTM functions of xecg._cuda that runs the kernels' bodies on the host, for
// tests/ops/test_cuda_slstm.py.
#include "../bindings/cuda_slstm.h"
#include "emulator.h"

namespace {
xecg::tests::EmulatedLaunch launch{{90, 227 << 10, 132}, false};
}

PYBIND11_MODULE(cuda_emulated, m) {
    using namespace xecg::cuda;
    m.def("pretend", [](int capability, int64_t shared, int processors, bool descending) {
        launch = xecg::tests::EmulatedLaunch{{capability, shared, processors}, descending};
    });
    define_slstm(
        m, [](const SlstmCudaForward& a, Address) { slstm_run(a, launch); },
        [](const SlstmCudaBackward& a, Address) { slstm_run(a, launch); },
        [](const SlstmCudaForward& a, Address) { slstm_step(a, launch); });
}
