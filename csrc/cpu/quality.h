// Signal quality: rails and percentiles of leads, spectra of windows. Layouts: common/quality.h.
//
// Percentiles: the tail beyond a guess from a few samples is collected in one pass, the value in it is found by halving the
// interval of possible floats, counting each time. Spectra: lanes are windows, of any leads; a lane's operations do not depend on
// its companions. An even window is a complex transform of half its length; radix 2 and any odd radix, the sums of the latter
// folded by symmetry. Cost of a 500-sample window: some 10,000 operations / W.
#pragma once
#include "../common/quality.h"
#include "simd.h"

namespace xecg::XECG_ISA {

constexpr int64_t tail_sample = 256, tail_kept = 8, tail_all = 512;

inline int64_t quality_lead_tasks(const Quality& a) { return a.leads + 1; }
inline int64_t quality_lead_scratch(const Quality& a) { return 2 * (a.n + W); }
inline int64_t quality_window_tasks(const Quality& a) { return (a.leads * a.count + W - 1) / W; }

// Leads.

inline bool quality_is_there(const Quality& a, int64_t lead, int64_t t) {
    const float v = a.x[lead * a.x_lead + t];
    return a.valid[lead * a.valid_lead + t] && v - v == 0.0f;
}

inline bool quality_is_whole(const Quality& a, int64_t lead) {
    const float* x = a.x + lead * a.x_lead;
    const uint8_t* valid = a.valid + lead * a.valid_lead;
    uint8_t there = 1;
    for (int64_t t = 0; t < a.n; ++t) there &= valid[t];
    if (!there) return false;
    vec odd[4] = {zero(), zero(), zero(), zero()};  // NaN of what is not finite
    int64_t t = 0;
    for (; t + 4 * W <= a.n; t += 4 * W)
        for (int k = 0; k < 4; ++k) odd[k] = fma(load(x + t + k * W), zero(), odd[k]);
    for (; t < a.n; t += W) odd[0] = fma(load_n(x + t, min_of(W, a.n - t)), zero(), odd[0]);
    const float total = sum((odd[0] + odd[1]) + (odd[2] + odd[3]));
    return total == total;
}

// The order of floats as whole numbers.
inline int64_t float_rank(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits < 0 ? -int64_t(bits & 0x7fffffff) : bits;
}
inline float ranked_float(int64_t rank) {
    const uint32_t bits = rank < 0 ? 0x80000000u | uint32_t(-rank) : uint32_t(rank);
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// Values of v up to `limit`. n < 2^24 a lane.
inline int64_t count_up_to(const float* v, int64_t n, float limit) {
    const vec bound = set1(limit), one = set1(1.0f);
    int64_t beyond = 0;
    for (int64_t first = 0; first < n; first += (1 << 20) * W) {
        const int64_t end = min_of(n, first + (1 << 20) * W);
        vec more = zero();
        int64_t t = first;
        for (; t + W <= end; t += W) more = more + select(less(bound, load(v + t)), one, zero());
        if (t < end) more = more + select(less(bound, load_n(v + t, end - t)), one, zero());  // lanes beyond are 0
        beyond += int64_t(sum(more));
        if (t < end && limit < 0.0f) beyond -= W - (end - t);
    }
    return n - beyond;
}

// The `rank`-th and the next of v in ascending order, from 0; both below `most`, an upper bound of all values.
inline void two_smallest_from(const float* v, int64_t n, int64_t rank, float least, float most, float (&found)[2]) {
    int64_t low = float_rank(least), high = float_rank(most);
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;  // towards low: of negative ranks too, as high - low > 0
        if (count_up_to(v, n, ranked_float(middle)) > rank)
            high = middle;
        else
            low = middle + 1;
    }
    found[0] = found[1] = ranked_float(low);
    if (rank + 1 >= n || count_up_to(v, n, found[0]) > rank + 1) return;
    found[1] = most;
    for (int64_t t = 0; t < n; ++t)
        if (v[t] > found[0] && v[t] < found[1]) found[1] = v[t];
}

// Of the values sign * v in ascending order: numbers `rank` and `rank` + 1, and how many are `least`. tail: room for n.
inline int64_t lower_tail(const float* v, int64_t n, float sign, int64_t rank, float least, float most, float* tail,
                          float (&found)[2]) {
    float limit = most;
    if (n > tail_all) {  // a guess, with room to spare: of the few smallest of a sample
        float few[tail_kept];
        for (float& f : few) f = most;
        const int64_t step = n / tail_sample;
        for (int64_t k = 0; k < tail_sample; ++k) {
            const float x = sign * v[k * step];
            if (!(x < few[tail_kept - 1])) continue;
            int64_t at = tail_kept - 1;
            for (; at > 0 && few[at - 1] > x; --at) few[at] = few[at - 1];
            few[at] = x;
        }
        limit = few[tail_kept - 1];
    }
    int64_t size = 0;
    for (int attempt = 0; attempt < 2; ++attempt) {
        size = 0;
        const vec bound = set1(limit), sign_of = set1(sign);
        int64_t t = 0;
        for (; t + W <= n; t += W) {
            if (!any(less_equal(load(v + t) * sign_of, bound))) continue;
            for (int64_t k = 0; k < W; ++k) {
                tail[size] = sign * v[t + k];
                size += tail[size] <= limit;
            }
        }
        for (; t < n; ++t) {
            tail[size] = sign * v[t];
            size += tail[size] <= limit;
        }
        if (size > min_of(rank + 1, n - 1)) break;
        limit = most;  // the guess was too low: all
    }
    two_smallest_from(tail, size, rank, least, limit, found);
    return count_up_to(tail, size, least);
}

inline void quality_lead(const Quality& a, int64_t lead, float* scratch) {
    const float* v = a.x + lead * a.x_lead;
    int64_t m = a.n;
    a.whole[lead] = quality_is_whole(a, lead);
    if (!a.whole[lead]) {
        float* packed = scratch;
        m = 0;
        for (int64_t t = 0; t < a.n; ++t) {
            packed[m] = v[t];
            m += quality_is_there(a, lead, t);
        }
        v = packed;
    }
    float* tail = scratch + a.n + W;
    a.present[lead] = m;
    a.clipped[lead] = a.range_mv[lead] = 0.0;
    if (m == 0) return;
    vec lows = set1(v[0]), highs = lows;
    int64_t t = 0;
    for (; t + W <= m; t += W) {
        const vec now = load(v + t);
        lows = min(lows, now), highs = max(highs, now);
    }
    float edge[2][W];
    store(edge[0], lows), store(edge[1], highs);
    float low = v[0], high = v[0];
    for (int l = 0; l < W; ++l) {
        low = edge[0][l] < low ? edge[0][l] : low;
        high = edge[1][l] > high ? edge[1][l] : high;
    }
    for (; t < m; ++t) {
        low = v[t] < low ? v[t] : low;
        high = v[t] > high ? v[t] : high;
    }
    const double places[2] = {0.99 * double(m - 1), 0.01 * double(m - 1)};
    const auto top = int64_t(places[0]), bottom = int64_t(places[1]), above = min_of(top + 1, m - 1);
    float lower[2], upper[2];  // upper: of the negated values, so in descending order
    const int64_t at_low = lower_tail(v, m, 1.0f, bottom, low, high, tail, lower);
    const int64_t at_high = lower_tail(v, m, -1.0f, m - 1 - above, -high, -low, tail, upper);
    const float first = above > top ? -upper[1] : -upper[0], second = -upper[0];
    const double ceiling = double(first) + double(second - first) * (places[0] - double(top));
    const double floor = double(lower[0]) + double(lower[1] - lower[0]) * (places[1] - double(bottom));
    a.range_mv[lead] = ceiling - floor;
    if (high - low >= a.rail_range_mv) a.clipped[lead] = double(max_of(at_low, at_high)) / double(m);
}

inline void quality_triangle(const Quality& a) {
    *a.triangle = double(__builtin_nanf(""));
    if (a.limbs[0] < 0) return;
    const float* x[3];
    bool whole = true;
    for (int k = 0; k < 3; ++k) {
        x[k] = a.x + a.limbs[k] * a.x_lead;
        whole = whole && quality_is_whole(a, a.limbs[k]);
    }
    double total = 0.0;
    int64_t known = 0;
    for (int64_t t = 0; t < a.n;) {
        if (whole && t + W <= a.n) {
            wide sums = wide1(0.0);
            for (; t + W <= a.n; t += W) {
                const wide rest = to_wide(load(x[0] + t)) + to_wide(load(x[2] + t)) - to_wide(load(x[1] + t));
                sums = fma(rest, rest, sums);
            }
            double lanes_of[W];
            store(lanes_of, sums);
            for (double lane : lanes_of) total += lane;
            known = t;
            continue;
        }
        bool there = true;
        for (int64_t limb : a.limbs) there = there && quality_is_there(a, limb, t);
        const double rest = double(x[0][t]) + double(x[2][t]) - double(x[1][t]);
        if (there) total += rest * rest, ++known;
        ++t;
    }
    if (known) *a.triangle = __builtin_sqrt(total / double(known));
}

inline void quality_leads(const Quality& a, int64_t begin, int64_t end, float* scratch) {
    for (int64_t task = begin; task < end; ++task) task < a.leads ? quality_lead(a, task, scratch) : quality_triangle(a);
}

// Windows.

struct Complex {
    vec re, im;
};
inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }

