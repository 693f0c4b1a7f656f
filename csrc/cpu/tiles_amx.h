// Matrix products of bfloat16 with float32 sums on AMX tiles; the only file that knows tile instructions. Level amx only.
//
// An operand lies in strips of 16 rows (left) or 16 columns (right) of the product. A strip is a line of tiles along the sum, 1
// kB and 32 terms each: in a left tile a row of 32 numbers for each of 16 rows, in a right tile 16 pairs of terms by 16 columns.
// Both are padded with zeros to whole tiles, and results to 32 x 32, what one round of tile registers holds. A float32 operand
// enters as the sum of two bfloat16 numbers, `high` and `low`, good to 2^-16 of each entry: twice the products, for a sixteenth
// of the time of float32. Results depend on no row or column but their own, and terms enter in order. Tile products take
// denormals as 0.
#pragma once
#include "gemm.h"

namespace xecg::XECG_ISA {

constexpr int64_t strip = 16, tile_terms = 32;
constexpr int64_t tile_numbers = strip * tile_terms;
constexpr int64_t square = 2 * strip;  // rows and columns of the result of one round

constexpr int64_t whole_tiles(int64_t n) { return (n + tile_terms - 1) / tile_terms; }
constexpr int64_t whole_squares(int64_t n) { return (n + square - 1) / square * square; }

// While it lives, this thread's tile registers are eight tiles of 16 rows of 64 bytes.
class TileRegisters {
  public:
    TileRegisters() {
        alignas(64) uint8_t layout[64] = {1};
        for (int t = 0; t < 8; ++t) layout[16 + 2 * t] = 64, layout[48 + t] = 16;
        __asm__ volatile("ldtilecfg %0" ::"m"(layout));
    }
    ~TileRegisters() { __asm__ volatile("tilerelease"); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

// The compiler's own intrinsics (GCC 12) do not say that a load reads memory; these do.
template <int t>
XECG_INLINE void tile_clear() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(t));
}
template <int t>
XECG_INLINE void tile_load(const void* p, int64_t bytes_a_row) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(t), "r"(p), "r"(bytes_a_row) : "memory");
}
template <int t>
XECG_INLINE void tile_store(float* p, int64_t bytes_a_row) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(t), "r"(p), "r"(bytes_a_row) : "memory");
}
template <int result, int left, int right>
XECG_INLINE void tile_multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(result), "i"(left), "i"(right));
}

struct Operand {
    bf16 *high, *low;  // low may be null: the operand is bfloat16 to begin with
    int64_t tiles;     // of a strip
    int64_t at(int64_t line, int64_t term) const { return (line / strip * tiles + term / tile_terms) * tile_numbers; }
};

// The running result: tiles 0 1 above 2 3.
XECG_INLINE void clear_square() {
    tile_clear<0>();
    tile_clear<1>();
    tile_clear<2>();
    tile_clear<3>();
}
XECG_INLINE void load_square(const float* p, int64_t ld) {
    tile_load<0>(p, ld * 4);
    tile_load<1>(p + strip, ld * 4);
    tile_load<2>(p + strip * ld, ld * 4);
    tile_load<3>(p + strip * ld + strip, ld * 4);
}
XECG_INLINE void store_square(float* p, int64_t ld) {
    tile_store<0>(p, ld * 4);
    tile_store<1>(p + strip, ld * 4);
    tile_store<2>(p + strip * ld, ld * 4);
    tile_store<3>(p + strip * ld + strip, ld * 4);
}

XECG_INLINE void load_left(const bf16* p, int64_t next) {
    tile_load<4>(p, 64);
    tile_load<5>(p + next, 64);
}
XECG_INLINE void load_right(const bf16* p, int64_t next) {
    tile_load<6>(p, 64);
    tile_load<7>(p + next, 64);
}
XECG_INLINE void multiply_square() {
    tile_multiply<0, 4, 6>();
    tile_multiply<1, 4, 7>();
    tile_multiply<2, 5, 6>();
    tile_multiply<3, 5, 7>();
}

enum class Split { none, left, right };  // which operand has a `low`

// The square grows by rows row.. of a times columns column.. of b, over `tiles` tiles of the sum.
// After each of them `between` may do work of its own, which the products hide.
template <Split split, class F>
XECG_INLINE void add_square(const Operand& a, int64_t row, const Operand& b, int64_t column, int64_t tiles, F between) {
    const int64_t left = a.tiles * tile_numbers, right = b.tiles * tile_numbers, i = a.at(row, 0), j = b.at(column, 0);
    for (int64_t k = 0; k < tiles * tile_numbers; k += tile_numbers) {
        load_left(a.high + i + k, left);
        load_right(b.high + j + k, right);
        multiply_square();
        if (split == Split::left) load_left(a.low + i + k, left);
        if (split == Split::right) load_right(b.low + j + k, right);
        if (split != Split::none) multiply_square();
        between(k / tile_numbers);
    }
}
template <Split split>
XECG_INLINE void add_square(const Operand& a, int64_t row, const Operand& b, int64_t column, int64_t tiles) {
    add_square<split>(a, row, b, column, tiles, [](int64_t) {});
}

