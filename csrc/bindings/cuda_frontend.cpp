// The front end's part of xecg._cuda.
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "cuda_frontend.h"

namespace xecg {
namespace cuda {

int64_t frontend_shared_bytes();
int frontend_rows(const Frontend& a, const FrontendRowStages& stages, cudaStream_t stream);
int frontend(const Frontend& a, float* scratch, int64_t pad, cudaStream_t stream);
int frontend_stream(const FrontendStream& a, void* room, cudaStream_t stream);

void bind_frontend(pybind11::module_& m) {
    const auto raise_on_error = [](int code) {
        if (code != 0)
            throw std::runtime_error("CUDA error " + std::to_string(code) + ": " + cudaGetErrorString(cudaError_t(code)));
    };
    define_frontend(
        m, &frontend_shared_bytes,
        [raise_on_error](const Frontend& a, const FrontendRowStages& stages, uintptr_t stream) {
            raise_on_error(frontend_rows(a, stages, reinterpret_cast<CUstream_st*>(stream)));
        },
        [raise_on_error](const Frontend& a, float* scratch, int64_t pad, uintptr_t stream) {
            raise_on_error(frontend(a, scratch, pad, reinterpret_cast<CUstream_st*>(stream)));
        },
        [raise_on_error](const FrontendStream& a, void* room, uintptr_t stream) {
            raise_on_error(frontend_stream(a, room, reinterpret_cast<CUstream_st*>(stream)));
        });
}

}  // namespace cuda
}  // namespace xecg
