// Accuracy of cpu/math.h at the ISA level of the including unit, against the C library in double precision.
#pragma once
#include <cstring>

#include "../cpu/math.h"
#include "math_functions.h"

namespace xecg::XECG_ISA {

template <vec (*f)(vec)>
inline void apply(const float* x, float* y, int64_t n) {
    for (int64_t k = 0; k < n; k += W) store_n(y + k, f(load_n(x + k, min_of(W, n - k))), min_of(W, n - k));
}

extern const tests::MathFunctions math_functions;
const tests::MathFunctions math_functions = {apply<exp>, apply<tanh>, apply<sigmoid>, apply<log_sigmoid>, apply<log1p_unit>};

}  // namespace xecg::XECG_ISA
