// One long row at a time. Equation and layouts: common/frontend.h (FrontendLong).
//
// A row is cut into tiles of the same length; W tiles side by side fill the lanes, in buffers (time, lane) that stay in L2
// however long the row is. A tile starts in the steady state of its own first sample; by how much the true state differs, d,
// follows from the tile before (float64: state' = its end + A^tile d), and C A^t d is added to its output. Sweep 1 takes the
// forward pass through the row and keeps each group's first state; sweep 2 goes from the end: forward again, backward, resample,
// write. Beyond the edge extension a row is held, which is what a steady start means, so every tile is treated alike. Cost per
// row sample: 3 passes x sections x 6 operations / W, two corrections of 2 x sections, the FIR.
#pragma once
#include "frontend.h"

namespace xecg::XECG_ISA {

struct LongStage {
    int64_t pad;
    const float *coefficients, *steady, *response;
    const double* power;
};

// Tiles of the row begin at sample -lead, a whole number of tiles before the first.
struct LongGrid {
    int64_t tile, depth, lead, per;  // per: outputs of a tile

    explicit LongGrid(const FrontendLong& a)
        : tile(a.tile), depth(a.up ? a.taps - 1 : 0), per(a.up ? a.tile / a.down * a.up : a.tile) {
        lead = (frontend_pad(a) + depth + tile - 1) / tile * tile;
    }
    int64_t groups(int64_t n, int64_t pad) const {  // the last one holds sample n + pad - 1
        return (lead + n + pad + tile * W - 1) / (tile * W);
    }
    int64_t start(int64_t group, int64_t lane) const { return (group * W + lane) * tile - lead; }
};

inline int64_t frontend_long_states(const FrontendLong& a) {
    int64_t most = 0;
    for (int s = 0; s < a.stages; ++s) most = max_of(most, 2 * a.stage_sections[s]);
    return most;
}

// Floats of scratch that one thread needs.
inline int64_t frontend_long_scratch(const FrontendLong& a) {
    const LongGrid grid(a);
    const int64_t kept = 2 * grid.groups(a.n, frontend_pad(a)) * frontend_long_states(a);
    return kept + (grid.tile + grid.depth + W) * W + (grid.per + W) * W + grid.depth + (a.stages > 1 ? a.n : 0);
}

struct LongSource {
    const void* x;
    bool counts;
    float zero, scale;
    int64_t n;

    float at(int64_t i) const {
        const float v = counts ? float(static_cast<const int16_t*>(x)[i]) : static_cast<const float*>(x)[i];
        return (v - zero) * scale;
    }
    // Oddly extended by `pad`, then held.
    float extended(int64_t p, int64_t pad) const {
        p = max_of(-pad, min_of(n - 1 + pad, p));
        if (p < 0) return 2.0f * at(0) - at(-p);
        return p < n ? at(p) : 2.0f * at(n - 1) - at(2 * (n - 1) - p);
    }
    vec load_at(int64_t i, int64_t count) const {
        return counts ? load_n(static_cast<const int16_t*>(x) + i, count) : load_n(static_cast<const float*>(x) + i, count);
    }
};

// extend: 0 outside the row without it.
inline void long_read(const LongSource& source, const LongGrid& grid, int64_t group, int64_t pad, bool extend, float* buffer) {
    if (grid.start(group, 0) < 0 || grid.start(group, W) > source.n) {
        for (int64_t l = 0; l < W; ++l)
            for (int64_t t = 0; t < grid.tile; ++t) {
                const int64_t p = grid.start(group, l) + t;
                const bool inside = p >= 0 && p < source.n;
                buffer[t * W + l] = inside ? source.at(p) : extend ? source.extended(p, pad) : 0.0f;
            }
        return;
    }
    const vec shift = set1(source.zero), scale = set1(source.scale);
    for (int64_t t = 0; t < grid.tile; t += W) {
        const int64_t count = min_of(W, grid.tile - t);
        vec block[W];
        for (int l = 0; l < W; ++l) block[l] = source.load_at(grid.start(group, l) + t, count);
        transpose(block);
        for (int64_t k = 0; k < count; ++k) store(buffer + (t + k) * W, (block[k] - shift) * scale);
    }
}

// How far the true state of each lane's start is from the steady one it took.
template <int S>
struct LongOffsets {
    float of[2 * S][W];

