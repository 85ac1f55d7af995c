#include "vq/threads.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace vq {
namespace {

struct Job {
  const std::function<void(long, long)>* body = nullptr;
  long count = 0, grain = 1;
  std::atomic<long> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;

  void run() {
    for (;;) {
      long first = next.fetch_add(grain);
      if (first >= count) return;
      try {
        (*body)(first, std::min(count, first + grain));
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
  }
};

thread_local bool inside = false;

// Waking a sleeping thread takes tens of microseconds, as long as a small layer: after work, threads look out for more for
// about that time before they sleep.
constexpr std::chrono::microseconds kLookout{60};

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool look_out(const Condition& met) {
  const auto end = std::chrono::steady_clock::now() + kLookout;
  do {
    for (int i = 0; i < 32; ++i) {
      if (met()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return met();
}

class Pool {
 public:
  void run(Job& job, int helpers) {
    std::lock_guard<std::mutex> one_at_a_time(entry_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(workers_.size()) < helpers) workers_.emplace_back([this] { work(); });
      job_ = &job;
      wanted_ = helpers;
      active_ = 0;
      ++round_;
    }
    wake_.notify_all();
    job.run();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = 0;  // who has not begun by now need not
    }
    look_out([this] { return active_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return active_ == 0; });
    job_ = nullptr;
  }

 private:
  void work() {
    inside = true;
    long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      lock.unlock();
      look_out([&] { return round_ != seen; });
      lock.lock();
      wake_.wait(lock, [&] { return round_ != seen && wanted_ > 0; });
      seen = round_;
      --wanted_;
      ++active_;
      Job* job = job_;
      lock.unlock();
      job->run();
      lock.lock();
      if (--active_ == 0) done_.notify_all();
    }
  }

  std::mutex entry_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  Job* job_ = nullptr;
  int wanted_ = 0;
  std::atomic<int> active_{0};
  std::atomic<long> round_{0};
};

// One pool per process, never destroyed: its threads sleep until the process ends. A forked child starts a new one.
Pool& pool() {
  static std::mutex mutex;
  static Pool* current = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (!current || owner != getpid()) {
    current = new Pool;
    owner = getpid();
  }
  return *current;
}

}  // namespace

void parallel_for(long count, long grain, int threads, const std::function<void(long, long)>& body) {
  if (count <= 0) return;
  grain = std::max(1L, grain);
  long pieces = (count + grain - 1) / grain;
  int used = static_cast<int>(std::min<long>(threads, pieces));
  Job job;
  job.body = &body;
  job.count = count;
  job.grain = grain;
  if (used <= 1 || inside) {
    job.run();
  } else {
    inside = true;
    pool().run(job, used - 1);
    inside = false;
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace vq
