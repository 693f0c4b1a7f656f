// sLSTM on NVIDIA GPUs: launches of the bodies in slstm_plain.cuh and slstm_tensor.cuh, chosen by slstm_plan.cuh. No allocation,
// no synchronisation with the host: calls can be captured in a CUDA graph. Not yet run on a GPU.
#include "slstm.cuh"
#include "slstm_cluster.cuh"

namespace xecg {
namespace cuda {
namespace {

template <class Body>
__global__ void __launch_bounds__(Body::max_threads) slstm_kernel(const __grid_constant__ Body body) {
    DeviceThread<1> thread;
    body(thread);
}

struct Launch {
    SlstmDevice device;
    cudaStream_t stream;

    template <class Body>
    int operator()(const Body& body, const SlstmGrid& grid) const {
        if constexpr (Body::blocks > 1) {
            return slstm_launch_cluster(body, grid, stream);
        } else {
            const cudaError_t error =
                cudaFuncSetAttribute(slstm_kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(grid.shared));
            if (error != cudaSuccess) return int(error);
            const dim3 blocks(unsigned(grid.tiles), unsigned(grid.heads));
            slstm_kernel<Body><<<blocks, unsigned(grid.threads), size_t(grid.shared), stream>>>(body);
            return int(cudaGetLastError());
        }
    }
};

int launch_on(cudaStream_t stream, Launch* launch) {
    int device = 0, shared = 0, major = 0, minor = 0, processors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    *launch = Launch{SlstmDevice{10 * major + minor, shared, processors}, stream};
    return int(error);
}

}  // namespace

int slstm_forward(const SlstmCudaForward& a, cudaStream_t stream) {
    Launch launch;
    const int error = launch_on(stream, &launch);
    return error ? error : slstm_run(a, launch);
}

int slstm_backward(const SlstmCudaBackward& a, cudaStream_t stream) {
    Launch launch;
    const int error = launch_on(stream, &launch);
    return error ? error : slstm_run(a, launch);
}

int slstm_step(const SlstmCudaForward& a, cudaStream_t stream) {
    Launch launch;
    const int error = launch_on(stream, &launch);
    return error ? error : slstm_step(a, launch);
}

}  // namespace cuda
}  // namespace xecg
