// Live front end on a GPU: equation, state and arguments in ../common/frontend_stream.h, meaning as ../cpu/frontend_stream.h has
// it.
//
// Two kernels. The first, a warp a patient, looks for samples that refuse a patient, and moves the clocks on. The second, a warp
// 32 rows of whichever patients: histories and samples come in row by row, a lane a sample, and lie (time, lane) in shared
// memory; then a lane is a row, and its sections, taps and z-score go on in time order. A row's operations depend neither on its
// lane nor on how its samples were cut into chunks. Bytes a row: state twice, the chunk, the outputs.
#pragma once
#include "../common/frontend_stream.h"
#include "frontend.cuh"

namespace xecg {
namespace cuda {

constexpr int stream_tile = 64;            // samples that are in shared memory behind the history
constexpr float stream_absurd_mv = 1e12f;  // as on the CPU
constexpr int stream_column = lanes + 1;   // floats from one time to the next

struct StreamGrid {
    int64_t warps;
    int64_t shared;  // bytes
};

// What the first kernel leaves for the second, and room for validity: (patients) clocks, (patients, rows, depth + n) bytes.
struct StreamRoom {
    int64_t* past;
    uint8_t* valid;
};

XECG_HOST_DEVICE inline int64_t stream_depth(const FrontendStream& a) { return a.up ? a.taps - 1 : 0; }
inline int64_t stream_room_bytes(const FrontendStream& a) {
    return 8 * a.patients + a.patients * a.rows * (stream_depth(a) + a.n);
}

XECG_HOST_DEVICE inline float stream_sample(const FrontendStream& a, int64_t patient, int64_t row, int64_t t) {
    const int64_t at = patient * a.x_patient + a.x_row[row] + t;
    if (!a.counts) return static_cast<const float*>(a.x)[at];
    return (float(static_cast<const int16_t*>(a.x)[at]) - a.baseline[row]) * a.mv_per_count[row];
}

// A warp a patient.
struct StreamCheck {
    static constexpr int blocks = 1;
    FrontendStream a;
    StreamRoom room;

    StreamGrid grid() const { return {a.patients, 0}; }
    template <class Thread>
    XECG_DEVICE void operator()(Thread& thread) const {
        const int64_t patient = thread.tile();
        uint32_t bad = 0;
        for (int64_t r = 0; !a.counts && r < a.rows; ++r)
            for (int64_t t = thread.index(); t < a.n; t += lanes)
                bad |= !(fabsf(stream_sample(a, patient, r, t)) < stream_absurd_mv);
        for (int bits = 1; bits < lanes; bits *= 2) bad |= thread.swap(bad, bits);
        if (thread.index()) return;
        int64_t& clock = a.state.samples[a.slots[patient]];
        room.past[patient] = clock;
        a.refused[patient] = uint8_t(bad);
        if (!bad) clock += a.n;
    }
};

// One row as its lane knows it.
struct StreamRow {
    int64_t patient = 0, row = 0, at = -1;  // at: place in the state; -1: nothing to do
    int64_t begin = 0, past = 0;
    uint8_t* ok = nullptr;
    float* y = nullptr;
};

// Validity of the row's outputs: of both input samples beside the output's time, `half` earlier on the finer grid. Returns
// whether all are.
XECG_DEVICE inline bool stream_validity(const FrontendStream& a, const StreamRow& row, uint8_t* valid) {
    const int64_t depth = stream_depth(a), since = a.state.since[row.at];
    const uint8_t* gap = a.gap ? a.gap + (row.patient * a.rows + row.row) * a.n : nullptr;
    uint8_t* history = a.state.valid + row.at * depth;
    const auto floor_of = [&](int64_t p) { return p >= 0 ? p / a.up : -((-p + a.up - 1) / a.up); };
    bool all = true;
    if (!gap && since > a.settle + depth) {
        a.state.since[row.at] = since + a.n;
        for (int64_t k = 0; k < a.m; ++k) {
            const bool good = !a.up || row.past > depth || row.past + floor_of(a.offset + k * a.down - a.half) >= 0;
            row.ok[k] = good, all = all && good;
        }
        return all;
    }
    for (int64_t k = 0; k < depth; ++k) valid[k] = history[k];
    int64_t distance = since;
    for (int64_t t = 0; t < a.n; ++t) {
        distance = gap && gap[t] ? 0 : distance + 1;
        valid[depth + t] = distance > a.settle;
    }
    for (int64_t k = 0; k < a.m; ++k) {
        bool good = true;
        if (a.up) {
            const int64_t p = a.offset + k * a.down - a.half, low = floor_of(p), high = floor_of(p + a.up - 1);
            good = row.past + low >= 0 && valid[depth + low] && valid[depth + high];
        } else {
            good = valid[k];
        }
        row.ok[k] = good, all = all && good;
    }
    for (int64_t k = 0; k < depth; ++k) history[k] = valid[a.n + k];
    a.state.since[row.at] = distance;
    return all;
}

struct StreamZ {
    double w, mean, q;

