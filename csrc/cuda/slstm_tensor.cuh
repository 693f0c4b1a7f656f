// sLSTM for bfloat16 x and R on tensor cores, R resident in registers.
//
// A block (or a cluster of `blocks`, each with its share of the units) owns one head and eight batch rows through all steps. The
// product is taken transposed, gates = R^T h: the 16 rows of an m16n8k16 tile are weights, its 8 columns are batch rows. A warp
// keeps its tiles of R in registers for the whole sequence; what moves from step to step is h, or d(gates) backward, through two
// buffers in shared memory of every block and one barrier. h and d(gates) are split into two bfloat16 and multiplied in two
// products, so that only the inputs' own rounding counts. Each output is summed in one order: bits do not depend on the batch. K:
// 16-wide tiles of a head's units, D <= 16 K, the rest is zero. Cost of a step and unit: 16 D flops. Not yet run on a GPU.
#pragma once
#include "slstm_cell.cuh"

namespace xecg {
namespace cuda {

constexpr int slstm_tensor_rows = 8;  // batch rows of a tile

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

// What the blocks hold of a step's vectors: [buffer][high, low][batch row][width], rows off the powers of two, so that the eight
// lines of a warp meet eight groups of banks.
template <int width>
struct SlstmParts {
    static constexpr int row = width + 8, part = slstm_tensor_rows * row, buffer = 2 * part, size = 2 * buffer;  // elements

    template <class Thread>
    XECG_DEVICE static void clear(Thread& th, Bf16* parts) {
        for (int at = th.index(); at < size; at += th.count()) parts[at] = Bf16{0};
    }
    // Writes two numbers of this lane and two of its neighbour's, whose `line` differs in the last bit, so that each of the two
    // lanes stores whole words: where the units are neighbours along k. *_at: place of the first of the two units.
    template <class Thread>
    XECG_DEVICE static void write(Thread& th, Bf16* parts, int b, const SlstmLane& lane, float first, int first_at, float second,
                                  int second_at) {
        const bool odd = lane.line & 1;
        const uint32_t mine = split(odd ? second : first), other = th.swap(split(odd ? first : second), 4);
        const uint32_t left = odd ? other : mine, right = odd ? mine : other;
        Bf16* to = parts + b * buffer + (odd ? second_at : first_at);
        XECG_DEVICE_UNROLL
        for (int rank = 0; rank < Thread::blocks; ++rank) {
            *reinterpret_cast<uint32_t*>(th.remote(to, rank)) = (left & 0xffffu) | right << 16;
            *reinterpret_cast<uint32_t*>(th.remote(to + part, rank)) = left >> 16 | (right & 0xffff0000u);
        }
    }
    // The b operand of tile k.
    XECG_DEVICE static void read(const Bf16* parts, int b, int low, int tile, const SlstmLane& lane, uint32_t (&to)[2]) {
        const Bf16* from = parts + b * buffer + low * part + lane.line * row + tile * 16 + lane.pair * 2;
        to[0] = *reinterpret_cast<const uint32_t*>(from);
        to[1] = *reinterpret_cast<const uint32_t*>(from + 8);
    }
};

// A warp owns eight units: its first tile holds their gates i and f, its second z and o, so that a lane gets all four gates of
// one unit and two batch rows.
template <int K, int cluster>
struct SlstmTensorForward {
    static constexpr int blocks = cluster, max_threads = 64 * K / blocks;
    using Parts = SlstmParts<16 * K>;
    SlstmCudaForward a;

    static int threads(int64_t D) { return blocks > 1 ? max_threads : int((D + 7) / 8 * 32); }
    static int64_t shared() { return Parts::size * int64_t(sizeof(Bf16)); }

