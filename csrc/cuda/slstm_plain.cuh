// sLSTM by float32 multiply-add, for every size and type: exact where the weights are float32, and the fallback.
//
// A block owns one head and `groups` times four batch rows through all steps; a thread owns one unit (output of its four gates)
// of four rows, with their state in registers. R is read from shared memory, where the four gates of a weight lie side by side,
// when it fits (`resident`), else from L2, one coalesced line a warp and gate. h, or d(gates) backward, goes from step to step
// through two buffers in shared memory and one barrier. Every output has one chain of multiply-add in input order: bits depend
// neither on the batch nor on where R lies. Cost of a step and unit: 8 D flops, 16 D bytes of R a thread. Not yet run on a GPU.
#pragma once
#include "slstm_cell.cuh"

namespace xecg {
namespace cuda {

constexpr int slstm_plain_rows = 4;       // of one thread: one Quad
constexpr int slstm_plain_threads = 512;  // at most

// Threads that share a batch row: one a unit, in whole warps.
XECG_HOST_DEVICE inline int slstm_plain_wide(int64_t D) { return int((D + 31) / 32 * 32); }

// Where a plain block's thread stands.
struct SlstmPlace {
    int unit, group;
    int64_t head, first;  // first batch row of the thread
    bool real;            // the unit exists
};

template <class Thread>
XECG_DEVICE inline SlstmPlace slstm_place(const Thread& th, const SlstmShape& s, int groups) {
    const int wide = slstm_plain_wide(s.D), unit = th.index() % wide, group = th.index() / wide;
    return SlstmPlace{unit, group, th.head(), (th.tile() * groups + group) * slstm_plain_rows, unit < s.D};
}

// The four gates' weights between `in` and `out`, from shared memory or where the caller keeps them.
template <class W, bool resident>
struct SlstmMatrix {
    const W* R;         // first gate of this head
    const Quad* quads;  // resident: [in][out]
    int64_t gate;       // elements between gates
    int D;

    XECG_DEVICE Quad at(int in, int out) const {
        if (resident) return quads[in * D + out];
        const W* from = R + int64_t(in) * D + out;
        return Quad{{get(from), get(from + gate), get(from + 2 * gate), get(from + 3 * gate)}};
    }
};

template <class W, bool resident, class Thread>
XECG_DEVICE inline SlstmMatrix<W, resident> slstm_matrix(Thread& th, const SlstmShape& s, const void* weights, Quad* room) {
    const int D = int(s.D);
    SlstmMatrix<W, false> from{static_cast<const W*>(weights) + th.head() * s.D * s.D, nullptr, s.H * s.D * s.D, D};
    if (resident)
        for (int at = th.index(); at < D * D; at += th.count()) room[at] = from.at(at / D, at % D);
    return SlstmMatrix<W, resident>{from.R, room, from.gate, D};
}

template <class X, class W, bool resident>
struct SlstmPlainForward {
    static constexpr int max_threads = slstm_plain_threads, blocks = 1;
    SlstmCudaForward a;
    int groups;

    // Two buffers of h, one Quad of rows a unit, and R.
    static int64_t shared(int64_t D, int groups) { return (2 * groups * D + (resident ? D * D : 0)) * int64_t(sizeof(Quad)); }

    template <class Thread>
    XECG_DEVICE void operator()(Thread& th) const {
        const SlstmForward& call = a.call;
        const SlstmShape& s = call.shape;
        const SlstmPlace p = slstm_place(th, s, groups);
        const int D = int(s.D), buffer = groups * D;
        Quad* h = static_cast<Quad*>(th.shared());
        const auto R = slstm_matrix<W, resident>(th, s, a.weights.R, h + 2 * buffer);
        h += p.group * D;

        SlstmUnit units[slstm_plain_rows] = {};
        int64_t lengths[slstm_plain_rows];
        float bias[4] = {};
        for (int r = 0; r < slstm_plain_rows; ++r) {
            lengths[r] = p.real ? slstm_length(s, p.first + r) : 0;
            if (p.real && p.first + r < s.B) units[r] = slstm_load(call, p.first + r, p.head, p.unit);
        }
        if (p.real) {
            h[p.unit] = rows_of_h(units);
            for (int g = 0; g < 4; ++g) bias[g] = get_as(a.weights.b_type, a.weights.b, (g * s.H + p.head) * s.D + p.unit);
        }
        th.barrier();
        const int64_t steps = slstm_steps(s, th.tile() * groups * slstm_plain_rows, int64_t(groups) * slstm_plain_rows);
        for (int64_t t = 0; t < steps; ++t) {
            if (p.real) {
                step(R, h + (t & 1) * buffer, p, t, lengths, bias, units);
                h[((t + 1) & 1) * buffer + p.unit] = rows_of_h(units);
            }
            th.barrier();
        }
        for (int r = 0; r < slstm_plain_rows; ++r)
            if (p.real && p.first + r < s.B) slstm_finish<X>(call, units[r], lengths[r], p.first + r, p.head, p.unit);
    }

  private:
    XECG_DEVICE Quad rows_of_h(const SlstmUnit* units) const {
        Quad h;
        XECG_DEVICE_UNROLL
        for (int r = 0; r < slstm_plain_rows; ++r) {
            const Bf16 near = narrow(units[r].h);
            h.v[r] = a.rounded ? get(&near) : units[r].h;
        }
        return h;
    }

