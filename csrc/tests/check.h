// What every case of the C++ tests uses. A case is a name and a function; main.cpp runs it and exits 0, 1 (failed) or 77
// (skipped).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
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

// One file each; `isa` is a level that this machine runs.
void add_math_cases(std::vector<Case>& cases, const std::string& isa);
void add_conv1d_cases(std::vector<Case>& cases, const std::string& isa);
void add_slstm_cases(std::vector<Case>& cases, const std::string& isa);
void add_pool_cases(std::vector<Case>& cases);

}  // namespace xecg::tests
