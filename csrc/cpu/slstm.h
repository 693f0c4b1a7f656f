// sLSTM forward. Equations and layouts: common/slstm.h.
//
// A task is one head and one tile of batch rows through all its steps, so a head's R stays in L2. A step reads its x in sweeps,
// then walks over blocks of W units: the recurrent product of the block's four gates (rows x D by D x 4W, accumulators in
// registers, one chain of fma over the inputs per output), then the gates of the block while its sums are in L1. Every output has
// its own chain in input order, so bits do not depend on how many rows share a tile, nor on whether R was packed. Rows are sorted
// by length: the active ones are always a prefix. Scratch is on the stack, 240 kB. Cost of a step and unit: 8 D flops, about 4
// exponentials and 3 divisions, 20 bytes of x and y; with a tape 32 bytes more.
#pragma once
#include "../common/slstm.h"
#include "math.h"

namespace xecg::XECG_ISA {

constexpr int slstm_tile = 16;                                   // batch rows of a task
constexpr int slstm_row = int(slstm_max_units) + 16;             // floats between rows of scratch, off the powers of two
constexpr int64_t slstm_long = 8;                                // steps
constexpr int slstm_max_rows = n_registers == 32 ? 8 : 6;        // rows of one register block
constexpr int slstm_few_rows = 2;                                // so few go through all blocks before their gates
constexpr int slstm_four_gate_rows = n_registers == 32 ? 6 : 2;  // at most so many rows keep four vectors each in registers

inline int64_t slstm_blocks(int64_t D) { return (D + W - 1) / W; }
inline int64_t slstm_tasks(const SlstmShape& s) { return s.H * ((s.B + slstm_tile - 1) / slstm_tile); }

// out[r][v] = sum_k a[r][k] b[v][k] for rows r of stride A, vectors v. b[v][k] lies at b + v * b_v + k * b_k.
template <int rows, int vectors, int A>
inline void product_block(const float* a, int64_t K, const float* b, int64_t b_v, int64_t b_k, float* out, int64_t out_r) {
    vec acc[rows][vectors];
    XECG_UNROLL
    for (int r = 0; r < rows; ++r) XECG_UNROLL
    for (int v = 0; v < vectors; ++v) acc[r][v] = zero();
    for (int64_t k = 0; k < K; ++k, b += b_k) {
        vec bs[vectors];
        XECG_UNROLL
        for (int v = 0; v < vectors; ++v) bs[v] = load(b + v * b_v);
        XECG_UNROLL
        for (int r = 0; r < rows; ++r) {
            const vec as = set1(a[r * A + k]);
            XECG_UNROLL
            for (int v = 0; v < vectors; ++v) acc[r][v] = fma(as, bs[v], acc[r][v]);
        }
    }
    XECG_UNROLL
    for (int r = 0; r < rows; ++r) XECG_UNROLL
    for (int v = 0; v < vectors; ++v) store(out + r * out_r + v * W, acc[r][v]);
}

template <int rows, int vectors, int A>
inline void product_fitting(const float* a, int64_t K, const float* b, int64_t b_v, int64_t b_k, float* out, int64_t out_r) {
    if constexpr (vectors == 4 && rows > slstm_four_gate_rows) {
        product_block<rows, 2, A>(a, K, b, b_v, b_k, out, out_r);
        product_block<rows, 2, A>(a, K, b + 2 * b_v, b_v, b_k, out + 2 * W, out_r);
    } else {
        product_block<rows, vectors, A>(a, K, b, b_v, b_k, out, out_r);
    }
}

// The same for any number of rows, in groups of nearly equal size.
template <int vectors, int A>
inline void product(int64_t rows, const float* a, int64_t K, const float* b, int64_t b_v, int64_t b_k, float* out,
                    int64_t out_r) {
    for (int64_t left = rows; left > 0;) {
        const int64_t groups = (left + slstm_max_rows - 1) / slstm_max_rows, here = (left + groups - 1) / groups;
        switch (here) {
            case 1: product_fitting<1, vectors, A>(a, K, b, b_v, b_k, out, out_r); break;
            case 2: product_fitting<2, vectors, A>(a, K, b, b_v, b_k, out, out_r); break;
            case 3: product_fitting<3, vectors, A>(a, K, b, b_v, b_k, out, out_r); break;
            case 4: product_fitting<4, vectors, A>(a, K, b, b_v, b_k, out, out_r); break;
            case 5: product_fitting<5, vectors, A>(a, K, b, b_v, b_k, out, out_r); break;
            case 6: product_fitting<6, vectors, A>(a, K, b, b_v, b_k, out, out_r); break;
            default:
                if constexpr (slstm_max_rows == 8)
                    here == 7 ? product_fitting<7, vectors, A>(a, K, b, b_v, b_k, out, out_r)
                              : product_fitting<8, vectors, A>(a, K, b, b_v, b_k, out, out_r);
        }
        a += here * A, out += here * out_r, left -= here;
    }
}

// One or two rows: the chains of several blocks run side by side, or each product would wait for the one before it; R is read in
// longer stretches, too. Gate g of block j lies at b + g * b_gate + j * b_block; sums of a block at out + j * out_block.
template <int rows, int blocks, int A>
inline void product_few(const float* a, int64_t K, const float* b, int64_t b_gate, int64_t b_in, int64_t b_block, float* out,
                        int64_t out_block) {
    vec acc[rows][blocks][4];
    XECG_UNROLL
    for (int r = 0; r < rows; ++r) XECG_UNROLL
    for (int j = 0; j < blocks; ++j) XECG_UNROLL
    for (int g = 0; g < 4; ++g) acc[r][j][g] = zero();
    for (int64_t k = 0; k < K; ++k, b += b_in) {
        vec as[rows];
        XECG_UNROLL
        for (int r = 0; r < rows; ++r) as[r] = set1(a[r * A + k]);
        XECG_UNROLL
        for (int g = 0; g < 4; ++g) XECG_UNROLL
        for (int j = 0; j < blocks; ++j) {
            const vec w = load(b + g * b_gate + j * b_block);
            XECG_UNROLL
            for (int r = 0; r < rows; ++r) acc[r][j][g] = fma(as[r], w, acc[r][j][g]);
        }
    }
    XECG_UNROLL
    for (int r = 0; r < rows; ++r) XECG_UNROLL
    for (int j = 0; j < blocks; ++j) XECG_UNROLL
    for (int g = 0; g < 4; ++g) store(out + j * out_block + (r * 4 + g) * W, acc[r][j][g]);
}

// All blocks of one or two rows; raw holds [block][slstm_few_rows][gate][W].
template <int A>
inline void products_few(int64_t rows, const float* a, int64_t D, const float* R, int64_t b_gate, int64_t b_in, int64_t b_block,
                         float* raw) {
    constexpr int side = n_registers == 32 ? 4 : 2, of_two = side / 2;  // blocks whose sums fit in registers
    const int64_t blocks = (D + W - 1) / W, out_block = slstm_few_rows * 4 * W;
    int64_t j = 0;
    for (; rows == 1 && j + side <= blocks; j += side)
        product_few<1, side, A>(a, D, R + j * b_block, b_gate, b_in, b_block, raw + j * out_block, out_block);
    for (; rows == 2 && j + of_two <= blocks; j += of_two)
        product_few<2, of_two, A>(a, D, R + j * b_block, b_gate, b_in, b_block, raw + j * out_block, out_block);
    for (; j < blocks; ++j)
        rows == 1 ? product_few<1, 1, A>(a, D, R + j * b_block, b_gate, b_in, b_block, raw + j * out_block, out_block)
                  : product_few<2, 1, A>(a, D, R + j * b_block, b_gate, b_in, b_block, raw + j * out_block, out_block);
}

// R needs no packing when its rows are whole vectors; packing pays when panels are read often.
inline bool slstm_reads_plain(int64_t D) { return D % W == 0; }

// Floats of R in panels [head][block][gate][in][lane], lanes beyond D zero; or transposed, [head][block of in][gate][out][lane].
inline int64_t slstm_packed_size(int64_t H, int64_t D) { return H * slstm_blocks(D) * 4 * D * W; }

// Tasks are the blocks of all heads.
inline void slstm_pack(const float* R, int64_t H, int64_t D, bool transposed, float* packed, int64_t begin, int64_t end) {
    const int64_t blocks = slstm_blocks(D);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t head = task / blocks, u = task % blocks * W, n = min_of(W, D - u);
        float* to = packed + task * 4 * D * W;
        for (int64_t g = 0; g < 4; ++g) {
            const float* from = R + (g * H + head) * D * D;
            for (int64_t k = 0; k < D; ++k, to += W) {
                if (!transposed) {
                    store(to, load_n(from + k * D + u, n));
                } else {
                    store(to, zero());
                    for (int64_t l = 0; l < n; ++l) to[l] = from[(u + l) * D + k];
                }
            }
        }
    }
}