    template <class Matrix>
    XECG_DEVICE void step(const Matrix& R, const Quad* h, const SlstmPlace& p, int64_t t, const int64_t* lengths,
                          const float* bias, SlstmUnit* units) const {
        const SlstmForward& call = a.call;
        float input[slstm_plain_rows][4] = {}, sum[slstm_plain_rows][4] = {};
        XECG_DEVICE_UNROLL
        for (int r = 0; r < slstm_plain_rows; ++r) {
            if (t >= lengths[r]) continue;
            const int64_t time = slstm_time(call.shape, lengths[r], t);
            const X* x = static_cast<const X*>(call.x) + (p.first + r) * call.x_b + time * call.x_t + p.head * call.x_h + p.unit;
            for (int g = 0; g < 4; ++g) input[r][g] = get(x + g * call.x_g);
        }
        for (int in = 0; in < R.D; ++in) {
            const Quad w = R.at(in, p.unit), from = h[in];
            XECG_DEVICE_UNROLL
            for (int r = 0; r < slstm_plain_rows; ++r) XECG_DEVICE_UNROLL
            for (int g = 0; g < 4; ++g) sum[r][g] = fmaf(w.v[g], from.v[r], sum[r][g]);
        }
        XECG_DEVICE_UNROLL
        for (int r = 0; r < slstm_plain_rows; ++r) {
            if (t >= lengths[r]) continue;
            const SlstmUnit before = units[r];
            float raw[4];
            for (int g = 0; g < 4; ++g) raw[g] = sum[r][g] + (input[r][g] + bias[g]);
            const SlstmMade made = slstm_advance(raw, units[r]);
            slstm_record<X>(call, made, before, units[r].h, p.first + r, slstm_time(call.shape, lengths[r], t), p.head, p.unit);
        }
    }
};

template <class X, class W, bool resident>
struct SlstmPlainBackward {
    static constexpr int max_threads = slstm_plain_threads, blocks = 1;
    SlstmCudaBackward a;
    int groups;

    // Two buffers of d(gates), four Quads of rows a unit, and R.
    static int64_t shared(int64_t D, int groups) { return (8 * groups * D + (resident ? D * D : 0)) * int64_t(sizeof(Quad)); }

    template <class Thread>
    XECG_DEVICE void operator()(Thread& th) const {
        const SlstmBackward& call = a.call;
        const SlstmShape& s = call.shape;
        const SlstmPlace p = slstm_place(th, s, groups);
        const int D = int(s.D), buffer = groups * D * 4;
        Quad* draw = static_cast<Quad*>(th.shared());
        const auto R = slstm_matrix<W, resident>(th, s, a.weights.R, draw + 2 * buffer);
        draw += p.group * D * 4;

        SlstmUnit d[slstm_plain_rows] = {};
        int64_t lengths[slstm_plain_rows];
        for (int r = 0; r < slstm_plain_rows; ++r) {
            lengths[r] = p.real ? slstm_length(s, p.first + r) : 0;
            if (p.real && p.first + r < s.B) d[r] = slstm_load(call, p.first + r, p.head, p.unit);
        }
        const int64_t steps = slstm_steps(s, th.tile() * groups * slstm_plain_rows, int64_t(groups) * slstm_plain_rows);
        for (int64_t t = steps - 1; t >= 0; --t) {
            Quad* here = draw + (t & 1) * buffer;
            if (p.real) gates(here + p.unit * 4, p, t, lengths, d);
            th.barrier();
            if (p.real) product(R, here, p, t, lengths, d);
        }
        for (int r = 0; r < slstm_plain_rows; ++r)
            if (p.real && p.first + r < s.B) slstm_finish(call, d[r], lengths[r], p.first + r, p.head, p.unit);
    }

  private:
    XECG_DEVICE void gates(Quad* to, const SlstmPlace& p, int64_t t, const int64_t* lengths, SlstmUnit* d) const {
        const SlstmShape& s = a.call.shape;
        Quad draws[4] = {};
        XECG_DEVICE_UNROLL
        for (int r = 0; r < slstm_plain_rows; ++r) {
            if (t >= lengths[r]) continue;
            const int64_t time = slstm_time(s, lengths[r], t);
            float draw[4];
            slstm_retreat(slstm_read<X>(a.call, p.first + r, time, p.head, p.unit), d[r], draw);
            float* gates = a.call.tape.gates + slstm_gates_at(s, p.first + r, time, p.head, p.unit);
            for (int g = 0; g < 4; ++g) draws[g].v[r] = gates[g * s.H * s.D] = draw[g];
        }
        for (int g = 0; g < 4; ++g) to[g] = draws[g];
    }

    template <class Matrix>
    XECG_DEVICE void product(const Matrix& R, const Quad* draw, const SlstmPlace& p, int64_t t, const int64_t* lengths,
                             SlstmUnit* d) const {
        float sum[slstm_plain_rows][4] = {};
        for (int out = 0; out < R.D; ++out) {
            const Quad w = R.at(out, p.unit);
            XECG_DEVICE_UNROLL
            for (int g = 0; g < 4; ++g) {
                const Quad from = draw[out * 4 + g];
                XECG_DEVICE_UNROLL
                for (int r = 0; r < slstm_plain_rows; ++r) sum[r][g] = fmaf(w.v[g], from.v[r], sum[r][g]);
            }
        }
        XECG_DEVICE_UNROLL
        for (int r = 0; r < slstm_plain_rows; ++r)
            if (t < lengths[r]) d[r].h = (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]);
    }
};

}  // namespace cuda
}  // namespace xecg
