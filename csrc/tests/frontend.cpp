// The offline front end at one ISA level, short rows and tiles, and on a GPU, rows in shared memory run by the emulator, against
// a plain loop in double precision.
#include <algorithm>

#include "check.h"
#include "levels.h"

#ifndef __SANITIZE_THREAD__  // ThreadSanitizer does not follow fibers
#include "../cuda/frontend_row.cuh"
#include "emulator.h"
#endif

namespace xecg::tests {
namespace {

// A first-order-like high-pass section and its numbers: b = (g, -g, 0), a = (1, -p, 0), g = (1 + p) / 2.
struct Filtered {
    int64_t n, up, down, half, taps, pad = 9;
    double p = 0.98, g = 0.99;
    std::vector<float> x, fir;

    Filtered(int64_t n, int64_t up, int64_t down) : n(n), up(up), down(down), half(2 * std::max(up, down)) {
        Random random;
        x = random.normals(n);
        for (float& v : x) v += 3.0f;
        taps = (2 * half + up) / up;
        fir = random.normals(up * taps, 0.1f);
    }
    int64_t m() const { return (n * up + down - 1) / down; }

    double extended(int64_t t) const {
        if (t < 0) return 2.0 * x[0] - x[size_t(-t)];
        return t < n ? double(x[size_t(t)]) : 2.0 * x[size_t(n - 1)] - x[size_t(2 * (n - 1) - t)];
    }
    static void run(std::vector<double>& v, double g, double p) {
        double before = v[0], y = 0.0;  // a constant before the first sample gives 0
        for (double& now : v) {
            y = p * y + g * (now - before);
            before = now;
            now = y;
        }
    }
    std::vector<double> plain() const {
        std::vector<double> v;
        for (int64_t t = -pad; t < n + pad; ++t) v.push_back(extended(t));
        for (int way = 0; way < 2; ++way) {
            run(v, g, p);
            v = std::vector<double>(v.rbegin(), v.rend());
        }
        std::vector<double> y(size_t(m()), 0.0);
        for (int64_t k = 0; k < m(); ++k) {
            const int64_t q = k * down + half, r = q % up, newest = q / up;
            for (int64_t j = 0; j < taps; ++j)
                if (newest - j >= 0 && newest - j < n)
                    y[size_t(k)] += double(fir[size_t(r * taps + j)]) * v[size_t(pad + newest - j)];
        }
        return y;
    }
};

// A call for a row of `v` and all that it points at.
struct Call {
    int sections = 1, pad;
    float coefficients[5], steady[2];
    int64_t at = 0;
    std::vector<float> y;
    uint8_t state = 9;
    Frontend a;

    explicit Call(const Filtered& v)
        : pad(int(v.pad)),
          coefficients{float(v.g), float(v.g), 0.0f, float(2.0 - v.p), float(1.0 - v.p)},
          steady{float(-v.g), float(-v.g)},  // (s1, s2) of a constant 1: y = g + s1 = 0, s2 = a1 y - b1
          y(size_t(v.m()), 99.0f),
          a{1,      v.n,  v.m(), v.x.data(), &at,    false,  nullptr,      nullptr, 1,    &sections, &pad, coefficients,
            steady, 0.0f, v.up,  v.down,     v.half, v.taps, v.fir.data(), false,   0.0f, y.data(),  &at,  &state} {}
    Call(const Call&) = delete;

