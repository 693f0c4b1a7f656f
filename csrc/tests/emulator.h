// Runs CUDA kernel bodies (csrc/cuda/slstm_thread.cuh) on the host: every thread of a cluster is a fiber that runs until it waits
// at a barrier. Warps run as far ahead of one another as barriers let them, in ascending or descending order. A barrier that is
// missing, or that not all threads reach, shows: results depend on the order, or nobody can go on. Shared memory starts as NaN.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "../cuda/slstm_plan.cuh"

namespace xecg::tests {

class Emulator {
  public:
    bool descending = false;

    // body(thread) for the threads of `blocks` blocks at once. Thread is made of (emulator, block, index).
    template <class Thread, class Body>
    void run(const Body& body, int blocks, int threads, int64_t shared, int64_t tile, int64_t head) {
        tile_ = tile, head_ = head, threads_ = threads;
        everyone_ = Meeting{blocks * threads}, meetings_.assign(size_t(blocks), Meeting{threads});
        warps_.assign(size_t(blocks) * size_t(threads / 32), Warp{});
        const size_t quads = size_t(shared + 15) / 16;
        memory_.clear();
        for (int k = 0; k < blocks; ++k) memory_.emplace_back(std::make_unique<cuda::Quad[]>(quads));
        for (auto& block : memory_)
            for (size_t k = 0; k < quads; ++k)
                for (float& v : block[k].v) v = std::numeric_limits<float>::quiet_NaN();
        fibers_.resize(std::max(fibers_.size(), size_t(blocks * threads)));
        for (int k = 0; k < blocks * threads; ++k) {
            Fiber& f = fibers_[size_t(k)];
            if (!f.stack) f.stack = std::make_unique<char[]>(stack_bytes);
            f.waits_at = nullptr, f.done = false;
            f.work = [this, &body, k, threads] {
                Thread thread(*this, k / threads, k % threads);
                body(thread);
            };
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = stack_bytes;
            f.context.uc_link = &scheduler_;
            makecontext(&f.context, &Emulator::enter, 0);
        }
        schedule(blocks * threads);
    }

    int64_t tile() const { return tile_; }
    int64_t head() const { return head_; }
    int threads() const { return threads_; }
    void* shared(int block) const { return memory_[size_t(block)].get(); }
    void barrier(int block) { wait(meetings_[size_t(block)]); }
    void everyone() { wait(everyone_); }

    // `turn`: how many warp operations this thread has made.
    uint32_t swap(int block, int index, int turn, uint32_t word, int bits) {
        Warp& warp = warps_[size_t(block * (threads_ / 32) + index / 32)];
        auto& lanes = warp.lanes[turn & 1];
        lanes[index % 32].word = word;
        wait(warp.meeting);
        return lanes[index % 32 ^ bits].word;
    }

    // One m16n8k16 product of a warp, register layout of the PTX ISA.
    void mma(int block, int index, int turn, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        Warp& warp = warps_[size_t(block * (threads_ / 32) + index / 32)];
        auto& lanes = warp.lanes[turn & 1];
        const int lane = index % 32;
        std::copy(a, a + 4, lanes[lane].a), std::copy(b, b + 2, lanes[lane].b);
        wait(warp.meeting);
        for (int e = 0; e < 4; ++e) {
            const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
            double sum = 0.0;
            for (int k = 0; k < 16; ++k) {
                const int pair = k % 8 / 2;
                const uint32_t wa = lanes[row % 8 * 4 + pair].a[row / 8 + k / 8 * 2], wb = lanes[column * 4 + pair].b[k / 8];
                sum += double(half(wa, k % 2)) * double(half(wb, k % 2));
            }
            c[e] = float(double(c[e]) + sum);
        }
    }

  private:
    static constexpr size_t stack_bytes = 128 << 10;

    struct Meeting {
        int members = 0, arrived = 0;
        uint64_t passed = 0;
    };
    struct Warp {
        struct Lane {
            uint32_t a[4], b[2], word;
        };
        Meeting meeting{32};
        Lane lanes[2][32];
    };
    struct Fiber {
        ucontext_t context;
        std::unique_ptr<char[]> stack;
        std::function<void()> work;
        const Meeting* waits_at;
        uint64_t until;
        bool done;
    };

