// Norm with skip and gate, forward and backward. Equation and layouts: common/norm.h.
//
// A head's row is read once from memory: mean, variance (about the mean, so an offset costs no digits) and result are three
// passes over L1, the last of which asks for the next row (hardware prefetchers stop at a page, the size of a row of 1024). A
// row's bits depend on its own inputs only. Cost: 1 read and 1 write, and 1 more read for each of skip and gate; backward 2 reads
// and 1 write, and 1 more of each for skip and gate. Forward: a task is a row. Backward: a task is a chunk of rows, which also
// sums its part of the weights' gradients; a second kernel adds the parts in order, one task a block of columns, so no sum
// depends on threads.
#pragma once
#include "../common/norm.h"
#include "math.h"

namespace xecg::XECG_ISA {

struct Moments {
    vec mean, scale;  // scale = 1 / sqrt(var + eps)
};

template <class T>
inline void norm_ask_for(const T* row, int64_t n) {
    for (int64_t k = 0; k < n; k += int64_t(64 / sizeof(T))) prefetch(row + k);
}

template <class T>
inline Moments moments_of(const T* x, int64_t D, float eps) {
    vec a[4] = {zero(), zero(), zero(), zero()};
    int64_t k = 0;
    for (; k + 4 * W <= D; k += 4 * W) XECG_UNROLL for (int j = 0; j < 4; ++j) a[j] = a[j] + load(x + k + j * W);
    for (; k < D; k += W) a[0] = a[0] + load_n(x + k, min_of(W, D - k));
    const vec mean = set1(sum((a[0] + a[1]) + (a[2] + a[3])) / float(D));
    for (vec& part : a) part = zero();
    for (k = 0; k + 4 * W <= D; k += 4 * W) XECG_UNROLL for (int j = 0; j < 4; ++j) {
            const vec d = load(x + k + j * W) - mean;
            a[j] = fma(d, d, a[j]);
        }
    for (; k < D; k += W) {
        const int64_t n = min_of(W, D - k);
        const vec d = select(first_lanes(n), load_n(x + k, n) - mean, zero());
        a[0] = fma(d, d, a[0]);
    }
    const float var = sum((a[0] + a[1]) + (a[2] + a[3])) / float(D);
    return {mean, set1(1.0f) / sqrt(set1(var + eps))};
}

// One head of one row: pointers to its features, null where the argument is absent.
template <class T, class R>
struct NormSpan {
    const T *x, *gate;
    const R* skip;
    const float *weight, *skip_weight;