// One batch row of a task.
struct SlstmRow {
    int64_t b, length;
    int64_t state;  // offset of this head in the state arrays
};

// Where the t-th visited step of a row lies in time.
inline int64_t slstm_position(const SlstmShape& s, const SlstmRow& row, int64_t t) { return s.reverse ? row.length - 1 - t : t; }

// Offset of a visited step in a tape array (B, T, H, D); its gates begin at slstm_tape_gates.
inline int64_t slstm_tape_at(const SlstmShape& s, const SlstmRow& row, int64_t t, int64_t head) {
    return ((row.b * s.T + slstm_position(s, row, t)) * s.H + head) * s.D;
}
inline int64_t slstm_tape_gates(const SlstmShape& s, const SlstmRow& row, int64_t t, int64_t head) {
    return ((row.b * s.T + slstm_position(s, row, t)) * 4 * s.H + head) * s.D;
}

// The rows of a tile, longest first.
inline int64_t slstm_rows(const SlstmShape& s, int64_t first, int64_t head, SlstmRow* rows) {
    const int64_t count = min_of(slstm_tile, s.B - first);
    for (int64_t r = 0; r < count; ++r) {
        const int64_t b = first + r, length = s.lengths ? s.lengths[b] : s.T;
        int64_t at = r;
        for (; at > 0 && rows[at - 1].length < length; --at) rows[at] = rows[at - 1];
        rows[at] = SlstmRow{b, length, (b * s.H + head) * s.D};
    }
    return count;
}