    // Lanes in time order, from `first` in steps of `step`; `ends` (S, 2, W) as `save` leaves them; state: true, of the first
    // lane on entry, after the last one on return.
    void follow(const LongStage& stage, const float* level, const float* ends, int first, int step, double* state) {
        for (int count = 0, l = first; count < W; ++count, l += step) {
            double d[2 * S];
            for (int j = 0; j < 2 * S; ++j) {
                d[j] = state[j] - double(stage.steady[j] * level[l]);
                of[j][l] = float(d[j]);
            }
            for (int i = 0; i < 2 * S; ++i) {
                double next = double(ends[i * W + l]);
                for (int j = 0; j < 2 * S; ++j) next += stage.power[i * 2 * S + j] * d[j];
                state[i] = next;
            }
        }
    }
};

template <int S>
inline vec long_correct(const float* response, const LongOffsets<S>& d, vec y) {
    for (int j = 0; j < 2 * S; ++j) y = fma(set1(response[j]), load(d.of[j]), y);
    return y;
}

template <int S>
inline LongOffsets<S> long_forward(const LongStage& stage, int64_t tile, bool keep, float* buffer, double* state) {
    float level[W], ends[2 * S * W];
    store(level, load(buffer));
    Sections<S> sections(stage.coefficients, stage.steady, load(level));
    if (keep)
        for (int64_t t = 0; t < tile; ++t) store(buffer + t * W, sections.next(load(buffer + t * W)));
    else
        for (int64_t t = 0; t < tile; ++t) sections.next(load(buffer + t * W));
    sections.save(ends);
    LongOffsets<S> d;
    d.follow(stage, level, ends, 0, 1, state);
    return d;
}

// The row's filtered samples of one group over those of its forward pass; state: of the backward pass, after the group on entry.
template <int S>
inline void long_backward(const LongStage& stage, int64_t tile, const LongOffsets<S>& forward, vec dc, float* buffer,
                          double* state) {
    constexpr int S2 = 2 * S;
    float level[W], ends[S2 * W];
    store(level, long_correct<S>(stage.response + (tile - 1) * S2, forward, load(buffer + (tile - 1) * W)));
    Sections<S> sections(stage.coefficients, stage.steady, load(level));
    for (int64_t t = tile - 1; t >= 0; --t)
        store(buffer + t * W, sections.next(long_correct<S>(stage.response + t * S2, forward, load(buffer + t * W))));
    sections.save(ends);
    LongOffsets<S> d;
    d.follow(stage, level, ends, W - 1, -1, state);
    for (int64_t t = 0; t < tile; ++t)
        store(buffer + t * W, long_correct<S>(stage.response + (tile - 1 - t) * S2, d, load(buffer + t * W) + dc));
}

// Last group: samples after the extension hold its last one. Returns that one.
template <int S>
inline float long_hold(const LongStage& stage, const LongGrid& grid, int64_t group, int64_t last, LongOffsets<S>& d,
                       float* buffer) {
    for (int64_t t = 0; t < grid.tile; ++t)
        store(buffer + t * W, long_correct<S>(stage.response + t * 2 * S, d, load(buffer + t * W)));
    d = LongOffsets<S>{};
    const int64_t at = last - grid.start(group, 0);
    const float held = buffer[at % grid.tile * W + at / grid.tile];
    for (int64_t p = at + 1; p < W * grid.tile; ++p) buffer[p % grid.tile * W + p / grid.tile] = held;
    return held;
}

inline void long_clear_outside(const LongGrid& grid, int64_t group, int64_t n, float* buffer) {
    const int64_t first = grid.start(group, 0);
    for (int64_t p = 0; p < W * grid.tile; ++p) {
        if (first + p >= 0 && first + p < n) continue;
        buffer[p % grid.tile * W + p / grid.tile] = 0.0f;
    }
}

// Lane l's row of `count` values goes to y[at + l * step ...], as far as it lies inside [0, m).
inline void long_write(const float* buffer, int64_t count, int64_t at, int64_t step, int64_t m, float* y) {
    for (int64_t t = 0; t < count; t += W) {
        vec block[W];
        for (int k = 0; k < W; ++k) block[k] = load(buffer + min_of(t + k, count - 1) * W);
        transpose(block);
        for (int l = 0; l < W; ++l) {
            const int64_t first = at + l * step + t, last = min_of(first + min_of(W, count - t), m);
            if (first >= 0) {
                if (first < last) store_n(y + first, block[l], last - first);
                continue;
            }
            float part[W];
            store(part, block[l]);
            for (int64_t k = 0; k < last; ++k) y[k] = part[k - first];
        }
    }
}

struct LongBuffers {
    double* kept;
    float *buffer, *sampled, *halo, *work;