    static float half(uint32_t word, int which) { return cuda::bits_as<float>(which ? word & 0xffff0000u : word << 16); }
    static inline Emulator* running_ = nullptr;

    static void enter() {
        Fiber& f = *running_->current_;
        f.work();
        f.done = true;  // then on to uc_link
    }
    void wait(Meeting& meeting) {
        Fiber& f = *current_;
        f.until = meeting.passed + 1;
        if (++meeting.arrived == meeting.members) {
            meeting.arrived = 0, ++meeting.passed;
            return;
        }
        f.waits_at = &meeting;
        swapcontext(&f.context, &scheduler_);
        f.waits_at = nullptr;
    }
    void schedule(int count) {
        running_ = this;
        for (int left = count; left > 0;) {
            bool moved = false;
            for (int warp = 0; warp < count / 32; ++warp)
                for (bool again = true; again; moved |= again) {
                    again = false;
                    for (int k = warp * 32; k < warp * 32 + 32; ++k) {
                        Fiber& f = fibers_[size_t(descending ? count - 1 - k : k)];
                        if (f.done || (f.waits_at && f.waits_at->passed < f.until)) continue;
                        current_ = &f, again = true;
                        swapcontext(&scheduler_, &f.context);
                        left -= f.done;
                    }
                }
            if (!moved) throw std::runtime_error("a barrier is not reached by all its threads");
        }
    }

    int64_t tile_ = 0, head_ = 0;
    int threads_ = 0;
    Meeting everyone_;
    std::vector<Meeting> meetings_;
    std::vector<Warp> warps_;
    std::vector<std::unique_ptr<cuda::Quad[]>> memory_;
    std::vector<Fiber> fibers_;
    Fiber* current_ = nullptr;
    ucontext_t scheduler_;
};

// What DeviceThread is on a GPU.
template <int cluster>
class EmulatedThread {
  public:
    static constexpr int blocks = cluster;
    EmulatedThread(Emulator& emulator, int block, int index) : emulator_(emulator), block_(block), index_(index) {}
    int index() const { return index_; }
    int count() const { return emulator_.threads(); }
    int rank() const { return block_; }
    int64_t tile() const { return emulator_.tile(); }
    int64_t head() const { return emulator_.head(); }
    void* shared() const { return emulator_.shared(block_); }
    template <class T>
    T* remote(T* own, int rank) const {
        return reinterpret_cast<T*>(static_cast<char*>(emulator_.shared(rank)) +
                                    (reinterpret_cast<char*>(own) - static_cast<char*>(shared())));
    }
    void barrier() const { emulator_.barrier(block_); }
    void everyone() const { emulator_.everyone(); }
    void converge() const {}  // a product waits for its lanes
    uint32_t swap(uint32_t word, int bits) { return emulator_.swap(block_, index_, turn_++, word, bits); }
    void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { emulator_.mma(block_, index_, turn_++, c, a, b); }

  private:
    Emulator& emulator_;
    int block_, index_, turn_ = 0;
};

// Every block of a launch, one cluster after the other.
struct EmulatedLaunch {
    cuda::SlstmDevice device;
    bool descending;

    template <class Body>
    int operator()(const Body& body, const cuda::SlstmGrid& grid) const {
        if (grid.threads < 1 || grid.threads > Body::max_threads || grid.threads % 32 || grid.shared > device.shared)
            throw std::runtime_error("a launch that no GPU would take");
        Emulator emulator;
        emulator.descending = descending;
        for (int64_t k = 0; k < grid.heads * grid.tiles; ++k) {
            const int64_t at = descending ? grid.heads * grid.tiles - 1 - k : k;
            emulator.run<EmulatedThread<Body::blocks>>(body, Body::blocks, grid.threads, grid.shared, at % grid.tiles,
                                                       at / grid.tiles);
        }
        return 0;
    }
};

}  // namespace xecg::tests
