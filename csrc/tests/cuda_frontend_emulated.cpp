// The warps of csrc/cuda/frontend.cu one after the other on the host, each step lane by lane, for the Python tests.
#include <limits>
#include <vector>

#include "../bindings/cuda_frontend.h"

namespace xecg::cuda {

void emulate(const Frontend& a, float* scratch, int64_t pad, uintptr_t) {
    const int64_t each = frontend_warp_scratch(a.n, a.m, a.up, pad);
    std::vector<float> tile(tile_floats);
    for (int64_t first = 0; first < a.rows; first += lanes) {
        std::vector<FrontendRow> rows;
        for (int l = 0; l < lanes; ++l) {
            float* x = scratch + first / lanes * each + pad * lanes + l;
            rows.emplace_back(a, first + l, x, a.up ? x + (a.n + pad) * lanes : x);
        }
        const auto poison = [&] { tile.assign(tile_floats, std::numeric_limits<float>::quiet_NaN()); };
        for (int64_t t0 = 0; t0 < a.n; t0 += lanes) {
            poison();
            for (int l = 0; l < lanes; ++l) frontend_fetch(a, first, t0, l, tile.data());
            for (int l = 0; l < lanes; ++l) rows[size_t(l)].take(a, t0, l, tile.data());
        }
        for (int l = 0; l < lanes; ++l) {
            const uint8_t state = frontend_work(a, rows[size_t(l)]);
            if (first + l < a.rows) a.state[first + l] = state;
        }
        for (int64_t t0 = 0; t0 < a.m; t0 += lanes) {
            poison();
            for (int l = 0; l < lanes; ++l) rows[size_t(l)].put(a, t0, l, tile.data());
            for (int l = 0; l < lanes; ++l) frontend_give(a, first, t0, l, tile.data());
        }
    }
}

}  // namespace xecg::cuda

PYBIND11_MODULE(cuda_frontend_emulated, m) { xecg::cuda::define_frontend(m, &xecg::cuda::emulate); }
