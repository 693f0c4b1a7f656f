// Small float32 matrix products for use inside kernels: register tiles over row-major blocks that a kernel keeps in its scratch.
//
// A tile is tile_rows x (N W) results held in registers. It grows by A B, where A gives one broadcast number for each row and B a
// row of N vectors: A (rows, K) row-major, or with `flip` its transpose (K, rows); B (K, columns) row-major. Columns need no
// masks because scratch rows are padded with zeros to whole vectors (`padded`), plus one vector (`pitch`) so that rows that are a
// power of two apart do not fall onto the same cache sets. Rows need none because scratch has tile_rows spare rows. Every result
// sums over K in order. Triangular forms leave out the terms beyond the diagonal, so what lies there is neither paid for nor
// read into a sum (a NaN there stays there).
#pragma once
#include "simd.h"

namespace xecg::XECG_ISA {

#define XECG_INLINE inline __attribute__((always_inline))

// Accumulators, N vectors of B and one broadcast fit the registers, and at least 8 sums hide the latency of fma.
constexpr int tile_rows = W == 8 ? 6 : n_registers / 4;
constexpr int tile_vectors = 2;

constexpr int64_t padded(int64_t columns) { return (columns + W - 1) / W * W; }
constexpr int64_t pitch(int64_t columns) { return padded(columns) + W; }
constexpr int64_t spare(int64_t rows) { return padded(rows) + tile_rows; }

// Hands out rows of one scratch block, each part a whole number of cache lines; with a null base it only counts.
struct Scratch {
    float* base;
    int64_t used = 0;
    float* take(int64_t floats) {
        float* p = base ? base + used : nullptr;
        used += (floats + 15) / 16 * 16;
        return p;
    }
};

template <int N>
struct Vectors {
    static constexpr int count = N;
};

template <int N>
struct Tile {
    vec x[tile_rows][N];
};

template <int N>
XECG_INLINE void clear(Tile<N>& c) {
#pragma GCC unroll 16
    for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) c.x[r][n] = zero();
}

// c = the block at p, row r times factor[r].
template <int N>
XECG_INLINE void load_scaled(Tile<N>& c, const float* p, int64_t ld, float factor) {
    const vec f = set1(factor);
#pragma GCC unroll 16
    for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) c.x[r][n] = f * load(p + r * ld + n * W);
}

template <int N>
XECG_INLINE void scale_rows(Tile<N>& c, const float* factor) {
#pragma GCC unroll 16
    for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) c.x[r][n] = c.x[r][n] * set1(factor[r]);
}

template <int N>
XECG_INLINE void save(const Tile<N>& c, float* p, int64_t ld) {
#pragma GCC unroll 16
    for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) store(p + r * ld + n * W, c.x[r][n]);
}

// Rows first..last-1 of the tile grow by one term of the sum.
template <bool flip, int N>
XECG_INLINE void add_term(Tile<N>& c, int first, int last, const float* a, int64_t lda, const float* b) {
    vec row[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) row[n] = load(b + n * W);
#pragma GCC unroll 16
    for (int r = 0; r < tile_rows; ++r) {
        if (r < first || r >= last) continue;
        const vec x = set1(flip ? a[r] : a[r * lda]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) c.x[r][n] = fma(x, row[n], c.x[r][n]);
    }
}

// c += A B over K terms.
template <bool flip, int N>
XECG_INLINE void add_product(Tile<N>& c, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t K) {
    for (int64_t k = 0; k < K; ++k) add_term<flip>(c, 0, tile_rows, a + (flip ? k * lda : k), lda, b + k * ldb);
}

// c += A B for rows t0.. of a lower triangular A (terms k <= t). a: first element of row t0; b: first row of B.
template <int N>
XECG_INLINE void add_lower(Tile<N>& c, int64_t t0, const float* a, int64_t lda, const float* b, int64_t ldb) {
    add_product<false>(c, a, lda, b, ldb, t0);
#pragma GCC unroll 16
    for (int k = 0; k < tile_rows; ++k) add_term<false>(c, k, tile_rows, a + t0 + k, lda, b + (t0 + k) * ldb);
}

// c += A^T B for rows j0.. of the transpose of a lower triangular A (K, K) (terms t = j..K-1). a, b: first elements of A and B.
template <int N>
XECG_INLINE void add_lower_flipped(Tile<N>& c, int64_t j0, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t K) {
#pragma GCC unroll 16
    for (int t = 0; t < tile_rows; ++t)
        if (j0 + t < K) add_term<true>(c, 0, t + 1, a + (j0 + t) * lda + j0, lda, b + (j0 + t) * ldb);
    const int64_t t = j0 + tile_rows;
    if (t < K) add_product<true>(c, a + t * lda + j0, lda, b + t * ldb, ldb, K - t);
}

// Calls f(row, column, Vectors<N>) for every tile of a rows x padded(columns) result, a panel of columns at a time.
template <class F>
XECG_INLINE void for_each_tile(int64_t rows, int64_t columns, F f) {
    int64_t c = 0;
    for (; c + tile_vectors * W <= padded(columns); c += tile_vectors * W)
        for (int64_t r = 0; r < rows; r += tile_rows) f(r, c, Vectors<tile_vectors>());
    if (c < columns)
        for (int64_t r = 0; r < rows; r += tile_rows) f(r, c, Vectors<1>());
}

// The same over the tiles of a square that touch its lower triangle.
template <class F>
XECG_INLINE void for_each_lower_tile(int64_t rows, F f) {
    for (int64_t r = 0; r < rows; r += tile_rows)
        for (int64_t c = 0, end = min_of(r + tile_rows, rows); c < end;) {
            if (end - c > W) {
                f(r, c, Vectors<tile_vectors>());
                c += tile_vectors * W;
            } else {
                f(r, c, Vectors<1>());
                c += W;
            }
        }
}

// b (columns, ldb) = transpose of a (rows, lda), zero beyond it up to whole vectors; nothing beyond a is read.
template <class T>
inline void transpose(const T* a, int64_t lda, int64_t rows, int64_t columns, float* b, int64_t ldb) {
    for (int64_t r = 0; r < rows; r += W)
        for (int64_t c = 0; c < columns; c += W) {
            vec x[W], y[W];
#pragma GCC unroll 16
            for (int k = 0; k < W; ++k) {
                const T* from = a + (r + k) * lda + c;
                x[k] = r + k >= rows ? zero() : c + W <= columns ? load(from) : load_n(from, columns - c);
            }
#pragma GCC unroll 4
            for (int round = 1; round < W; round *= 2) {
#pragma GCC unroll 16
                for (int k = 0; k < W / 2; ++k) zip(x[k], x[k + W / 2], y[2 * k], y[2 * k + 1]);
#pragma GCC unroll 16
                for (int k = 0; k < W; ++k) x[k] = y[k];
            }
#pragma GCC unroll 16
            for (int k = 0; k < W; ++k) store(b + (c + k) * ldb + r, x[k]);
        }
}

}  // namespace xecg::XECG_ISA