struct Spectrum {
    int64_t size, points, n_factors, factors[64];
    const float* roots;  // of `size`

    explicit Spectrum(const Quality& a) : size(a.size), points(a.size % 2 ? a.size : a.size / 2), n_factors(0), roots(a.roots) {
        int64_t rest = points;
        for (int64_t f = 2; rest > 1; f = f == 2 ? 3 : f + 2)
            for (; rest % f == 0; rest /= f) factors[n_factors++] = f;
    }
    int64_t largest_factor() const { return n_factors ? factors[n_factors - 1] : 1; }
    Complex root(int64_t k) const { return {set1(roots[2 * k]), set1(roots[2 * k + 1])}; }
    // Where each point of the input goes: its digits in reverse, the last stage's is the fastest of the input.
    void places(int64_t* to) const {
        int64_t digits[64] = {}, place = 0;
        for (int64_t k = 0; k < points; ++k) {
            to[k] = place;
            int64_t stride = points;
            for (int64_t f = n_factors; f-- > 0;) {
                stride /= factors[f];
                place += stride;
                if (++digits[f] < factors[f]) break;
                digits[f] = 0;
                place -= factors[f] * stride;
            }
        }
    }
};

inline Complex times(Complex a, Complex b) { return {fma(a.re, b.re, zero() - a.im * b.im), fma(a.re, b.im, a.im * b.re)}; }

