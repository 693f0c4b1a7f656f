// Host interface of slstm_cluster.cu.
#pragma once
#include <cuda_runtime_api.h>

#include "slstm_plan.cuh"

namespace xecg {
namespace cuda {

using SlstmClusterForward = SlstmTensorForward<16, slstm_cluster>;
using SlstmClusterBackward = SlstmTensorBackward<16, slstm_cluster, 2>;

// Return a cudaError_t as int. For devices of capability 9.0 and above.
int slstm_launch_cluster(const SlstmClusterForward& body, const SlstmGrid& grid, cudaStream_t stream);
int slstm_launch_cluster(const SlstmClusterBackward& body, const SlstmGrid& grid, cudaStream_t stream);

}  // namespace cuda
}  // namespace xecg
