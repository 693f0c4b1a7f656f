// cpu/math.h of one ISA level as plain functions on arrays.
#pragma once
#include <cstdint>

namespace xecg::tests {

struct MathFunctions {
    using Function = void (*)(const float* x, float* y, int64_t n);
    Function exp, tanh, sigmoid, log_sigmoid, log1p_unit;
};

}  // namespace xecg::tests
