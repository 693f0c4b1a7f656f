// Live front end. Equation and layouts: common/frontend_stream.h.
//
// Lanes are rows, as in frontend.h; a task is 16 patients, whose rows fill the lanes one after another. Time goes in tiles behind
// the FIR's history, so a whole record needs no more scratch than a chunk. Every sample of a row takes the same operations in the
// same order wherever a chunk or a tile ends, in whichever lane, beside whomever: bits do not depend on any of these.
#pragma once
#include "../common/frontend_stream.h"
#include "frontend.h"

namespace xecg::XECG_ISA {

constexpr int64_t stream_patients = 16;    // of one task
constexpr int64_t stream_tile = 128;       // samples
constexpr float stream_absurd_mv = 1e12f;  // larger samples count as missing: their squares would end the z-score

inline int64_t frontend_stream_tasks(const FrontendStream& a) { return (a.patients + stream_patients - 1) / stream_patients; }
inline int64_t stream_depth(const FrontendStream& a) { return a.up ? a.taps - 1 : 0; }
inline int64_t stream_whole(int64_t n) { return (n + W - 1) / W * W; }
inline int64_t stream_tile_outputs(const FrontendStream& a) { return a.up ? stream_tile * a.up / a.down + 1 : stream_tile; }

inline int64_t frontend_stream_scratch(const FrontendStream& a) {
    const int64_t time =
        stream_whole(2 * a.sections) + stream_whole(stream_depth(a)) + stream_tile + W + 2 * (stream_tile_outputs(a) + W);
    return time * W + (stream_depth(a) + a.n + 3) / 4;
}

inline bool stream_readable(const FrontendStream& a, int64_t patient) {
    if (a.counts) return true;
    const float* x = static_cast<const float*>(a.x) + patient * a.x_patient;
    vec good = set1(1.0f);
    for (int64_t r = 0; r < a.rows; ++r)
        for (int64_t t = 0; t < a.n; t += W)
            good = select(less(abs(load_n(x + a.x_row[r] + t, min_of(W, a.n - t))), set1(stream_absurd_mv)), good, zero());
    return sum(good) == float(W);
}

// Rows of up to W lanes: which patient of the call, which row, which place in the state.
struct StreamLanes {
    int64_t used = 0, patient[W], row[W], at[W], begin[W];
};

inline float stream_sample(const FrontendStream& a, int64_t patient, int64_t row, int64_t t) {
    const int64_t at = patient * a.x_patient + a.x_row[row] + t;
    if (!a.counts) return static_cast<const float*>(a.x)[at];
    return (float(static_cast<const int16_t*>(a.x)[at]) - a.baseline[row]) * a.mv_per_count[row];
}

// Validity of the row's outputs, and whether all are valid: of both input samples beside the output's time, `half` earlier on the
// finer grid. valid: room for the history's bytes and n more.
inline bool stream_validity(const FrontendStream& a, int64_t patient, int64_t row, int64_t at, uint8_t* valid) {
    const int64_t depth = stream_depth(a), past = a.state.samples[a.slots[patient]];
    const uint8_t* gap = a.gap ? a.gap + (patient * a.rows + row) * a.n : nullptr;
    uint8_t *ok = a.ok + patient * a.y_patient + a.y_row[row], *history = a.state.valid + at * depth;
    const int64_t since = a.state.since[at];
    auto floor_of = [&](int64_t p) { return p >= 0 ? p / a.up : -((-p + a.up - 1) / a.up); };
    if (!gap && since > a.settle + depth) {
        a.state.since[at] = since + a.n;
        for (int64_t k = 0; k < a.m; ++k) ok[k] = 1;
        if (!a.up || past > depth) return true;
        for (int64_t k = 0; k < a.m; ++k) ok[k] = past + floor_of(a.offset + k * a.down - a.half) >= 0;
        return !std::memchr(ok, 0, size_t(a.m));
    }
    for (int64_t k = 0; k < depth; ++k) valid[k] = history[k];
    int64_t distance = since;
    for (int64_t t = 0; t < a.n; ++t) {
        distance = gap && gap[t] ? 0 : distance + 1;
        valid[depth + t] = distance > a.settle;
    }
    for (int64_t k = 0; k < a.m; ++k) {
        if (!a.up) {
            ok[k] = valid[k];
            continue;
        }
        const int64_t p = a.offset + k * a.down - a.half, low = floor_of(p), high = floor_of(p + a.up - 1);
        ok[k] = past + low >= 0 && valid[depth + low] && valid[depth + high];
    }
    for (int64_t k = 0; k < depth; ++k) history[k] = valid[a.n + k];
    a.state.since[at] = distance;
    return !std::memchr(ok, 0, size_t(a.m));
}

// buffer[(t, lane)] = x - x_0 in mV for samples [t0, t0 + n), 0 before a row begins.
inline void stream_read(const FrontendStream& a, const StreamLanes& lanes, vec shift, int64_t t0, int64_t n, float* buffer) {
    float base_of[W] = {}, scale_of[W] = {};
    for (int64_t l = 0; a.counts && l < lanes.used; ++l) {
        base_of[l] = a.baseline[lanes.row[l]];
        scale_of[l] = a.mv_per_count[lanes.row[l]];
    }
    const vec base = load(base_of), scale = load(scale_of);
    for (int64_t t = 0; t < n; t += W) {
        const int64_t count = min_of(W, n - t);
        vec block[W];
        for (int l = 0; l < W; ++l) {
            if (l >= lanes.used) {
                block[l] = zero();
                continue;
            }
            const int64_t at = lanes.patient[l] * a.x_patient + a.x_row[lanes.row[l]] + t0 + t;
            if (!a.counts) prefetch(static_cast<const float*>(a.x) + at + W * a.n);
            block[l] = a.counts ? load_n(static_cast<const int16_t*>(a.x) + at, count)
                                : load_n(static_cast<const float*>(a.x) + at, count);
        }
        transpose(block);
        for (int64_t k = 0; k < count; ++k) {
            const vec mv = a.counts ? (block[k] - base) * scale : block[k];
            store(buffer + (t + k) * W, mv - shift);
        }
    }
    for (int64_t l = 0; l < lanes.used; ++l)
        for (int64_t t = t0; t < min_of(lanes.begin[l], t0 + n); ++t) buffer[(t - t0) * W + l] = 0.0f;
}

template <int S>
inline void stream_sections(const float* coefficients, float* states, float* buffer, int64_t n) {
    Sections<S> sections(coefficients, states);
    for (int64_t t = 0; t < n; ++t) store(buffer + t * W, sections.next(load(buffer + t * W)));
    sections.save(states);
}

inline void stream_filter(const FrontendStream& a, const StreamLanes& lanes, vec shift, float* states, int64_t t0, int64_t n,
                          float* buffer) {
    const float* c = a.coefficients;
    for (int64_t left = a.sections; left > 0; left -= 3) {
        switch (min_of(left, 3)) {
            case 1: stream_sections<1>(c, states, buffer, n); break;
            case 2: stream_sections<2>(c, states, buffer, n); break;
            default: stream_sections<3>(c, states, buffer, n); break;
        }
        c += 3 * 5;
        states += 3 * 2 * W;
    }
    if (!a.subtract || a.dc == 0.0f) return;
    const vec level = shift * set1(a.dc);
    for (int64_t t = 0; t < n; ++t) store(buffer + t * W, load(buffer + t * W) + level);
    for (int64_t l = 0; l < lanes.used; ++l)
        for (int64_t t = t0; t < min_of(lanes.begin[l], t0 + n); ++t) buffer[(t - t0) * W + l] = 0.0f;
}

// The outputs k, k + 1, … whose newest sample is one of the n at x, the first of which is sample t; returns the next k.
inline int64_t stream_resample(const FrontendStream& a, const float* x, int64_t t, int64_t n, int64_t k, float* y) {
    constexpr int O = n_registers / 8;
    for (const int64_t k0 = k; k < a.m;) {
        const int64_t q = a.offset + k * a.down, newest = q / a.up - t;
        if (newest >= n) break;
        const float *h = a.fir + q % a.up * a.taps, *now = x + newest * W;
        if (a.up == 1 && k + O <= a.m && newest + (O - 1) * a.down < n) {
            fir_outputs<O>(h, a.taps, a.down, now, y + (k - k0) * W, 1);
            k += O;
        } else {
            fir_outputs<1>(h, a.taps, a.down, now, y + (k - k0) * W, 1);
            ++k;
        }
    }
    return k;
}

struct StreamZ {
    wide w, mean, q;
    bool fresh;  // a lane may not have begun