    template <class Thread>
    XECG_DEVICE void operator()(Thread& th) const {
        const SlstmForward& call = a.call;
        const SlstmShape& s = call.shape;
        const SlstmLane lane = slstm_lane(th);
        const int D = int(s.D), unit = (th.rank() * (max_threads / 32) + lane.warp) * 8 + lane.line;
        const int64_t head = th.head();
        const int first = int(th.tile()) * slstm_tensor_rows;
        Bf16* parts = static_cast<Bf16*>(th.shared());
        Parts::clear(th, parts);

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

        SlstmUnit units[2] = {};
        int rows[2], lengths[2];
        XECG_DEVICE_UNROLL
        for (int r = 0; r < 2; ++r) {
            rows[r] = first + lane.pair * 2 + r;
            lengths[r] = unit < D ? int(slstm_length(s, rows[r])) : 0;
            if (unit < D && rows[r] < s.B) units[r] = slstm_load(call, rows[r], head, unit);
        }
        th.everyone();  // buffers are clear
        const int to = lane.pair * 2 * Parts::row + unit / 2 * 2;
        Parts::write(th, parts, 0, lane, units[0].h, to, units[1].h, to + Parts::row);
        th.everyone();

        const int steps = int(slstm_steps(s, first, slstm_tensor_rows));
        uint32_t input[2][2] = {}, next[2][2] = {};
        load(input, 0, rows, lengths, head, unit);
        for (int t = 0; t < steps; ++t) {
            load(next, t + 1, rows, lengths, head, unit);
            float sum[2][2][4] = {};  // [high, low][tile]
            XECG_DEVICE_UNROLL
            for (int k = 0; k < K; ++k) XECG_DEVICE_UNROLL
            for (int low = 0; low < 2; ++low) {
                uint32_t h[2];
                Parts::read(parts, t & 1, low, k, lane, h);
                th.mma(sum[low][0], R[0][k], h);
                th.mma(sum[low][1], R[1][k], h);
            }
            XECG_DEVICE_UNROLL
            for (int r = 0; r < 2; ++r) {
                if (t < lengths[r]) {
                    const SlstmUnit before = units[r];
                    float raw[4];
                    XECG_DEVICE_UNROLL
                    for (int g = 0; g < 4; ++g) {
                        const int at = g % 2 * 2 + r;
                        const uint32_t x = input[r][g / 2], bits = g % 2 ? x & 0xffff0000u : x << 16;
                        raw[g] = (sum[0][g / 2][at] + sum[1][g / 2][at]) + (bits_as<float>(bits) + bias[g]);
                    }
                    const SlstmMade made = slstm_advance(raw, units[r]);
                    slstm_record<Bf16>(call, made, before, units[r].h, rows[r], slstm_time(s, lengths[r], t), head, unit);
                }
                input[r][0] = next[r][0], input[r][1] = next[r][1];
            }
            Parts::write(th, parts, (t + 1) & 1, lane, units[0].h, to, units[1].h, to + Parts::row);
            th.everyone();
        }
        XECG_DEVICE_UNROLL
        for (int r = 0; r < 2; ++r)
            if (unit < D && rows[r] < s.B) slstm_finish<Bf16>(call, units[r], lengths[r], rows[r], head, unit);
    }

  private:
    // x of step t, a step ahead of its use: i and f, z and o in a word.
    XECG_DEVICE void load(uint32_t (&to)[2][2], int t, const int (&rows)[2], const int (&lengths)[2], int64_t head,
                          int unit) const {
        const SlstmForward& call = a.call;
        XECG_DEVICE_UNROLL
        for (int r = 0; r < 2; ++r) {
            if (t >= lengths[r]) continue;
            const int64_t time = slstm_time(call.shape, lengths[r], t);
            const Bf16* x = static_cast<const Bf16*>(call.x) + rows[r] * call.x_b + time * call.x_t + head * call.x_h + unit;
            XECG_DEVICE_UNROLL
            for (int pair = 0; pair < 2; ++pair, x += 2 * call.x_g) to[r][pair] = x[0].bits | uint32_t(x[call.x_g].bits) << 16;
        }
    }
};

// A warp owns sixteen units, over all gates or, with `halves` = 2, over two of them; then two warps share their units, each keeps
// one of a lane's two batch rows and they exchange sums through shared memory.
template <int K, int cluster, int halves>
struct SlstmTensorBackward {
    static constexpr int blocks = cluster, max_threads = 32 * K / blocks * halves;
    static constexpr int gates = 4 / halves, kept = 2 / halves;  // gates of a warp's product, batch rows of a lane
    using Parts = SlstmParts<64 * K>;
    SlstmCudaBackward a;

    static int threads(int64_t D) { return blocks > 1 ? max_threads : int((D + 15) / 16 * 32) * halves; }
    static int64_t shared() {
        return Parts::size * int64_t(sizeof(Bf16)) + (halves > 1 ? max_threads * 2 * int64_t(sizeof(float)) : 0);
    }

