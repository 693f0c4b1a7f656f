// What every case of the C++ tests uses. A case is a name and a function; main.cpp runs it and exits 0, 1 (failed) or 77
// (skipped).
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace xecg::tests {

struct Case {
    std::string name;
    std::function<void()> run;
};

// Prints and counts a broken promise; the case goes on.
void expect(bool kept, const std::string& promise);

// |found - wanted| <= bound * largest |wanted|, entry by entry.
void expect_near(const std::vector<float>& found, const std::vector<double>& wanted, double bound, const std::string& what);

struct Random {
    std::mt19937 engine{20240512};
    float normal() { return std::normal_distribution<float>()(engine); }
    std::vector<float> normals(int64_t n, float scale = 1.0f) {
        std::vector<float> x(static_cast<size_t>(n));
        for (float& v : x) v = scale * normal();
        return x;
    }
};

// bfloat16 numbers nearest to x (finite), and back.
inline std::vector<uint16_t> narrowed(const std::vector<float>& x) {
    std::vector<uint16_t> to;
    for (float v : x) {
        uint32_t u;
        std::memcpy(&u, &v, 4);
        to.push_back(uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16));
    }
    return to;
}
inline std::vector<float> widened(const std::vector<uint16_t>& x) {
    std::vector<float> to;
    for (uint16_t v : x) {
        const uint32_t u = uint32_t(v) << 16;
        float f;
        std::memcpy(&f, &u, 4);
        to.push_back(f);
    }
    return to;
}

// Aligned scratch of exactly so many floats: a kernel that goes beyond is caught by the address checker.
struct Scratch64 {
    float* data;
    explicit Scratch64(int64_t floats) : data(static_cast<float*>(std::aligned_alloc(64, size_t(floats + 15) / 16 * 64))) {}
    ~Scratch64() { std::free(data); }
    Scratch64(const Scratch64&) = delete;
    Scratch64& operator=(const Scratch64&) = delete;
};

// One file each; `isa` is a level that this machine runs.
void add_math_cases(std::vector<Case>& cases, const std::string& isa);
void add_conv1d_cases(std::vector<Case>& cases, const std::string& isa);
void add_linear_cases(std::vector<Case>& cases, const std::string& isa);
void add_mlstm_cases(std::vector<Case>& cases, const std::string& isa);
void add_norm_cases(std::vector<Case>& cases, const std::string& isa);
void add_slstm_cases(std::vector<Case>& cases, const std::string& isa);
void add_frontend_cases(std::vector<Case>& cases, const std::string& isa);
void add_frontend_stream_cases(std::vector<Case>& cases, const std::string& isa);
void add_quality_cases(std::vector<Case>& cases, const std::string& isa);
void add_reversal_cases(std::vector<Case>& cases);
void add_pool_cases(std::vector<Case>& cases);
void add_qrs_cases(std::vector<Case>& cases);
void add_cuda_slstm_cases(std::vector<Case>& cases);

}  // namespace xecg::tests
