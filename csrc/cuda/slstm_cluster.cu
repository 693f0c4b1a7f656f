// sLSTM of 129 to 256 bfloat16 units on thread-block clusters: four blocks hold a quarter of R each, and every step's h, or
// d(gates), is written into the shared memory of all four, with one cluster barrier. Below capability 9.0 the kernels are empty
// and the plan never launches them. Not yet run on a GPU.
#include "slstm_cluster.cuh"

namespace xecg {
namespace cuda {
namespace {

template <class Body>
__global__ void __launch_bounds__(Body::max_threads) slstm_kernel(const __grid_constant__ Body body) {
#if __CUDA_ARCH__ >= 900
    DeviceThread<Body::blocks> thread;
    body(thread);
#endif
}

}  // namespace

template <class Body>
int slstm_launch_cluster(const Body& body, const SlstmGrid& grid, cudaStream_t stream) {
    const cudaError_t error =
        cudaFuncSetAttribute(slstm_kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(grid.shared));
    if (error != cudaSuccess) return int(error);
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {unsigned(Body::blocks), 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(grid.tiles * Body::blocks), unsigned(grid.heads));
    config.blockDim = dim3(unsigned(grid.threads));
    config.dynamicSmemBytes = size_t(grid.shared);
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return int(cudaLaunchKernelEx(&config, slstm_kernel<Body>, body));
}

template int slstm_launch_cluster(const SlstmTensorForward<16, slstm_cluster, 1>&, const SlstmGrid&, cudaStream_t);
template int slstm_launch_cluster(const SlstmTensorForward<16, slstm_cluster, 2>&, const SlstmGrid&, cudaStream_t);
template int slstm_launch_cluster(const SlstmTensorForward<16, slstm_cluster, 4>&, const SlstmGrid&, cudaStream_t);
template int slstm_launch_cluster(const SlstmTensorBackward<16, slstm_cluster, 1, 2>&, const SlstmGrid&, cudaStream_t);
template int slstm_launch_cluster(const SlstmTensorBackward<16, slstm_cluster, 2, 2>&, const SlstmGrid&, cudaStream_t);

}  // namespace cuda
}  // namespace xecg
