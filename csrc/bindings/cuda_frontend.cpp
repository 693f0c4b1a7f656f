// The front end's part of xecg._cuda.
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "cuda_frontend.h"

namespace xecg {
namespace cuda {

int frontend(const Frontend& a, float* scratch, int64_t pad, cudaStream_t stream);

void bind_frontend(pybind11::module_& m) {
    define_frontend(m, [](const Frontend& a, float* scratch, int64_t pad, uintptr_t stream) {
        const int code = frontend(a, scratch, pad, reinterpret_cast<CUstream_st*>(stream));
        if (code != 0)
            throw std::runtime_error("CUDA error " + std::to_string(code) + ": " + cudaGetErrorString(cudaError_t(code)));
    });
}

}  // namespace cuda
}  // namespace xecg
