// The kernels of csrc/cuda/frontend.cu on the host for the Python tests: rows in shared memory by emulator.h, the warps of the
// tiled way one after the other, each step lane by lane.
#include <limits>
#include <vector>

#include "../bindings/cuda_frontend.h"
#include "emulator.h"

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

int64_t shared_bytes = 227 << 10;
bool descending = false;

// Every row's block, one after the other.
struct Rows {
    template <class Body>
    int operator()(const Body& body, int64_t rows, const RowPlan& plan) const {
        if (plan.threads < 32 || plan.threads > Body::max_threads || plan.threads % 32 || plan.bytes() > shared_bytes)
            throw std::runtime_error("a launch that no GPU would take");
        tests::Emulator emulator;
        emulator.descending = descending;
        for (int64_t k = 0; k < rows; ++k)
            emulator.run<tests::EmulatedThread<1>>(body, 1, plan.threads, plan.bytes(), descending ? rows - 1 - k : k, 0);
        return 0;
    }
};

struct Live {
    template <class Body>
    int operator()(const Body& body) const {
        const StreamGrid grid = body.grid();
        if (grid.shared > shared_bytes) throw std::runtime_error("a launch that no GPU would take");
        tests::Emulator emulator;
        emulator.descending = descending;
        for (int64_t k = 0; k < grid.warps; ++k)
            emulator.run<tests::EmulatedThread<1>>(body, 1, lanes, grid.shared, descending ? grid.warps - 1 - k : k, 0);
        return 0;
    }
};

}  // namespace xecg::cuda

PYBIND11_MODULE(cuda_frontend_emulated, m) {
    using namespace xecg::cuda;
    m.def("pretend", [](int64_t shared, bool backwards) { shared_bytes = shared, descending = backwards; });
    define_frontend(
        m, [] { return shared_bytes; },
        [](const xecg::Frontend& a, const FrontendRowStages& stages, uintptr_t) {
            Rows launch;
            frontend_rows(a, stages, launch);
        },
        &emulate,
        [](const xecg::FrontendStream& a, void* room, uintptr_t) {
            Live launch;
            frontend_stream(a, room, launch);
        });
}
