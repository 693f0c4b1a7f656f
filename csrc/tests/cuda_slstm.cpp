// The CUDA sLSTM's bodies on the host (emulator.h), every kernel of the plan once, in arrays of exactly their size, against the
// CPU kernel of the base level: what the address checker sees here, it could not see on a GPU.
#include "check.h"

// ThreadSanitizer does not follow fibers.
#ifndef __SANITIZE_THREAD__
#include "emulator.h"
#include "levels.h"

namespace xecg::tests {
namespace {

struct Arrays {
    SlstmShape shape;
    std::vector<float> x, R, b, h, c, n, m, y, gates, slope, tape_h, tape_c, tape_n, dy, dh, dc, dn, dm, transposed, dR, db;

    explicit Arrays(const SlstmShape& s) : shape(s) {
        Random random;
        const int64_t state = s.B * s.H * s.D, steps = s.B * s.T * s.H * s.D;
        x = rounded(random.normals(4 * steps)), dy = rounded(random.normals(steps));
        R = rounded(random.normals(4 * s.H * s.D * s.D, 0.5f / std::sqrt(float(s.D)))), b = random.normals(4 * s.H * s.D);
        for (auto* v : {&h, &c, &n, &m, &dh, &dc, &dn, &dm}) *v = random.normals(state);
        for (float& v : n) v = std::fabs(v) + 0.5f;
        for (auto* v : {&y, &slope, &tape_h, &tape_c, &tape_n}) v->assign(size_t(steps), 9.0f);
        gates.assign(size_t(4 * steps), 9.0f), dR.resize(R.size()), db.resize(b.size()), transposed.resize(R.size());
        for (int64_t g = 0; g < 4 * s.H; ++g)
            for (int64_t i = 0; i < s.D; ++i)
                for (int64_t o = 0; o < s.D; ++o)
                    transposed[size_t((g * s.D + o) * s.D + i)] = R[size_t((g * s.D + i) * s.D + o)];
    }
    static std::vector<float> rounded(const std::vector<float>& v) { return widened(narrowed(v)); }

