#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace xecg {
namespace {

int default_threads() {
    if (const char* text = std::getenv("XECG_NUM_THREADS")) {
        const int n = std::atoi(text);
        if (n > 0) return n;
    }
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const unsigned n = std::thread::hardware_concurrency();
    return n ? int(n) : 1;
}

// A worker polls this often before it sleeps: a step of a stream follows its predecessor within microseconds.
constexpr int spins_before_sleep = 2000;

thread_local bool inside = false;

struct Pool {
    std::mutex use;  // one parallel_for at a time
    std::mutex lock;
    std::condition_variable wake;
    std::vector<std::thread> workers;
    std::atomic<uint64_t> round{0};
    std::atomic<int> busy{0};
    std::atomic<bool> stop{false};

    const std::function<void(int64_t, int64_t)>* body = nullptr;
    std::atomic<int64_t> next{0};
    int64_t n = 0, piece = 1;

    void work() {
        for (int64_t begin; (begin = next.fetch_add(piece)) < n;) (*body)(begin, begin + piece < n ? begin + piece : n);
    }

    void worker(uint64_t seen) {
        inside = true;
        for (;;) {
            for (int k = 0; k < spins_before_sleep && round.load(std::memory_order_acquire) == seen; ++k) {
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
            }
            if (round.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> guard(lock);
                wake.wait(guard, [&] { return stop || round.load() != seen; });
            }
            if (stop) return;
            seen = round.load(std::memory_order_acquire);
            work();
            busy.fetch_sub(1, std::memory_order_acq_rel);
        }
    }

    void resize(int threads) {
        if (int(workers.size()) == threads - 1) return;
        {
            std::lock_guard<std::mutex> guard(lock);
            stop = true;
            round.fetch_add(1);
        }
        wake.notify_all();
        for (auto& w : workers) w.join();
        workers.clear();
        stop = false;
        const uint64_t seen = round.load();
        for (int k = 1; k < threads; ++k) workers.emplace_back([this, seen] { worker(seen); });
    }

    void run(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& f) {
        const int64_t threads = int64_t(workers.size()) + 1;
        body = &f;
        n = count;
        piece = (count + 4 * threads - 1) / (4 * threads);  // four pieces a thread even out unequal rows
        if (piece < grain) piece = grain;
        next.store(0);
        busy.store(int(workers.size()), std::memory_order_release);
        {
            std::lock_guard<std::mutex> guard(lock);
            round.fetch_add(1, std::memory_order_acq_rel);
        }
        wake.notify_all();
        work();
        while (busy.load(std::memory_order_acquire) > 0) std::this_thread::yield();
    }
};

// Leaked on purpose: worker threads may outlive static destructors.
Pool* pool = nullptr;
std::once_flag made;
std::atomic<int> wanted_threads{0};
void forget_after_fork() {  // a child has no worker threads: start with a fresh pool
    pool = new Pool;
}

Pool& the_pool() {
    std::call_once(made, [] {
        pool = new Pool;
        pthread_atfork(nullptr, nullptr, forget_after_fork);
    });
    return *pool;
}

}  // namespace

int num_threads() {
    const int n = wanted_threads.load();
    static const int automatic = default_threads();
    return n > 0 ? n : automatic;
}

void set_num_threads(int n) { wanted_threads.store(n < 0 ? 0 : n); }

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
    if (n <= 0) return;
    const int threads = num_threads();
    Pool* p = threads > 1 && n > grain && !inside ? &the_pool() : nullptr;
    if (!p || !p->use.try_lock()) {
        body(0, n);
        return;
    }
    std::lock_guard<std::mutex> held(p->use, std::adopt_lock);
    p->resize(threads);
    inside = true;
    p->run(n, grain, body);
    inside = false;
}

}  // namespace xecg
