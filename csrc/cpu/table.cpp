#include "table.h"

#include <cstdlib>
#include <stdexcept>
#ifdef XECG_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

namespace {

#ifdef XECG_AMX
// The processor has tiles and bfloat16 products on them, the system saves their registers, and it lets this process use them:
// Linux has to be asked (arch_prctl ARCH_REQ_XCOMP_PERM) before the first use, once a process, and children inherit the answer.
bool amx_is_ours() {
    constexpr unsigned tiles_and_bf16 = 1u << 24 | 1u << 22, os_saves_state = 1u << 27, tile_state = 3u << 17;
    constexpr long request_permission = 0x1023, tile_data = 18;
    unsigned a, b, c, d, xcr0, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & os_saves_state)) return false;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if ((xcr0 & tile_state) != tile_state) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles_and_bf16) != tiles_and_bf16) return false;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

std::vector<const KernelTable*> runnable([[maybe_unused]] const std::string& cap) {
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
#ifdef XECG_AMX
    const bool wanted = cap.empty() || cap == "amx";  // under a lower cap the system is not asked
    if (wanted && levels.back() == &avx512::table && __builtin_cpu_supports("avx512bf16") && amx_is_ours())
        levels.push_back(&amx::table());
#endif
    return levels;
}

const KernelTable* choose() {
    const char* set = std::getenv("XECG_CPU_ISA");
    const std::string cap(set ? set : "");
    if (!cap.empty() && cap != "base" && cap != "avx2" && cap != "avx512" && cap != "amx")
        throw std::invalid_argument("XECG_CPU_ISA is '" + cap + "'; needed base, avx2, avx512 or amx. Correct or unset it.");
    const auto levels = runnable(cap);
    for (const auto* level : levels)
        if (cap == level->isa) return level;
    return levels.back();  // no cap, or one above what the machine has
}

}  // namespace

const KernelTable& kernels() {
    static const KernelTable* chosen = choose();
    return *chosen;
}

std::vector<std::string> isa_levels() {
    std::vector<std::string> names;
    for (const auto* level : runnable("")) names.emplace_back(level->isa);
    return names;
}

}  // namespace xecg
