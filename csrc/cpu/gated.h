// Gated product, forward and backward. Equation and layouts: common/gated.h.
//
// Element-wise over whole vectors with masked tails: an element's bits do not depend on its place in the row or the batch.
// Cost: one exponential per element; 2 reads and 1 write forward, 3 reads and 2 writes backward. A task is one row.
#pragma once
#include "../common/gated.h"
#include "math.h"

namespace xecg::XECG_ISA {

template <class T>
inline void gated_forward_rows(const Gated& g, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
        const T *a = static_cast<const T*>(g.a) + r * g.a_r, *b = static_cast<const T*>(g.b) + r * g.b_r;
        T* y = static_cast<T*>(g.y) + r * g.n;
        for (int64_t k = 0; k < g.n; k += W) {
            const int64_t n = min_of(W, g.n - k);
            const vec x = load_n(a + k, n);
            store_n(y + k, (g.gelu ? gelu(x) : silu(x)) * load_n(b + k, n), n);
        }
    }
}

template <class T>
inline void gated_backward_rows(const Gated& g, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
        const T *a = static_cast<const T*>(g.a) + r * g.a_r, *b = static_cast<const T*>(g.b) + r * g.b_r;
        const T* dy = static_cast<const T*>(g.dy) + r * g.dy_r;
        T *da = static_cast<T*>(g.da) + r * g.n, *db = static_cast<T*>(g.db) + r * g.n;
        for (int64_t k = 0; k < g.n; k += W) {
            const int64_t n = min_of(W, g.n - k);
            const vec x = load_n(a + k, n), d = load_n(dy + k, n);
            store_n(da + k, (g.gelu ? gelu_slope(x) : silu_slope(x)) * load_n(b + k, n) * d, n);
            store_n(db + k, (g.gelu ? gelu(x) : silu(x)) * d, n);
        }
    }
}

inline void gated_forward(const Gated& g, int64_t begin, int64_t end) {
    g.dtype == DType::bf16 ? gated_forward_rows<bf16>(g, begin, end) : gated_forward_rows<float>(g, begin, end);
}

inline void gated_backward(const Gated& g, int64_t begin, int64_t end) {
    g.dtype == DType::bf16 ? gated_backward_rows<bf16>(g, begin, end) : gated_backward_rows<float>(g, begin, end);
}

}  // namespace xecg::XECG_ISA