    // One step without input: y = s1; s1' = s1 + s2 - a1 y; s2' = s2 - a2 y.
    std::array<double, 4> after(const std::array<double, 4>& old) const {
        std::array<double, 4> to{};
        for (size_t c = 0; c < 2; ++c) {
            to[c] = (1 - double(coefficients[3])) * old[c] + old[2 + c];
            to[2 + c] = old[2 + c] - double(coefficients[4]) * old[c];
        }
        return to;
    }
    void check(const Filtered& v, const std::string& name) const {
        expect(state == 0, name + " is good");
        expect_near(y, v.plain(), 2e-6, name);
    }
};

void one(const KernelTable& k, const Filtered& v, bool tiled) {
    Call call(v);
    if (tiled) {
        const int64_t tile = (std::max<int64_t>(130, v.taps - 1) + v.down - 1) / v.down * v.down;
        std::array<double, 4> power{1, 0, 0, 1};
        std::vector<float> response;
        for (int64_t t = 0; t < tile; ++t) {
            response.insert(response.end(), {float(power[0]), float(power[1])});
            power = call.after(power);
        }
        const FrontendLong b{call.a, tile, power.data(), response.data()};
        std::vector<float> scratch(size_t(k.frontend_long_scratch(b)) + 2);
        k.frontend_long(b, 0, 1, scratch.data());
    } else {
        std::vector<float> scratch(size_t(k.frontend_scratch(call.a)));
        k.frontend(call.a, 0, k.frontend_tasks(call.a), scratch.data());
    }
    call.check(v, std::string(tiled ? "tiles" : "one piece") + " of " + std::to_string(v.n));
}

#ifndef __SANITIZE_THREAD__
struct Rows {
    bool descending;

    template <class Body>
    int operator()(const Body& body, int64_t rows, const cuda::RowPlan& plan) const {
        Emulator emulator;
        emulator.descending = descending;
        for (int64_t k = 0; k < rows; ++k) emulator.run<EmulatedThread<1>>(body, 1, plan.threads, plan.bytes(), k, 0);
        return 0;
    }
};

void on_gpu(const Filtered& v, bool descending) {
    Call call(v);
    const int64_t deep = cuda::row_deep(call.a), wide = std::min(v.down, v.taps);
    std::vector<float> taps(size_t(v.up * wide * deep), 0.0f);
    for (int64_t r = 0; r < v.up; ++r)
        for (int64_t j = 0; j < v.taps; ++j)
            taps[size_t((r * wide + j % v.down) * deep + j / v.down)] = v.fir[size_t(r * v.taps + j)];
    std::vector<float> table(call.coefficients, call.coefficients + 5);
    table.insert(table.end(), call.steady, call.steady + 2);
    const int stretch = cuda::row_plan(call.a, call.pad, 1).stretch;
    std::array<double, 4> power{1, 0, 0, 1};
    std::vector<float> enter(2 * cuda::row_jump), powers;
    const double y = call.coefficients[0], s1 = call.coefficients[1] - call.coefficients[3] * y, s2 = -call.coefficients[4] * y;
    for (int t = 0; t < stretch << (cuda::row_powers - 1);) {
        if (t < cuda::row_jump)
            for (int i = 0; i < 2; ++i)
                enter[size_t(i * cuda::row_jump + cuda::row_jump - 1 - t)] =
                    float(power[size_t(2 * i)] * s1 + power[size_t(2 * i + 1)] * s2);
        power = call.after(power), ++t;
        if (t == cuda::row_jump) {
            for (size_t i = 0; i < 4; ++i) table.push_back(float(power[i] - (i % 3 == 0 ? 1.0 : 0.0)));
            table.insert(table.end(), enter.begin(), enter.end());
        }
        if (t % stretch == 0 && (t / stretch & (t / stretch - 1)) == 0) powers.insert(powers.end(), power.begin(), power.end());
    }
    table.insert(table.end(), powers.begin(), powers.end());
    Rows launch{descending};
    cuda::frontend_rows(call.a, cuda::FrontendRowStages{&call.sections, &call.pad, table.data(), taps.data()}, launch);
    call.check(v, "a row in shared memory of " + std::to_string(v.n));
}
#endif

void all(const KernelTable& k) {
    for (int64_t n : {30, 129, 1000, 4161, 7001})
        for (bool tiled : {false, true}) {
            one(k, Filtered(n, 1, 5), tiled);
            one(k, Filtered(n, 5, 18), tiled);
            one(k, Filtered(n, 7, 3), tiled);
        }
}

void all_on_gpu() {
#ifndef __SANITIZE_THREAD__
    for (int64_t n : {30, 129, 1001, 4161, 7001})
        for (const auto& [up, down] : {std::pair{1, 5}, {5, 18}, {7, 3}}) on_gpu(Filtered(n, up, down), n % 3 == 0);
#endif
}

}  // namespace

void add_frontend_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"frontend." + isa, [isa] { all(level(isa)); }});
    if (isa == "base") cases.push_back({"cuda_frontend", all_on_gpu});
}

}  // namespace xecg::tests
