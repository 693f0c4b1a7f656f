// Offline front end on a GPU, a block a row that stays in shared memory: equation in ../common/frontend.h. A sample is read once
// and an output written once: 2 n + 4 m bytes a row of counts.
//
// Sections are recurrences; their threads take stretches of the row side by side. A stretch first starts without a state and
// gives the state e at its end, J = 16 samples at once:  e <- e + (A^J - 1) e + sum_u A^(J-1-u) B x_u.  The states at the
// stretches' starts follow by a scan, s_t = e_t + A^stretch s_(t-1) in log2(threads) rounds with the powers of A, and the
// sections run through the stretch in the form of ../cpu/frontend.h. The same from the row's end. An FIR thread makes O outputs
// of one phase, whose samples slide through registers. A stretch and O are odd, so that the threads' samples lie in different
// banks. Instructions, not bytes, are what it waits for: docs/GPU.md counts them.
#pragma once
#include <math.h>

#include "frontend.cuh"

namespace xecg {
namespace cuda {

constexpr int row_jump = 16, row_powers = 8, row_most_threads = 1 << row_powers, row_most_stages = 4;
constexpr int row_most_outputs = 17, row_few_outputs = 9;  // O
constexpr int row_thread_samples = 80;                     // fewer: more rounds of the scan a sample; more: fewer warps

// Floats of a stage's tables: coefficients (S, 5), steady (S, 2), A^J - 1 (2S, 2S), A^(J-1-u) B (2S, J),
// A^(stretch 2^k) (8, 2S, 2S).
constexpr int row_table_floats(int S) { return 7 * S + 4 * S * S + 2 * S * row_jump + row_powers * 4 * S * S; }

XECG_HOST_DEVICE constexpr int min_int(int a, int b) { return a < b ? a : b; }
XECG_HOST_DEVICE constexpr int max_int(int a, int b) { return a < b ? b : a; }

struct alignas(8) FourCounts {
    int16_t v[4];
};

// Places of a row of n samples in floats: a sum a warp, x from `first` on, `after` more, then the scan and in its room the
// outputs.
struct RowPlan {
    int n, first, after, threads, stretch, room;

