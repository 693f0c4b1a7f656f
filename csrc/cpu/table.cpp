#include "table.h"

#include <cstdlib>
#include <stdexcept>

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

namespace {

std::vector<const KernelTable*> runnable() {
    std::vector<const KernelTable*> levels{&base::table};
#ifdef XECG_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        levels.push_back(&avx2::table);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq"))
            levels.push_back(&avx512::table);
    }
#endif
    return levels;
}

const KernelTable* choose() {
    const auto levels = runnable();
    const char* cap = std::getenv("XECG_CPU_ISA");
    if (!cap || !*cap) return levels.back();
    const std::string wanted(cap);
    if (wanted != "base" && wanted != "avx2" && wanted != "avx512")
        throw std::invalid_argument("XECG_CPU_ISA is '" + wanted + "'; needed base, avx2 or avx512. Correct or unset it.");
    for (const auto* level : levels)
        if (wanted == level->isa) return level;
    return levels.back();  // a cap above what the machine has caps nothing
}

}  // namespace

const KernelTable& kernels() {
    static const KernelTable* chosen = choose();
    return *chosen;
}

std::vector<std::string> isa_levels() {
    std::vector<std::string> names;
    for (const auto* level : runnable()) names.emplace_back(level->isa);
    return names;
}

}  // namespace xecg
