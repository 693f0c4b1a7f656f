// Host interface of slstm_cluster.cu.
#pragma once
#include <cuda_runtime_api.h>

#include "slstm_plan.cuh"

namespace xecg {
namespace cuda {

// Returns a cudaError_t as int. For devices of capability 9.0 and above, and the bodies of the plan that take a cluster.
template <class Body>
int slstm_launch_cluster(const Body& body, const SlstmGrid& grid, cudaStream_t stream);

}  // namespace cuda
}  // namespace xecg