    // z of y where use is 1, 0 elsewhere and where flat; `flat`: 1 where the standard deviation is below flat_std.
    vec next(vec y, vec use, double decay, float flat_std, vec& flat) {
        if (fresh) {  // the first value is the mean, exactly: a flat lead has no deviation whatever its offset
            const wide first = to_wide(select(equal(to_vec(w), zero()), use, zero()));
            mean = fma(first, to_wide(y) - mean, mean);
        }
        const wide c = to_wide(use) * wide1(1.0 - decay), a = wide1(1.0) - c, v = to_wide(y);
        w = fma(a, w, c);
        // 1 / w: a float32 division and one step of Newton's method, good to 1e-14.
        const vec near = set1(1.0f) / to_vec(w + wide1(1e-30));
        const wide r0 = to_wide(near), r = r0 * (wide1(2.0) - w * r0), d = v - mean;
        mean = fma(c * r, d, mean);
        const wide e = v - mean;
        q = fma(a, q, c * d * e);
        const vec std = sqrt(to_vec(q * r));
        const mask still = less(std, set1(flat_std));
        flat = select(still, use, zero());
        return select(still, zero(), to_vec(e) / std);
    }
};

// Outputs [k0, k0 + m) leave for their rows; flags: where flat, or null.
inline void stream_write(const FrontendStream& a, const StreamLanes& lanes, int64_t k0, int64_t m, const float* y,
                         const float* flags) {
    for (int64_t k = 0; k < m; k += W) {
        const int64_t count = min_of(W, m - k);
        vec block[W];
        for (int j = 0; j < W; ++j) block[j] = j < count ? load(y + (k + j) * W) : zero();
        transpose(block);
        for (int64_t l = 0; l < lanes.used; ++l)
            store_n(a.y + lanes.patient[l] * a.y_patient + a.y_row[lanes.row[l]] + k0 + k, block[l], count);
    }
    for (int64_t l = 0; flags && l < lanes.used; ++l) {
        uint8_t* ok = a.ok + lanes.patient[l] * a.y_patient + a.y_row[lanes.row[l]] + k0;
        for (int64_t k = 0; k < m; ++k) ok[k] &= flags[k * W + l] == 0.0f;
    }
}

inline void stream_finish(const FrontendStream& a, const StreamLanes& lanes, bool all_ok, StreamZ& z, int64_t k0, int64_t m,
                          float* y, float* flags) {
    vec any = zero();
    for (int64_t k = 0; k < m && (a.zscore || !all_ok); ++k) {
        vec use = set1(1.0f);
        if (!all_ok) {
            float u[W] = {};
            for (int64_t l = 0; l < lanes.used; ++l) u[l] = a.ok[lanes.patient[l] * a.y_patient + a.y_row[lanes.row[l]] + k0 + k];
            use = load(u);
        }
        vec flat = zero(), value = load(y + k * W);
        if (a.zscore) value = z.next(value, use, a.decay, a.flat_std, flat);
        store(y + k * W, select(less(zero(), use), value, zero()));
        store(flags + k * W, flat);
        any = max(any, flat);
    }
    stream_write(a, lanes, k0, m, y, sum(any) > 0.0f ? flags : nullptr);
}

inline void stream_begin(const FrontendStream& a, StreamLanes& lanes, uint8_t* bytes, bool& all_ok) {
    for (int64_t l = 0; l < lanes.used; ++l) {
        const int64_t at = lanes.at[l], p = lanes.patient[l], r = lanes.row[l];
        lanes.begin[l] = a.begin ? a.begin[p * a.rows + r] : 0;
        if (a.state.started[at]) {
            lanes.begin[l] = 0;
        } else if (lanes.begin[l] < a.n) {
            a.state.started[at] = 1;
            if (a.subtract) a.state.shift[at] = stream_sample(a, p, r, lanes.begin[l]);
        }
        if (!a.gap) {
            a.state.last[at] = stream_sample(a, p, r, a.n - 1);
            a.state.seen[at] = 1;
            a.state.run[at] = 0;
        }
        all_ok = stream_validity(a, p, r, at, bytes) && all_ok;
    }
}

// `depth` floats a row of the state to (time, lane) and back.
inline void stream_recall(const float* state, const StreamLanes& lanes, int64_t depth, float* buffer) {
    for (int64_t t = 0; t < depth; t += W) {
        vec block[W];
        for (int l = 0; l < W; ++l) {
            if (l >= lanes.used) {
                block[l] = zero();
                continue;
            }
            const float* from = state + lanes.at[l] * depth + t;
            prefetch(from + W * depth);  // of the lanes after these, where slots are neighbours
            block[l] = load_n(from, min_of(W, depth - t));
        }
        transpose(block);
        for (int k = 0; k < W; ++k) store(buffer + (t + k) * W, block[k]);
    }
}
inline void stream_keep(float* state, const StreamLanes& lanes, int64_t depth, const float* buffer) {
    for (int64_t t = 0; t < depth; t += W) {
        vec block[W];
        for (int k = 0; k < W; ++k) block[k] = load(buffer + min_of(t + k, depth - 1) * W);
        transpose(block);
        for (int64_t l = 0; l < lanes.used; ++l) store_n(state + lanes.at[l] * depth + t, block[l], min_of(W, depth - t));
    }
}

inline void stream_lanes(const FrontendStream& a, StreamLanes& lanes, float* scratch) {
    const int64_t depth = stream_depth(a), S2 = 2 * a.sections;
    float *states = scratch, *buffer = states + stream_whole(S2) * W, *y = buffer + (stream_whole(depth) + stream_tile + W) * W,
          *flags = y + (stream_tile_outputs(a) + W) * W;
    bool all_ok = true;
    stream_begin(a, lanes, reinterpret_cast<uint8_t*>(flags + (stream_tile_outputs(a) + W) * W), all_ok);
    float shift_of[W] = {};
    double z_of[3][W] = {};
    for (int64_t l = 0; l < lanes.used; ++l) {
        shift_of[l] = a.state.shift[lanes.at[l]];
        for (int k = 0; k < 3; ++k) z_of[k][l] = a.state.z[lanes.at[l] * 3 + k];
    }
    const vec shift = load(shift_of);
    bool fresh = false;
    for (int64_t l = 0; l < lanes.used; ++l) fresh = fresh || z_of[0][l] == 0.0;
    StreamZ z{load(z_of[0]), load(z_of[1]), load(z_of[2]), fresh};
    stream_recall(a.state.sections, lanes, S2, states);
    stream_recall(a.state.history, lanes, depth, buffer);
    int64_t k = 0;
    for (int64_t t = 0; t < a.n; t += stream_tile) {
        const int64_t n = min_of(stream_tile, a.n - t), k0 = k;
        float* now = buffer + depth * W;
        stream_read(a, lanes, shift, t, n, now);
        stream_filter(a, lanes, shift, states, t, n, now);
        if (a.up) {
            k = stream_resample(a, now, t, n, k, y);
            stream_finish(a, lanes, all_ok, z, k0, k - k0, y, flags);
            std::memmove(buffer, buffer + n * W, size_t(depth * W) * sizeof(float));
        } else {
            k += n;
            stream_finish(a, lanes, all_ok, z, k0, n, now, flags);
        }
    }
    stream_keep(a.state.sections, lanes, S2, states);
    stream_keep(a.state.history, lanes, depth, buffer);
    store(z_of[0], z.w);
    store(z_of[1], z.mean);
    store(z_of[2], z.q);
    for (int64_t l = 0; l < lanes.used; ++l)
        for (int j = 0; j < 3; ++j) a.state.z[lanes.at[l] * 3 + j] = z_of[j][l];
}

inline void frontend_stream(const FrontendStream& a, int64_t begin, int64_t end, float* scratch) {
    const FlushDenormals flush;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task * stream_patients, last = min_of(a.patients, first + stream_patients);
        StreamLanes lanes;
        for (int64_t p = first; p < last; ++p) {
            a.refused[p] = !stream_readable(a, p);
            for (int64_t r = 0; !a.refused[p] && r < a.rows; ++r) {
                lanes.patient[lanes.used] = p;
                lanes.row[lanes.used] = r;
                lanes.at[lanes.used++] = a.slots[p] * a.rows + r;
                if (lanes.used == W) {
                    stream_lanes(a, lanes, scratch);
                    lanes.used = 0;
                }
            }
        }
        if (lanes.used) stream_lanes(a, lanes, scratch);
        for (int64_t p = first; p < last; ++p)
            if (!a.refused[p]) a.state.samples[a.slots[p]] += a.n;
    }
}

}  // namespace xecg::XECG_ISA
