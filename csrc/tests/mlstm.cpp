// mlstm forward at one ISA level, float32 and bfloat16, against a plain loop in double precision.
#include "check.h"
#include "levels.h"

namespace xecg::tests {
namespace {

struct Mlstm {
    int64_t B, T, H, DK, DV;
    bool reverse, state;
    DType dtype;
    std::vector<float> q, k, v, i, f, C, n, m;  // q, k, v as the kernel sees them
    std::vector<int64_t> lengths;

    Mlstm(int64_t B, int64_t T, int64_t H, int64_t DK, int64_t DV, bool reverse, bool state, DType dtype)
        : B(B), T(T), H(H), DK(DK), DV(DV), reverse(reverse), state(state), dtype(dtype) {
        Random random;
        q = random.normals(B * T * H * DK), k = random.normals(B * T * H * DK), v = random.normals(B * T * H * DV);
        for (float& x : q) x += 1.0f;
        for (float& x : k) x += 1.0f;
        i = random.normals(B * T * H, 3.0f), f = random.normals(B * T * H, 3.0f);
        C = random.normals(B * H * DK * DV), n = random.normals(B * H * DK), m = random.normals(B * H);
        for (int64_t b = 0; b < B; ++b) lengths.push_back((7 * b + T / 2 + 1) % (T + 1));
        if (dtype == DType::bf16)
            for (auto* x : {&q, &k, &v}) *x = widened(narrowed(*x));
    }

    struct Result {
        std::vector<double> h, C, n, m;
    };
    Result plain() const {
        Result r{std::vector<double>(v.size(), 0.0), zeros_or(C), zeros_or(n), std::vector<double>(m.begin(), m.end())};
        for (int64_t b = 0; b < B; ++b)
            for (int64_t head = 0; head < H; ++head) {
                if (!state) r.m[size_t(b * H + head)] = -1e300;
                for (int64_t p = 0; p < lengths[size_t(b)]; ++p) step(r, b, head, reverse ? lengths[size_t(b)] - 1 - p : p);
            }
        return r;
    }

  private:
    std::vector<double> zeros_or(const std::vector<float>& x) const {
        return state ? std::vector<double>(x.begin(), x.end()) : std::vector<double>(x.size(), 0.0);
    }
    void step(Result& r, int64_t b, int64_t head, int64_t t) const {
        const size_t token = size_t((b * T + t) * H + head), stream = size_t(b * H + head);
        const float *key = &k[token * size_t(DK)], *query = &q[token * size_t(DK)], *value = &v[token * size_t(DV)];
        double *C_ = &r.C[stream * size_t(DK * DV)], *n_ = &r.n[stream * size_t(DK)], &m_ = r.m[stream], dot = 0.0;
        const double kept = std::fmin(f[token], 0.0) - std::log1p(std::exp(-std::fabs(f[token]))) + m_;
        const double top = std::fmax(kept, i[token]), F = std::exp(kept - top), I = std::exp(i[token] - top);
        m_ = top;
        for (int64_t d = 0; d < DK; ++d) {
            n_[d] = F * n_[d] + I * key[d];
            dot += 0.5 * query[d] * n_[d];
            for (int64_t e = 0; e < DV; ++e) {
                C_[d * DV + e] = F * C_[d * DV + e] + I * key[d] * value[e];
                r.h[token * size_t(DV) + size_t(e)] += 0.5 * query[d] * C_[d * DV + e];
            }
        }
        for (int64_t e = 0; e < DV; ++e) r.h[token * size_t(DV) + size_t(e)] /= std::fmax(std::fabs(dot), std::exp(-m_)) + 1e-6;
    }
};

void check(const KernelTable& table, const Mlstm& x) {
    const Mlstm::Result wanted = x.plain();
    const bool half = x.dtype == DType::bf16;
    const std::vector<uint16_t> q = narrowed(x.q), k = narrowed(x.k), v = narrowed(x.v);
    std::vector<uint16_t> half_h(x.v.size(), 0x4242);
    std::vector<float> h(x.v.size(), 99.0f), C(x.C.size()), n(x.n.size()), m(x.m.size());
    auto view = [&](const void* data, int64_t D) { return MlstmView{data, x.T * x.H * D, x.H * D, D}; };
    const MlstmShape shape{x.B, x.T, x.H, x.DK, x.DV, x.lengths.data(), x.reverse, false, 0.5f, 1e-6f, 0, x.dtype};
    const MlstmForward call{shape,
                            view(half ? (const void*)q.data() : x.q.data(), x.DK),
                            view(half ? (const void*)k.data() : x.k.data(), x.DK),
                            view(half ? (const void*)v.data() : x.v.data(), x.DV),
                            view(x.i.data(), 1),
                            view(x.f.data(), 1),
                            view(half ? (void*)half_h.data() : h.data(), x.DV),
                            x.state ? x.C.data() : nullptr,
                            x.state ? x.n.data() : nullptr,
                            x.state ? x.m.data() : nullptr,
                            C.data(),
                            n.data(),
                            m.data()};
    const Scratch64 scratch(table.mlstm_forward_scratch(shape));
    table.mlstm_forward(call, scratch.data, 0, x.B * x.H);
    expect_near(half ? widened(half_h) : h, wanted.h, half ? 4e-3 : 2e-5, "h");  // bfloat16 keeps eight bits
    expect_near(C, wanted.C, 2e-5, "final C");
    expect_near(n, wanted.n, 2e-5, "final n");
    for (size_t s = 0; s < m.size(); ++s)
        expect(wanted.m[s] < -1e200 ? m[s] < -3e38f : std::fabs(m[s] - wanted.m[s]) < 1e-4, "final m");
}

void all(const KernelTable& table) {
    for (DType dtype : {DType::f32, DType::bf16})
        for (bool reverse : {false, true})
            for (bool state : {false, true}) {
                for (int64_t T : {1, 7, 63, 65, 150}) check(table, Mlstm(3, T, 2, 20, 33, reverse, state, dtype));
                for (int64_t D : {1, 4, 16, 64}) check(table, Mlstm(2, 70, 1, D, D, reverse, state, dtype));
            }
}

}  // namespace

void add_mlstm_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"mlstm." + isa, [isa] { all(level(isa)); }});
}

}  // namespace xecg::tests