    XECG_HOST_DEVICE int room_at() const { return first + n + after; }
    XECG_HOST_DEVICE int64_t bytes() const { return 4 * (int64_t(room_at()) + room); }
};

// Taps of a phase in the order in which they are met: (min(down, taps), row_deep), tap r + down q at (r, q), zero after the last.
XECG_HOST_DEVICE inline int row_deep(const Frontend& a) { return int((a.taps + a.down - 1) / a.down); }

// Sizes fit ints: a row in shared memory is short. pad, S: the longest edge extension, the most sections of a stage.
XECG_HOST_DEVICE inline RowPlan row_plan(const Frontend& a, int pad, int S) {
    RowPlan p{int(a.n), pad, pad, 0, 0, 0};
    const int all = p.n + 2 * pad, warps = (all + 32 * row_thread_samples - 1) / (32 * row_thread_samples);
    p.threads = 32 * min_int(warps, row_most_threads / 32);
    p.stretch = ((all + p.threads - 1) / p.threads + row_jump - 2) / row_jump * row_jump + 1;
    p.room = 4 * S * p.threads;
    if (a.up) {
        // Of few outputs a group reads the samples that those which there are not would need.
        const int64_t last = (a.m < row_most_outputs * a.up ? row_most_outputs * a.up : a.m) - 1;
        p.first = max_int(pad, min_int(int(a.down), int(a.taps)) - 1 + (row_deep(a) - 1) * int(a.down) - int(a.half / a.up));
        p.after = max_int(pad, int((last * a.down + a.half) / a.up + 1 - a.n));
        p.room = max_int(p.room, int(a.m));
    }
    p.first = row_most_threads / 32 + (p.first + 3) / 4 * 4;
    return p;
}

template <int S>
struct RowTable {
    const float* of;
    XECG_HOST_DEVICE float steady(int j) const { return of[5 * S + j]; }
    XECG_HOST_DEVICE float jump(int i, int j) const { return of[7 * S + 2 * S * i + j]; }
    XECG_HOST_DEVICE float enter(int i, int u) const { return of[7 * S + 4 * S * S + row_jump * i + u]; }
    XECG_HOST_DEVICE float power(int k, int i, int j) const {
        return of[7 * S + 4 * S * S + 2 * S * row_jump + 4 * S * S * k + 2 * S * i + j];
    }
};

// State at the end of 1 + J blocks samples, `step` places apart, that begin without one. A section's states depend on those
// before it and its own alone: j <= (i | 1).
template <int S>
XECG_DEVICE inline void row_end(const RowTable<S>& t, const float* x, int step, int blocks, float (&e)[2 * S]) {
    XECG_DEVICE_UNROLL
    for (int i = 0; i < 2 * S; ++i) e[i] = t.enter(i, row_jump - 1) * x[0];
    x += step;
    for (int b = 0; b < blocks; ++b, x += row_jump * step) {
        float more[2 * S];
        XECG_DEVICE_UNROLL
        for (int i = 0; i < 2 * S; ++i) {
            more[i] = t.jump(i, 0) * e[0];
            XECG_DEVICE_UNROLL
            for (int j = 1; j <= (i | 1); ++j) more[i] = fmaf(t.jump(i, j), e[j], more[i]);
        }
        XECG_DEVICE_UNROLL
        for (int u = 0; u < row_jump; ++u) {
            const float v = x[u * step];
            XECG_DEVICE_UNROLL
            for (int i = 0; i < 2 * S; ++i) more[i] = fmaf(t.enter(i, u), v, more[i]);
        }
        XECG_DEVICE_UNROLL
        for (int i = 0; i < 2 * S; ++i) e[i] += more[i];
    }
}

template <int S>
XECG_DEVICE inline void row_follow(const RowTable<S>& t, int k, const float* before, int apart, float (&e)[2 * S]) {
    float s[2 * S];
    XECG_DEVICE_UNROLL
    for (int j = 0; j < 2 * S; ++j) s[j] = before[j * apart];
    XECG_DEVICE_UNROLL
    for (int i = 0; i < 2 * S; ++i) {
        XECG_DEVICE_UNROLL
        for (int j = 0; j <= (i | 1); ++j) e[i] = fmaf(t.power(k, i, j), s[j], e[i]);
    }
}

// e: from the state at the end of each thread's own stretch to that at its start. `level`: the row starts in the steady state of
// a constant input of that size. room: (2, 2S, threads).
template <int S, class Thread>
XECG_DEVICE inline void row_scan(Thread& thread, const RowTable<S>& t, float level, float* room, float (&e)[2 * S]) {
    const int at = thread.index(), count = thread.count();
    float first[2 * S];
    XECG_DEVICE_UNROLL
    for (int j = 0; j < 2 * S; ++j) first[j] = t.steady(j) * level;
    if (at == 0) row_follow<S>(t, 0, first, 1, e);
    float* now = room;
    XECG_DEVICE_UNROLL
    for (int k = 0; k <= row_powers; ++k) {
        const int reach = 1 << k;
        now = room + k % 2 * 2 * S * count;
        XECG_DEVICE_UNROLL
        for (int j = 0; j < 2 * S; ++j) now[j * count + at] = e[j];
        thread.barrier();
        if (reach >= count || k == row_powers) break;
        if (at >= reach) row_follow<S>(t, k, now + at - reach, count, e);
    }
    XECG_DEVICE_UNROLL
    for (int j = 0; j < 2 * S; ++j) e[j] = at ? now[j * count + at - 1] : first[j];
}

// A band-pass of three sections as scipy orders them has numerators g (1, 2, 1), (1, 0, -1), (1, -2, 1), in delta form g (1, 4,
// 4), (1, 2, 0), (1, 0, 0): 14 instructions a sample instead of 18.
inline bool row_band(const float* coefficients, int S) {
    const auto c = [&](int k, int j) { return coefficients[5 * k + j]; };
    return S == 3 && c(0, 1) == c(0, 2) && c(1, 0) == 1.0f && c(1, 2) == 0.0f && c(2, 0) == 1.0f && c(2, 1) == 0.0f &&
           c(2, 2) == 0.0f;
}

XECG_DEVICE inline float row_band_next(const float* c, float (&s)[6], float v) {
    float more = fmaf(c[1], v, s[1]), y = fmaf(c[0], v, s[0]);
    s[0] = fmaf(-c[3], y, s[0] + more);
    s[1] = fmaf(-c[4], y, more);
    more = fmaf(c[6], y, s[3]), v = y + s[2];
    s[2] = fmaf(-c[8], v, s[2] + more);
    s[3] = fmaf(-c[9], v, s[3]);
    y = v + s[4];
    s[4] = fmaf(-c[13], y, s[4] + s[5]);
    s[5] = fmaf(-c[14], y, s[5]);
    return y;
}

template <int S, bool band>
XECG_DEVICE inline void row_run(const RowTable<S>& t, float* x, int step, int count, float (&e)[2 * S]) {
    FrontendSections<S> sections(t.of, e);
#ifdef __CUDACC__
#pragma unroll 4
#endif
    for (int k = 0; k < count; ++k) {
        if constexpr (band)
            x[k * step] = row_band_next(t.of, e, x[k * step]);
        else
            x[k * step] = sections.next(x[k * step]);
    }
}

// One pass of a stage over `total` samples from `from` on, each `step` places from the last.
template <int S, bool band, class Thread>
XECG_DEVICE inline void row_pass(Thread& thread, const RowPlan& p, const RowTable<S>& t, float* from, int step, int total,
                                 float* room) {
    const int start = thread.index() * p.stretch, count = min_int(p.stretch, total - start);
    float* mine = from + start * step;
    float e[2 * S] = {};
    if (count == p.stretch) row_end<S>(t, mine, step, p.stretch / row_jump, e);
    row_scan<S>(thread, t, *from, room, e);
    row_run<S, band>(t, mine, step, count, e);
    thread.barrier();
}

// sosfiltfilt of the n samples at x.
template <int S, bool band, class Thread>
XECG_DEVICE inline void row_stage(Thread& thread, const RowPlan& p, const float* table, int pad, float* x, float* room) {
    const float first = x[0], last = x[p.n - 1];
    for (int k = 1 + thread.index(); k <= pad; k += thread.count()) {
        x[-k] = first + first - x[k];
        x[p.n - 1 + k] = last + last - x[p.n - 1 - k];
    }
    thread.barrier();
    const RowTable<S> t{table};
    const int total = p.n + 2 * pad;
    row_pass<S, band>(thread, p, t, x - pad, 1, total, room);
    row_pass<S, band>(thread, p, t, x + p.n - 1 + pad, -1, total, room);
}

// Outputs phase + up (first + o), those before `from` are another group's. taps: (up, min(down, taps), row_deep).
template <int O>
XECG_DEVICE inline void row_fir(const Frontend& a, const float* taps, int phase, int group, const float* x, float* y) {
    const int up = int(a.up), down = int(a.down), wide = min_int(down, int(a.taps)), deep = row_deep(a);
    const int count = (int(a.m) - phase + up - 1) / up, from = group * O, first = max_int(0, min_int(from, count - O));
    const int at = (phase + up * first) * down + int(a.half);  // 32 bits: `down` has 12, a row 16
    const float* h = taps + at % up * wide * deep;
    x += at / up;
    float sum[O] = {};
    for (int r = 0; r < wide; ++r, --x, h += deep) {
        float window[O];  // of the sample o places of `down` from x: window[o % O]
        XECG_DEVICE_UNROLL
        for (int o = 1; o < O; ++o) window[o] = x[o * down];
        const float* now = x;
        const auto tap = [&](int q, int u) {
            window[(O - u) % O] = *now;
            const float by = h[q + u];
            XECG_DEVICE_UNROLL
            for (int o = 0; o < O; ++o) sum[o] = fmaf(by, window[(o - u + O) % O], sum[o]);
            now -= down;
        };
        int q = 0;
        for (; q + O <= deep; q += O) {
            XECG_DEVICE_UNROLL
            for (int u = 0; u < O; ++u) tap(q, u);
        }
        XECG_DEVICE_UNROLL
        for (int u = 0; u < O - 1; ++u) {
            if (q + u >= deep) break;
            tap(q, u);
        }
    }
    XECG_DEVICE_UNROLL
    for (int o = 0; o < O; ++o)
        if (first + o >= from && first + o < count) y[phase + up * (first + o)] = sum[o];
}

// Groups of O outputs of a phase that has the most of them.
XECG_HOST_DEVICE inline int row_groups(const Frontend& a, int O) { return int((a.m + a.up * O - 1) / (a.up * O)); }

template <int O, class Thread>
XECG_DEVICE inline void row_resample(Thread& thread, const Frontend& a, const float* taps, const float* x, float* y) {
    const int up = int(a.up), groups = row_groups(a, O);
    for (int k = thread.index(); k < groups * up; k += thread.count()) {
        const int phase = k / groups;
        if (k % groups * O < (int(a.m) - phase + up - 1) / up) row_fir<O>(a, taps, phase, k % groups, x, y);
    }
}

// Sum over the block in a fixed order, known to every thread. room: a float a warp.
template <class Thread>
XECG_DEVICE inline float row_sum(Thread& thread, float v, float* room) {
    XECG_DEVICE_UNROLL
    for (int bits = 1; bits < 32; bits *= 2) v += bits_as<float>(thread.swap(bits_as<uint32_t>(v), bits));
    if (thread.index() % 32 == 0) room[thread.index() / 32] = v;
    thread.barrier();
    float total = 0.0f;
    for (int w = 0; w < thread.count() / 32; ++w) total += room[w];
    thread.barrier();
    return total;
}

// The row's counts or mV, less `shift` and scaled. Four at once where they lie so.
template <class Thread>
XECG_DEVICE inline void row_read(Thread& thread, const Frontend& a, const FrontendRow& row, int64_t from, float* x) {
    const int n = int(a.n);
    int done = 0;
    if (a.counts) {
        const int16_t* counts = static_cast<const int16_t*>(a.x) + from;
        if (reinterpret_cast<uintptr_t>(counts) % sizeof(FourCounts) == 0) {
            for (int k = thread.index(); k < n / 4; k += thread.count()) {
                const FourCounts four = reinterpret_cast<const FourCounts*>(counts)[k];
                Quad to;
                XECG_DEVICE_UNROLL
                for (int u = 0; u < 4; ++u) to.v[u] = (float(four.v[u]) - row.shift) * row.scale;
                reinterpret_cast<Quad*>(x)[k] = to;
            }
            done = n / 4 * 4;
        }
        for (int k = done + thread.index(); k < n; k += thread.count()) x[k] = (float(counts[k]) - row.shift) * row.scale;
        return;
    }
    const float* mv = static_cast<const float*>(a.x) + from;
    if (reinterpret_cast<uintptr_t>(mv) % sizeof(Quad) == 0) {
        for (int k = thread.index(); k < n / 4; k += thread.count()) {
            Quad four = reinterpret_cast<const Quad*>(mv)[k];
            XECG_DEVICE_UNROLL
            for (int u = 0; u < 4; ++u) four.v[u] -= row.shift;
            reinterpret_cast<Quad*>(x)[k] = four;
        }
        done = n / 4 * 4;
    }
    for (int k = done + thread.index(); k < n; k += thread.count()) x[k] = mv[k] - row.shift;
}

// The whole row, z-scores and state, from where it lies in shared memory.
template <class Thread>
XECG_DEVICE inline void row_write(Thread& thread, const Frontend& a, int64_t row, const float* y, float* room) {
    const int m = int(a.m);
    float start = 0.0f, mean = 0.0f, factor = 1.0f, trace = 0.0f;
    bool flat = false;
    if (a.zscore) {
        start = y[0];
        float sum = 0.0f, squares = 0.0f;
        for (int k = thread.index(); k < m; k += thread.count()) sum += y[k] - start;
        mean = row_sum(thread, sum, room) / float(m);
        for (int k = thread.index(); k < m; k += thread.count()) {
            const float d = (y[k] - start) - mean;
            squares = fmaf(d, d, squares);
        }
        const float std = sqrtf(row_sum(thread, squares, room) / float(m));
        flat = std < a.flat_std;
        factor = flat ? 0.0f : 1.0f / std;
    }
    float* out = a.y + a.y_at[row];
    for (int k = thread.index(); k < m; k += thread.count()) {
        const float v = a.zscore ? ((y[k] - start) - mean) * factor : y[k];
        trace += v - v;
        out[k] = v;
    }
    trace = row_sum(thread, trace, room);
    if (thread.index() == 0) a.state[row] = trace != trace ? 2 : uint8_t(flat);
}

// most: sections of a stage at most. one: there is one stage, whose tables then are operands of the instructions. band: it is as
// row_band says.
template <int most, bool one, bool band>
struct FrontendRows {
    static constexpr int blocks = 1, max_threads = row_most_threads, most_stages = one ? 1 : row_most_stages;
    static constexpr int resident = most > 3 ? 1 : 2;  // blocks of the most threads that a multiprocessor's registers must hold
    Frontend a;
    RowPlan plan;
    const float* taps;
    int sections[most_stages], pads[most_stages];
    float tables[most_stages][row_table_floats(most)];

