// A progress line with the time left, for anything that takes longer than two seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace core {

// On a terminal one line that is redrawn; elsewhere a plain line every ten seconds; nothing at all when quiet or fast.
class Progress {
 public:
  Progress(std::string what, bool quiet);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(int64_t done, int64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool quiet_, terminal_, drawn_ = false;
  Clock::time_point start_, shown_;
};

}  // namespace core
