// Locks of the whole process.
#pragma once

#include <pthread.h>

#include <mutex>

namespace tf {

// The lock that `Tag` names. Threads may outlive the statics, so it is never destroyed. A
// process that is forked while another thread holds it goes on too.
template <typename Tag>
std::mutex& lasting_mutex() {
  static std::mutex* const mutex = [] {
    pthread_atfork([] { lasting_mutex<Tag>().lock(); }, [] { lasting_mutex<Tag>().unlock(); },
                   [] { lasting_mutex<Tag>().unlock(); });
    return new std::mutex;
  }();
  return *mutex;
}

}  // namespace tf
