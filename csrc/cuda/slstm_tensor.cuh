// sLSTM for bfloat16 x and R on tensor cores, R resident in registers.
//
// A block, or a cluster of `blocks` that share the units, owns one head and `columns` times eight batch rows through all steps.
// The product is taken transposed, gates = R^T h: the 16 rows of an m16n8k16 tile are weights, its 8 columns are batch rows. A
// warp keeps its tiles of R in registers for the whole sequence; what moves from step to step is h, or d(gates) backward, rounded
// to bfloat16, through two buffers in the shared memory of every block and one barrier. Sums and state are float32. Each output
// is summed in one order: bits depend neither on the batch nor on `columns`. K: 16-wide tiles of a head's units, D <= 16 K, the
// rest is zero. Cost of a step and unit: 8 D flops. Not yet run on a GPU.
#pragma once
#include "slstm_cell.cuh"

namespace xecg {
namespace cuda {

// Lane's place in m16n8k16: rows `line` and `line` + 8 of a and c; columns `line` of b, 2 `pair` and 2 `pair` + 1 of c; k of a
// and b: 2 `pair`, 2 `pair` + 1, and these plus 8.
struct SlstmLane {
    int warp, line, pair;
};

template <class Thread>
XECG_DEVICE inline SlstmLane slstm_lane(const Thread& th) {
    return SlstmLane{th.index() / 32, th.index() % 32 / 4, th.index() % 4};
}

// Two neighbours along k; weights beyond the matrix are zero.
XECG_DEVICE inline uint32_t slstm_weights(const Bf16* R, int D, int k, int column) {
    const uint32_t low = k < D && column < D ? R[int64_t(k) * D + column].bits : 0;
    const uint32_t high = k + 1 < D && column < D ? R[int64_t(k + 1) * D + column].bits : 0;
    return low | high << 16;
}

// What every block holds of a step's vectors: [buffer][batch row][width], rows off the powers of two, so that the eight lines of
// a warp meet eight groups of banks.
template <int width, int columns>
struct SlstmVectors {
    static constexpr int row = width + 8, buffer = 8 * columns * row, size = 2 * buffer;  // elements

    template <class Thread>
    XECG_DEVICE static void clear(Thread& th, Bf16* vectors) {
        for (int at = th.index(); at < size; at += th.count()) vectors[at] = Bf16{0};
    }
    // Writes two numbers of this lane and two of its neighbour's, whose `line` differs in the last bit, so that each of the two
    // lanes stores one whole word: their units are neighbours along k. *_at: place of the first of the two units.
    template <class Thread>
    XECG_DEVICE static void write(Thread& th, Bf16* vectors, const SlstmLane& lane, float first, int first_at, float second,
                                  int second_at) {
        const bool odd = lane.line & 1;
        const uint32_t both = narrow(first).bits | uint32_t(narrow(second).bits) << 16, other = th.swap(both, 4);
        const uint32_t word = odd ? other >> 16 | (both & 0xffff0000u) : (both & 0xffffu) | other << 16;
        Bf16* to = vectors + (odd ? second_at : first_at);
        XECG_DEVICE_UNROLL
        for (int rank = 0; rank < Thread::blocks; ++rank) *reinterpret_cast<uint32_t*>(th.remote(to, rank)) = word;
    }
    // The b operand of a column of batch rows and tile k.
    XECG_DEVICE static void read(const Bf16* vectors, int column, int tile, const SlstmLane& lane, uint32_t (&to)[2]) {
        const Bf16* from = vectors + (column * 8 + lane.line) * row + tile * 16 + lane.pair * 2;
        to[0] = *reinterpret_cast<const uint32_t*>(from);
        to[1] = *reinterpret_cast<const uint32_t*>(from + 8);
    }
};

// A warp owns eight units: its first tile holds their gates i and f, its second z and o, so that a lane gets all four gates of
// one unit and two batch rows of every column.
template <int K, int cluster, int columns>
struct SlstmTensorForward {
    static constexpr int blocks = cluster, rows = 8 * columns, max_threads = 64 * K / blocks;
    using Vectors = SlstmVectors<16 * K, columns>;
    SlstmCudaForward a;

    static int threads(int64_t D) { return blocks > 1 ? max_threads : int((D + 7) / 8 * 32); }
    static int64_t shared() { return Vectors::size * int64_t(sizeof(Bf16)); }

