// The detector on anything that may come: peaks ascend, lie in the record, and depend neither on chunks nor on a save between
// them. That they are the right ones is tested against its definition in Python.
#include "../cpu/qrs.h"

#include <algorithm>
#include <limits>

#include "check.h"

namespace xecg::tests {
namespace {

// 250 Hz; the sections are a difference behind a leaky integral, and a leaky integral.
QrsPlan plan() {
    const QrsFilter band{{0.2, 0, -0.2, 1, -0.7, 0, 1, 0, 0, 1, -0.2, 0}, {}},
        peak{{0.3, 0, 0, 1, -0.7, 0, 1, 0, 0, 1, 0, 0}, {}};
    QrsPlan p{band, peak, 250,  6,   2,    2,   25, 38,  6, 12, 500,  0.8, 0.45,
              0.7,  0.2,  0.36, 0.5, 1.66, 0.6, 4,  0.1, 2, 3,  1e-6, 256, 8};
    return p;
}

void expect_sound(const std::vector<double>& x, const std::string& what) {
    const auto n = int64_t(x.size());
    int64_t before = -1;
    for (int64_t at : qrs_detect(plan(), x.data(), n)) {
        expect(at > before && at < n, what + ": peak " + std::to_string(at) + " ascends and lies in the record");
        before = at;
    }
}

// In chunks of up to `longest` samples, every other one by a detector that goes on from what the one before saved.
void expect_same_in_chunks(const std::vector<double>& x, int64_t longest, const std::string& what) {
    const auto n = int64_t(x.size());
    const std::vector<int64_t> whole = qrs_detect(plan(), x.data(), n);
    std::vector<int64_t> found;
    QrsDetector detector(plan());
    Random random;
    for (int64_t at = 0; at < n;) {
        const int64_t size = std::min(n - at, int64_t(random.engine() % uint64_t(longest + 1)));
        const std::vector<double> chunk(x.begin() + at, x.begin() + at + size);  // nothing may be read beyond
        detector.push(chunk.data(), size, found);
        at += size;
        const std::vector<double> state = detector.save();
        QrsDetector next(plan());
        expect(next.restore(state.data(), int64_t(state.size())), what + ": a saved state is taken");
        expect(!next.restore(state.data(), int64_t(state.size()) - 1), what + ": a cut one is not");
        detector = next;
    }
    if (n) detector.flush(found);
    expect(found == whole, what + ": chunks of up to " + std::to_string(longest) + " give the same peaks");
}

void chunks() {
    Random random;
    std::vector<double> x(6000);
    for (double& v : x) v = 0.3 * double(random.normal());
    for (size_t k = 100; k < x.size(); k += 200) x[k] = x[k + 1] = 1.0, x[k + 2] = -0.4;
    for (size_t k = 2500; k < 4200; ++k) x[k] *= 0.02;
    x[0] = x[777] = std::numeric_limits<double>::quiet_NaN();
    for (int64_t longest : {1, 2, 25, 600, 9000}) expect_same_in_chunks(x, longest, "beats");
    for (double& v : x) v = 0;
    expect_same_in_chunks(x, 100, "silence");
    expect_same_in_chunks({}, 100, "nothing");
}

// One number of a saved state after the other becomes what it cannot be: refused, or harmless.
void altered_states() {
    std::vector<double> x(3000, 0.0);
    for (size_t k = 100; k < x.size(); k += 200) x[k] = x[k + 1] = 1.0, x[k + 2] = -0.4;
    std::vector<int64_t> found;
    QrsDetector detector(plan());
    detector.push(x.data(), int64_t(x.size()), found);
    const std::vector<double> state = detector.save();
    int64_t refused = 0;
    for (size_t place = 0; place < state.size(); ++place)
        for (double wrong : {-1.0, 1e300, std::numeric_limits<double>::quiet_NaN(), 2999.0, 3.5}) {
            std::vector<double> altered = state;
            altered[place] = wrong;
            QrsDetector next(plan());
            if (next.restore(altered.data(), int64_t(altered.size())))
                next.push(x.data(), int64_t(x.size()), found);
            else
                ++refused;
        }
    expect(refused >= 30, "counts that cannot be are refused: " + std::to_string(refused));
}

void anything() {
    Random random;
    for (int64_t n : {0, 1, 2, 37, 38, 39, 499, 500, 501, 16383, 16384, 16385, 40000}) {
        std::vector<double> x(size_t(n), 0.0);
        expect_sound(x, "silence");
        for (double& v : x) v = double(random.normal());
        expect_sound(x, "noise");
        for (size_t k = 0; k < x.size(); k += 3) x[k] = std::numeric_limits<double>::quiet_NaN();
        expect_sound(x, "holes");
        for (double& v : x) v = std::numeric_limits<double>::infinity();
        expect_sound(x, "no number");
    }
}

void beats() {
    std::vector<double> x(30000, 0.0);
    for (size_t k = 100; k < x.size(); k += 200) x[k] = x[k + 1] = 1.0, x[k + 2] = -0.4;
    const auto found = qrs_detect(plan(), x.data(), int64_t(x.size()));
    expect(found.size() >= 148 && found.size() <= 150, "one peak for each of 150 beats, not " + std::to_string(found.size()));
    for (size_t k = 1; k < found.size(); ++k) expect(found[k] - found[k - 1] == 200, "beats keep their distance");
    expect(qrs_peakedness(plan(), x.data(), int64_t(x.size())) > 3, "beats stand out");
    expect(qrs_peakedness(plan(), std::vector<double>(500).data(), 500) == -3, "silence does not");
}

}  // namespace

void add_qrs_cases(std::vector<Case>& cases) {
    cases.push_back({"qrs_anything", anything});
    cases.push_back({"qrs_beats", beats});
    cases.push_back({"qrs_chunks", chunks});
    cases.push_back({"qrs_altered_states", altered_states});
}

}  // namespace xecg::tests
