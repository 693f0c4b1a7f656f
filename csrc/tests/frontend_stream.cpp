// The live front end at one ISA level: many patients in chunks give the bits of each alone in one push, and a plain loop in
// double precision gives the same numbers and masks.
#include <algorithm>

#include "check.h"
#include "levels.h"

namespace xecg::tests {
namespace {

constexpr int64_t rows = 3, depth_begin = 33, gap_from = 210, gap_to = 260, settle = 40, never = int64_t(1) << 62;
constexpr double p_slow = 0.98, p_fast = 0.6, decay = 0.99, flat_std = 1e-6;

// Row 2 begins late, row 1 has a long gap.
bool missing(int64_t row, int64_t t) { return row == 2 ? t < depth_begin : row == 1 && t >= gap_from && t < gap_to; }

struct Plan {
    bool low_pass, counts, zscore;  // low_pass: one section that keeps a constant; else a high-pass before it
    int64_t up, down, half = 0, taps = 0;
    std::vector<float> fir, coefficients, scale{0.005f, 0.001f, 0.0025f}, baseline{0.0f, 12.0f, -1024.0f};

    Plan(bool low_pass, bool counts, bool zscore, int64_t up, int64_t down)
        : low_pass(low_pass), counts(counts), zscore(zscore), up(up), down(down) {
        const float g = float((1 + p_slow) / 2), h = float((1 - p_fast) / 2);
        if (!low_pass) coefficients = {g, g, 0.0f, float(2 - p_slow), float(1 - p_slow)};
        coefficients.insert(coefficients.end(), {h, 3 * h, 2 * h, float(2 - p_fast), float(1 - p_fast)});
        if (!up) return;
        half = 2 * std::max(up, down);
        taps = (2 * half + up) / up;
        fir = Random().normals(up * taps, 0.1f);
    }
    int64_t sections() const { return int64_t(coefficients.size()) / 5; }
    int64_t depth() const { return up ? taps - 1 : 0; }
    int64_t outputs(int64_t n) const { return up ? (n * up + down - 1) / down : n; }
};

struct Outputs {
    std::vector<float> y;
    std::vector<uint8_t> ok;
};

// The state of `slots` patients.
struct State {
    const Plan& plan;
    std::vector<float> sections, shift, history, last;
    std::vector<uint8_t> started, valid, seen;
    std::vector<int64_t> since, run, samples;
    std::vector<double> z;

    State(const Plan& p, int64_t slots)
        : plan(p),
          sections(size_t(slots * rows * p.sections() * 2)),
          shift(size_t(slots * rows)),
          history(size_t(slots * rows * p.depth())),
          last(size_t(slots * rows)),
          started(size_t(slots * rows)),
          valid(size_t(slots * rows * p.depth()), 1),
          seen(size_t(slots * rows)),
          since(size_t(slots * rows), never),
          run(size_t(slots * rows)),
          samples(size_t(slots)),
          z(size_t(slots * rows * 3)) {
        history.reserve(1), valid.reserve(1);  // as numpy's, an empty array has an address
    }

    FrontendStreamState pointers() {
        return {sections.data(), shift.data(), started.data(), history.data(), valid.data(),  since.data(),
                z.data(),        last.data(),  seen.data(),    run.data(),     samples.data()};
    }