// 32 bfloat16 numbers, or 16 pairs of them.
struct words {
    __m512i v;
};
inline words load_words(const bf16* p, int64_t n) { return {_mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << n) - 1), p)}; }
inline void store_words(bf16* p, words a) { _mm512_store_si512(p, a.v); }
inline void store_words_n(bf16* p, words a, int64_t n) { _mm512_mask_storeu_epi16(p, __mmask32((uint64_t(1) << n) - 1), a.v); }
inline words no_words() { return {_mm512_setzero_si512()}; }
inline vec as_vec(words a) { return {_mm512_castsi512_ps(a.v)}; }
inline words as_words(vec a) { return {_mm512_castps_si512(a.v)}; }

// Keeps in mind the largest magnitude of the numbers it was shown.
struct Magnitude {
    __m512i most = _mm512_setzero_si512();
    void see(words a) { most = _mm512_max_epu16(most, _mm512_and_si512(a.v, _mm512_set1_epi16(0x7fff))); }
    bool finite() const { return !_mm512_cmpge_epu16_mask(most, _mm512_set1_epi16(0x7f80)); }
};

// a, b rounded to bfloat16: numbers of a, then those of b.
inline words join(vec a, vec b) { return {(__m512i)_mm512_cvtne2ps_pbh(b.v, a.v)}; }
// Numbers k and 16 + k become pairs.
inline words interleave(words a) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return {_mm512_permutexvar_epi16(_mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16)), 16)),
                                     a.v)};
}
// Pairs (a, b) of numbers that are bfloat16 already.
inline words pair(vec a, vec b) {
    return {_mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(a.v), 16), _mm512_castps_si512(b.v))};
}
// Pairs of the upper halves of a and b, and pairs of what they lack, rounded: the error is below 2^-16 of each number.
inline void split_pair(vec a, vec b, words& high, words& low) {
    const __m512i upper = _mm512_set1_epi32(int(0xffff0000u)), half = _mm512_set1_epi32(0x8000);
    const __m512 high_a = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), upper));
    const __m512 high_b = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(b.v), upper));
    const __m512i low_a = _mm512_add_epi32(_mm512_castps_si512(_mm512_sub_ps(a.v, high_a)), half);
    const __m512i low_b = _mm512_add_epi32(_mm512_castps_si512(_mm512_sub_ps(b.v, high_b)), half);
    high = pair(vec{high_a}, vec{high_b});
    low = {_mm512_or_si512(_mm512_srli_epi32(low_a, 16), _mm512_and_si512(low_b, upper))};
}
// Pairs (a_2p, a_2p+1) in p and their likes (b) of later lines: the first numbers as pairs (a, b), and the second ones.
inline void split_pairs(words a, words b, words& first, words& second) {
    const __m512i lower = _mm512_set1_epi32(0xffff);
    first = {_mm512_or_si512(_mm512_and_si512(a.v, lower), _mm512_slli_epi32(b.v, 16))};
    second = {_mm512_or_si512(_mm512_srli_epi32(a.v, 16), _mm512_andnot_si512(lower, b.v))};
}

// Rows (`step` apart, n numbers) become rows of a left operand; `lines` of them, those from `rows` on zero.
inline void put_left(const bf16* from, int64_t step, int64_t rows, int64_t n, int64_t lines, const Operand& to, Magnitude& seen) {
    for (int64_t r = 0; r < lines; ++r, from += step)
        for (int64_t c = 0; c < n; c += tile_terms) {
            const words x = r < rows ? load_words(from + c, min_of(tile_terms, n - c)) : no_words();
            seen.see(x);
            store_words(to.high + to.at(r, c) + r % strip * tile_terms, x);
        }
}

// The same rows become columns of a right operand.
inline void put_right(const bf16* from, int64_t step, int64_t rows, int64_t n, int64_t lines, const Operand& to,
                      Magnitude& seen) {
    for (int64_t r = 0; r < lines; r += strip)
        for (int64_t c = 0; c < n; c += tile_terms) {
            vec x[W];
            for (int64_t k = 0; k < W; ++k) {
                const words line = r + k < rows ? load_words(from + (r + k) * step + c, min_of(tile_terms, n - c)) : no_words();
                seen.see(line);
                x[k] = as_vec(line);
            }
            transpose(x);
            bf16* tile = to.high + to.at(r, c);
            for (int64_t k = 0; k < W; ++k) store_words(tile + k * tile_terms, as_words(x[k]));
        }
}

}  // namespace xecg::XECG_ISA