    LongBuffers(const FrontendLong& a, const LongGrid& grid, float* scratch) : kept(reinterpret_cast<double*>(scratch)) {
        buffer = scratch + 2 * grid.groups(a.n, frontend_pad(a)) * frontend_long_states(a);
        sampled = buffer + (grid.tile + grid.depth + W) * W;
        halo = sampled + (grid.per + W) * W;
        work = halo + grid.depth;
    }
};

// Filtered samples of a group leave for the row: resampled, each output with the tile that holds the oldest sample it reads.
inline void long_leave(const FrontendLong& a, const LongGrid& grid, const LongBuffers& b, int64_t group, float* y) {
    const int64_t first = grid.start(group, 0);
    if (!a.up) return long_write(b.buffer, grid.tile, first, grid.tile, a.n, y);
    for (int64_t k = 0; k < grid.depth; ++k) {  // the samples after a lane's tile are the first of the next lane's
        float *after = b.buffer + (grid.tile + k) * W, *now = b.buffer + k * W;
        std::memcpy(after, now + 1, size_t(W - 1) * sizeof(float));
        after[W - 1] = b.halo[k];
        b.halo[k] = now[0];
    }
    const int64_t k0 = (grid.depth * a.up - a.half + a.down - 1) / a.down;
    frontend_fir(a, k0, k0 + grid.per, b.buffer, b.sampled);
    long_write(b.sampled, grid.per, first / a.down * a.up + k0, grid.per, a.m, y);
}

template <int S>
inline void long_stage(const FrontendLong& a, const LongGrid& grid, const LongStage& stage, const LongSource& source,
                       const LongBuffers& b, bool last, float dc) {
    const int64_t groups = grid.groups(a.n, stage.pad);
    double state[2 * S];
    for (int64_t g = 0; g < groups; ++g) {
        if (g == 0)
            for (int j = 0; j < 2 * S; ++j) state[j] = double(stage.steady[j]) * double(source.extended(-stage.pad, stage.pad));
        std::memcpy(b.kept + g * 2 * S, state, sizeof state);
        if (g + 1 == groups) break;
        long_read(source, grid, g, stage.pad, true, b.buffer);
        long_forward<S>(stage, grid.tile, false, b.buffer, state);
    }
    float* y = last ? a.y : b.work;
    for (int64_t g = groups - 1; g >= 0; --g) {
        long_read(source, grid, g, stage.pad, true, b.buffer);
        double forward[2 * S];
        std::memcpy(forward, b.kept + g * 2 * S, sizeof forward);
        LongOffsets<S> d = long_forward<S>(stage, grid.tile, true, b.buffer, forward);
        if (g + 1 == groups) {
            const float held = long_hold<S>(stage, grid, g, a.n + stage.pad - 1, d, b.buffer);
            for (int j = 0; j < 2 * S; ++j) state[j] = double(stage.steady[j]) * double(held);
        }
        long_backward<S>(stage, grid.tile, d, set1(dc), b.buffer, state);
        if (!last) {
            long_write(b.buffer, grid.tile, grid.start(g, 0), grid.tile, a.n, y);
            continue;
        }
        if (grid.start(g, 0) < 0 || grid.start(g, W) > a.n) long_clear_outside(grid, g, a.n, b.buffer);
        long_leave(a, grid, b, g, y);
    }
}

// z-score of one row in place; sums of d = y - y_0 in float64. Returns GOOD, FLAT or BROKEN of common/frontend.h.
inline uint8_t long_normalise(const FrontendLong& a, float* y) {
    vec trace = zero();
    const vec start = set1(y[0]);
    wide total = wide1(0.0), squares = wide1(0.0);
    for (int64_t t = 0; t < a.m; t += W) {
        const int64_t count = min_of(W, a.m - t);
        const vec v = load_n(y + t, count), d = select(first_lanes(count), v - start, zero());
        trace = trace + (v - v);
        total = total + to_wide(d);
        squares = fma(to_wide(d), to_wide(d), squares);
    }
    if (sum(trace) != 0.0f) return 2;
    if (!a.zscore) return 0;
    double parts[2][W], mean = 0.0, variance = 0.0;
    store(parts[0], total);
    store(parts[1], squares);
    for (int l = 0; l < W; ++l) mean += parts[0][l], variance += parts[1][l];
    mean /= double(a.m);
    variance = variance / double(a.m) - mean * mean;
    const float std = variance > 0.0 ? __builtin_sqrtf(float(variance)) : 0.0f;
    const bool flat = std < a.flat_std;
    const vec centre = set1(float(mean)), factor = set1(flat ? 0.0f : 1.0f / std);
    for (int64_t t = 0; t < a.m; t += W) {
        const int64_t count = min_of(W, a.m - t);
        store_n(y + t, ((load_n(y + t, count) - start) - centre) * factor, count);
    }
    return flat ? 1 : 0;
}

inline void long_row(FrontendLong a, int64_t row, float* scratch) {
    const LongGrid grid(a);
    const LongBuffers b(a, grid, scratch);
    LongSource source{a.counts ? static_cast<const void*>(static_cast<const int16_t*>(a.x) + a.x_at[row])
                               : static_cast<const void*>(static_cast<const float*>(a.x) + a.x_at[row]),
                      a.counts, a.counts ? a.baseline[row] : 0.0f, a.counts ? a.mv_per_count[row] : 1.0f, a.n};
    const float start = source.at(0);
    if (a.stages) source.zero = a.counts ? float(static_cast<const int16_t*>(source.x)[0]) : start;
    a.y += a.y_at[row];
    std::memset(b.halo, 0, size_t(grid.depth) * sizeof(float));
    LongStage stage{0, a.coefficients, a.steady, a.response, a.power};
    for (int s = 0; s < a.stages; ++s) {
        const int S = a.stage_sections[s];
        const bool last = s + 1 == a.stages;
        const float dc = last ? start * a.dc : 0.0f;
        stage.pad = a.stage_pad[s];
        switch (S) {
            case 1: long_stage<1>(a, grid, stage, source, b, last, dc); break;
            case 2: long_stage<2>(a, grid, stage, source, b, last, dc); break;
            case 3: long_stage<3>(a, grid, stage, source, b, last, dc); break;
            case 4: long_stage<4>(a, grid, stage, source, b, last, dc); break;
            case 5: long_stage<5>(a, grid, stage, source, b, last, dc); break;
            default: long_stage<6>(a, grid, stage, source, b, last, dc); break;
        }
        stage.coefficients += 5 * S;
        stage.steady += 2 * S;
        stage.response += a.tile * 2 * S;
        stage.power += 4 * S * S;
        source = LongSource{b.work, false, 0.0f, 1.0f, a.n};
    }
    for (int64_t g = a.stages ? -1 : grid.groups(a.n, 0) - 1; g >= 0; --g) {
        long_read(source, grid, g, 0, false, b.buffer);
        long_leave(a, grid, b, g, a.y);
    }
    a.state[row] = long_normalise(a, a.y);
}

// A task is a row.
inline void frontend_long(const FrontendLong& a, int64_t begin, int64_t end, float* scratch) {
    const FlushDenormals flush;
    for (int64_t row = begin; row < end; ++row) long_row(a, row, scratch);
}

}  // namespace xecg::XECG_ISA
