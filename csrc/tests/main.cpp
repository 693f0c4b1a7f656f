// C++ tests: `xecg_tests` lists its cases, `xecg_tests CASE` runs one. Built with -DXECG_TESTS=ON, also under sanitizers.
#include <algorithm>

#include "../cpu/table.h"
#include "check.h"

namespace xecg::tests {

namespace {
int broken = 0;
}

void expect(bool kept, const std::string& promise) {
    if (kept) return;
    ++broken;
    std::printf("broken: %s\n", promise.c_str());
}

void expect_near(const std::vector<float>& found, const std::vector<double>& wanted, double bound, const std::string& what) {
    double largest = 1e-30, worst = 0.0;
    for (double w : wanted) largest = std::max(largest, std::fabs(w));
    for (size_t k = 0; k < wanted.size(); ++k) {
        const double error = std::fabs(double(found[k]) - wanted[k]);
        worst = error <= worst ? worst : error;  // a NaN becomes the worst
    }
    expect(worst <= bound * largest, what + " is off by " + std::to_string(worst / largest) + " of its largest entry");
}

}  // namespace xecg::tests

int main(int count, char** arguments) {
    using namespace xecg::tests;
    std::vector<Case> cases;
    for (const std::string& isa : xecg::isa_levels()) {
        add_linear_cases(cases, isa);
        add_mlstm_cases(cases, isa);
        if (isa == "amx") continue;  // the rest is avx512's
        add_math_cases(cases, isa);
        add_conv1d_cases(cases, isa);
        add_norm_cases(cases, isa);
        add_slstm_cases(cases, isa);
        add_frontend_cases(cases, isa);
        add_frontend_stream_cases(cases, isa);
        add_quality_cases(cases, isa);
    }
    add_pool_cases(cases);
    add_qrs_cases(cases);
    add_reversal_cases(cases);
    add_cuda_slstm_cases(cases);
    if (count < 2) {
        for (const Case& c : cases) std::printf("%s\n", c.name.c_str());
        return 0;
    }
    for (const Case& c : cases) {
        if (c.name != arguments[1]) continue;
        c.run();
        std::printf("%s: %s\n", c.name.c_str(), broken ? "failed" : "passed");
        return broken ? 1 : 0;
    }
    std::printf("no case is called %s; run without arguments for the list\n", arguments[1]);
    return 2;
}