    // Samples [t, t + n) of the records at x, (patients, rows, total) each; outputs (patients, rows, m).
    template <class T>
    Outputs push(const KernelTable& k, const std::vector<int64_t>& slots, const T* x, int64_t total, int64_t t, int64_t n,
                 std::vector<uint8_t>& refused) {
        const int64_t patients = int64_t(slots.size()), first = samples[size_t(slots[0])];
        const int64_t m = plan.outputs(first + n) - plan.outputs(first);
        std::vector<uint8_t> gap;
        std::vector<int64_t> begin, x_row, y_row;
        bool any = false;
        for (int64_t p = 0; p < patients; ++p)
            for (int64_t r = 0; r < rows; ++r) {
                begin.push_back(r == 2 ? std::clamp<int64_t>(depth_begin - t, 0, n) : 0);
                for (int64_t j = 0; j < n; ++j) gap.push_back(missing(r, t + j)), any = any || gap.back();
            }
        for (int64_t r = 0; r < rows; ++r) x_row.push_back(r * total + t), y_row.push_back(r * m);
        Outputs out{std::vector<float>(size_t(patients * rows * m), 99.0f), std::vector<uint8_t>(size_t(patients * rows * m), 9)};
        out.y.reserve(1), out.ok.reserve(1);
        refused.assign(size_t(patients), 9);
        const int64_t offset = plan.up ? ((-first * plan.up) % plan.down + plan.down) % plan.down : 0;
        const FrontendStream a{patients,
                               rows,
                               n,
                               m,
                               slots.data(),
                               x,
                               plan.counts,
                               rows * total,
                               x_row.data(),
                               plan.counts ? plan.scale.data() : nullptr,
                               plan.counts ? plan.baseline.data() : nullptr,
                               any ? gap.data() : nullptr,
                               begin.data(),
                               plan.sections(),
                               plan.coefficients.data(),
                               true,
                               plan.low_pass ? 1.0f : 0.0f,
                               plan.up,
                               plan.down,
                               plan.half,
                               plan.taps,
                               offset,
                               plan.fir.data(),
                               settle,
                               plan.zscore,
                               decay,
                               float(flat_std),
                               pointers(),
                               out.y.data(),
                               out.ok.data(),
                               rows * m,
                               y_row.data(),
                               refused.data()};
        Scratch64 scratch(k.frontend_stream_scratch(a));
        for (int64_t task = 0; task < k.frontend_stream_tasks(a); ++task) k.frontend_stream(a, task, task + 1, scratch.data);
        return out;
    }
};

// One row by the equations of common/frontend_stream.h.
void plain(const Plan& plan, int64_t row, const std::vector<double>& x, std::vector<double>& y, std::vector<uint8_t>& ok) {
    const int64_t n = int64_t(x.size()), begin = row == 2 ? depth_begin : 0;
    std::vector<double> v(static_cast<size_t>(n), 0.0);
    double slow = 0.0, fast = 0.0, before = 0.0, before_fast = 0.0;
    for (int64_t t = begin; t < n; ++t) {
        double now = x[size_t(t)] - x[size_t(begin)];
        if (!plan.low_pass) {
            slow = p_slow * slow + (1 + p_slow) / 2 * (now - before);
            before = now;
            now = slow;
        }
        fast = p_fast * fast + (1 - p_fast) / 2 * (now + before_fast);
        before_fast = now;
        v[size_t(t)] = fast + (plan.low_pass ? x[size_t(begin)] : 0.0);
    }
    std::vector<uint8_t> valid;
    int64_t since = never;
    for (int64_t t = 0; t < n; ++t) {
        since = missing(row, t) ? 0 : since + 1;
        valid.push_back(since > settle);
    }
    double w = 0.0, u = 0.0, q = 0.0;
    for (int64_t k = 0; k < plan.outputs(n); ++k) {
        double now = plan.up ? 0.0 : v[size_t(k)];
        bool good = plan.up || valid[size_t(k)];
        if (plan.up) {
            const int64_t at = k * plan.down, phase = at % plan.up, newest = at / plan.up, middle = at - plan.half;
            for (int64_t j = 0; j < plan.taps && j <= newest; ++j)
                now += double(plan.fir[size_t(phase * plan.taps + j)]) * v[size_t(newest - j)];
            good = middle >= 0 && valid[size_t(middle / plan.up)] && valid[size_t((middle + plan.up - 1) / plan.up)];
        }
        if (good && plan.zscore) {
            const double c = 1 - decay, past = u;
            w = decay * w + c;
            u += c / w * (now - u);
            q = decay * q + c * (now - past) * (now - u);
            const double std = std::sqrt(q / w);
            good = std >= flat_std;
            now = good ? (now - u) / std : 0.0;
        }
        y.push_back(good ? now : 0.0);
        ok.push_back(good);
    }
}

template <class T>
void one(const KernelTable& k, const Plan& plan, const std::string& name) {
    const int64_t patients = 19, total = 701;  // two tasks, the second not full, and a last group of lanes that is not full
    Random random;
    std::vector<T> x;
    for (int64_t i = 0; i < patients * rows * total; ++i)
        x.push_back(T(plan.counts ? 300.0f * random.normal() : 3.0f + random.normal()));
    std::vector<int64_t> slots;
    for (int64_t p = 0; p < patients; ++p) slots.push_back(p * 7 % patients);
    std::vector<uint8_t> refused;

    State together(plan, patients);
    std::vector<Outputs> parts;
    const int64_t sizes[] = {1, 40, 7, 130, 2, 129, 16, 3};
    for (int64_t t = 0, i = 0; t < total; ++i) {
        const int64_t n = std::min(sizes[i % 8], total - t);
        if (!plan.counts && i % 3 == 1) {  // what is refused leaves no trace
            std::vector<T> bad(x.begin() + 4 * rows * total, x.begin() + 5 * rows * total);
            bad[size_t(2 * total + t + n - 1)] = T(i % 2 ? NAN : 1e13f);
            together.push(k, {slots[4]}, bad.data(), total, t, n, refused);
            expect(refused[0] == 1, name + " refuses a sample that is no number");
        }
        parts.push_back(together.push(k, slots, x.data(), total, t, n, refused));
        expect(std::count(refused.begin(), refused.end(), 0) == patients, name + " takes good samples");
        t += n;
    }
    for (int64_t p = 0; p < patients; ++p) {
        State alone(plan, 1);
        const T* own = x.data() + p * rows * total;
        const Outputs whole = alone.push(k, {0}, own, total, 0, total, refused);
        const int64_t m = plan.outputs(total);
        for (int64_t r = 0; r < rows; ++r) {
            std::vector<float> y;
            std::vector<uint8_t> ok, wanted_ok;
            for (const Outputs& part : parts) {
                const int64_t some = int64_t(part.y.size()) / (patients * rows), at = (p * rows + r) * some;
                y.insert(y.end(), part.y.begin() + at, part.y.begin() + at + some);
                ok.insert(ok.end(), part.ok.begin() + at, part.ok.begin() + at + some);
            }
            const std::string row = name + ", patient " + std::to_string(p) + ", row " + std::to_string(r);
            expect(int64_t(y.size()) == m && !std::memcmp(y.data(), whole.y.data() + r * m, size_t(m) * sizeof(float)),
                   row + ": chunks have the bits of one push");
            expect(std::equal(ok.begin(), ok.end(), whole.ok.begin() + r * m), row + ": chunks have the mask of one push");
            std::vector<double> mv, wanted;
            for (int64_t t = 0; t < total; ++t)
                mv.push_back(plan.counts ? (double(own[r * total + t]) - plan.baseline[size_t(r)]) * plan.scale[size_t(r)]
                                         : double(own[r * total + t]));
            plain(plan, r, mv, wanted, wanted_ok);
            expect(ok == wanted_ok, row + " has the plain loop's mask");
            expect_near(y, wanted, 5e-6, row);
        }
    }
}

void all(const KernelTable& k) {
    const int64_t ratios[][2] = {{0, 1}, {1, 5}, {5, 18}, {7, 3}};
    for (const auto& [up, down] : ratios)
        for (bool low_pass : {false, true})
            for (bool zscore : {false, true}) {
                const std::string name = std::to_string(up) + "/" + std::to_string(down) +
                                         (low_pass ? " low-pass" : " band-pass") + (zscore ? " z-score" : "");
                one<float>(k, Plan(low_pass, false, zscore, up, down), name);
                one<int16_t>(k, Plan(low_pass, true, zscore, up, down), name + " of counts");
            }
}

}  // namespace

void add_frontend_stream_cases(std::vector<Case>& cases, const std::string& isa) {
    cases.push_back({"frontend_stream." + isa, [isa] { all(level(isa)); }});
}

}  // namespace xecg::tests
