// Offline front end on NVIDIA GPUs. Layouts and steps: frontend.cuh. Not yet run on a GPU.
#include <cuda_runtime_api.h>

#include "frontend.cuh"

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

}  // namespace

int frontend(const Frontend& a, float* scratch, int64_t pad, cudaStream_t stream) {
    if (a.rows == 0) return int(cudaSuccess);
    const int64_t groups = (a.rows + lanes - 1) / lanes, blocks = (groups + warps - 1) / warps;
    const int64_t each = frontend_warp_scratch(a.n, a.m, a.up, pad);
    frontend_kernel<<<unsigned(blocks), warps * lanes, 0, stream>>>(a, scratch, each, pad);
    return int(cudaGetLastError());
}

}  // namespace cuda
}  // namespace xecg