    template <class Thread>
    XECG_DEVICE void operator()(Thread& th) const {
        const SlstmBackward& call = a.call;
        const SlstmShape& s = call.shape;
        const SlstmLane lane = slstm_lane(th);
        const int warps = th.count() / 32 / halves, half = lane.warp / warps;
        const int D = int(s.D), base = (th.rank() * warps + lane.warp % warps) * 16 + lane.line;
        const int64_t head = th.head();
        const int first = int(th.tile()) * slstm_tensor_rows;
        Bf16* parts = static_cast<Bf16*>(th.shared());
        float* sums = reinterpret_cast<float*>(parts + Parts::size);
        Parts::clear(th, parts);

        uint32_t R[gates][K][4];
        XECG_DEVICE_UNROLL
        for (int g = 0; g < gates; ++g) XECG_DEVICE_UNROLL
        for (int k = 0; k < K; ++k) XECG_DEVICE_UNROLL
        for (int part = 0; part < 4; ++part) {
            const Bf16* gate = static_cast<const Bf16*>(a.weights.R) + ((half * gates + g) * s.H + head) * s.D * s.D;
            R[g][k][part] = slstm_weights(gate, D, k * 16 + part / 2 * 8 + lane.pair * 2, base + part % 2 * 8);
        }

        SlstmUnit d[2][kept] = {};  // [unit][batch row]
        SlstmRead read[2][kept] = {};
        int rows[kept], lengths[kept];
        XECG_DEVICE_UNROLL
        for (int r = 0; r < kept; ++r) {
            rows[r] = first + lane.pair * 2 + half + r;
            lengths[r] = int(slstm_length(s, rows[r]));
            XECG_DEVICE_UNROLL
            for (int u = 0; u < 2; ++u)
                if (base + u * 8 < D && rows[r] < s.B) d[u][r] = slstm_load(call, rows[r], head, base + u * 8);
        }
        const int steps = int(slstm_steps(s, first, slstm_tensor_rows));
        load(read, steps - 1, rows, lengths, head, base);
        th.everyone();  // buffers are clear
        for (int t = steps - 1; t >= 0; --t) {
            float draw[2][kept][4] = {};  // as d
            XECG_DEVICE_UNROLL
            for (int u = 0; u < 2; ++u) XECG_DEVICE_UNROLL
            for (int r = 0; r < kept; ++r) {
                const int unit = base + u * 8;
                if (unit >= D || t >= lengths[r]) continue;
                slstm_retreat(read[u][r], d[u][r], draw[u][r]);
                float* to = call.tape.gates + slstm_gates_at(s, rows[r], slstm_time(s, lengths[r], t), head, unit);
                XECG_DEVICE_UNROLL
                for (int g = 0; g < 4; ++g) to[g * s.H * s.D] = draw[u][r][g];
            }
            XECG_DEVICE_UNROLL
            for (int g = 0; g < 4; ++g) {
                const int to = (lane.pair * 2 + half) * Parts::row + g * 16 * K + base / 2 * 2;
                if constexpr (halves == 1) {
                    XECG_DEVICE_UNROLL
                    for (int u = 0; u < 2; ++u)
                        Parts::write(th, parts, t & 1, lane, draw[u][0][g], to + u * 8, draw[u][1][g], to + u * 8 + Parts::row);
                } else {
                    Parts::write(th, parts, t & 1, lane, draw[0][0][g], to, draw[1][0][g], to + 8);
                }
            }
            load(read, t - 1, rows, lengths, head, base);
            th.everyone();
            float sum[gates][4] = {};
            XECG_DEVICE_UNROLL
            for (int k = 0; k < K; ++k) XECG_DEVICE_UNROLL
            for (int low = 0; low < 2; ++low) XECG_DEVICE_UNROLL
            for (int g = 0; g < gates; ++g) {
                uint32_t column[2];
                Parts::read(parts, t & 1, low, (half * gates + g) * K + k, lane, column);
                th.mma(sum[g], R[g][k], column);
            }
            float dh[4];  // [unit][batch row] as in c of the product
            XECG_DEVICE_UNROLL
            for (int e = 0; e < 4; ++e)
                dh[e] = halves == 1 ? (sum[0][e] + sum[1][e]) + (sum[gates - 2][e] + sum[gates - 1][e]) : sum[0][e] + sum[1][e];
            if (halves > 1) exchange(th, sums, half, dh);
            XECG_DEVICE_UNROLL
            for (int r = 0; r < kept; ++r) XECG_DEVICE_UNROLL
            for (int u = 0; u < 2; ++u)
                if (t < lengths[r]) d[u][r].h = halves == 1 ? dh[u * 2 + r] : half ? dh[u * 2 + 1] : dh[u * 2];
        }
        XECG_DEVICE_UNROLL
        for (int r = 0; r < kept; ++r) XECG_DEVICE_UNROLL
        for (int u = 0; u < 2; ++u)
            if (base + u * 8 < D && rows[r] < s.B) slstm_finish(call, d[u][r], lengths[r], rows[r], head, base + u * 8);
    }

  private:
    XECG_DEVICE void load(SlstmRead (&to)[2][kept], int t, const int (&rows)[kept], const int (&lengths)[kept], int64_t head,
                          int base) const {
        XECG_DEVICE_UNROLL
        for (int r = 0; r < kept; ++r) XECG_DEVICE_UNROLL
        for (int u = 0; u < 2; ++u)
            if (t >= 0 && t < lengths[r] && base + u * 8 < a.call.shape.D)
                to[u][r] = slstm_read<Bf16>(a.call, rows[r], slstm_time(a.call.shape, lengths[r], t), head, base + u * 8);
    }

    // Adds the other half's sums for the batch row that this warp keeps.
    template <class Thread>
    XECG_DEVICE static void exchange(Thread& th, float* sums, int half, float (&dh)[4]) {
        float* mine = sums + th.index() * 2;
        XECG_DEVICE_UNROLL
        for (int u = 0; u < 2; ++u) mine[u] = half ? dh[u * 2] : dh[u * 2 + 1];
        th.barrier();
        const float* other = sums + (th.index() + th.count() / 2) % th.count() * 2;
        XECG_DEVICE_UNROLL
        for (int u = 0; u < 2; ++u) {
            dh[u * 2] += half ? 0.0f : other[u];
            dh[u * 2 + 1] += half ? other[u] : 0.0f;
        }
    }
};

}  // namespace cuda
}  // namespace xecg
