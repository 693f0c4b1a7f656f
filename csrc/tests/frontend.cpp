// The offline front end at one ISA level, short rows and tiles, against a plain loop in double precision.
#include <algorithm>

#include "check.h"
#include "levels.h"

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

void one(const KernelTable& k, const Filtered& v, bool tiled) {
    const int sections = 1, pad = int(v.pad);
    const float coefficients[5] = {float(v.g), float(v.g), 0.0f, float(2.0 - v.p), float(1.0 - v.p)};
    const float steady[2] = {float(-v.g), float(-v.g)};  // (s1, s2) of a constant 1: y = g + s1 = 0, s2 = a1 y - b1
    const int64_t at = 0;
    std::vector<float> y(size_t(v.m()), 99.0f);
    uint8_t state = 9;
    const Frontend a{1,      v.n,  v.m(), v.x.data(), &at,    false,  nullptr,      nullptr, 1,    &sections, &pad, coefficients,
                     steady, 0.0f, v.up,  v.down,     v.half, v.taps, v.fir.data(), false,   0.0f, y.data(),  &at,  &state};
    if (tiled) {
        const int64_t tile = (std::max<int64_t>(130, v.taps - 1) + v.down - 1) / v.down * v.down;
        // One step without input: y = s1; s1' = s1 + s2 - a1 y; s2' = s2 - a2 y.
        const double a1 = coefficients[3], a2 = coefficients[4];
        double power[4] = {1, 0, 0, 1}, row[2] = {1, 0};
        std::vector<float> response;
        for (int64_t t = 0; t < tile; ++t) {
            response.insert(response.end(), {float(row[0]), float(row[1])});
            const double next[2] = {row[0] * (1 - a1) - row[1] * a2, row[0] + row[1]};
            row[0] = next[0], row[1] = next[1];
            const double old[4] = {power[0], power[1], power[2], power[3]};
            for (int c = 0; c < 2; ++c) {
                power[c] = (1 - a1) * old[c] + old[2 + c];
                power[2 + c] = old[2 + c] - a2 * old[c];
            }
        }
        const FrontendLong b{a, tile, power, response.data()};
        std::vector<float> scratch(size_t(k.frontend_long_scratch(b)) + 2);
        k.frontend_long(b, 0, 1, scratch.data());
    } else {
        std::vector<float> scratch(size_t(k.frontend_scratch(a)));
        k.frontend(a, 0, k.frontend_tasks(a), scratch.data());
    }
    const std::string name = std::string(tiled ? "tiles" : "one piece") + " of " + std::to_string(v.n);
    expect(state == 0, name + " is good");
    expect_near(y, v.plain(), 2e-6, name);
}

void all(const KernelTable& k) {
    for (int64_t n : {30, 129, 1000, 4161, 7001})
        for (bool tiled : {false, true}) {
            one(k, Filtered(n, 1, 5), tiled);
            one(k, Filtered(n, 5, 18), tiled);
            one(k, Filtered(n, 7, 3), tiled);
        }
}

}  // namespace

void add_frontend_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"frontend." + isa, [isa] { all(level(isa)); }});
}

}  // namespace xecg::tests