    template <class Thread>
    XECG_DEVICE void operator()(Thread& thread) const {
        const int64_t row = thread.tile();
        float *const sums = static_cast<float*>(thread.shared()), *const x = sums + plan.first,
                     *const room = sums + plan.room_at();
        const FrontendRow given(a, row, x, x);
        const int here = thread.index(), apart = thread.count();
        row_read(thread, a, given, a.x_at[row], x);
        thread.barrier();
        if constexpr (one)
            stage(thread, 0, x, room);
        else
            for (int s = 0; s < a.stages; ++s) stage(thread, s, x, room);
        if (a.stages && a.dc != 0.0f) {
            for (int k = here; k < plan.n; k += apart) x[k] = x[k] + given.start * a.dc;
            thread.barrier();
        }
        if (!a.up) return row_write(thread, a, row, x, sums);
        for (int k = row_most_threads / 32 + here; k < plan.first; k += apart) sums[k] = 0.0f;
        for (int k = here; k < plan.after; k += apart) x[plan.n + k] = 0.0f;
        thread.barrier();
        if (row_rounds<row_most_outputs>(apart) <= row_rounds<row_few_outputs>(apart))
            row_resample<row_most_outputs>(thread, a, taps, x, room);
        else
            row_resample<row_few_outputs>(thread, a, taps, x, room);
        thread.barrier();
        row_write(thread, a, row, room, sums);
    }

