// The thread pool: every index once, from any number of callers, inside a body, and in a forked child.
#include "../cpu/pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "check.h"

namespace xecg::tests {
namespace {

// Runs a loop over n indices and says whether each was visited exactly once.
bool visits_once(int64_t n, int64_t grain) {
    std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
    for (auto& s : seen) s = 0;
    parallel_for(n, grain, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) seen[size_t(k)].fetch_add(1);
    });
    for (auto& s : seen)
        if (s != 1) return false;
    return true;
}

void every_index() {
    for (int threads : {1, 2, 5, 3, 2}) {
        set_num_threads(threads);
        for (int64_t n : {0, 1, 2, 7, 64, 1000, 4097})
            for (int64_t grain : {1, 3, 5000}) expect(visits_once(n, grain), std::to_string(n) + " indices are visited once");
    }
}

void nested() {
    set_num_threads(4);
    std::atomic<int64_t> sum{0}, moved{0};
    parallel_for(40, 1, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
            const auto outside = std::this_thread::get_id();
            parallel_for(100, 1, [&](int64_t from, int64_t to) {
                sum += to - from;
                if (std::this_thread::get_id() != outside) ++moved;
            });
        }
    });
    expect(sum == 4000, "nested loops visit all their indices");
    expect(moved == 0, "a nested loop runs in the thread that asked");
}

void concurrent() {
    set_num_threads(3);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 6; ++c)
        callers.emplace_back([&] {
            for (int k = 0; k < 200; ++k)
                if (!visits_once(50 + k, 1)) ++wrong;
        });
    for (auto& c : callers) c.join();
    expect(wrong == 0, "callers from several threads do not disturb one another");
}

// A child of fork has no workers; it must neither hang nor lose indices.
void forked() {
    set_num_threads(3);
    expect(visits_once(500, 1), "the parent works before fork");
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);  // a hang ends as a signal
        _exit(visits_once(500, 1) && visits_once(501, 1) ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child runs its own loops");
    expect(visits_once(500, 1), "the parent works after fork");
}

}  // namespace

void add_pool_cases(std::vector<Case>& cases) {
    cases.push_back({"pool_every_index", every_index});
    cases.push_back({"pool_nested", nested});
    cases.push_back({"pool_concurrent", concurrent});
#ifndef __SANITIZE_THREAD__  // its runtime forbids threads in a forked child
    cases.push_back({"pool_forked", forked});
#endif
}

}  // namespace xecg::tests
