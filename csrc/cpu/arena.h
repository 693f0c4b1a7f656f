// Scratch memory of one thread, kept from call to call because fresh pages cost more than many kernels.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

namespace xecg {

// Holds at least `floats` floats, 64-byte aligned, until it goes out of scope; what a thread keeps afterwards is capped. Not
// nested: one Arena at a time in a thread.
class Arena {
  public:
    explicit Arena(int64_t floats) {
        if (floats <= kept().floats) return;
        kept().release();
        const size_t bytes = (size_t(floats) * sizeof(float) + 63) / 64 * 64;
        kept().data = static_cast<float*>(std::aligned_alloc(64, bytes));
        if (!kept().data) throw std::bad_alloc();
        kept().floats = floats;
    }
    ~Arena() {
        if (kept().floats > most_kept_floats) kept().release();
    }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    float* data() const { return kept().data; }

  private:
    static constexpr int64_t most_kept_floats = int64_t(4) << 20;  // 16 MiB
    struct Block {
        float* data = nullptr;
        int64_t floats = 0;
        void release() {
            std::free(data);
            data = nullptr;
            floats = 0;
        }
        ~Block() { release(); }
    };
    static Block& kept() {
        static thread_local Block block;
        return block;
    }
};

}  // namespace xecg
