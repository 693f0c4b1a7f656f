// conv1d at one ISA level: forward against a plain loop in double precision, backward by what a transposed map must satisfy.
#include "check.h"
#include "levels.h"

namespace xecg::tests {
namespace {

struct Conv {
    int64_t B, T, C, K;
    bool silu, reverse;
    std::vector<float> x, weight, bias, state;
    std::vector<int64_t> lengths;

    Conv(int64_t B, int64_t T, int64_t C, int64_t K, bool silu, bool reverse)
        : B(B), T(T), C(C), K(K), silu(silu), reverse(reverse) {
        Random random;
        x = random.normals(B * T * C), weight = random.normals(C * K), bias = random.normals(C);
        state = random.normals(B * (K - 1) * C);
        for (int64_t b = 0; b < B; ++b) lengths.push_back((7 * b + T / 2) % (T + 1));
    }
    Conv1dShape shape() const { return {B, T, C, K, lengths.data(), reverse, silu, DType::f32}; }

    // Input p steps after the first visited one; p < 0 lies in the initial state.
    double input(int64_t b, int64_t p, int64_t c) const {
        if (p < 0) return state[size_t((b * (K - 1) + p + K - 1) * C + c)];
        const int64_t t = reverse ? lengths[size_t(b)] - 1 - p : p;
        return x[size_t((b * T + t) * C + c)];
    }
    std::vector<double> plain() const {
        std::vector<double> y(x.size(), 0.0);
        for (int64_t b = 0; b < B; ++b)
            for (int64_t p = 0; p < lengths[size_t(b)]; ++p)
                for (int64_t c = 0; c < C; ++c) {
                    double sum = bias[size_t(c)];
                    for (int64_t j = 0; j < K; ++j) sum += double(weight[size_t(c * K + j)]) * input(b, p - K + 1 + j, c);
                    const int64_t t = reverse ? lengths[size_t(b)] - 1 - p : p;
                    y[size_t((b * T + t) * C + c)] = silu ? sum / (1.0 + std::exp(-sum)) : sum;
                }
        return y;
    }
};

void forward(const KernelTable& k, const Conv& v) {
    std::vector<float> y(v.x.size(), 99.0f), last(v.state.size());
    const Conv1dForward a{v.shape(),      v.x.data(), v.T * v.C, v.C, v.weight.data(), v.bias.data(),
                          v.state.data(), y.data(),   v.T * v.C, v.C, last.data()};
    k.conv1d_forward(a, 0, k.conv1d_forward_tasks(a.shape));
    expect_near(y, v.plain(), 1e-6, "the convolution");
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0.0;
    for (size_t k = 0; k < a.size(); ++k) sum += double(a[k]) * b[k];
    return sum;
}

// Without activation y - bias is linear in (x, state) and in weight: <dy, y - bias> is <dx, x> + <dstate, state> and <dw, w>.
void backward(const KernelTable& k, const Conv& v) {
    Random random;
    std::vector<float> dy = random.normals(v.B * v.T * v.C), dlast(v.state.size(), 0.0f);
    std::vector<float> dx(dy.size()), dw(v.weight.size()), db(v.bias.size()), dstate(v.state.size());
    const Conv1dBackward a{v.shape(),       v.x.data(),    v.T * v.C,      v.C,          dy.data(), v.T * v.C, v.C,
                           v.weight.data(), v.bias.data(), v.state.data(), dlast.data(), dx.data(), v.T * v.C, v.C,
                           dw.data(),       db.data(),     dstate.data()};
    k.conv1d_backward(a, 0, k.conv1d_backward_tasks(a.shape));
    const std::vector<double> y = v.plain();
    double linear = 0.0, scale = 1e-30;
    for (int64_t b = 0; b < v.B; ++b)
        for (int64_t t = 0; t < v.lengths[size_t(b)]; ++t)
            for (int64_t c = 0; c < v.C; ++c) {
                const size_t at = size_t((b * v.T + t) * v.C + c);
                linear += dy[at] * (y[at] - v.bias[size_t(c)]);
                scale += std::fabs(dy[at] * y[at]);
            }
    expect(std::fabs(dot(dx, v.x) + dot(dstate, v.state) - linear) <= 1e-5 * scale, "dx and dstate transpose the convolution");
    expect(std::fabs(dot(dw, v.weight) - linear) <= 1e-5 * scale, "dweight transposes the convolution");
}

void all(const KernelTable& k) {
    for (bool reverse : {false, true}) {
        for (bool silu : {false, true})
            for (int64_t C : {1, 5, 16, 33})
                for (int64_t K : {1, 3, 4, 32}) forward(k, Conv(3, 21, C, K, silu, reverse));
        for (int64_t C : {1, 5, 16, 33})
            for (int64_t K : {1, 3, 4}) backward(k, Conv(3, 150, C, K, false, reverse));
    }
}

}  // namespace

void add_conv1d_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"conv1d." + isa, [isa] { all(level(isa)); }});
}

}  // namespace xecg::tests