    SlstmForward forward() {
        const int64_t token = shape.H * shape.D;
        SlstmForward f{};
        f.shape = shape, f.x = x.data(), f.x_b = shape.T * 4 * token, f.x_t = 4 * token, f.x_g = token, f.x_h = shape.D;
        f.R = R.data(), f.b = b.data(), f.h = h.data(), f.c = c.data(), f.n = n.data(), f.m = m.data();
        f.y = y.data(), f.y_b = shape.T * token, f.y_t = token, f.y_h = shape.D;
        f.tape = SlstmTape{gates.data(), slope.data(), tape_h.data(), tape_c.data(), tape_n.data()};
        return f;
    }
    SlstmBackward backward() {
        const int64_t token = shape.H * shape.D;
        SlstmBackward f{};
        f.shape = shape, f.dy = dy.data(), f.dy_b = shape.T * token, f.dy_t = token, f.dy_h = shape.D, f.tape = forward().tape;
        f.dh = dh.data(), f.dc = dc.data(), f.dn = dn.data(), f.dm = dm.data(), f.dR = dR.data(), f.db = db.data();
        return f;
    }
};

void on_cpu(Arrays& a) {
    const KernelTable& k = level("base");
    std::vector<float> packed(size_t(k.slstm_packed_size(a.shape.H, a.shape.D)));
    const int64_t blocks = a.shape.H * k.slstm_blocks(a.shape.D), tasks = k.slstm_tasks(a.shape);
    SlstmForward f = a.forward();
    k.slstm_pack(a.R.data(), a.shape.H, a.shape.D, false, packed.data(), 0, blocks);
    f.packed = packed.data();
    k.slstm_forward(f, 0, tasks);
    SlstmBackward g = a.backward();
    k.slstm_pack(a.R.data(), a.shape.H, a.shape.D, true, packed.data(), 0, blocks);
    g.packed = packed.data();
    k.slstm_backward(g, 0, tasks);
}

void on_gpu(Arrays& a, const EmulatedLaunch& launch, bool narrow) {
    const DType type = narrow ? DType::bf16 : DType::f32;
    const std::vector<uint16_t> x = narrowed(a.x), R = narrowed(a.R), transposed = narrowed(a.transposed), dy = narrowed(a.dy);
    std::vector<uint16_t> y = narrowed(a.y);
    cuda::SlstmCudaForward f{a.forward(), {a.R.data(), a.b.data(), DType::f32, DType::f32}, false};
    cuda::SlstmCudaBackward g{a.backward(), {a.transposed.data(), nullptr, DType::f32, DType::f32}};
    f.call.shape.dtype = g.call.shape.dtype = f.weights.R_type = g.weights.R_type = type;
    if (narrow) f.call.x = x.data(), f.weights.R = R.data(), f.call.y = y.data();
    if (narrow) g.call.dy = dy.data(), g.weights.R = transposed.data();
    cuda::slstm_run(f, launch);
    if (narrow) a.y = widened(y);
    cuda::slstm_run(g, launch);
}

void compare(int64_t B, int64_t T, int64_t H, int64_t D, bool reverse, bool narrow, const cuda::SlstmDevice& device) {
    std::vector<int64_t> lengths;
    for (int64_t row = 0; row < B; ++row) lengths.push_back((7 * row + T / 2 + 1) % (T + 1));
    Arrays start(SlstmShape{B, T, H, D, lengths.data(), reverse, DType::f32}), wanted = start;
    on_cpu(wanted);
    // So that the loss does not depend on m: else its gradient jumps where i and lf + m tie, and rounding breaks ties.
    for (size_t k = 0; k < start.dm.size(); ++k) start.dm[k] = start.dc[k] * wanted.c[k] + start.dn[k] * wanted.n[k];
    Arrays found = wanted = start;
    on_cpu(wanted);
    on_gpu(found, EmulatedLaunch{device, reverse}, narrow);
    const double bar = narrow ? 1e-2 : 1e-5;  // bfloat16: h and d(gates) lose up to 2^-9 of their size each step
    const std::pair<std::vector<float>, std::vector<float>> pairs[] = {
        {found.y, wanted.y},         {found.h, wanted.h},   {found.c, wanted.c},   {found.n, wanted.n},   {found.m, wanted.m},
        {found.gates, wanted.gates}, {found.dh, wanted.dh}, {found.dc, wanted.dc}, {found.dn, wanted.dn}, {found.dm, wanted.dm}};
    for (size_t k = 0; k < std::size(pairs); ++k)
        expect_near(pairs[k].first, {pairs[k].second.begin(), pairs[k].second.end()}, bar,
                    "array " + std::to_string(k) + " for D = " + std::to_string(D));
}

void all() {
    const cuda::SlstmDevice hopper{90, 227 << 10, 132}, ampere{80, 48 << 10, 108}, tiny{90, 227 << 10, 4};
    for (bool reverse : {false, true}) {
        for (int64_t D : {1, 20, 33}) compare(5, 4, 2, D, reverse, false, hopper);
        compare(5, 4, 1, 64, reverse, false, ampere);
        for (int64_t D : {3, 20, 50, 100}) compare(3, 3, 2, D, reverse, true, hopper);
        compare(3, 2, 1, 140, reverse, true, ampere);
        compare(9, 2, 1, 140, reverse, true, hopper);
        compare(17, 2, 1, 140, reverse, true, tiny);
    }
}

}  // namespace

void add_cuda_slstm_cases(std::vector<Case>& cases) { cases.push_back({"cuda_slstm", all}); }

}  // namespace xecg::tests
#else
namespace xecg::tests {
void add_cuda_slstm_cases(std::vector<Case>&) {}
}  // namespace xecg::tests
#endif
