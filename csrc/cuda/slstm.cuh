// Host interface of slstm.cu.
#pragma once
#include <cuda_runtime_api.h>

#include "slstm_cell.cuh"

namespace xecg {
namespace cuda {

// Return a cudaError_t as int. step: a call with T = 1.
int slstm_forward(const SlstmCudaForward& a, cudaStream_t stream);
int slstm_backward(const SlstmCudaBackward& a, cudaStream_t stream);
int slstm_step(const SlstmCudaForward& a, cudaStream_t stream);

}  // namespace cuda
}  // namespace xecg