// x + b of one step, in [block][row][gate][W] scratch. Each gate of a row is read in one sweep: visited block by block, the
// lines of x lie pages apart and every one is waited for.
template <class T>
inline void slstm_load_input(const SlstmForward& a, const SlstmRow* rows, int64_t active, int64_t t, int64_t head, float* input) {
    const SlstmShape& s = a.shape;
    for (int64_t r = 0; r < active; ++r) {
        const T* x = static_cast<const T*>(a.x) + rows[r].b * a.x_b + slstm_position(s, rows[r], t) * a.x_t + head * a.x_h;
        for (int64_t g = 0; g < 4; ++g) {
            const T* from = x + g * a.x_g;
            const float* bias = a.b + (g * s.H + head) * s.D;
            float* to = input + (r * 4 + g) * W;
            int64_t u = 0;
            for (; u + W <= s.D; u += W, to += slstm_tile * 4 * W) store(to, load(from + u) + load(bias + u));
            if (u < s.D) store(to, load_n(from + u, s.D - u) + load_n(bias + u, s.D - u));
        }
    }
}

// state: c, n, m of this row and block, W floats each.
template <bool whole, bool taped, class T>
inline void slstm_gates(const SlstmForward& a, const SlstmRow& row, int64_t t, int64_t head, int64_t u, int64_t n,
                        const float* input, const float* raw, float* state, const float* h_old, float* h_new) {
    const SlstmShape& s = a.shape;
    const vec one = set1(1.0f), nothing = set1(-__builtin_inff());
    if (t + 1 < row.length) {
        const T* next = static_cast<const T*>(a.x) + row.b * a.x_b + slstm_position(s, row, t + 1) * a.x_t + head * a.x_h + u;
        XECG_UNROLL
        for (int g = 0; g < 4; ++g) prefetch(next + g * a.x_g);
    }
    const vec i = load(raw) + load(input), f = load(raw + W) + load(input + W);
    const vec tz = tanh(load(raw + 2 * W) + load(input + 2 * W));
    const vec closed = one + exp(zero() - (load(raw + 3 * W) + load(input + 3 * W)));  // 1 / sigmoid(o)
    const vec c_old = load(state), n_old = load(state + W);

    const vec kept = select(equal(n_old, zero()), nothing, log_sigmoid(f) + load(state + 2 * W));
    const vec m = select(is_nan(kept), kept, max(kept, i));
    // One of F and I is 1, the other exp(-|kept - i|); both are 0 where nothing is kept and nothing comes in.
    const vec smaller = exp(zero() - abs(kept - i));
    const mask kept_won = less(i, kept), dead = equal(m, nothing);
    const vec F = select(dead, zero(), select(kept_won, one, smaller));
    const vec I = select(dead, zero(), select(kept_won, smaller, one));
    const vec c = fma(F, c_old, I * tz), n_new = fma(F, n_old, I);
    const vec h = select(equal(n_new, zero()), zero(), c / (n_new * closed));
    store(state, c);
    store(state + W, n_new);
    store(state + 2 * W, max(set1(-__FLT_MAX__), m));
    store(h_new, h);
    if (a.y) put<whole>(static_cast<T*>(a.y) + row.b * a.y_b + slstm_position(s, row, t) * a.y_t + head * a.y_h + u, h, n);
    if (taped) {
        const int64_t gate = s.H * s.D, at = slstm_tape_at(s, row, t, head) + u;
        float* gates = a.tape.gates + slstm_tape_gates(s, row, t, head) + u;
        put<whole>(gates, I, n);
        put<whole>(gates + gate, F, n);
        put<whole>(gates + 2 * gate, tz, n);
        put<whole>(gates + 3 * gate, one / closed, n);
        put<whole>(a.tape.slope + at, sigmoid(zero() - f), n);
        put<whole>(a.tape.h + at, load(h_old), n);
        put<whole>(a.tape.c + at, c_old, n);
        put<whole>(a.tape.n + at, n_old, n);
    }
}

