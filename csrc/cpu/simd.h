// The only file that knows vector instructions. Included once per ISA unit; everything lives in xecg::<isa>.
//
// vec: W float lanes. mask-free tails: load_n / store_n touch the first n lanes only (n in 0..W), other lanes read 0.
// fma is fused on AVX2 and AVX-512 and rounded twice on base; therefore ISA levels agree to tolerance, not to the bit.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#pragma GCC diagnostic push  // GCC 12 takes its own _mm512_undefined_ps for an uninitialised variable (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "../common/types.h"

// In front of loops over accumulators: unrolled this early, GCC keeps them in registers from the first to the last instruction.
#define XECG_UNROLL _Pragma("GCC unroll 16")

namespace xecg::XECG_ISA {

struct bf16 {
    uint16_t bits;
};

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
    uint32_t u = uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}

#if defined(__AVX512F__)

constexpr int W = 16;
constexpr int n_registers = 32;
struct vec {
    __m512 v;
};
struct mask {
    __mmask16 m;
};
inline __mmask16 lanes(int64_t n) { return __mmask16((1u << n) - 1u); }
inline vec zero() { return {_mm512_setzero_ps()}; }
inline vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline vec load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(lanes(n), p)}; }
inline void store(float* p, vec a) { _mm512_storeu_ps(p, a.v); }
inline void store_n(float* p, vec a, int64_t n) { _mm512_mask_storeu_ps(p, lanes(n), a.v); }
inline vec widen(__m256i h) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))}; }
inline vec load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline vec load_n(const bf16* p, int64_t n) {
    return widen(_mm512_cvtepi32_epi16(_mm512_maskz_cvtepu16_epi32(lanes(n), _mm256_maskz_loadu_epi16(lanes(n), p))));
}
inline __m256i narrow(vec a) {
    __m512i u = _mm512_castps_si512(a.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
inline vec load_n(const int16_t* p, int64_t n) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(lanes(n), p)))};
}
inline void store(bf16* p, vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
inline void store_n(bf16* p, vec a, int64_t n) { _mm256_mask_storeu_epi16(p, lanes(n), narrow(a)); }
inline vec operator+(vec a, vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline vec operator-(vec a, vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline vec operator*(vec a, vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline vec operator/(vec a, vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline vec fma(vec a, vec b, vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// min and max return the second operand when either is NaN: keep the NaN second.
inline vec min(vec a, vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline vec max(vec a, vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline vec abs(vec a) { return {_mm512_abs_ps(a.v)}; }
inline vec sqrt(vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline vec round(vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline mask less(vec a, vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline mask less_equal(vec a, vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline mask equal(vec a, vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline mask is_nan(vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline mask first_lanes(int64_t n) { return {lanes(n)}; }
inline bool any(mask m) { return m.m != 0; }
inline vec select(mask m, vec yes, vec no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
// a * 2^n for whole n with a * 2^n inside the normal range, or saturating outside it.
inline vec scale2(vec a, vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline float sum(vec a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1)));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
// Lanes of a and b in turn: low = a0 b0 a1 b1 ..., high goes on from lane W/2.
inline void zip(vec a, vec b, vec& low, vec& high) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    low.v = _mm512_permutex2var_ps(a.v, first, b.v);
    high.v = _mm512_permutex2var_ps(a.v, second, b.v);
}

// Lane 4 g + o takes lane 4 g + (o + r) mod 4.
template <int r>
inline vec quad_rotate(vec a) {
    return {_mm512_permute_ps(a.v, r == 1 ? 0x39 : r == 2 ? 0x4e : 0x93)};
}

// Rows become columns. Two rounds inside 128-bit quarters, two rounds among them.
inline void transpose(vec (&a)[W]) {
    __m512 t[16], u[16];
    for (int k = 0; k < 16; k += 2) {
        t[k] = _mm512_unpacklo_ps(a[k].v, a[k + 1].v);
        t[k + 1] = _mm512_unpackhi_ps(a[k].v, a[k + 1].v);
    }
    for (int k = 0; k < 16; k += 4) {
        u[k] = _mm512_shuffle_ps(t[k], t[k + 2], 0x44);
        u[k + 1] = _mm512_shuffle_ps(t[k], t[k + 2], 0xee);
        u[k + 2] = _mm512_shuffle_ps(t[k + 1], t[k + 3], 0x44);
        u[k + 3] = _mm512_shuffle_ps(t[k + 1], t[k + 3], 0xee);
    }
    for (int k = 0; k < 4; ++k) {
        t[k] = _mm512_shuffle_f32x4(u[k], u[k + 4], 0x88);
        t[k + 4] = _mm512_shuffle_f32x4(u[k], u[k + 4], 0xdd);
        t[k + 8] = _mm512_shuffle_f32x4(u[k + 8], u[k + 12], 0x88);
        t[k + 12] = _mm512_shuffle_f32x4(u[k + 8], u[k + 12], 0xdd);
    }
    for (int k = 0; k < 4; ++k) {
        a[k].v = _mm512_shuffle_f32x4(t[k], t[k + 8], 0x88);
        a[k + 4].v = _mm512_shuffle_f32x4(t[k + 4], t[k + 12], 0x88);
        a[k + 8].v = _mm512_shuffle_f32x4(t[k], t[k + 8], 0xdd);
        a[k + 12].v = _mm512_shuffle_f32x4(t[k + 4], t[k + 12], 0xdd);
    }
}

// W float64 lanes, as two halves.
struct wide {
    __m512d low, high;
};
inline wide wide1(double x) { return {_mm512_set1_pd(x), _mm512_set1_pd(x)}; }
inline wide load(const double* p) { return {_mm512_loadu_pd(p), _mm512_loadu_pd(p + W / 2)}; }
inline void store(double* p, wide a) {
    _mm512_storeu_pd(p, a.low);
    _mm512_storeu_pd(p + W / 2, a.high);
}
inline wide fma(wide a, wide b, wide c) {
    return {_mm512_fmadd_pd(a.low, b.low, c.low), _mm512_fmadd_pd(a.high, b.high, c.high)};
}
inline wide to_wide(vec a) {
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))};
}
inline vec to_vec(wide a) {
    return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.low)), _mm512_cvtpd_ps(a.high), 1)};
}

#elif defined(__AVX2__)

constexpr int W = 8;
constexpr int n_registers = 16;
struct vec {
    __m256 v;
};
struct mask {
    __m256 m;
};
inline __m256i lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline vec zero() { return {_mm256_setzero_ps()}; }
inline vec set1(float x) { return {_mm256_set1_ps(x)}; }
inline vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline vec load_n(const float* p, int64_t n) { return {_mm256_maskload_ps(p, lanes(n))}; }
inline void store(float* p, vec a) { _mm256_storeu_ps(p, a.v); }
inline void store_n(float* p, vec a, int64_t n) { _mm256_maskstore_ps(p, lanes(n), a.v); }
inline vec widen(__m128i h) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))}; }
inline vec load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline vec load_n(const bf16* p, int64_t n) {
    bf16 t[W] = {};
    std::memcpy(t, p, size_t(n) * sizeof(bf16));
    return load(t);
}
inline __m128i narrow(vec a) {
    __m256i u = _mm256_castps_si256(a.v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan);
    __m256i high = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
inline vec load_n(const int16_t* p, int64_t n) {
    int16_t t[W] = {};
    std::memcpy(t, p, size_t(n) * sizeof(int16_t));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(t))))};
}
inline void store(bf16* p, vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a)); }
inline void store_n(bf16* p, vec a, int64_t n) {
    bf16 t[W];
    store(t, a);
    std::memcpy(p, t, size_t(n) * sizeof(bf16));
}
inline vec operator+(vec a, vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline vec operator-(vec a, vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline vec operator*(vec a, vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline vec operator/(vec a, vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline vec fma(vec a, vec b, vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline vec min(vec a, vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline vec max(vec a, vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline vec sqrt(vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline vec abs(vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline vec round(vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline mask less(vec a, vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline mask less_equal(vec a, vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline mask equal(vec a, vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline mask is_nan(vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
inline mask first_lanes(int64_t n) { return {_mm256_castsi256_ps(lanes(n))}; }
inline bool any(mask m) { return _mm256_movemask_ps(m.m) != 0; }
inline vec select(mask m, vec yes, vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }
inline vec power2(vec n) {
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(e, 23))};
}
inline vec scale2(vec a, vec n) {
    vec half = round(n * set1(0.5f));  // two factors: 2^n itself may be outside the normal range
    return a * power2(half) * power2(n - half);
}
inline float sum(vec a) {
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline void zip(vec a, vec b, vec& low, vec& high) {
    const __m256 x = _mm256_unpacklo_ps(a.v, b.v), y = _mm256_unpackhi_ps(a.v, b.v);
    low.v = _mm256_permute2f128_ps(x, y, 0x20);
    high.v = _mm256_permute2f128_ps(x, y, 0x31);
}

template <int r>
inline vec quad_rotate(vec a) {
    return {_mm256_permute_ps(a.v, r == 1 ? 0x39 : r == 2 ? 0x4e : 0x93)};
}
// Rows become columns.
inline void transpose(vec (&a)[W]) {
    __m256 t[8], u[8];
    for (int k = 0; k < 8; k += 2) {
        t[k] = _mm256_unpacklo_ps(a[k].v, a[k + 1].v);
        t[k + 1] = _mm256_unpackhi_ps(a[k].v, a[k + 1].v);
    }
    for (int k = 0; k < 8; k += 4) {
        u[k] = _mm256_shuffle_ps(t[k], t[k + 2], 0x44);
        u[k + 1] = _mm256_shuffle_ps(t[k], t[k + 2], 0xee);
        u[k + 2] = _mm256_shuffle_ps(t[k + 1], t[k + 3], 0x44);
        u[k + 3] = _mm256_shuffle_ps(t[k + 1], t[k + 3], 0xee);
    }
    for (int k = 0; k < 4; ++k) {
        a[k].v = _mm256_permute2f128_ps(u[k], u[k + 4], 0x20);
        a[k + 4].v = _mm256_permute2f128_ps(u[k], u[k + 4], 0x31);
    }
}

struct wide {
    __m256d low, high;
};
inline wide wide1(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
inline wide load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + W / 2)}; }
inline void store(double* p, wide a) {
    _mm256_storeu_pd(p, a.low);
    _mm256_storeu_pd(p + W / 2, a.high);
}
inline wide fma(wide a, wide b, wide c) {
    return {_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
inline wide to_wide(vec a) {
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.v)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))};
}
inline vec to_vec(wide a) { return {_mm256_set_m128(_mm256_cvtpd_ps(a.high), _mm256_cvtpd_ps(a.low))}; }

#else  // any machine: GCC and Clang vector extensions, four lanes

constexpr int W = 4;
constexpr int n_registers = 16;
typedef float lanes4 __attribute__((vector_size(16)));
typedef int32_t ints4 __attribute__((vector_size(16)));
struct vec {
    lanes4 v;
};
struct mask {
    ints4 m;
};
inline vec zero() { return {lanes4{0, 0, 0, 0}}; }
inline vec set1(float x) { return {lanes4{x, x, x, x}}; }
inline vec load(const float* p) {
    vec a;
    std::memcpy(&a.v, p, 16);
    return a;
}
inline vec load_n(const float* p, int64_t n) {
    float t[W] = {};
    std::memcpy(t, p, size_t(n) * sizeof(float));
    return load(t);
}
inline void store(float* p, vec a) { std::memcpy(p, &a.v, 16); }
inline void store_n(float* p, vec a, int64_t n) { std::memcpy(p, &a.v, size_t(n) * sizeof(float)); }
inline vec load_n(const bf16* p, int64_t n) {
    float t[W] = {};
    for (int64_t k = 0; k < n; ++k) t[k] = to_float(p[k]);
    return load(t);
}
inline vec load(const bf16* p) { return load_n(p, W); }
inline vec load_n(const int16_t* p, int64_t n) {
    float t[W] = {};
    for (int64_t k = 0; k < n; ++k) t[k] = float(p[k]);
    return load(t);
}
inline void store_n(bf16* p, vec a, int64_t n) {
    for (int64_t k = 0; k < n; ++k) {
        float f = a.v[k];
        uint32_t u;
        std::memcpy(&u, &f, 4);
        p[k].bits = f != f ? uint16_t(0x7fc0) : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
}
inline void store(bf16* p, vec a) { store_n(p, a, W); }
inline vec operator+(vec a, vec b) { return {a.v + b.v}; }
inline vec operator-(vec a, vec b) { return {a.v - b.v}; }
inline vec operator*(vec a, vec b) { return {a.v * b.v}; }
inline vec operator/(vec a, vec b) { return {a.v / b.v}; }
inline vec fma(vec a, vec b, vec c) { return {a.v * b.v + c.v}; }
inline mask less(vec a, vec b) { return {a.v < b.v}; }
inline mask less_equal(vec a, vec b) { return {a.v <= b.v}; }
inline mask equal(vec a, vec b) { return {a.v == b.v}; }
inline mask is_nan(vec a) { return {a.v != a.v}; }
inline mask first_lanes(int64_t n) { return {ints4{0, 1, 2, 3} < int32_t(n)}; }
inline bool any(mask m) { return (m.m[0] | m.m[1] | m.m[2] | m.m[3]) != 0; }
inline vec select(mask m, vec yes, vec no) {
    ints4 y, n;
    std::memcpy(&y, &yes.v, 16);
    std::memcpy(&n, &no.v, 16);
    ints4 r = (y & m.m) | (n & ~m.m);
    vec out;
    std::memcpy(&out.v, &r, 16);
    return out;
}
inline vec min(vec a, vec b) { return select(less(a, b), a, b); }
inline vec max(vec a, vec b) { return select(less(b, a), a, b); }
inline vec abs(vec a) { return select(less(a, zero()), zero() - a, a); }
inline vec sqrt(vec a) {
    vec out;
    for (int k = 0; k < W; ++k) out.v[k] = __builtin_sqrtf(a.v[k]);
    return out;
}
inline vec round(vec a) {
    const vec magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest whole number, |a| < 2^22
    return {(a.v + magic.v) - magic.v};
}
inline vec power2(vec n) {
    ints4 e = (__builtin_convertvector(n.v, ints4) + 127) << 23;
    vec out;
    std::memcpy(&out.v, &e, 16);
    return out;
}
inline vec scale2(vec a, vec n) {
    vec half = round(n * set1(0.5f));
    return a * power2(half) * power2(n - half);
}
inline float sum(vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
template <int r>
inline vec quad_rotate(vec a) {
    return {__builtin_shufflevector(a.v, a.v, r & 3, (r + 1) & 3, (r + 2) & 3, (r + 3) & 3)};
}
inline void transpose(vec (&a)[W]) {
    float t[W][W];
    for (int k = 0; k < W; ++k) store(t[k], a[k]);
    for (int k = 0; k < W; ++k)
        for (int l = 0; l < W; ++l) a[k].v[l] = t[l][k];
}
inline void zip(vec a, vec b, vec& low, vec& high) {
    low.v = __builtin_shufflevector(a.v, b.v, 0, 4, 1, 5);
    high.v = __builtin_shufflevector(a.v, b.v, 2, 6, 3, 7);
}

typedef double doubles2 __attribute__((vector_size(16)));
struct wide {
    doubles2 low, high;
};
inline wide wide1(double x) { return {doubles2{x, x}, doubles2{x, x}}; }
inline wide load(const double* p) { return {doubles2{p[0], p[1]}, doubles2{p[2], p[3]}}; }
inline void store(double* p, wide a) {
    for (int k = 0; k < 2; ++k) p[k] = a.low[k], p[2 + k] = a.high[k];
}
inline wide fma(wide a, wide b, wide c) { return {a.low * b.low + c.low, a.high * b.high + c.high}; }
inline wide to_wide(vec a) { return {doubles2{a.v[0], a.v[1]}, doubles2{a.v[2], a.v[3]}}; }
inline vec to_vec(wide a) { return {lanes4{float(a.low[0]), float(a.low[1]), float(a.high[0]), float(a.high[1])}}; }

#endif

inline wide operator+(wide a, wide b) { return {a.low + b.low, a.high + b.high}; }
inline wide operator-(wide a, wide b) { return {a.low - b.low, a.high - b.high}; }
inline wide operator*(wide a, wide b) { return {a.low * b.low, a.high * b.high}; }
inline wide operator/(wide a, wide b) { return {a.low / b.low, a.high / b.high}; }

// While it lives, results below the normal range become 0: a filter that rings down would otherwise slow to a crawl.
class FlushDenormals {
  public:
#if defined(__SSE2__)
    FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before_); }

  private:
    unsigned before_;
#endif
};

// Asks for a line that is read soon; any address is allowed.
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// Loads and stores of a block that is either known to be whole at compile time, or has n lanes.
template <bool whole, class T>
inline vec get(const T* p, int64_t n) {
    return whole ? load(p) : load_n(p, n);
}
template <bool whole, class T>
inline void put(T* p, vec a, int64_t n) {
    whole ? store(p, a) : store_n(p, a, n);
}

}  // namespace xecg::XECG_ISA
