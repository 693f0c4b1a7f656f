// A thread pool for loops whose iterations are independent. Results never depend on how many threads it has.
#pragma once
#include <cstdint>
#include <functional>

namespace xecg {

// Runs body(begin, end) over [0, n) cut into pieces of at least `grain`; returns when all are done. The calling thread works too.
// Calls from inside a body, and calls while another thread holds the pool, run inline.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// Threads in use: XECG_NUM_THREADS, else the CPUs this process may run on. set_num_threads(0) returns to that default.
int num_threads();
void set_num_threads(int n);

}  // namespace xecg