    template <class Thread>
    XECG_DEVICE void operator()(Thread& th) const {
        const SlstmForward& call = a.call;
        const SlstmShape& s = call.shape;
        const SlstmLane lane = slstm_lane(th);
        const int D = int(s.D), unit = (th.rank() * (max_threads / 32) + lane.warp) * 8 + lane.line;
        const int64_t head = th.head();
        const int first = int(th.tile()) * rows + lane.pair * 2;
        Bf16* h = static_cast<Bf16*>(th.shared());
        Vectors::clear(th, h);

        uint32_t R[2][K][4];
        XECG_DEVICE_UNROLL
        for (int tile = 0; tile < 2; ++tile) XECG_DEVICE_UNROLL
        for (int k = 0; k < K; ++k) XECG_DEVICE_UNROLL
        for (int part = 0; part < 4; ++part) {
            const Bf16* gate = static_cast<const Bf16*>(a.weights.R) + ((2 * tile + part % 2) * s.H + head) * s.D * s.D;
            R[tile][k][part] = slstm_weights(gate, D, k * 16 + part / 2 * 8 + lane.pair * 2, unit);
        }
        float bias[4];
        XECG_DEVICE_UNROLL
        for (int g = 0; g < 4; ++g)
            bias[g] = unit < D ? get_as(a.weights.b_type, a.weights.b, (g * s.H + head) * s.D + unit) : 0.0f;

        SlstmUnit units[columns][2] = {};
        int lengths[columns][2];
        uint32_t input[columns][2][2] = {};
        XECG_DEVICE_UNROLL
        for (int c = 0; c < columns; ++c) XECG_DEVICE_UNROLL
        for (int r = 0; r < 2; ++r) {
            const int row = first + c * 8 + r;
            lengths[c][r] = unit < D ? int(slstm_length(s, row)) : 0;
            if (unit < D && row < s.B) units[c][r] = slstm_load(call, row, head, unit);
            load(input[c][r], 0, row, lengths[c][r], head, unit);
        }
        th.everyone();  // buffers are clear
        write(th, h, lane, unit, units);
        th.everyone();
        const int steps = int(slstm_steps(s, th.tile() * rows, rows));
        for (int t = 0; t < steps; ++t) {
            const Bf16* here = h + (t & 1) * Vectors::buffer;
            XECG_DEVICE_UNROLL
            for (int c = 0; c < columns; ++c) {
                float sum[2][2][4] = {};  // [even and odd k, to wait less][tile]
                th.converge();
                XECG_DEVICE_UNROLL
                for (int k = 0; k < K; ++k) {
                    uint32_t column[2];
                    Vectors::read(here, c, k, lane, column);
                    th.mma(sum[k % 2][0], R[0][k], column);
                    th.mma(sum[k % 2][1], R[1][k], column);
                }
                XECG_DEVICE_UNROLL
                for (int r = 0; r < 2; ++r) {
                    if (t >= lengths[c][r]) continue;
                    const int row = first + c * 8 + r;
                    float raw[4];
                    XECG_DEVICE_UNROLL
                    for (int g = 0; g < 4; ++g) {
                        const int at = g % 2 * 2 + r;
                        const uint32_t x = input[c][r][g / 2], bits = g % 2 ? x & 0xffff0000u : x << 16;
                        raw[g] = (sum[0][g / 2][at] + sum[1][g / 2][at]) + (bits_as<float>(bits) + bias[g]);
                    }
                    load(input[c][r], t + 1, row, lengths[c][r], head, unit);  // a step ahead of its use
                    const SlstmUnit before = units[c][r];
                    const SlstmMade made = slstm_advance(raw, units[c][r]);
                    slstm_record<Bf16>(call, made, before, units[c][r].h, row, slstm_time(s, lengths[c][r], t), head, unit);
                }
            }
            write(th, h + ((t + 1) & 1) * Vectors::buffer, lane, unit, units);
            th.everyone();
        }
        XECG_DEVICE_UNROLL
        for (int c = 0; c < columns; ++c) XECG_DEVICE_UNROLL
        for (int r = 0; r < 2; ++r) {
            const int row = first + c * 8 + r;
            if (unit < D && row < s.B) slstm_finish<Bf16>(call, units[c][r], lengths[c][r], row, head, unit);
        }
    }

  private:
    template <class Thread>
    XECG_DEVICE static void write(Thread& th, Bf16* h, const SlstmLane& lane, int unit, const SlstmUnit (&units)[columns][2]) {
        XECG_DEVICE_UNROLL
        for (int c = 0; c < columns; ++c) {
            const int to = (c * 8 + lane.pair * 2) * Vectors::row + unit / 2 * 2;
            Vectors::write(th, h, lane, units[c][0].h, to, units[c][1].h, to + Vectors::row);
        }
    }

