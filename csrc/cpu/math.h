// Elementary functions over simd.h. Errors against correctly rounded values are tested (csrc/tests/math.cpp).
#pragma once
#include "simd.h"

namespace xecg::XECG_ISA {

// exp by Cody-Waite reduction to |r| <= ln2/2 and the Taylor polynomial of degree 7 (remainder 5e-9 relative).
// exp(-inf) = 0, exp(+inf) = inf, NaN stays NaN; results below the normal range flush towards 0. No branch for them is needed:
// e^-104 rounds to 0, e^89 to inf, and min and max pass a NaN in their second operand.
inline vec exp(vec x) {
    vec y = min(set1(89.0f), max(set1(-104.0f), x));
    vec n = round(y * set1(1.44269504088896341f));
    vec r = fma(n, set1(-0.693359375f), y);
    r = fma(n, set1(2.12194440e-4f), r);
    vec p = set1(1.0f / 5040);
    p = fma(p, r, set1(1.0f / 720));
    p = fma(p, r, set1(1.0f / 120));
    p = fma(p, r, set1(1.0f / 24));
    p = fma(p, r, set1(1.0f / 6));
    p = fma(p, r, set1(0.5f));
    p = fma(p * r, r, r) + set1(1.0f);
    return scale2(p, n);
}

inline vec sigmoid(vec x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }

inline vec silu(vec x) { return x * sigmoid(x); }

// d silu / dx = s (1 + x (1 - s)), s = sigmoid(x)
inline vec silu_slope(vec x) {
    vec s = sigmoid(x);
    return s * fma(x, set1(1.0f) - s, set1(1.0f));
}

// Normal distribution function by the Chebyshev form of erfc in Press et al., Numerical Recipes, section 6.2 (relative
// error 1.2e-7): Phi(x) = erfc(-x / sqrt 2) / 2, computed for -|x| and reflected.
inline vec normal_cdf(vec x) {
    const vec z = abs(x) * set1(0.70710678118654752f);
    const vec t = set1(1.0f) / fma(set1(0.5f), z, set1(1.0f));
    vec p = set1(0.17087277f);
    p = fma(p, t, set1(-0.82215223f));
    p = fma(p, t, set1(1.48851587f));
    p = fma(p, t, set1(-1.13520398f));
    p = fma(p, t, set1(0.27886807f));
    p = fma(p, t, set1(-0.18628806f));
    p = fma(p, t, set1(0.09678418f));
    p = fma(p, t, set1(0.37409196f));
    p = fma(p, t, set1(1.00002368f));
    p = fma(p, t, set1(-1.26551223f));
    const vec tail = set1(0.5f) * t * exp(fma(zero() - z, z, p));
    return select(less(x, zero()), tail, set1(1.0f) - tail);
}

inline vec gelu(vec x) { return x * normal_cdf(x); }

// d gelu / dx = Phi(x) + x phi(x)
inline vec gelu_slope(vec x) {
    const vec density = set1(0.39894228040143268f) * exp(set1(-0.5f) * x * x);
    return fma(x, density, normal_cdf(x));
}

// log(1 + u) for 0 <= u <= 1 as 2 atanh(s), s = u / (2 + u) <= 1/3: the series to s^17 leaves 1e-9.
inline vec log1p_unit(vec u) {
    vec s = u / (set1(2.0f) + u);
    vec z = s * s;
    vec p = set1(1.0f / 17);
    p = fma(p, z, set1(1.0f / 15));
    p = fma(p, z, set1(1.0f / 13));
    p = fma(p, z, set1(1.0f / 11));
    p = fma(p, z, set1(1.0f / 9));
    p = fma(p, z, set1(1.0f / 7));
    p = fma(p, z, set1(1.0f / 5));
    p = fma(p, z, set1(1.0f / 3));
    vec t = s + s;
    return fma(p * z, t, t);
}

// log sigmoid(x) = min(x, 0) - log1p(exp(-|x|)); -inf at -inf, 0 at +inf.
inline vec log_sigmoid(vec x) { return min(zero(), x) - log1p_unit(exp(zero() - abs(x))); }

// tanh: odd Taylor series to x^13 below 0.35 (remainder 3e-9), else 1 - 2 / (exp(2|x|) + 1) with the sign put back.
inline vec tanh(vec x) {
    vec a = abs(x);
    vec big = set1(1.0f) - set1(2.0f) / (exp(a + a) + set1(1.0f));
    big = select(less(x, zero()), zero() - big, big);
    vec z = x * x;
    vec p = set1(21844.0f / 6081075);
    p = fma(p, z, set1(-1382.0f / 155925));
    p = fma(p, z, set1(62.0f / 2835));
    p = fma(p, z, set1(-17.0f / 315));
    p = fma(p, z, set1(2.0f / 15));
    p = fma(p, z, set1(-1.0f / 3));
    vec small = fma(p * z, x, x);
    return select(less(a, set1(0.35f)), small, big);
}

}  // namespace xecg::XECG_ISA
