// Instantiates every body for the ISA level that the including unit names in XECG_ISA, and fills its table.
#pragma once
#include "../conv1d.h"
#include "../frontend.h"
#include "../frontend_long.h"
#include "../frontend_stream.h"
#include "../gated.h"
#include "../linear.h"
#include "../mlstm.h"
#include "../mlstm_backward.h"
#include "../mlstm_step.h"
#include "../norm.h"
#include "../quality.h"
#include "../slstm_backward.h"
#include "../table.h"

#define XECG_NAME_OF(x) #x
#define XECG_NAME(x) XECG_NAME_OF(x)

namespace xecg::XECG_ISA {

extern const KernelTable table;
// In the order of KernelTable.
// clang-format off
const KernelTable table = {
    XECG_NAME(XECG_ISA), W,
    conv1d_forward, conv1d_backward, conv1d_forward_tasks, conv1d_backward_tasks,
    linear, linear_tasks, linear_scratch,
    gated_forward, gated_backward,
    norm_forward, norm_backward, norm_weights_backward, norm_weights_tasks,
    frontend, frontend_tasks, frontend_scratch,
    frontend_long, frontend_long_scratch,
    frontend_stream, frontend_stream_tasks, frontend_stream_scratch,
    quality_leads, quality_lead_tasks, quality_lead_scratch, quality_windows, quality_window_tasks, quality_window_scratch,
    slstm_forward, slstm_backward, slstm_weights_backward, slstm_tasks, slstm_pack, slstm_blocks, slstm_packed_size, slstm_reads_plain,
    mlstm_forward, mlstm_forward_scratch, mlstm_backward, mlstm_backward_scratch, mlstm_step,
};
// clang-format on

}  // namespace xecg::XECG_ISA
