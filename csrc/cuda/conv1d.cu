// Causal depthwise convolution on NVIDIA GPUs, forward and backward. Equation and layouts: ../common/conv1d.h.
//
// A thread owns one channel of one batch row and a segment of time; neighbouring threads hold neighbouring channels, so every
// access is coalesced. A segment re-reads the K-1 inputs before it. Backward needs dpre of the K-1 steps after its segment and
// recomputes them. dweight and dbias: one partial per (segment, batch row), summed in a second kernel in a fixed order: no
// atomics, same bits each run. Cost: see ../cpu/conv1d.h. Not yet run on a GPU.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "conv1d.cuh"

namespace xecg {
namespace cuda {
namespace {

constexpr int threads = 128;

template <class T>
__device__ float get(const T* p);
template <>
__device__ float get(const float* p) {
    return *p;
}
template <>
__device__ float get(const __nv_bfloat16* p) {
    return __bfloat162float(*p);
}
template <>
__device__ float get(const __half* p) {
    return __half2float(*p);
}
__device__ void put(float* p, float v) { *p = v; }
__device__ void put(__nv_bfloat16* p, float v) { *p = __float2bfloat16_rn(v); }
__device__ void put(__half* p, float v) { *p = __float2half_rn(v); }

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Input at position p of the walk; p < 0 reads the initial state, and positions before it are zero.
template <class T>
__device__ float input_at(const T* x, Walk w, const float* state, int64_t p, int64_t K, int64_t C) {
    if (p >= 0) return get(x + w.first + p * w.step);
    return state && p >= 1 - K ? state[(p + K - 1) * C] : 0.0f;
}

template <class T>
__global__ void forward_kernel(Conv1dForward a) {
    const Conv1dShape& s = a.shape;
    const int64_t c = int64_t(blockIdx.x) * threads + threadIdx.x, b = blockIdx.y;
    if (c >= s.C) return;
    const int64_t length = s.lengths ? s.lengths[b] : s.T;
    const Segment seg = segment_of(blockIdx.z, s.T);
    const Walk in = walk_of(length, a.x_t, s.reverse), out = walk_of(length, a.y_t, s.reverse);
    const T* x = static_cast<const T*>(a.x) + b * a.x_b + c;
    T* y = static_cast<T*>(a.y) + b * a.y_b + c;
    const float* state = a.state_in ? a.state_in + b * (s.K - 1) * s.C + c : nullptr;
    const float bias = a.bias ? a.bias[c] : 0.0f;
    for (int64_t t = seg.begin; t < seg.end && t < length; ++t) {
        float sum = bias;
        for (int64_t j = 0; j < s.K; ++j)
            sum = fmaf(a.weight[c * s.K + j], input_at(x, in, state, t - s.K + 1 + j, s.K, s.C), sum);
        put(y + out.first + t * out.step, s.silu ? sum * sigmoid(sum) : sum);
    }
    for (int64_t t = seg.begin > length ? seg.begin : length; t < seg.end; ++t) put(y + t * a.y_t, 0.0f);
    if (blockIdx.z == 0 && a.state_out)
        for (int64_t j = 0; j + 1 < s.K; ++j)
            a.state_out[(b * (s.K - 1) + j) * s.C + c] = input_at(x, in, state, length - s.K + 1 + j, s.K, s.C);
}

// dpre at step t: dy through the activation, whose input is recomputed.
template <class T>
__device__ float dpre_at(const Conv1dBackward& a, const T* x, const T* dy, Walk wx, Walk wy, const float* state, float bias,
                         int64_t c, int64_t t) {
    const Conv1dShape& s = a.shape;
    const float g = get(dy + wy.first + t * wy.step);
    if (!s.silu) return g;
    float pre = bias;
    for (int64_t j = 0; j < s.K; ++j) pre = fmaf(a.weight[c * s.K + j], input_at(x, wx, state, t - s.K + 1 + j, s.K, s.C), pre);
    const float sg = sigmoid(pre);
    return g * sg * fmaf(pre, 1.0f - sg, 1.0f);
}

template <class T>
__global__ void backward_kernel(Conv1dBackward a, float* partial) {
    const Conv1dShape& s = a.shape;
    const int64_t c = int64_t(blockIdx.x) * threads + threadIdx.x, b = blockIdx.y;
    if (c >= s.C) return;
    const int64_t length = s.lengths ? s.lengths[b] : s.T;
    const Segment seg = segment_of(blockIdx.z, s.T);
    const Walk wx = walk_of(length, a.x_t, s.reverse), wy = walk_of(length, a.dy_t, s.reverse);
    const Walk wd = walk_of(length, a.dx_t, s.reverse);
    const T* x = static_cast<const T*>(a.x) + b * a.x_b + c;
    const T* dy = static_cast<const T*>(a.dy) + b * a.dy_b + c;
    T* dx = static_cast<T*>(a.dx) + b * a.dx_b + c;
    const float* state = a.state_in ? a.state_in + b * (s.K - 1) * s.C + c : nullptr;
    const float* dstate = a.dstate_out ? a.dstate_out + b * (s.K - 1) * s.C + c : nullptr;
    const float bias = a.bias ? a.bias[c] : 0.0f;
    float dw[conv1d_max_taps] = {}, db = 0.0f;
    for (int64_t t = seg.begin; t < seg.end && t < length; ++t) {
        const float g = dpre_at(a, x, dy, wx, wy, state, bias, c, t);
        db += g;
        for (int64_t j = 0; j < s.K; ++j) dw[j] = fmaf(input_at(x, wx, state, t - s.K + 1 + j, s.K, s.C), g, dw[j]);
    }
    // Gradient of input position p, including the initial state (p < 0), which belongs to the first segment.
    for (int64_t p = seg.begin == 0 ? 1 - s.K : seg.begin; p < seg.end && p < length; ++p) {
        float g = 0.0f;
        for (int64_t j = s.K - 1; j >= 0; --j) {
            const int64_t t = p + s.K - 1 - j;
            if (t >= 0 && t < length) g = fmaf(a.weight[c * s.K + j], dpre_at(a, x, dy, wx, wy, state, bias, c, t), g);
        }
        const int64_t slot = p - length + s.K - 1;
        if (dstate && slot >= 0) g += dstate[slot * s.C];
        if (p >= 0)
            put(dx + wd.first + p * wd.step, g);
        else if (a.dstate_in)
            a.dstate_in[(b * (s.K - 1) + p + s.K - 1) * s.C + c] = g;
    }
    for (int64_t t = seg.begin > length ? seg.begin : length; t < seg.end; ++t) put(dx + t * a.dx_t, 0.0f);
    float* row = partial + (blockIdx.z * s.B + b) * (s.K + 1) * s.C + c;
    for (int64_t j = 0; j < s.K; ++j) row[j * s.C] = dw[j];
    row[s.K * s.C] = db;
}

__global__ void sum_kernel(Conv1dShape s, const float* partial, int64_t rows, float* dweight, float* dbias) {
    const int64_t c = int64_t(blockIdx.x) * threads + threadIdx.x, j = blockIdx.y;
    if (c >= s.C) return;
    float total = 0.0f;
    for (int64_t r = 0; r < rows; ++r) total += partial[(r * (s.K + 1) + j) * s.C + c];
    if (j < s.K)
        dweight[c * s.K + j] = total;
    else if (dbias)
        dbias[c] = total;
}

dim3 grid_of(const Conv1dShape& s) {
    return dim3(unsigned((s.C + threads - 1) / threads), unsigned(s.B), unsigned(segments(s.T)));
}

}  // namespace

int64_t conv1d_backward_scratch(const Conv1dShape& s) { return segments(s.T) * s.B * (s.K + 1) * s.C; }

int conv1d_forward(const Conv1dForward& a, cudaStream_t stream) {
    if (a.shape.B == 0 || a.shape.C == 0) return int(cudaSuccess);
    const dim3 grid = grid_of(a.shape);
    switch (a.shape.dtype) {
        case DType::f32: forward_kernel<float><<<grid, threads, 0, stream>>>(a); break;
        case DType::bf16: forward_kernel<__nv_bfloat16><<<grid, threads, 0, stream>>>(a); break;
        case DType::f16: forward_kernel<__half><<<grid, threads, 0, stream>>>(a); break;
    }
    return int(cudaGetLastError());
}

int conv1d_backward(const Conv1dBackward& a, float* scratch, cudaStream_t stream) {
    const Conv1dShape& s = a.shape;
    if (s.C == 0) return int(cudaSuccess);
    const dim3 grid = grid_of(s);
    if (s.B > 0) {
        switch (s.dtype) {
            case DType::f32: backward_kernel<float><<<grid, threads, 0, stream>>>(a, scratch); break;
            case DType::bf16: backward_kernel<__nv_bfloat16><<<grid, threads, 0, stream>>>(a, scratch); break;
            case DType::f16: backward_kernel<__half><<<grid, threads, 0, stream>>>(a, scratch); break;
        }
    }
    const dim3 sum_grid(grid.x, unsigned(s.K + 1));
    sum_kernel<<<sum_grid, threads, 0, stream>>>(s, scratch, segments(s.T) * s.B, a.dweight, a.dbias);
    return int(cudaGetLastError());
}

}  // namespace cuda
}  // namespace xecg