    // x of step t: i and f, z and o in a word.
    XECG_DEVICE void load(uint32_t (&to)[2], int t, int row, int length, int64_t head, int unit) const {
        if (t >= length) return;
        const SlstmForward& call = a.call;
        const int64_t time = slstm_time(call.shape, length, t);
        const Bf16* x = static_cast<const Bf16*>(call.x) + row * call.x_b + time * call.x_t + head * call.x_h + unit;
        XECG_DEVICE_UNROLL
        for (int pair = 0; pair < 2; ++pair, x += 2 * call.x_g) to[pair] = x[0].bits | uint32_t(x[call.x_g].bits) << 16;
    }
};

// A warp owns sixteen units, over all gates or, with `halves` = 2, over two of them; then two warps share their units, each keeps
// one of a lane's two batch rows and they exchange sums through shared memory.
template <int K, int cluster, int columns, int halves>
struct SlstmTensorBackward {
    static constexpr int blocks = cluster, rows = 8 * columns, max_threads = 32 * K / blocks * halves;
    static constexpr int gates = 4 / halves, kept = 2 / halves;  // gates of a warp's product, batch rows of a lane and column
    using Vectors = SlstmVectors<64 * K, columns>;
    SlstmCudaBackward a;

    static int threads(int64_t D) { return blocks > 1 ? max_threads : int((D + 15) / 16 * 32) * halves; }
    static int64_t shared() {
        return Vectors::size * int64_t(sizeof(Bf16)) + (halves > 1 ? max_threads * columns * 2 * int64_t(sizeof(float)) : 0);
    }

    template <class Thread>
    XECG_DEVICE void operator()(Thread& th) const {
        const SlstmBackward& call = a.call;
        const SlstmShape& s = call.shape;
        const SlstmLane lane = slstm_lane(th);
        const int warps = th.count() / 32 / halves, half = lane.warp / warps;
        const int D = int(s.D), base = (th.rank() * warps + lane.warp % warps) * 16 + lane.line;
        const int64_t head = th.head();
        const int first = int(th.tile()) * rows + lane.pair * 2 + half;
        Bf16* vectors = static_cast<Bf16*>(th.shared());
        float* sums = reinterpret_cast<float*>(vectors + Vectors::size);
        Vectors::clear(th, vectors);

        uint32_t R[gates][K][4];
        XECG_DEVICE_UNROLL
        for (int g = 0; g < gates; ++g) XECG_DEVICE_UNROLL
        for (int k = 0; k < K; ++k) XECG_DEVICE_UNROLL
        for (int part = 0; part < 4; ++part) {
            const Bf16* gate = static_cast<const Bf16*>(a.weights.R) + ((half * gates + g) * s.H + head) * s.D * s.D;
            R[g][k][part] = slstm_weights(gate, D, k * 16 + part / 2 * 8 + lane.pair * 2, base + part % 2 * 8);
        }

        const int steps = int(slstm_steps(s, th.tile() * rows, rows));
        SlstmUnit d[columns][2][kept] = {};  // [column][unit][batch row]
        SlstmRead read[columns][2][kept] = {};
        int lengths[columns][kept];
        XECG_DEVICE_UNROLL
        for (int c = 0; c < columns; ++c) XECG_DEVICE_UNROLL
        for (int r = 0; r < kept; ++r) {
            const int row = first + c * 8 + r;
            lengths[c][r] = int(slstm_length(s, row));
            XECG_DEVICE_UNROLL
            for (int u = 0; u < 2; ++u) {
                if (base + u * 8 < D && row < s.B) d[c][u][r] = slstm_load(call, row, head, base + u * 8);
                load(read[c][u][r], steps - 1, row, lengths[c][r], head, base + u * 8);
            }
        }
        th.everyone();  // buffers are clear
        for (int t = steps - 1; t >= 0; --t) {
            Bf16* here = vectors + (t & 1) * Vectors::buffer;
            XECG_DEVICE_UNROLL
            for (int c = 0; c < columns; ++c) {
                float draw[2][kept][4] = {};
                XECG_DEVICE_UNROLL
                for (int u = 0; u < 2; ++u) XECG_DEVICE_UNROLL
                for (int r = 0; r < kept; ++r) {
                    const int row = first + c * 8 + r, unit = base + u * 8;
                    if (unit < D && t < lengths[c][r]) {
                        slstm_retreat(read[c][u][r], d[c][u][r], draw[u][r]);
                        float* to = call.tape.gates + slstm_gates_at(s, row, slstm_time(s, lengths[c][r], t), head, unit);
                        XECG_DEVICE_UNROLL
                        for (int g = 0; g < 4; ++g) to[g * s.H * s.D] = draw[u][r][g];
                    }
                    load(read[c][u][r], t - 1, row, lengths[c][r], head, unit);
                }
                write(th, here + c * 8 * Vectors::row, lane, half, base, draw);
            }
            th.everyone();
            float dh[columns][4];  // [unit][batch row] as in c of the product
            XECG_DEVICE_UNROLL
            for (int c = 0; c < columns; ++c) product(th, here, c, lane, half, R, dh[c]);
            if constexpr (halves > 1) exchange(th, sums, half, dh);
            XECG_DEVICE_UNROLL
            for (int c = 0; c < columns; ++c) XECG_DEVICE_UNROLL
            for (int r = 0; r < kept; ++r) XECG_DEVICE_UNROLL
            for (int u = 0; u < 2; ++u)
                if (t < lengths[c][r]) d[c][u][r].h = halves == 1 || !half ? dh[c][u * 2 + r] : dh[c][u * 2 + 1];
        }
        XECG_DEVICE_UNROLL
        for (int c = 0; c < columns; ++c) XECG_DEVICE_UNROLL
        for (int r = 0; r < kept; ++r) XECG_DEVICE_UNROLL
        for (int u = 0; u < 2; ++u) {
            const int row = first + c * 8 + r, unit = base + u * 8;
            if (unit < D && row < s.B) slstm_finish(call, d[c][u][r], lengths[c][r], row, head, unit);
        }
    }

