// Which sLSTM kernel serves a call, and with what launch. `Launcher` has the device's limits and
// `int operator()(const Body&, const SlstmGrid&)`; the CUDA one is in slstm.cu, the emulated one in csrc/tests.
// The kernel depends on sizes of a head, types and device alone: a result's bits depend neither on the batch nor on the length.
#pragma once
#include "slstm_plain.cuh"
#include "slstm_tensor.cuh"

namespace xecg {
namespace cuda {

struct SlstmGrid {
    int64_t tiles, heads;
    int threads;     // of a block
    int64_t shared;  // bytes of a block
};

struct SlstmDevice {
    int capability;  // 80, 90, ...
    int64_t shared;  // bytes that a block may ask for
    int processors;
};

constexpr int64_t slstm_tensor_units = 128, slstm_cluster_units = 256;  // of a head, at most
constexpr int slstm_cluster = 4;                                        // blocks

// Rows that the threads of a plain block share, in groups of one Quad.
inline int slstm_groups(const SlstmShape& s) {
    const int64_t wanted = (s.B + slstm_plain_rows - 1) / slstm_plain_rows, room = 256 / slstm_plain_wide(s.D);
    return int(room < 1 ? 1 : wanted < room ? wanted : room);
}

// once: R is read once only and need not move into shared memory. Half-precision weights stay where they are: what fits is the
// tensor kernels' work.
template <template <class, class, bool> class Body, class X, class W, class Args, class Launcher>
int slstm_launch_plain(const Args& a, Launcher& launch, bool once) {
    const SlstmShape& s = a.call.shape;
    const int groups = slstm_groups(s), rows = groups * slstm_plain_rows;
    SlstmGrid grid{(s.B + rows - 1) / rows, s.H, groups * slstm_plain_wide(s.D), Body<X, W, false>::shared(s.D, groups)};
    if constexpr (sizeof(W) == sizeof(float)) {
        SlstmGrid resident = grid;
        resident.shared = Body<X, W, true>::shared(s.D, groups);
        if (!once && resident.shared <= launch.device.shared) return launch(Body<X, W, true>{a, groups}, resident);
    }
    return launch(Body<X, W, false>{a, groups}, grid);
}

template <template <class, class, bool> class Body, class Args, class Launcher>
int slstm_launch_plain(const Args& a, Launcher& launch, bool once = false) {
    const bool narrow_weights = a.weights.R_type != DType::f32;
    switch (a.call.shape.dtype) {
        case DType::bf16:
            return narrow_weights ? slstm_launch_plain<Body, Bf16, Bf16>(a, launch, once)
                                  : slstm_launch_plain<Body, Bf16, float>(a, launch, once);
        case DType::f16:
            return narrow_weights ? slstm_launch_plain<Body, F16, F16>(a, launch, once)
                                  : slstm_launch_plain<Body, F16, float>(a, launch, once);
        default: return slstm_launch_plain<Body, float, float>(a, launch, once);
    }
}

template <class Body, class Args, class Launcher>
int slstm_launch_tensor(const Args& a, Launcher& launch) {
    const SlstmShape& s = a.call.shape;
    const int64_t tiles = (s.B + Body::rows - 1) / Body::rows;
    return launch(Body{a}, SlstmGrid{tiles, s.H, Body::threads(s.D), Body::shared()});
}

inline bool slstm_nothing(const SlstmShape& s) { return s.B == 0 || s.T == 0 || s.H == 0 || s.D == 0; }

// Tensor cores need bfloat16 x and R and a head that fits the registers of a block, or from capability 9.0 on of a cluster.
template <class Args>
bool slstm_on_tensor_cores(const Args& a, const SlstmDevice& device) {
    const int64_t D = a.call.shape.D;
    const bool fits = device.capability >= 90 ? D <= slstm_cluster_units : device.capability >= 80 && D <= slstm_tensor_units;
    return fits && a.call.shape.dtype == DType::bf16 && a.weights.R_type == DType::bf16;
}

// How many columns of eight rows every cluster must take for all to run at once.
inline int64_t slstm_columns(const SlstmShape& s, const SlstmDevice& device) {
    const int64_t clusters = device.processors / slstm_cluster;
    return ((s.B + 7) / 8 * s.H + clusters - 1) / (clusters > 0 ? clusters : 1);
}

// Returns what the launcher returns, 0 for nothing to do.
template <class Launcher>
int slstm_run(const SlstmCudaForward& a, Launcher& launch) {
    if (slstm_nothing(a.call.shape)) return 0;
    if (!slstm_on_tensor_cores(a, launch.device)) return slstm_launch_plain<SlstmPlainForward>(a, launch);
    const int64_t D = a.call.shape.D;
    if (D <= 32) return slstm_launch_tensor<SlstmTensorForward<2, 1, 1>>(a, launch);
    if (D <= 64) return slstm_launch_tensor<SlstmTensorForward<4, 1, 1>>(a, launch);
    if (D <= slstm_tensor_units) return slstm_launch_tensor<SlstmTensorForward<8, 1, 1>>(a, launch);
    const int64_t columns = slstm_columns(a.call.shape, launch.device);
    if (columns <= 1) return slstm_launch_tensor<SlstmTensorForward<16, slstm_cluster, 1>>(a, launch);
    if (columns <= 2) return slstm_launch_tensor<SlstmTensorForward<16, slstm_cluster, 2>>(a, launch);
    return slstm_launch_tensor<SlstmTensorForward<16, slstm_cluster, 4>>(a, launch);
}

template <class Launcher>
int slstm_run(const SlstmCudaBackward& a, Launcher& launch) {
    if (slstm_nothing(a.call.shape)) return 0;
    if (!slstm_on_tensor_cores(a, launch.device)) return slstm_launch_plain<SlstmPlainBackward>(a, launch);
    const int64_t D = a.call.shape.D;
    if (D <= 32) return slstm_launch_tensor<SlstmTensorBackward<2, 1, 1, 1>>(a, launch);
    if (D <= 64) return slstm_launch_tensor<SlstmTensorBackward<4, 1, 1, 1>>(a, launch);
    if (D <= slstm_tensor_units) return slstm_launch_tensor<SlstmTensorBackward<8, 1, 1, 1>>(a, launch);
    const int64_t columns = slstm_columns(a.call.shape, launch.device);
    if (columns <= 1) return slstm_launch_tensor<SlstmTensorBackward<16, slstm_cluster, 1, 2>>(a, launch);
    return slstm_launch_tensor<SlstmTensorBackward<16, slstm_cluster, 2, 2>>(a, launch);
}

// One step, T = 1, state in place: few products a byte of R, so that every step takes the plain kernel, with the roundings of the
// one that serves the sequence.
template <class Launcher>
int slstm_step(SlstmCudaForward a, Launcher& launch) {
    if (slstm_nothing(a.call.shape)) return 0;
    a.rounded = slstm_on_tensor_cores(a, launch.device);
    return slstm_launch_plain<SlstmPlainForward>(a, launch, true);
}

}  // namespace cuda
}  // namespace xecg
