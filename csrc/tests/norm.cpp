// norm at one ISA level: forward against a plain loop in double precision, backward by central differences of that loop.
#include "../common/norm.h"

#include "check.h"
#include "levels.h"

namespace xecg::tests {
namespace {

struct Normed {
    int64_t rows, H, D;
    bool has_skip, has_gate;
    std::vector<float> x, weight, skip, skip_weight, gate;

    Normed(int64_t rows, int64_t H, int64_t D, bool has_skip, bool has_gate)
        : rows(rows), H(H), D(D), has_skip(has_skip), has_gate(has_gate) {
        Random random;
        x = random.normals(rows * H * D), weight = random.normals(H * D), skip = random.normals(rows * H * D);
        skip_weight = random.normals(H * D), gate = random.normals(rows * H * D);
        for (float& v : x) v += 3.0f;
    }
    NormForward arguments(float* y) const {
        return {{rows, H, D, 1e-5f, DType::f32, DType::f32},
                x.data(),
                H * D,
                D,
                weight.data(),
                has_skip ? skip.data() : nullptr,
                H * D,
                has_skip ? skip_weight.data() : nullptr,
                has_gate ? gate.data() : nullptr,
                H * D,
                y};
    }
    std::vector<double> plain() const {
        std::vector<double> y(x.size());
        for (int64_t head = 0; head < rows * H; ++head) {
            double mean = 0.0, var = 0.0;
            for (int64_t k = 0; k < D; ++k) mean += double(x[size_t(head * D + k)]) / double(D);
            for (int64_t k = 0; k < D; ++k) var += std::pow(x[size_t(head * D + k)] - mean, 2) / double(D);
            for (int64_t k = 0; k < D; ++k) {
                const size_t at = size_t(head * D + k), column = size_t(head % H * D + k);
                y[at] = (x[at] - mean) / std::sqrt(var + 1e-5) * (1.0 + weight[column]);
                if (has_skip) y[at] += double(skip[at]) * skip_weight[column];
                if (has_gate) y[at] *= gate[at] / (1.0 + std::exp(-double(gate[at])));
            }
        }
        return y;
    }
    // d sum(dy y) / d values[k].
    double slope(const std::vector<float>& dy, std::vector<float>& values, size_t k) {
        double sums[2];
        const float before = values[k], low = before - 0.0078125f, high = before + 0.0078125f;
        for (int side = 0; side < 2; ++side) {
            values[k] = side ? high : low;
            const std::vector<double> y = plain();
            sums[side] = 0.0;
            for (size_t j = 0; j < y.size(); ++j) sums[side] += dy[j] * y[j];
        }
        values[k] = before;
        return (sums[1] - sums[0]) / (double(high) - low);
    }
};

void forward(const KernelTable& k, const Normed& v) {
    std::vector<float> y(v.x.size(), 99.0f);
    k.norm_forward(v.arguments(y.data()), 0, v.rows);
    expect_near(y, v.plain(), 1e-6, "the norm");
}

void backward(const KernelTable& k, Normed v) {
    Random random;
    const size_t all = v.x.size(), width = v.weight.size();
    const std::vector<float> dy = random.normals(int64_t(all));
    std::vector<float> dx(all), dskip(all), dgate(all), dweight(width), dskip_weight(width);
    std::vector<float> partials(size_t(norm_chunks(v.rows)) * 3 * width);
    const NormBackward a{v.arguments(nullptr),
                         dy.data(),
                         v.H * v.D,
                         dx.data(),
                         v.has_skip ? dskip.data() : nullptr,
                         v.has_gate ? dgate.data() : nullptr,
                         partials.data(),
                         dweight.data(),
                         v.has_skip ? dskip_weight.data() : nullptr};
    k.norm_backward(a, 0, norm_chunks(v.rows));
    k.norm_weights_backward(a, 0, k.norm_weights_tasks(a.forward.shape));
    struct Pair {
        const char* name;
        std::vector<float>&values, &found;
        bool there;
    };
    for (const Pair& p :
         {Pair{"dx", v.x, dx, true}, Pair{"dweight", v.weight, dweight, true}, Pair{"dskip", v.skip, dskip, v.has_skip},
          Pair{"dskip_weight", v.skip_weight, dskip_weight, v.has_skip}, Pair{"dgate", v.gate, dgate, v.has_gate}}) {
        if (!p.there) continue;
        std::vector<float> found;
        std::vector<double> wanted;
        for (size_t j = 0; j < p.values.size(); j += 1 + p.values.size() / 23) {
            found.push_back(p.found[j]);
            wanted.push_back(v.slope(dy, p.values, j));
        }
        expect_near(found, wanted, 2e-4, p.name);  // the difference quotient's own error is of this size
    }
}

void all(const KernelTable& k) {
    for (bool skip : {false, true})
        for (bool gate : {false, true}) {
            for (int64_t D : {1, 5, 16, 33, 200}) forward(k, Normed(7, 3, D, skip, gate));
            for (int64_t D : {5, 16, 33}) backward(k, Normed(70, 2, D, skip, gate));
        }
}

}  // namespace

void add_norm_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"norm." + isa, [isa] { all(level(isa)); }});
}

}  // namespace xecg::tests