  private:
    // Outputs that the busiest thread makes.
    template <int O>
    XECG_DEVICE int row_rounds(int threads) const {
        return (row_groups(a, O) * int(a.up) + threads - 1) / threads * O;
    }
    template <class Thread>
    XECG_DEVICE void stage(Thread& thread, int s, float* x, float* room) const {
        if constexpr (band) return row_stage<3, true>(thread, plan, tables[s], pads[s], x, room);
        switch (sections[s]) {
            case 1: return row_stage<1, false>(thread, plan, tables[s], pads[s], x, room);
            case 2: return row_stage<2, false>(thread, plan, tables[s], pads[s], x, room);
            case 3: return row_stage<3, false>(thread, plan, tables[s], pads[s], x, room);
        }
        if constexpr (most > 3) {
            switch (sections[s]) {
                case 4: return row_stage<4, false>(thread, plan, tables[s], pads[s], x, room);
                case 5: return row_stage<5, false>(thread, plan, tables[s], pads[s], x, room);
                case 6: return row_stage<6, false>(thread, plan, tables[s], pads[s], x, room);
            }
        }
    }
};

// What rows take beside Frontend's arguments: sections, pads (stages) and the stages' tables one after the other on the host;
// taps of the resampler, as row_fir takes them, on the device.
struct FrontendRowStages {
    const int *sections, *pads;
    const float *tables, *taps;
};

inline int row_most(const int* of, int stages) {
    int most = 0;
    for (int s = 0; s < stages; ++s) most = max_int(most, of[s]);
    return most;
}

// `Launcher` has `int operator()(const Body&, int64_t rows, const RowPlan&)`; returns what that does, 0 for nothing to do.
template <int most, bool one, bool band, class Launcher>
int frontend_rows(const Frontend& a, const FrontendRowStages& stages, Launcher& launch) {
    FrontendRows<most, one, band> body{};
    body.a = a;
    body.taps = stages.taps;
    body.plan = row_plan(a, row_most(stages.pads, a.stages), row_most(stages.sections, a.stages));
    const float* table = stages.tables;
    for (int s = 0; s < a.stages; ++s) {
        body.sections[s] = stages.sections[s], body.pads[s] = stages.pads[s];
        const int size = row_table_floats(stages.sections[s]);
        memcpy(body.tables[s], table, sizeof(float) * size_t(size));
        table += size;
    }
    return launch(body, a.rows, body.plan);
}

template <class Launcher>
int frontend_rows(const Frontend& a, const FrontendRowStages& stages, Launcher& launch) {
    if (a.rows == 0) return 0;
    const bool small = row_most(stages.sections, a.stages) <= 3;
    if (a.stages != 1)
        return small ? frontend_rows<3, false, false>(a, stages, launch) : frontend_rows<6, false, false>(a, stages, launch);
    if (row_band(stages.tables, stages.sections[0])) return frontend_rows<3, true, true>(a, stages, launch);
    return small ? frontend_rows<3, true, false>(a, stages, launch) : frontend_rows<6, true, false>(a, stages, launch);
}

}  // namespace cuda
}  // namespace xecg
