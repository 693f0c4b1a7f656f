// cpu/math.h against the C library in double precision: units in the last place over dense samples, and special values.
#include <limits>

#include "check.h"
#include "math_functions.h"

namespace xecg {

namespace base {
extern const tests::MathFunctions math_functions;
}
#ifdef XECG_X86
namespace avx2 {
extern const tests::MathFunctions math_functions;
}
namespace avx512 {
extern const tests::MathFunctions math_functions;
}
#endif

namespace tests {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

const MathFunctions& functions(const std::string& isa) {
#ifdef XECG_X86
    if (isa == "avx512") return avx512::math_functions;
    if (isa == "avx2") return avx2::math_functions;
#endif
    return base::math_functions;
}

// Distance in units of the last place of the correctly rounded result, at least of the smallest normal number.
double ulps(float found, double wanted) {
    const float near = std::fmax(std::fabs(float(wanted)), std::numeric_limits<float>::min());
    return std::fabs(double(found) - wanted) / (double(std::nextafter(near, inf)) - double(near));
}

// Evenly spaced points of [low, high], and as many that crowd around 0 down to 1e-30.
std::vector<float> samples(float low, float high) {
    std::vector<float> x;
    const int n = 200001;  // not a multiple of any vector width: the last block is a tail
    for (int k = 0; k < n; ++k) x.push_back(float(low + (double(high) - low) * k / (n - 1)));
    for (int k = 0; k < n; ++k) {
        const float small = float(std::pow(10.0, -30.0 * k / n));
        if (small <= high) x.push_back(small);
        if (-small >= low) x.push_back(-small);
    }
    return x;
}

void within(MathFunctions::Function f, double (*exact)(double), float low, float high, double bound, const char* what) {
    const std::vector<float> x = samples(low, high);
    std::vector<float> y(x.size());
    f(x.data(), y.data(), int64_t(x.size()));
    double worst = 0.0;
    float where = 0.0f;
    for (size_t k = 0; k < x.size(); ++k) {
        const double u = ulps(y[k], exact(double(x[k])));
        if (!(u <= worst)) worst = u, where = x[k];
    }
    std::printf("%s on [%g, %g]: %.2f ulp at %.9g\n", what, double(low), double(high), worst, double(where));
    expect(worst <= bound, std::string(what) + " is off by more than " + std::to_string(bound) + " ulp");
}

void special(MathFunctions::Function f, const char* what, std::vector<std::pair<float, float>> pairs) {
    pairs.push_back({std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::quiet_NaN()});
    for (const auto& [x, wanted] : pairs) {
        float y = 0.5f;
        f(&x, &y, 1);
        const bool same = std::isnan(wanted) ? std::isnan(y) : y == wanted;
        expect(same, std::string(what) + "(" + std::to_string(x) + ") is " + std::to_string(y));
    }
}

double exact_exp(double x) { return std::exp(x); }
double exact_tanh(double x) { return std::tanh(x); }
double exact_sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double exact_log_sigmoid(double x) { return std::fmin(x, 0.0) - std::log1p(std::exp(-std::fabs(x))); }
double exact_log1p(double x) { return std::log1p(x); }

}  // namespace

void add_math_cases(std::vector<Case>& cases, const std::string& isa) {
    const MathFunctions& f = functions(isa);
    cases.push_back({"math_exp." + isa, [&f] {
                         within(f.exp, exact_exp, -87.0f, 88.7f, 2.0, "exp");
                         special(f.exp, "exp", {{0.0f, 1.0f}, {-inf, 0.0f}, {inf, inf}, {-200.0f, 0.0f}, {89.5f, inf}});
                     }});
    cases.push_back({"math_tanh." + isa, [&f] {
                         within(f.tanh, exact_tanh, -20.0f, 20.0f, 3.0, "tanh");
                         special(f.tanh, "tanh", {{0.0f, 0.0f}, {-inf, -1.0f}, {inf, 1.0f}, {300.0f, 1.0f}});
                     }});
    cases.push_back({"math_sigmoid." + isa, [&f] {
                         within(f.sigmoid, exact_sigmoid, -87.0f, 87.0f, 3.0, "sigmoid");
                         special(f.sigmoid, "sigmoid", {{0.0f, 0.5f}, {-inf, 0.0f}, {inf, 1.0f}});
                     }});
    cases.push_back({"math_log_sigmoid." + isa, [&f] {
                         within(f.log_sigmoid, exact_log_sigmoid, -300.0f, 87.0f, 4.0, "log_sigmoid");
                         special(f.log_sigmoid, "log_sigmoid", {{-inf, -inf}, {inf, 0.0f}, {-1e30f, -1e30f}});
                     }});
    cases.push_back({"math_log1p." + isa, [&f] {
                         within(f.log1p_unit, exact_log1p, 0.0f, 1.0f, 2.0, "log1p");
                         special(f.log1p_unit, "log1p", {{0.0f, 0.0f}});
                     }});
}

}  // namespace tests
}  // namespace xecg