    NormSpan(const NormForward& a, int64_t row, int64_t head) {
        const int64_t first = head * a.shape.D;
        x = static_cast<const T*>(a.x) + row * a.x_r + head * a.x_h;
        gate = a.gate ? static_cast<const T*>(a.gate) + row * a.gate_r + first : nullptr;
        skip = a.skip ? static_cast<const R*>(a.skip) + row * a.skip_r + first : nullptr;
        weight = a.weight + first;
        skip_weight = a.skip_weight ? a.skip_weight + first : nullptr;
    }
    template <bool whole>
    vec unit(const Moments& m, int64_t k, int64_t n) const {
        return (get<whole>(x + k, n) - m.mean) * m.scale;
    }
    template <bool whole>
    vec skipped(int64_t k, int64_t n) const {
        const vec s = get<whole>(skip + k, n);
        return skip_weight ? s * get<whole>(skip_weight + k, n) : s;
    }
    // The result before the gate.
    template <bool whole>
    vec inside(vec unit, int64_t k, int64_t n) const {
        const vec t = fma(unit, get<whole>(weight + k, n), unit);
        return skip ? t + skipped<whole>(k, n) : t;
    }
};

template <bool whole, class T, class R>
inline void norm_forward_at(const NormSpan<T, R>& s, const Moments& m, R* y, int64_t k, int64_t n) {
    const vec t = s.template inside<whole>(s.template unit<whole>(m, k, n), k, n);
    put<whole>(y + k, s.gate ? t * silu(get<whole>(s.gate + k, n)) : t, n);
}

template <class T, class R>
inline void norm_forward_rows(const NormForward& a, int64_t begin, int64_t end) {
    const int64_t H = a.shape.H, D = a.shape.D, n = D / W * W;
    for (int64_t row = begin; row < end; ++row)
        for (int64_t head = 0; head < H; ++head) {
            const NormSpan<T, R> s(a, row, head);
            R* y = static_cast<R*>(a.y) + (row * H + head) * D;
            const Moments m = moments_of(s.x, D, a.shape.eps);
            norm_ask_for(s.x + (row + 1 < end ? a.x_r : 0), D);
            for (int64_t k = 0; k < n; k += W) norm_forward_at<true>(s, m, y, k, W);
            if (n < D) norm_forward_at<false>(s, m, y, n, D - n);
        }
}

// What the backward of one head of one row writes, and the sums it needs of its first pass.
template <class T, class R>
struct NormSlopes {
    const R* dy;
    T *dx, *dgate;
    R* dskip;
    float *dweight, *dskip_weight, *dunit;  // of the chunk
    vec total, along;                       // sums of dunit and of dunit * unit
};

template <bool whole, class T, class R>
inline void norm_backward_first(const NormSpan<T, R>& s, const Moments& m, NormSlopes<T, R>& g, int64_t k, int64_t n) {
    const vec unit = s.template unit<whole>(m, k, n);
    vec dt = get<whole>(g.dy + k, n);
    if (s.gate) {
        const vec z = get<whole>(s.gate + k, n), half = sigmoid(z), t = s.template inside<whole>(unit, k, n);
        put<whole>(g.dgate + k, dt * t * (half * fma(z, set1(1.0f) - half, set1(1.0f))), n);
        dt = dt * (z * half);
    }
    if (s.skip) {
        put<whole>(g.dskip + k, s.skip_weight ? dt * get<whole>(s.skip_weight + k, n) : dt, n);
        if (s.skip_weight)
            put<whole>(g.dskip_weight + k, fma(dt, get<whole>(s.skip + k, n), get<whole>(g.dskip_weight + k, n)), n);
    }
    put<whole>(g.dweight + k, fma(dt, unit, get<whole>(g.dweight + k, n)), n);
    const vec dunit = fma(dt, get<whole>(s.weight + k, n), dt);
    put<whole>(g.dunit + k, dunit, n);
    g.total = g.total + dunit;  // lanes beyond n hold 0
    g.along = fma(dunit, whole ? unit : select(first_lanes(n), unit, zero()), g.along);
}

template <bool whole, class T, class R>
inline void norm_backward_second(const NormSpan<T, R>& s, const Moments& m, const NormSlopes<T, R>& g, vec mean, vec slope,
                                 int64_t k, int64_t n) {
    const vec d = get<whole>(g.dunit + k, n) - mean;
    put<whole>(g.dx + k, m.scale * (d - s.template unit<whole>(m, k, n) * slope), n);
}

template <class T, class R>
inline void norm_backward_row(const NormBackward& a, float* partials, int64_t row) {
    const NormShape& shape = a.forward.shape;
    const int64_t H = shape.H, D = shape.D, n = D / W * W;
    for (int64_t head = 0; head < H; ++head) {
        const int64_t first = head * D, at = row * H * D + first;
        const NormSpan<T, R> s(a.forward, row, head);
        NormSlopes<T, R> g{static_cast<const R*>(a.dy) + row * a.dy_r + first,
                           static_cast<T*>(a.dx) + at,
                           s.gate ? static_cast<T*>(a.dgate) + at : nullptr,
                           s.skip ? static_cast<R*>(a.dskip) + at : nullptr,
                           partials + first,
                           partials + H * D + first,
                           partials + 2 * H * D + first,
                           zero(),
                           zero()};
        const Moments m = moments_of(s.x, D, shape.eps);
        for (int64_t k = 0; k < n; k += W) norm_backward_first<true>(s, m, g, k, W);
        if (n < D) norm_backward_first<false>(s, m, g, n, D - n);
        const vec mean = set1(sum(g.total) / float(D)), slope = set1(sum(g.along) / float(D));
        for (int64_t k = 0; k < n; k += W) norm_backward_second<true>(s, m, g, mean, slope, k, W);
        if (n < D) norm_backward_second<false>(s, m, g, mean, slope, n, D - n);
    }
}

template <class T, class R>
inline void norm_backward_chunks(const NormBackward& a, int64_t begin, int64_t end) {
    const int64_t rows = a.forward.shape.rows, width = a.forward.shape.H * a.forward.shape.D;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        float* partials = a.partials + chunk * 3 * width;
        for (int64_t k = 0; k < 2 * width; ++k) partials[k] = 0.0f;
        const int64_t last = min_of(rows, (chunk + 1) * norm_chunk_rows);
        for (int64_t row = chunk * norm_chunk_rows; row < last; ++row) norm_backward_row<T, R>(a, partials, row);
    }
}

inline void norm_forward(const NormForward& a, int64_t begin, int64_t end) {
    const bool inner = a.shape.inner == DType::bf16, outer = a.shape.outer == DType::bf16;
    if (inner)
        outer ? norm_forward_rows<bf16, bf16>(a, begin, end) : norm_forward_rows<bf16, float>(a, begin, end);
    else
        outer ? norm_forward_rows<float, bf16>(a, begin, end) : norm_forward_rows<float, float>(a, begin, end);
}

// A task is a chunk of rows.
inline void norm_backward(const NormBackward& a, int64_t begin, int64_t end) {
    const bool inner = a.forward.shape.inner == DType::bf16, outer = a.forward.shape.outer == DType::bf16;
    if (inner)
        outer ? norm_backward_chunks<bf16, bf16>(a, begin, end) : norm_backward_chunks<bf16, float>(a, begin, end);
    else
        outer ? norm_backward_chunks<float, bf16>(a, begin, end) : norm_backward_chunks<float, float>(a, begin, end);
}

// A task is W columns of dweight and dskip_weight.
inline void norm_weights_backward(const NormBackward& a, int64_t begin, int64_t end) {
    const int64_t width = a.forward.shape.H * a.forward.shape.D, chunks = norm_chunks(a.forward.shape.rows);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t c = block * W, n = min_of(W, width - c);
        vec dweight = zero(), dskip_weight = zero();
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const float* partials = a.partials + chunk * 3 * width + c;
            dweight = dweight + load_n(partials, n);
            dskip_weight = dskip_weight + load_n(partials + width, n);
        }
        store_n(a.dweight + c, dweight, n);
        if (a.dskip_weight) store_n(a.dskip_weight + c, dskip_weight, n);
    }
}

inline int64_t norm_weights_tasks(const NormShape& s) { return (s.H * s.D + W - 1) / W; }

}  // namespace xecg::XECG_ISA