  private:
    XECG_DEVICE void load(SlstmRead& to, int t, int row, int length, int64_t head, int unit) const {
        if (t < 0 || t >= length || unit >= a.call.shape.D) return;
        to = slstm_read<Bf16>(a.call, row, slstm_time(a.call.shape, length, t), head, unit);
    }

    template <class Thread>
    XECG_DEVICE static void write(Thread& th, Bf16* column, const SlstmLane& lane, int half, int base,
                                  const float (&draw)[2][kept][4]) {
        XECG_DEVICE_UNROLL
        for (int g = 0; g < 4; ++g) {
            const int to = (lane.pair * 2 + half) * Vectors::row + g * 16 * K + base / 2 * 2;
            if constexpr (halves == 1) {
                XECG_DEVICE_UNROLL
                for (int u = 0; u < 2; ++u)
                    Vectors::write(th, column, lane, draw[u][0][g], to + u * 8, draw[u][1][g], to + u * 8 + Vectors::row);
            } else {
                Vectors::write(th, column, lane, draw[0][0][g], to, draw[1][0][g], to + 8);
            }
        }
    }

    template <class Thread>
    XECG_DEVICE static void product(Thread& th, const Bf16* here, int c, const SlstmLane& lane, int half,
                                    const uint32_t (&R)[gates][K][4], float (&dh)[4]) {
        float sum[halves][gates][4] = {};  // four chains, to wait less
        th.converge();
        XECG_DEVICE_UNROLL
        for (int k = 0; k < K; ++k) XECG_DEVICE_UNROLL
        for (int g = 0; g < gates; ++g) {
            uint32_t column[2];
            Vectors::read(here, c, (half * gates + g) * K + k, lane, column);
            th.mma(sum[k % halves][g], R[g][k], column);
        }
        XECG_DEVICE_UNROLL
        for (int e = 0; e < 4; ++e)
            dh[e] = (sum[0][0][e] + sum[0][1][e]) + (sum[halves - 1][gates - 2][e] + sum[halves - 1][gates - 1][e]);
    }

    // Adds the other half's sums for the batch rows that this warp keeps.
    template <class Thread>
    XECG_DEVICE static void exchange(Thread& th, float* sums, int half, float (&dh)[columns][4]) {
        const int other = (th.index() + th.count() / 2) % th.count();
        XECG_DEVICE_UNROLL
        for (int c = 0; c < columns; ++c) XECG_DEVICE_UNROLL
        for (int u = 0; u < 2; ++u) sums[(c * 2 + u) * th.count() + th.index()] = half ? dh[c][u * 2] : dh[c][u * 2 + 1];
        th.barrier();
        XECG_DEVICE_UNROLL
        for (int c = 0; c < columns; ++c) XECG_DEVICE_UNROLL
        for (int u = 0; u < 2; ++u) {
            const float given = sums[(c * 2 + u) * th.count() + other];
            dh[c][u * 2] += half ? 0.0f : given;
            dh[c][u * 2 + 1] += half ? given : 0.0f;
        }
    }
};

}  // namespace cuda
}  // namespace xecg