// A short row, without the call of memcpy.
inline void slstm_copy(float* to, const float* from, int64_t D) {
    int64_t u = 0;
    for (; u + W <= D; u += W) store(to + u, load(from + u));
    if (u < D) store_n(to + u, load_n(from + u, D - u), D - u);
}

// c, n, m of a task live in [block][row][3][W] scratch, where neighbours in use are neighbours in memory: rows of the arrays lie
// powers of two apart, which stalls loads behind stores to other rows.
inline void slstm_load_state(const float* array, int64_t D, float* state) {
    int64_t u = 0;
    for (; u + W <= D; u += W, state += slstm_tile * 3 * W) store(state, load(array + u));
    if (u < D) store(state, load_n(array + u, D - u));
}
inline void slstm_store_state(float* array, int64_t D, const float* state) {
    int64_t u = 0;
    for (; u + W <= D; u += W, state += slstm_tile * 3 * W) store(array + u, load(state));
    if (u < D) store_n(array + u, load(state), D - u);
}

template <bool taped, class T>
inline void slstm_forward_tile(const SlstmForward& a, int64_t head, int64_t first) {
    const SlstmShape& s = a.shape;
    alignas(64) float h[2][slstm_tile * slstm_row];
    alignas(64) float state[slstm_tile * 3 * slstm_row];
    alignas(64) float input[slstm_tile * 4 * slstm_row];
    constexpr int few = slstm_few_rows * 4 * slstm_row, tile = slstm_tile * 4 * W;
    alignas(64) float raw[few > tile ? few : tile];
    SlstmRow rows[slstm_tile];
    rows[0].length = 0;
    const int64_t count = slstm_rows(s, first, head, rows);
    const int64_t b_head = a.packed ? slstm_blocks(s.D) * 4 * s.D * W : s.D * s.D, b_block = a.packed ? 4 * s.D * W : W;
    const int64_t b_gate = a.packed ? s.D * W : s.H * s.D * s.D, b_in = a.packed ? W : s.D;
    const float* R = (a.packed ? a.packed : a.R) + head * b_head;
    float* const arrays[3] = {a.c, a.n, a.m};
    for (int64_t r = 0; r < count; ++r) {
        slstm_copy(h[0] + r * slstm_row, a.h + rows[r].state, s.D);
        for (int k = 0; k < 3; ++k) slstm_load_state(arrays[k] + rows[r].state, s.D, state + (r * 3 + k) * W);
    }
    int64_t active = count;
    for (int64_t t = 0; t < rows[0].length; ++t) {
        while (rows[active - 1].length <= t) --active;
        const float* h_old = h[t & 1];
        float* h_new = h[(t + 1) & 1];
        slstm_load_input<T>(a, rows, active, t, head, input);
        const bool is_few = active <= slstm_few_rows;
        if (is_few) products_few<slstm_row>(active, h_old, s.D, R, b_gate, b_in, b_block, raw);
        for (int64_t u = 0; u < s.D; u += W) {
            if (!is_few) product<4, slstm_row>(active, h_old, s.D, R + u / W * b_block, b_gate, b_in, raw, 4 * W);
            const float* sums = is_few ? raw + u * slstm_few_rows * 4 : raw;
            const float* in = input + u * slstm_tile * 4;
            float* block = state + u * slstm_tile * 3;
            const int64_t n = min_of(W, s.D - u);
            for (int64_t r = 0; r < active; ++r) {
                const int64_t at = r * slstm_row + u;
                if (n == W)
                    slstm_gates<true, taped, T>(a, rows[r], t, head, u, n, in + r * 4 * W, sums + r * 4 * W, block + r * 3 * W,
                                                h_old + at, h_new + at);
                else
                    slstm_gates<false, taped, T>(a, rows[r], t, head, u, n, in + r * 4 * W, sums + r * 4 * W, block + r * 3 * W,
                                                 h_old + at, h_new + at);
            }
        }
    }
    for (int64_t r = 0; r < count; ++r) {
        slstm_copy(a.h + rows[r].state, h[rows[r].length & 1] + r * slstm_row, s.D);
        for (int k = 0; k < 3; ++k) slstm_store_state(arrays[k] + rows[r].state, s.D, state + (r * 3 + k) * W);
        for (int64_t t = rows[r].length; a.y && t < s.T; ++t)
            std::memset(static_cast<T*>(a.y) + rows[r].b * a.y_b + t * a.y_t + head * a.y_h, 0, size_t(s.D) * sizeof(T));
    }
}

// Long sequences run tile after tile of one head, so that R stays in cache; few steps run head after head of one tile, so that
// the state and x, which lie side by side, do.
inline void slstm_task_of(const SlstmShape& s, int64_t task, int64_t* head, int64_t* first) {
    const int64_t tiles = slstm_tasks(s) / s.H;
    const bool by_head = s.T >= slstm_long;
    *head = by_head ? task / tiles : task % s.H;
    *first = (by_head ? task % tiles : task / s.H) * slstm_tile;
}

inline void slstm_forward(const SlstmForward& a, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
        int64_t head, first;
        slstm_task_of(a.shape, task, &head, &first);
        if (a.tape.gates)
            a.shape.dtype == DType::bf16 ? slstm_forward_tile<true, bf16>(a, head, first)
                                         : slstm_forward_tile<true, float>(a, head, first);
        else
            a.shape.dtype == DType::bf16 ? slstm_forward_tile<false, bf16>(a, head, first)
                                         : slstm_forward_tile<false, float>(a, head, first);
    }
}

}  // namespace xecg::XECG_ISA
