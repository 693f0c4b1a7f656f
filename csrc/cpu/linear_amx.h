// Batch-invariant linear map of bfloat16 by bfloat16 on AMX tiles. Equation and layouts: common/linear.h.
//
// Lanes are rows of x: a panel of 32 outputs, copied to the nearest cache, is the left operand as it lies, and the rows of x are
// the right one, turned once for many panels. A result square (outputs by rows) is turned back as it is rounded. Terms enter in
// order whatever stands beside a row, from the bias on, in float32. Cost: 2 rows N K flops; x is read N / 32 times from the
// second cache, the weights once for `linear_tile_rows` rows.
#pragma once
#include "linear.h"
#include "tiles_amx.h"

namespace xecg::XECG_ISA {

constexpr int64_t panel_terms = 256;           // 16 kB of a panel and as much of x share the nearest cache
constexpr int64_t turned_numbers = 640 << 10;  // of x at a time: 1.25 MB of the second cache's two

// By sizes alone: neither rows nor strides may choose the order of a sum.
inline bool linear_takes_tiles(const Linear& a) {
    return a.dtype == DType::bf16 && a.weight_dtype == DType::bf16 && a.N >= strip && a.K >= tile_terms;
}

inline int64_t linear_tile_rows(const Linear& a) {
    const int64_t most = max_of(square, turned_numbers / (whole_tiles(a.K) * tile_terms));
    const int64_t pieces = max_of(1, (a.rows + most - 1) / most);
    return max_of(square, whole_squares((a.rows + pieces - 1) / pieces));
}

struct LinearTiles {
    Scratch scratch;
    int64_t lines;
    Operand x, panel;
    float *sums, *bias, *result;  // (lines, 32) as squares; 32 x 32 twice

    LinearTiles(const Linear& a, float* base) : scratch{base}, lines(linear_tile_rows(a)) {
        const int64_t tiles = whole_tiles(a.K);
        x = {take(lines * tiles * tile_terms), nullptr, tiles};
        panel = {take(square * panel_terms), nullptr, panel_terms / tile_terms};
        sums = a.K > panel_terms ? scratch.take(lines * square) : nullptr;
        bias = scratch.take(square * square), result = scratch.take(square * square);
    }

  private:
    bf16* take(int64_t numbers) { return reinterpret_cast<bf16*>(scratch.take(numbers / 2)); }
};

// A square of results on its way to y: turned and rounded, half the rows at a time.
struct LinearResult {
    const float* from;
    bf16* y;
    int64_t y_r, rows, outputs;
    void put(int64_t first) const {
        if (first >= rows) return;
        vec x[W];
        for (int64_t o = 0; o < W; ++o)
            x[o] = as_vec(interleave(join(load(from + 2 * o * square + first), load(from + (2 * o + 1) * square + first))));
        transpose(x);
        for (int64_t k = 0; k < min_of(strip, rows - first); ++k) store_words_n(y + (first + k) * y_r, as_words(x[k]), outputs);
    }
};

// Line `line` of the panel that will be wanted next, a row of `panel_terms` weights after the other.
inline void linear_prefetch(const bf16* next, int64_t K, int64_t line) {
    constexpr int64_t numbers = 32, lines = panel_terms / numbers;  // 64 bytes
    prefetch(next + line / lines * K + line % lines * numbers);
}

// Outputs out.. of one group for the rows in w.x.
inline void linear_panel(const Linear& a, const LinearTiles& w, int64_t g, int64_t out, int64_t row, int64_t rows) {
    const int64_t outputs = min_of(square, a.N - out);
    const bf16* weight = static_cast<const bf16*>(a.weight) + (g * a.N + out) * a.K;
    bf16* y = static_cast<bf16*>(a.y) + g * a.y_g + row * a.y_r + out;
    for (int64_t o = 0; a.bias && o < square; ++o) {
        const vec start = set1(o < outputs ? a.bias[g * a.N + out + o] : 0.0f);
        store(w.bias + o * square, start);
        store(w.bias + o * square + strip, start);
    }
    LinearResult before{};
    for (int64_t k = 0; k < a.K; k += panel_terms) {
        const int64_t terms = min_of(panel_terms, a.K - k);
        Magnitude unused;
        put_left(weight + k, a.K, outputs, terms, square, w.panel, unused);
        const Operand x{w.x.high + k / tile_terms * tile_numbers, nullptr, w.x.tiles};
        const bf16* next = k + terms < a.K ? weight + k + terms : weight + square * a.K;
        const int64_t ahead = square * panel_terms / 32 * square / whole_squares(rows) + 1;
        for (int64_t r = 0; r < rows; r += square) {
            for (int64_t line = r / square * ahead; line < (r / square + 1) * ahead; ++line) linear_prefetch(next, a.K, line);
            if (k)
                load_square(w.sums + r * square, square);
            else if (a.bias)
                load_square(w.bias, square);
            else
                clear_square();
            const int64_t tiles = whole_tiles(terms);
            add_square<Split::none>(w.panel, 0, x, r, tiles, [&](int64_t tile) {  // the products leave time for the square before
                if (tile == 0) before.put(0);
                if (tile == tiles - 1) before.put(strip);
            });
            float* to = k + terms < a.K ? w.sums + r * square : w.result;
            store_square(to, square);
            before = {to, y + r * a.y_r, a.y_r, k + terms < a.K ? 0 : min_of(square, rows - r), outputs};
        }
    }
    before.put(0);
    before.put(strip);
}

inline int64_t linear_tiles_tasks(const Linear& a) {
    return (a.rows + linear_tile_rows(a) - 1) / linear_tile_rows(a) * a.groups * ((a.N + square - 1) / square);
}

// A task is 32 outputs of one group and a piece of the rows.
inline void linear_tiles(const Linear& a, float* scratch, int64_t begin, int64_t end) {
    const LinearTiles w(a, scratch);
    const TileRegisters registers;
    const int64_t panels = (a.N + square - 1) / square;
    for (int64_t task = begin, turned = -1; task < end; ++task) {
        const int64_t part = task / panels, g = part % a.groups, row = part / a.groups * w.lines;
        const int64_t rows = min_of(w.lines, a.rows - row);
        Magnitude unused;
        if (part != turned)
            put_right(static_cast<const bf16*>(a.x) + g * a.x_g + row * a.x_r, a.x_r, rows, a.K, whole_squares(rows), w.x,
                      unused);
        turned = part;
        linear_panel(a, w, g, task % panels * square, row, rows);
    }
}

inline int64_t linear_tiles_scratch(const Linear& a) { return LinearTiles(a, nullptr).scratch.used; }

}  // namespace xecg::XECG_ISA
