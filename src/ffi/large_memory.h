// Memory for large tensors. Most of the time of filling fresh memory goes into
// the page faults. Huge pages have a 512th of them, and memory that was there
// before has none. So some of what is freed is kept for what is made next; the
// system is told that it may take the pages away when it needs them.
#pragma once

#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <new>

namespace tf {

class LargeMemory {
 public:
  // Least size that is worth keeping.
  static constexpr size_t kLeast = size_t{4} << 20;

  static void* take(size_t bytes) {
    if (void* const block = kept().take(bytes)) return block;
    void* block = nullptr;
    if (posix_memalign(&block, kHugePage, bytes) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    // Only advice: where it is not taken, everything works as without it.
    madvise(block, whole_pages(bytes), MADV_HUGEPAGE);
#endif
    return block;
  }

  static void give(void* block) noexcept {
    if (!kept().give(block)) std::free(block);
  }

  // Limits the bytes that are kept from now on, of all threads together.
  static void set_limit(size_t bytes) { kept().set_limit(bytes); }

  // Frees what is kept.
  static void empty() { kept().shrink_to(0); }

 private:
  // A multiple of the system's own pages, whatever their size.
  static constexpr size_t kHugePage = size_t{2} << 20;
  // What a block may be longer than was asked for, as malloc makes it: the
  // alignment, and its own page.
  static constexpr size_t kSlack = kHugePage + (size_t{64} << 10);

  static size_t whole_pages(size_t bytes) { return bytes / kHugePage * kHugePage; }

  // Whether the system takes the pages when it needs them, and not before.
  static bool lend_to_system(void* block) noexcept {
#if defined(MADV_FREE) && !defined(TCH_FUNCTION_PLAIN_MEMORY)
    const size_t bytes = whole_pages(malloc_usable_size(block));
    return madvise(block, bytes, MADV_FREE) == 0;
#else
    static_cast<void>(block);
    return false;
#endif
  }

  // Where another thread is in here just now, take and give do not wait: what
  // is asked for is made, what is given is freed.
  class Kept {
   public:
    void* take(size_t bytes) {
      const std::unique_lock lock(mutex_, std::try_to_lock);
      if (!lock) return nullptr;
      for (auto i = blocks_.begin(); i != blocks_.end(); ++i) {
        void* const block = *i;
        const size_t size = malloc_usable_size(block);
        if (size < bytes || size - bytes > std::max(bytes / 8, kSlack)) continue;
        blocks_.erase(i);
        bytes_ -= size;
        return block;
      }
      return nullptr;
    }

    bool give(void* block) noexcept try {
      const size_t size = malloc_usable_size(block);
      if (size > limit_ || !lend_to_system(block)) return false;
      const std::unique_lock lock(mutex_, std::try_to_lock);
      if (!lock) return false;
      blocks_.push_front(block);
      bytes_ += size;
      free_down_to(limit_);
      return true;
    } catch (const std::exception&) {
      return false;  // no room in the list
    }

    // A fork waits until no thread is in here: in the child the others are no more.
    void lock_for_fork() { mutex_.lock(); }
    void unlock_after_fork() { mutex_.unlock(); }

    void set_limit(size_t bytes) {
      limit_ = bytes;
      shrink_to(bytes);
    }

    void shrink_to(size_t bytes) {
      const std::lock_guard lock(mutex_);
      free_down_to(bytes);
    }

   private:
    // Those that were kept the longest go.
    void free_down_to(size_t bytes) noexcept {
      while (bytes_ > bytes) {
        bytes_ -= malloc_usable_size(blocks_.back());
        std::free(blocks_.back());
        blocks_.pop_back();
      }
    }

    std::mutex mutex_;
    std::deque<void*> blocks_;  // the latest first
    size_t bytes_ = 0;
    std::atomic<size_t> limit_ = size_t{256} << 20;
  };

  // Never destroyed: tensors may be freed until the very end of the program.
  static Kept& kept() {
    static Kept* const made = [] {
      pthread_atfork([] { kept().lock_for_fork(); }, [] { kept().unlock_after_fork(); },
                     [] { kept().unlock_after_fork(); });
      return new Kept;
    }();
    return *made;
  }
};

}  // namespace tf