inline void put(float* z, int64_t k, Complex a) {
    store(z + 2 * W * k, a.re);
    store(z + 2 * W * k + W, a.im);
}
inline Complex get(const float* z, int64_t k) { return {load(z + 2 * W * k), load(z + 2 * W * k + W)}; }

// One stage: transforms of `length` points become transforms of R times as many. R = 0: any odd radix, `radix`; x: room for it.
template <int R>
inline void odd_stage(const Spectrum& s, float* z, int64_t length, int64_t any_radix, float* x) {
    const int64_t r = R ? R : any_radix, half = r / 2, step = s.size / (r * length);
    for (int64_t block = 0; block < s.points; block += r * length)
        for (int64_t j = 0; j < length; ++j) {
            float* at = z + 2 * W * (block + j);
            const Complex x0 = get(at, 0);
            Complex total = x0, plus[R ? R / 2 : 1], minus[R ? R / 2 : 1];
            XECG_UNROLL
            for (int64_t q = 1; q <= half; ++q) {
                const Complex a = times(get(at, q * length), s.root(j * q * step));
                const Complex b = times(get(at, (r - q) * length), s.root(j * (r - q) * step));
                const Complex p = a + b;
                if (R) {
                    plus[q - 1] = p, minus[q - 1] = a - b;
                } else {
                    put(x, 2 * q, p);
                    put(x, 2 * q + 1, a - b);
                }
                total = total + p;
            }
            put(at, 0, total);
            XECG_UNROLL
            for (int64_t p = 1; p <= half; ++p) {
                Complex even = x0, odd{zero(), zero()};
                XECG_UNROLL
                for (int64_t q = 1; q <= half; ++q) {
                    const Complex w = s.root(p * q % r * (s.size / r));
                    const Complex sums = R ? plus[R ? q - 1 : 0] : get(x, 2 * q),
                                  gaps = R ? minus[R ? q - 1 : 0] : get(x, 2 * q + 1);
                    even = {fma(w.re, sums.re, even.re), fma(w.re, sums.im, even.im)};
                    odd = {fma(w.im, gaps.re, odd.re), fma(w.im, gaps.im, odd.im)};
                }
                // i * odd is added to one, taken from the other
                put(at, p * length, {even.re - odd.im, even.im + odd.re});
                put(at, (r - p) * length, {even.re + odd.im, even.im - odd.re});
            }
        }
}

