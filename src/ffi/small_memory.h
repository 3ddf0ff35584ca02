// Memory for nodes and small tensors. They are made and freed again and again,
// and for more than a few blocks of such sizes malloc takes its slow ways. So
// each thread keeps what it frees, up to a limit, for what it makes next.
// With TCH_FUNCTION_PLAIN_MEMORY it does not, so that tools such as valgrind see
// every use of freed memory and of what lies beyond the end.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

namespace tf {

class SmallMemory {
 public:
  static constexpr size_t kAlign = alignof(std::max_align_t);

#ifdef TCH_FUNCTION_PLAIN_MEMORY
  static void* take(size_t size) { return ::operator new(size); }
  static void give(void* memory) noexcept { ::operator delete(memory); }
#else
  static void* take(size_t size) {
    const size_t units = (sizeof(Block) + size + kUnit - 1) / kUnit;
    Kept& kept = kept_here();
    Block* block = units < kSizes ? kept.free[units] : nullptr;
    if (block) {
      kept.free[units] = block->next;
      kept.units -= units;
    } else {
      block = static_cast<Block*>(::operator new(units * kUnit));
    }
    block->units = units;
    return block + 1;
  }

  static void give(void* memory) noexcept {
    Block* const block = static_cast<Block*>(memory) - 1;
    const size_t units = block->units;
    Kept& kept = kept_here();
    if (units >= kSizes || kept.units + units > kLimit) return ::operator delete(block);
    thread_local const AtExit at_exit;
    static_cast<void>(at_exit);
    block->next = std::exchange(kept.free[units], block);
    kept.units += units;
  }
#endif

 private:
  static constexpr size_t kUnit = 64;                   // bytes
  static constexpr size_t kSizes = 17;                  // up to 1 KiB
  static constexpr size_t kLimit = (1u << 20) / kUnit;  // 1 MiB a thread

  // The header in front of a block.
  union alignas(kAlign) Block {
    size_t units;  // its length
    Block* next;   // while it is free
  };

  struct Kept {
    Block* free[kSizes];  // by length
    size_t units;         // of all
  };

  // Has no destructor: some may be freed until the very end of the thread.
  static Kept& kept_here() {
    thread_local Kept kept{};
    return kept;
  }

  struct AtExit {
    ~AtExit() {
      Kept& kept = kept_here();
      kept.units = kLimit;  // nothing is kept from here on
      for (Block*& list : kept.free)
        while (list) ::operator delete(std::exchange(list, list->next));
    }
  };
};

}  // namespace tf
