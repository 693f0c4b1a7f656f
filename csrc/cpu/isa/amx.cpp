// The level avx512 with the bfloat16 kernels that run on AMX tiles put in.
#define XECG_ISA amx
#include "../mlstm_amx.h"
#include "../table.h"

namespace xecg {

namespace avx512 {
extern const KernelTable table;
}

namespace amx {
namespace {

void mlstm(const MlstmForward& a, float* scratch, int64_t begin, int64_t end) {
    a.shape.dtype == DType::bf16 ? mlstm_tiles_forward(a, scratch, begin, end)
                                 : avx512::table.mlstm_forward(a, scratch, begin, end);
}

int64_t mlstm_scratch(const MlstmShape& s) {
    return s.dtype == DType::bf16 ? mlstm_tiles_scratch(s) : avx512::table.mlstm_forward_scratch(s);
}

KernelTable over_avx512() {
    KernelTable t = avx512::table;
    t.isa = "amx";
    t.mlstm_forward = mlstm;
    t.mlstm_forward_scratch = mlstm_scratch;
    return t;
}

}  // namespace

const KernelTable& table() {
    static const KernelTable made = over_avx512();
    return made;
}

}  // namespace amx
}  // namespace xecg