inline void even_stage(const Spectrum& s, float* z, int64_t length) {
    const int64_t step = s.size / (2 * length);
    for (int64_t block = 0; block < s.points; block += 2 * length)
        for (int64_t j = 0; j < length; ++j) {
            const Complex a = get(z, block + j), b = times(get(z, block + j + length), s.root(j * step));
            put(z, block + j, a + b);
            put(z, block + j + length, a - b);
        }
}

inline void transform(const Spectrum& s, float* z, float* spare) {
    int64_t length = 1;
    for (int64_t f = 0; f < s.n_factors; ++f) {
        const int64_t r = s.factors[f];
        if (r == 2)
            even_stage(s, z, length);
        else if (r == 3)
            odd_stage<3>(s, z, length, r, spare);
        else if (r == 5)
            odd_stage<5>(s, z, length, r, spare);
        else
            odd_stage<0>(s, z, length, r, spare);
        length *= r;
    }
}

// Floats of scratch that one thread needs: where a task's things stand in it.
struct WindowScratch {
    int64_t points, spare, places, samples, filled, end;

    explicit WindowScratch(const Spectrum& s) : points(0) {
        spare = points + 2 * W * s.points;
        places = spare + 2 * W * (s.largest_factor() + 1);
        samples = places + (2 * s.points + W - 1) / W * W;
        filled = samples + W * (s.size + W);
        end = filled + W * s.size;
    }
};

inline int64_t quality_window_scratch(const Quality& a) { return WindowScratch(Spectrum(a)).end; }

