// The level avx512 with the bfloat16 kernels that run on AMX tiles put in.
#define XECG_ISA amx
#include "../linear_amx.h"
#include "../mlstm_amx.h"
#include "../table.h"

namespace xecg {

namespace avx512 {
extern const KernelTable table;
}

namespace amx {
namespace {

void mlstm_any(const MlstmForward& a, float* scratch, int64_t begin, int64_t end) {
    a.shape.dtype == DType::bf16 ? mlstm_tiles_forward(a, scratch, begin, end)
                                 : avx512::table.mlstm_forward(a, scratch, begin, end);
}

int64_t mlstm_any_scratch(const MlstmShape& s) {
    return s.dtype == DType::bf16 ? mlstm_tiles_scratch(s) : avx512::table.mlstm_forward_scratch(s);
}

void linear_any(const Linear& a, float* scratch, int64_t begin, int64_t end) {
    linear_takes_tiles(a) ? linear_tiles(a, scratch, begin, end) : avx512::table.linear(a, scratch, begin, end);
}

int64_t linear_any_tasks(const Linear& a) {
    return linear_takes_tiles(a) ? linear_tiles_tasks(a) : avx512::table.linear_tasks(a);
}

int64_t linear_any_scratch(const Linear& a) {
    return linear_takes_tiles(a) ? linear_tiles_scratch(a) : avx512::table.linear_scratch(a);
}

KernelTable over_avx512() {
    KernelTable t = avx512::table;
    t.isa = "amx";
    t.linear = linear_any, t.linear_tasks = linear_any_tasks, t.linear_scratch = linear_any_scratch;
    t.mlstm_forward = mlstm_any;
    t.mlstm_forward_scratch = mlstm_any_scratch;
    return t;
}

}  // namespace

const KernelTable& table() {
    static const KernelTable made = over_avx512();
    return made;
}

}  // namespace amx
}  // namespace xecg
