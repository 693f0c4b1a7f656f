// linear at one ISA level, in all types it takes: against a plain sum in double precision, and a row alone against all rows.
#include <cstring>

#include "check.h"
#include "levels.h"

namespace xecg::tests {
namespace {

struct Map {
    int64_t rows, groups, N, K;
    DType dtype, weight_dtype;
};

void check(const KernelTable& table, const Map& s) {
    Random random;
    std::vector<float> x = random.normals(s.rows * s.groups * s.K), weight = random.normals(s.groups * s.N * s.K);
    const std::vector<float> bias = random.normals(s.groups * s.N);
    const std::vector<uint16_t> half_x = narrowed(x), half_weight = narrowed(weight);
    const bool half = s.dtype == DType::bf16, half_w = s.weight_dtype == DType::bf16;
    if (half) x = widened(half_x);
    if (half_w) weight = widened(half_weight);
    std::vector<double> wanted;
    for (int64_t r = 0; r < s.rows; ++r)
        for (int64_t o = 0; o < s.groups * s.N; ++o) {
            double sum = bias[size_t(o)];
            for (int64_t k = 0; k < s.K; ++k)
                sum += double(x[size_t((r * s.groups + o / s.N) * s.K + k)]) * weight[size_t(o * s.K + k)];
            wanted.push_back(sum);
        }
    const size_t bytes = half ? 2 : 4, line = size_t(s.groups * s.N) * bytes;
    auto run = [&](int64_t first, int64_t rows) {
        std::vector<char> y(size_t(rows) * line);
        const char* from = half ? (const char*)half_x.data() : (const char*)x.data();
        const Linear a{rows,
                       s.groups,
                       s.N,
                       s.K,
                       s.dtype,
                       s.weight_dtype,
                       from + size_t(first * s.groups * s.K) * bytes,
                       s.groups * s.K,
                       s.K,
                       half_w ? (const void*)half_weight.data() : weight.data(),
                       bias.data(),
                       y.data(),
                       s.groups * s.N,
                       s.N};
        const Scratch64 scratch(table.linear_scratch(a));
        for (int64_t task = 0, end = table.linear_tasks(a); task < end; ++task) table.linear(a, scratch.data, task, task + 1);
        return y;
    };
    const std::vector<char> y = run(0, s.rows);
    std::vector<float> found(wanted.size());
    std::vector<uint16_t> half_found(wanted.size());
    std::memcpy(half ? (void*)half_found.data() : found.data(), y.data(), y.size());
    expect_near(half ? widened(half_found) : found, wanted, half ? 4e-3 : 1e-5, "y");
    for (int64_t r : {int64_t(0), s.rows / 2, s.rows - 1})
        expect(std::memcmp(run(r, 1).data(), y.data() + size_t(r) * line, line) == 0, "a row alone has the same bits");
}

void all(const KernelTable& table) {
    for (auto [dtype, weights] : {std::pair(DType::f32, DType::f32), {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}})
        for (const auto& [rows, groups, N, K] : std::vector<std::array<int64_t, 4>>{
                 {1, 1, 1, 1}, {5, 1, 33, 31}, {9, 7, 4, 4}, {33, 1, 17, 32}, {35, 2, 50, 300}, {150, 1, 64, 530}})
            check(table, {rows, groups, N, K, dtype, weights});
}

}  // namespace

void add_linear_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"linear." + isa, [isa] { all(level(isa)); }});
}

}  // namespace xecg::tests
