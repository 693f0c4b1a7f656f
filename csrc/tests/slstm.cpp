// slstm at one ISA level: forward against a plain loop in double precision, backward against its finite differences.
#include "check.h"
#include "levels.h"

namespace xecg::tests {
namespace {

struct Slstm {
    int64_t B, T, H, D;
    bool reverse;
    std::vector<double> x, R, b, h, c, n, m;  // R is (4, H, D, D)
    std::vector<int64_t> lengths;

    Slstm(int64_t B, int64_t T, int64_t H, int64_t D, bool reverse) : B(B), T(T), H(H), D(D), reverse(reverse) {
        Random random;
        auto draw = [&](int64_t count, float scale) {
            const std::vector<float> v = random.normals(count, scale);
            return std::vector<double>(v.begin(), v.end());
        };
        x = draw(B * T * 4 * H * D, 1.0f), R = draw(4 * H * D * D, 0.5f / std::sqrt(float(D))), b = draw(4 * H * D, 1.0f);
        h = draw(B * H * D, 1.0f), c = draw(B * H * D, 1.0f), n = draw(B * H * D, 1.0f), m = draw(B * H * D, 1.0f);
        for (size_t k = 0; k < n.size(); ++k) n[k] = k % 5 ? std::fabs(n[k]) + 0.5 : 0.0;
        for (int64_t row = 0; row < B; ++row) lengths.push_back((7 * row + T / 2 + 1) % (T + 1));
    }

    struct Result {
        std::vector<double> y, h, c, n, m;
    };
    Result plain() const {
        Result r{std::vector<double>(size_t(B * T * H * D), 0.0), h, c, n, m};
        for (int64_t row = 0; row < B; ++row)
            for (int64_t head = 0; head < H; ++head)
                for (int64_t p = 0; p < lengths[size_t(row)]; ++p) step(r, row, head, reverse ? lengths[size_t(row)] - 1 - p : p);
        return r;
    }

