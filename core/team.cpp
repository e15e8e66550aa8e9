#include "core/team.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace core {

namespace {

using Work = c10::function_ref<void(int64_t, int64_t)>;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team {
 public:
  explicit Team(int64_t workers) : shares_(workers + 1) {
    for (int64_t i = 0; i < workers; ++i) threads_.emplace_back([this, i] { serve(i + 1); });
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    stops_ = true;
    wake();
    for (std::thread& thread : threads_) thread.join();
  }
  int64_t workers() const { return std::ssize(threads_); }

  void run(int64_t count, int64_t range, Work work) {
    range_ = range;
    work_ = &work;
    const int64_t shares = std::ssize(shares_);
    for (int64_t s = 0; s < shares; ++s) {
      shares_[s].next = count * s / shares;
      shares_[s].end = count * (s + 1) / shares;
    }
    open_ = ++last_;
    if (sleepers_ > 0) wake();
    take_ranges(0);
    open_ = 0;
    for (int spins = 0; active_ > 0; ++spins) spins < kSpins ? pause() : std::this_thread::yield();
  }

 private:
  static constexpr int kSpins = 4000;  // tens of microseconds

  // Neighbouring indices, so that a core meets the same data again in the next pass; what is left of them when their
  // own thread is late is for the others.
  struct Share {
    alignas(64) std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void take_ranges(int64_t first_share) {
    const int64_t shares = std::ssize(shares_);
    for (int64_t s = 0; s < shares; ++s) {
      Share& share = shares_[(first_share + s) % shares];
      for (;;) {
        const int64_t begin = share.next.fetch_add(range_);
        if (begin >= share.end) break;
        (*work_)(begin, std::min(share.end, begin + range_));
      }
    }
  }

  // Of a worker. It says that it is active before it looks whether the loop is still open, and the caller closes the
  // loop before it looks who is active: one of the two sees the other.
  void serve(int64_t share) {
    uint64_t seen = 0;
    while (!stops_) {
      if (!wait_for_loop(seen)) continue;
      ++active_;
      const uint64_t loop = open_;
      if (loop != 0) {
        seen = loop;
        take_ranges(share);
      }
      --active_;
    }
  }

  bool is_new(uint64_t seen) const {
    const uint64_t loop = open_;
    return loop != 0 && loop != seen;
  }

  // Spins, then sleeps, until there is a loop that it has not seen; false: not yet.
  bool wait_for_loop(uint64_t seen) {
    for (int spins = 0; spins < kSpins; ++spins) {
      if (is_new(seen)) return true;
      pause();
    }
    std::unique_lock lock(mutex_);
    ++sleepers_;
    wakes_.wait(lock, [&] { return stops_ || is_new(seen); });
    --sleepers_;
    return false;
  }

  void wake() {
    { const std::scoped_lock lock(mutex_); }  // nobody is between looking and sleeping
    wakes_.notify_all();
  }

  // The loop, written while nobody is active.
  std::vector<Share> shares_;  // the caller's first
  int64_t range_ = 1;
  const Work* work_ = nullptr;
  uint64_t last_ = 0;                           // number of the newest loop
  alignas(64) std::atomic<uint64_t> open_{0};   // number of the loop that runs; 0: none
  alignas(64) std::atomic<int64_t> active_{0};  // workers that may be inside it
  alignas(64) std::atomic<int64_t> sleepers_{0};
  std::atomic<bool> stops_{false};
  std::mutex mutex_;
  std::condition_variable wakes_;
  std::vector<std::thread> threads_;
};

}  // namespace

void share_ranges(int64_t count, int64_t grain, c10::function_ref<void(int64_t, int64_t)> work) {
  constexpr int64_t kPerThread = 4;  // ranges, so that all threads end at about the same time
  if (count <= 0) return;
  const int64_t threads = at::get_num_threads();
  const int64_t range = std::max(grain, (count + threads * kPerThread - 1) / (threads * kPerThread));
  static std::mutex one_loop;
  static std::unique_ptr<Team> team;
  std::unique_lock lock(one_loop, std::defer_lock);
  if (threads == 1 || range >= count || at::in_parallel_region() || !lock.try_lock()) return work(0, count);
  if (team == nullptr || team->workers() != threads - 1) team = std::make_unique<Team>(threads - 1);
  team->run(count, range, work);
}

}  // namespace core