    // z of a valid y; 0 and `flat` where the standard deviation is below flat_std.
    XECG_DEVICE float next(float y, double decay, float flat_std, bool& flat) {
        if (w == 0.0) mean = double(y);  // exactly: a flat lead has no deviation whatever its offset
        const double c = 1.0 - decay, v = double(y);
        w = decay * w + c;
        const double d = v - mean;
        mean += c / w * d;
        const double e = v - mean;
        q = decay * q + c * d * e;
        const float std = sqrtf(float(q / w));
        flat = std < flat_std;
        return flat ? 0.0f : float(e) / std;
    }
};

// 32 rows of shared memory: sections (2 sections, lanes), samples (depth + tile, column), and what all lanes know of each row.
struct StreamRows {
    static constexpr int blocks = 1;
    FrontendStream a;
    StreamRoom room;

    struct Known {
        int64_t at[lanes], x[lanes], begin[lanes];  // x: element of the first sample
        float shift[lanes], scale[lanes], base[lanes];
    };

    int64_t shared() const {
        return int64_t(sizeof(Known)) + 4 * (2 * a.sections * lanes + (stream_depth(a) + stream_tile) * stream_column);
    }
    StreamGrid grid() const { return {(a.patients * a.rows + lanes - 1) / lanes, shared()}; }

    template <class Thread>
    XECG_DEVICE void operator()(Thread& thread) const {
        const int lane = thread.index();
        const int64_t depth = stream_depth(a), which = thread.tile() * lanes + lane;
        Known& known = *static_cast<Known*>(thread.shared());
        float *states = reinterpret_cast<float*>(&known + 1), *history = states + 2 * a.sections * lanes;
        const StreamRow row = begin(which);
        const float shift = row.at < 0 ? 0.0f : a.state.shift[row.at];
        known.at[lane] = row.at, known.begin[lane] = row.begin;
        known.x[lane] = row.at < 0 ? 0 : row.patient * a.x_patient + a.x_row[row.row];
        known.shift[lane] = shift;
        known.scale[lane] = row.at < 0 || !a.counts ? 1.0f : a.mv_per_count[row.row];
        known.base[lane] = row.at < 0 || !a.counts ? 0.0f : a.baseline[row.row];
        bool all_ok = true;
        StreamZ z{};
        if (row.at >= 0) {
            all_ok = stream_validity(a, row, room.valid + which * (depth + a.n));
            const double* of = a.state.z + 3 * row.at;
            z = StreamZ{of[0], of[1], of[2]};
            for (int64_t j = 0; j < 2 * a.sections; ++j) states[j * lanes + lane] = a.state.sections[row.at * 2 * a.sections + j];
        }
        thread.barrier();
        for (int l = 0; l < lanes; ++l)
            for (int64_t t = lane; known.at[l] >= 0 && t < depth; t += lanes)
                history[t * stream_column + l] = a.state.history[known.at[l] * depth + t];
        int64_t k = 0;
        for (int64_t t0 = 0; t0 < a.n; t0 += stream_tile) {
            const int64_t n = a.n - t0 < stream_tile ? a.n - t0 : stream_tile;
            float* now = history + depth * stream_column;
            for (int l = 0; l < lanes; ++l)
                for (int64_t t = lane; known.at[l] >= 0 && t < n; t += lanes) now[t * stream_column + l] = read(known, l, t0 + t);
            thread.barrier();
            if (row.at >= 0) {
                filter(shift, row.begin - t0, n, states + lane, now + lane);
                k = outputs(row, all_ok, z, t0, n, k, now + lane);
                for (int64_t t = 0; t < depth; ++t) history[t * stream_column + lane] = history[(t + n) * stream_column + lane];
            }
            thread.barrier();
        }
        for (int l = 0; l < lanes; ++l)
            for (int64_t t = lane; known.at[l] >= 0 && t < depth; t += lanes)
                a.state.history[known.at[l] * depth + t] = history[t * stream_column + l];
        if (row.at < 0) return;
        for (int64_t j = 0; j < 2 * a.sections; ++j) a.state.sections[row.at * 2 * a.sections + j] = states[j * lanes + lane];
        double* of = a.state.z + 3 * row.at;
        of[0] = z.w, of[1] = z.mean, of[2] = z.q;
    }