  private:
    void step(Result& r, int64_t row, int64_t head, int64_t t) const {
        const size_t state = size_t((row * H + head) * D);
        const std::vector<double> old(r.h.begin() + long(state), r.h.begin() + long(state) + D);
        for (int64_t u = 0; u < D; ++u) {
            double raw[4];
            for (int64_t g = 0; g < 4; ++g) {
                raw[g] = x[size_t((((row * T + t) * 4 + g) * H + head) * D + u)] + b[size_t((g * H + head) * D + u)];
                for (int64_t k = 0; k < D; ++k) raw[g] += old[size_t(k)] * R[size_t(((g * H + head) * D + k) * D + u)];
            }
            double &c_ = r.c[state + size_t(u)], &n_ = r.n[state + size_t(u)], &m_ = r.m[state + size_t(u)];
            const double kept = std::fmin(raw[1], 0.0) - std::log1p(std::exp(-std::fabs(raw[1]))) + m_;
            const bool first = n_ == 0.0;
            const double top = first ? raw[0] : std::fmax(raw[0], kept);
            const double F = first ? 0.0 : std::exp(kept - top), I = std::exp(raw[0] - top);
            c_ = F * c_ + I * std::tanh(raw[2]), n_ = F * n_ + I, m_ = top;
            r.h[state + size_t(u)] = c_ / n_ / (1.0 + std::exp(-raw[3]));
            r.y[size_t(((row * T + t) * H + head) * D + u)] = r.h[state + size_t(u)];
        }
    }
};

std::vector<float> narrow(const std::vector<double>& v) { return std::vector<float>(v.begin(), v.end()); }

struct Arrays {
    std::vector<float> x, R, b, h, c, n, m, packed;
    explicit Arrays(const Slstm& v)
        : x(narrow(v.x)), R(narrow(v.R)), b(narrow(v.b)), h(narrow(v.h)), c(narrow(v.c)), n(narrow(v.n)), m(narrow(v.m)) {}
    void pack(const KernelTable& k, const Slstm& v, bool transposed) {
        packed.resize(size_t(k.slstm_packed_size(v.H, v.D)));
        k.slstm_pack(R.data(), v.H, v.D, transposed, packed.data(), 0, v.H * k.slstm_blocks(v.D));
    }
    SlstmForward forward(const Slstm& v, float* y, SlstmTape tape) {
        const SlstmShape shape{v.B, v.T, v.H, v.D, v.lengths.data(), v.reverse, DType::f32};
        const int64_t token = v.H * v.D;
        return {shape,     x.data(), v.T * 4 * token,
                4 * token, token,    v.D,
                R.data(),  b.data(), packed.empty() ? nullptr : packed.data(),
                h.data(),  c.data(), n.data(),
                m.data(),  y,        v.T * token,
                token,     v.D,      tape};
    }
};

void forward(const KernelTable& k, const Slstm& v) {
    const Slstm::Result wanted = v.plain();
    std::vector<std::vector<float>> outputs;
    for (bool packed : {true, false}) {
        if (!packed && !k.slstm_reads_plain(v.D)) continue;
        Arrays a(v);
        if (packed) a.pack(k, v, false);
        std::vector<float> y(wanted.y.size(), 99.0f);
        const SlstmForward call = a.forward(v, y.data(), SlstmTape{});
        k.slstm_forward(call, 0, k.slstm_tasks(call.shape));
        expect_near(y, wanted.y, 1e-5, "h");
        expect_near(a.h, wanted.h, 1e-5, "final h");
        expect_near(a.c, wanted.c, 1e-5, "final c");
        expect_near(a.n, wanted.n, 1e-5, "final n");
        expect_near(a.m, wanted.m, 1e-5, "final m");
        outputs.push_back(y);
    }
    expect(outputs.size() < 2 || outputs[0] == outputs[1], "packing R changes no bit");
}

// The weighted sum of all results whose gradient backward computes.
double loss(const Slstm& v, const std::vector<float>& w) {
    const Slstm::Result r = v.plain();
    double sum = 0.0;
    size_t k = 0;
    for (const auto* part : {&r.y, &r.h, &r.c, &r.n, &r.m})
        for (double value : *part) sum += value * w[k++];
    return sum;
}

double slope(Slstm v, std::vector<double>& (*field)(Slstm&), size_t at, const std::vector<float>& w) {
    constexpr double step = 1e-5;
    field(v)[at] += step;
    const double above = loss(v, w);
    field(v)[at] -= 2 * step;
    return (above - loss(v, w)) / (2 * step);
}

void backward(const KernelTable& k, const Slstm& v) {
    const size_t tokens = size_t(v.B * v.T * v.H * v.D), state = size_t(v.B * v.H * v.D);
    Random random;
    const std::vector<float> w = random.normals(int64_t(tokens + 4 * state));
    auto part = [&](size_t index) {
        const auto from = w.begin() + long(tokens + index * state);
        return std::vector<float>(from, from + long(state));
    };
    std::vector<float> gates(4 * tokens), tape[4], d[4], dR(v.R.size()), db(v.b.size());
    for (size_t s = 0; s < 4; ++s) tape[s].resize(tokens), d[s] = part(s);
    Arrays a(v);
    a.pack(k, v, false);
    const SlstmTape t{gates.data(), tape[0].data(), tape[1].data(), tape[2].data(), tape[3].data()};
    const SlstmForward call = a.forward(v, nullptr, t);
    k.slstm_forward(call, 0, k.slstm_tasks(call.shape));
    a.pack(k, v, true);
    const int64_t token = v.H * v.D;
    const SlstmBackward back{call.shape,  w.data(),    v.T * token, token,       v.D,       a.packed.data(), t,
                             d[0].data(), d[1].data(), d[2].data(), d[3].data(), dR.data(), db.data()};
    k.slstm_backward(back, 0, k.slstm_tasks(call.shape));
    k.slstm_weights_backward(back, 0, 4 * v.H);

    using Field = std::vector<double>& (*)(Slstm&);
    const struct {
        const char* name;
        Field field;
        const std::vector<float>& found;
    } checks[] = {{"dx", [](Slstm& s) -> std::vector<double>& { return s.x; }, gates},
                  {"dR", [](Slstm& s) -> std::vector<double>& { return s.R; }, dR},
                  {"db", [](Slstm& s) -> std::vector<double>& { return s.b; }, db},
                  {"dh", [](Slstm& s) -> std::vector<double>& { return s.h; }, d[0]},
                  {"dc", [](Slstm& s) -> std::vector<double>& { return s.c; }, d[1]},
                  {"dn", [](Slstm& s) -> std::vector<double>& { return s.n; }, d[2]},
                  {"dm", [](Slstm& s) -> std::vector<double>& { return s.m; }, d[3]}};
    for (const auto& check : checks) {
        std::vector<float> found;
        std::vector<double> wanted;
        for (size_t s = 0; s < 24; ++s) {  // a sample: each difference costs two plain runs
            const size_t at = (s * 7919 + 3) % check.found.size();
            if (check.found.data() == d[2].data() && v.n[at] == 0.0) continue;  // a first step: no derivative there
            found.push_back(check.found[at]);
            wanted.push_back(slope(v, check.field, at, w));
        }
        expect_near(found, wanted, 1e-4, check.name);
    }
}

void all(const KernelTable& k) {
    for (bool reverse : {false, true}) {
        for (int64_t D : {1, 5, 16, 33, 64}) forward(k, Slstm(3, 9, 2, D, reverse));
        for (int64_t B : {1, 2, 6, 8, 17, 33}) forward(k, Slstm(B, 5, 1, 20, reverse));
        for (int64_t D : {1, 5, 16, 35}) backward(k, Slstm(3, 6, 2, D, reverse));
        backward(k, Slstm(19, 4, 1, 8, reverse));
    }
}

}  // namespace

void add_slstm_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"slstm." + isa, [isa] { all(level(isa)); }});
}

}  // namespace xecg::tests