// The `windows` windows from number `first` on as (time, lane), and their flags `used` and `still`; returns the lanes' means.
inline vec read_windows(const Quality& a, int64_t first, int64_t windows, float* samples, float* filled) {
    const float* source[W];
    bool used[W] = {};
    for (int64_t l = 0; l < windows; ++l) {
        const int64_t lead = (first + l) / a.count, from = (first + l) % a.count * a.size;
        source[l] = a.x + lead * a.x_lead + from;
        used[l] = true;
        if (a.whole[lead]) continue;
        float* copy = filled + l * a.size;
        int64_t there = 0;
        for (int64_t t = 0; t < a.size; ++t) {
            const bool is = quality_is_there(a, lead, from + t);
            copy[t] = is ? source[l][t] : 0.0f;
            there += is;
        }
        source[l] = copy;
        used[l] = double(there) / double(a.size) >= 1.0 - a.gap_limit;
    }
    vec totals[2] = {zero(), zero()}, lows = zero(), highs = zero();
    for (int64_t t = 0; t < a.size; t += W) {
        const int64_t n = min_of(W, a.size - t);
        vec block[W];
        for (int l = 0; l < W; ++l) block[l] = l >= windows ? zero() : n == W ? load(source[l] + t) : load_n(source[l] + t, n);
        transpose(block);
        if (t == 0) lows = highs = block[0];
        for (int64_t k = 0; k < n; ++k) {
            store(samples + (t + k) * W, block[k]);
            totals[k % 2] = totals[k % 2] + block[k];
            lows = min(lows, block[k]), highs = max(highs, block[k]);
        }
    }
    float moves[W];
    store(moves, highs - lows);
    for (int64_t l = 0; l < windows; ++l)
        a.flags[first + l] = uint8_t((used[l] ? window_used : 0) | (moves[l] < a.flat_mv ? window_still : 0));
    return (totals[0] + totals[1]) / set1(float(a.size));
}

struct Powers {
    vec of[4] = {zero(), zero(), zero(), zero()};
    void add(const float* bands, Complex f) {
        const vec p = fma(f.re, f.re, f.im * f.im);
        for (int b = 0; b < 4; ++b) of[b] = fma(set1(bands[b]), p, of[b]);
    }
};

// Of an even window, z is the transform of the even samples plus i times that of the odd ones: frequencies k and points - k come
// from the same two points.
inline Powers quality_powers(const Quality& a, const Spectrum& s, const float* z) {
    Powers p;
    if (a.size % 2) {
        for (int64_t k = 0; k <= a.size / 2; ++k) p.add(a.bands + 4 * k, get(z, k));
        return p;
    }
    const vec half = set1(0.5f);
    for (int64_t k = 0; 2 * k <= s.points; ++k) {
        const int64_t mirror = s.points - k;
        const Complex f = get(z, k), g = get(z, k ? mirror : 0);
        const Complex evens{(f.re + g.re) * half, (f.im - g.im) * half};
        const Complex odds = times({(f.im + g.im) * half, (g.re - f.re) * half}, s.root(k));
        p.add(a.bands + 4 * k, evens + odds);
        if (mirror != k) p.add(a.bands + 4 * mirror, evens - odds);
    }
    return p;
}

inline void quality_windows(const Quality& a, int64_t begin, int64_t end, float* scratch) {
    const Spectrum s(a);
    const WindowScratch at(s);
    float *z = scratch + at.points, *samples = scratch + at.samples;
    auto* places = reinterpret_cast<int64_t*>(scratch + at.places);
    s.places(places);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task * W, windows = min_of(W, a.leads * a.count - first);
        const vec means = read_windows(a, first, windows, samples, scratch + at.filled);
        for (int64_t k = 0; k < s.points; ++k) {
            const int64_t t = a.size % 2 ? k : 2 * k;
            const vec v = (load(samples + t * W) - means) * set1(a.taper[t]);
            const vec next = a.size % 2 ? zero() : (load(samples + (t + 1) * W) - means) * set1(a.taper[t + 1]);
            put(z, places[k], {v, next});
        }
        transform(s, z, scratch + at.spare);
        const Powers power = quality_powers(a, s, z);
        float ecg[W], hum[W], noisy[W];
        store(ecg, power.of[0]);
        store(hum, max(power.of[1], power.of[2]));
        store(noisy, select(less(set1(a.noise_ratio * a.noise_ratio) * power.of[0], power.of[3]), set1(1.0f), zero()));
        for (int64_t l = 0; l < windows; ++l) {
            a.ecg[first + l] = ecg[l];
            a.hum[first + l] = hum[l];
            if (noisy[l] != 0.0f && !(a.flags[first + l] & window_still)) a.flags[first + l] |= window_noisy;
        }
    }
}

}  // namespace xecg::XECG_ISA