  private:
    XECG_DEVICE StreamRow begin(int64_t which) const {
        StreamRow row;
        if (which >= a.patients * a.rows) return row;
        row.patient = which / a.rows, row.row = which % a.rows;
        if (a.refused[row.patient]) return row;
        row.at = a.slots[row.patient] * a.rows + row.row, row.past = room.past[row.patient];
        row.ok = a.ok + row.patient * a.y_patient + a.y_row[row.row], row.y = a.y + row.patient * a.y_patient + a.y_row[row.row];
        row.begin = a.begin && !a.state.started[row.at] ? a.begin[which] : 0;
        if (!a.state.started[row.at] && row.begin < a.n) {
            a.state.started[row.at] = 1;
            if (a.subtract) a.state.shift[row.at] = stream_sample(a, row.patient, row.row, row.begin);
        }
        if (!a.gap) {
            a.state.last[row.at] = stream_sample(a, row.patient, row.row, a.n - 1);
            a.state.seen[row.at] = 1, a.state.run[row.at] = 0;
        }
        return row;
    }

    XECG_DEVICE float read(const Known& known, int l, int64_t t) const {
        if (t < known.begin[l]) return 0.0f;
        const float mv = a.counts ? (float(static_cast<const int16_t*>(a.x)[known.x[l] + t]) - known.base[l]) * known.scale[l]
                                  : static_cast<const float*>(a.x)[known.x[l] + t];
        return mv - known.shift[l];
    }

    template <int S>
    XECG_DEVICE static void run(const float* c, float* states, float* x, int64_t n) {
        float s[2 * S];
        XECG_DEVICE_UNROLL
        for (int j = 0; j < 2 * S; ++j) s[j] = states[j * lanes];
        FrontendSections<S> sections(c, s);
        for (int64_t t = 0; t < n; ++t) x[t * stream_column] = sections.next(x[t * stream_column]);
        XECG_DEVICE_UNROLL
        for (int j = 0; j < S; ++j) states[2 * j * lanes] = sections.s1[j], states[(2 * j + 1) * lanes] = sections.s2[j];
    }

    // n samples of a lane's column; those before `begin` are none.
    XECG_DEVICE void filter(float shift, int64_t begin, int64_t n, float* states, float* x) const {
        const float* c = a.coefficients;
        for (int64_t left = a.sections; left > 0; left -= 3) {
            if (left == 1)
                run<1>(c, states, x, n);
            else if (left == 2)
                run<2>(c, states, x, n);
            else
                run<3>(c, states, x, n);
            c += 3 * 5, states += 3 * 2 * lanes;
        }
        if (!a.subtract || a.dc == 0.0f) return;
        for (int64_t t = 0; t < n; ++t) x[t * stream_column] = t < begin ? 0.0f : x[t * stream_column] + shift * a.dc;
    }

    // Outputs k, k + 1, … whose newest sample is one of the n at x, the first of which is sample t0; returns the next k.
    XECG_DEVICE int64_t outputs(const StreamRow& row, bool all_ok, StreamZ& z, int64_t t0, int64_t n, int64_t k,
                                const float* x) const {
        for (; k < a.m; ++k) {
            const int64_t q = a.up ? a.offset + k * a.down : k, newest = (a.up ? q / a.up : q) - t0;
            if (newest >= n) break;
            float value = x[newest * stream_column];
            if (a.up) {
                const float *h = a.fir + q % a.up * a.taps, *now = x + newest * stream_column;
                float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                int64_t j = 0;
                for (; j + 4 <= a.taps; j += 4)
                    for (int u = 0; u < 4; ++u) s[u] = fmaf(h[j + u], now[-(j + u) * stream_column], s[u]);
                for (; j < a.taps; ++j) s[0] = fmaf(h[j], now[-j * stream_column], s[0]);
                value = (s[0] + s[1]) + (s[2] + s[3]);
            }
            const bool use = all_ok || row.ok[k];
            bool flat = false;
            if (use && a.zscore) value = z.next(value, a.decay, a.flat_std, flat);
            row.y[k] = use ? value : 0.0f;
            if (flat) row.ok[k] = 0;
        }
        return k;
    }
};

// `Launcher` has `int operator()(const Body&)`, which starts warps as body.grid() says, one after another call has ended. room:
// stream_room_bytes, aligned for 64-bit words.
template <class Launcher>
int frontend_stream(const FrontendStream& a, void* bytes, Launcher& launch) {
    if (a.patients == 0 || a.rows == 0 || a.n == 0) return 0;
    int64_t* const past = static_cast<int64_t*>(bytes);
    const StreamRoom room{past, reinterpret_cast<uint8_t*>(past + a.patients)};
    const int code = launch(StreamCheck{a, room});
    return code ? code : launch(StreamRows{a, room});
}

}  // namespace cuda
}  // namespace xecg
