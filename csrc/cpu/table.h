// The kernels of one ISA level as a table of function pointers, and the choice among levels.
#pragma once
#include <string>
#include <vector>

#include "../common/conv1d.h"
#include "../common/frontend.h"
#include "../common/frontend_stream.h"
#include "../common/gated.h"
#include "../common/linear.h"
#include "../common/mlstm.h"
#include "../common/norm.h"
#include "../common/quality.h"
#include "../common/slstm.h"

namespace xecg {

// Every kernel is a count of independent tasks and a body that runs tasks [begin, end): the pool may cut anywhere.
struct KernelTable {
    const char* isa;
    int width;  // float lanes
    void (*conv1d_forward)(const Conv1dForward&, int64_t, int64_t);
    void (*conv1d_backward)(const Conv1dBackward&, int64_t, int64_t);
    int64_t (*conv1d_forward_tasks)(const Conv1dShape&);
    int64_t (*conv1d_backward_tasks)(const Conv1dShape&);
    void (*linear)(const Linear&, float* scratch, int64_t, int64_t);
    int64_t (*linear_tasks)(const Linear&);
    int64_t (*linear_scratch)(const Linear&);
    void (*gated_forward)(const Gated&, int64_t, int64_t);
    void (*gated_backward)(const Gated&, int64_t, int64_t);
    void (*norm_forward)(const NormForward&, int64_t, int64_t);
    void (*norm_backward)(const NormBackward&, int64_t, int64_t);
    void (*norm_weights_backward)(const NormBackward&, int64_t, int64_t);
    int64_t (*norm_weights_tasks)(const NormShape&);
    void (*frontend)(const Frontend&, int64_t, int64_t, float*);
    int64_t (*frontend_tasks)(const Frontend&);
    int64_t (*frontend_scratch)(const Frontend&);
    void (*frontend_long)(const FrontendLong&, int64_t, int64_t, float*);
    int64_t (*frontend_long_scratch)(const FrontendLong&);
    void (*frontend_stream)(const FrontendStream&, int64_t, int64_t, float*);
    int64_t (*frontend_stream_tasks)(const FrontendStream&);
    int64_t (*frontend_stream_scratch)(const FrontendStream&);
    void (*quality_leads)(const Quality&, int64_t, int64_t, float*);
    int64_t (*quality_lead_tasks)(const Quality&);
    int64_t (*quality_lead_scratch)(const Quality&);
    void (*quality_windows)(const Quality&, int64_t, int64_t, float*);
    int64_t (*quality_window_tasks)(const Quality&);
    int64_t (*quality_window_scratch)(const Quality&);
    void (*slstm_forward)(const SlstmForward&, int64_t, int64_t);
    void (*slstm_backward)(const SlstmBackward&, int64_t, int64_t);
    void (*slstm_weights_backward)(const SlstmBackward&, int64_t, int64_t);
    int64_t (*slstm_tasks)(const SlstmShape&);
    void (*slstm_pack)(const float*, int64_t, int64_t, bool, float*, int64_t, int64_t);
    int64_t (*slstm_blocks)(int64_t);
    int64_t (*slstm_packed_size)(int64_t, int64_t);
    bool (*slstm_reads_plain)(int64_t);
    void (*mlstm_forward)(const MlstmForward&, float* scratch, int64_t, int64_t);
    int64_t (*mlstm_forward_scratch)(const MlstmShape&);
    void (*mlstm_backward)(const MlstmBackward&, float* scratch, int64_t, int64_t);
    int64_t (*mlstm_backward_scratch)(const MlstmShape&);
    void (*mlstm_step)(const MlstmStep&, int64_t, int64_t);
};

// The fastest level that this machine runs and XECG_CPU_ISA (base | avx2 | avx512 | amx) allows. Chosen once.
const KernelTable& kernels();
// Levels that this machine can run, slowest first.
std::vector<std::string> isa_levels();

}  // namespace xecg
