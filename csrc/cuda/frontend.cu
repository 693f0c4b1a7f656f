// Offline front end on NVIDIA GPUs. Layouts and steps: frontend_row.cuh, frontend.cuh, the
// live one's frontend_stream.cuh. Not yet run on a GPU.
#include <cuda_runtime_api.h>

#include "frontend_row.cuh"
#include "frontend_stream.cuh"

namespace xecg {
namespace cuda {
namespace {

constexpr int warps = 2;  // small blocks: a few thousand rows still reach every multiprocessor

__global__ void __launch_bounds__(warps* lanes) frontend_kernel(Frontend a, float* scratch, int64_t each, int64_t pad) {
    __shared__ float tiles[warps][tile_floats];
    const int lane = int(threadIdx.x) % lanes, warp = int(threadIdx.x) / lanes;
    const int64_t group = int64_t(blockIdx.x) * warps + warp, first = group * lanes;
    if (first >= a.rows) return;  // the whole warp
    float* tile = tiles[warp];
    float* x = scratch + group * each + pad * lanes + lane;
    float* y = a.up ? x + (a.n + pad) * lanes : x;
    const FrontendRow row(a, first + lane, x, y);
    for (int64_t t0 = 0; t0 < a.n; t0 += lanes) {
        frontend_fetch(a, first, t0, lane, tile);
        __syncwarp();
        row.take(a, t0, lane, tile);
        __syncwarp();
    }
    const uint8_t state = frontend_work(a, row);
    if (first + lane < a.rows) a.state[first + lane] = state;
    for (int64_t t0 = 0; t0 < a.m; t0 += lanes) {
        row.put(a, t0, lane, tile);
        __syncwarp();
        frontend_give(a, first, t0, lane, tile);
        __syncwarp();
    }
}

template <class Body>
__global__ void __launch_bounds__(Body::max_threads, Body::resident) row_kernel(const __grid_constant__ Body body) {
    DeviceThread<1> thread;
    body(thread);
}

template <class Body>
__global__ void __launch_bounds__(lanes) stream_kernel(const __grid_constant__ Body body) {
    DeviceThread<1> thread;
    body(thread);
}

struct StreamLaunch {
    cudaStream_t stream;

    template <class Body>
    int operator()(const Body& body) const {
        const StreamGrid grid = body.grid();
        const cudaError_t error =
            cudaFuncSetAttribute(stream_kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(grid.shared));
        if (error != cudaSuccess) return int(error);
        stream_kernel<Body><<<unsigned(grid.warps), lanes, size_t(grid.shared), stream>>>(body);
        return int(cudaGetLastError());
    }
};

struct RowLaunch {
    cudaStream_t stream;

    template <class Body>
    int operator()(const Body& body, int64_t rows, const RowPlan& plan) const {
        const int bytes = int(plan.bytes());
        const cudaError_t error = cudaFuncSetAttribute(row_kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        if (error != cudaSuccess) return int(error);
        row_kernel<Body><<<unsigned(rows), unsigned(plan.threads), size_t(bytes), stream>>>(body);
        return int(cudaGetLastError());
    }
};

}  // namespace

int64_t frontend_shared_bytes() {
    int device = 0, bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 0;
    return cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess ? bytes : 0;
}

int frontend_rows(const Frontend& a, const FrontendRowStages& stages, cudaStream_t stream) {
    RowLaunch launch{stream};
    return frontend_rows(a, stages, launch);
}

int frontend_stream(const FrontendStream& a, void* room, cudaStream_t stream) {
    StreamLaunch launch{stream};
    return frontend_stream(a, room, launch);
}

int frontend(const Frontend& a, float* scratch, int64_t pad, cudaStream_t stream) {
    if (a.rows == 0) return int(cudaSuccess);
    const int64_t groups = (a.rows + lanes - 1) / lanes, blocks = (groups + warps - 1) / warps;
    const int64_t each = frontend_warp_scratch(a.n, a.m, a.up, pad);
    frontend_kernel<<<unsigned(blocks), warps * lanes, 0, stream>>>(a, scratch, each, pad);
    return int(cudaGetLastError());
}

}  // namespace cuda
}  // namespace xecg
