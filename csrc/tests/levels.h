// The kernel table of one ISA level by name, whatever level the machine would choose.
#pragma once
#include "../cpu/table.h"

namespace xecg {

namespace base {
extern const KernelTable table;
}
#ifdef XECG_X86
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

#ifdef XECG_AMX
namespace amx {
const KernelTable& table();
}
#endif

inline const KernelTable& level(const std::string& isa) {
#ifdef XECG_AMX
    if (isa == "amx") return amx::table();
#endif
#ifdef XECG_X86
    if (isa == "avx512") return avx512::table;
    if (isa == "avx2") return avx2::table;
#endif
    return base::table;
}

}  // namespace xecg
