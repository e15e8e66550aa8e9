#include "core/progress.h"

#include <fmt/core.h>
#include <unistd.h>

namespace core {

namespace {

constexpr double kSilent = 2.0, kRedraw = 0.2, kPlainLine = 10.0;  // seconds

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

}  // namespace

Progress::Progress(std::string what, bool quiet)
    : what_(std::move(what)),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      shown_(start_) {}

Progress::~Progress() {
  if (drawn_ && terminal_) fmt::print(stderr, "\r\033[K");
}

void Progress::update(int64_t done, int64_t total) {
  const auto now = Clock::now();
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double since = std::chrono::duration<double>(now - shown_).count();
  if (quiet_ || done >= total || elapsed < kSilent || since < (terminal_ ? kRedraw : kPlainLine)) return;
  const double left = elapsed / static_cast<double>(done) * static_cast<double>(total - done);
  const std::string line = fmt::format("{} {}/{} · {} left", what_, done, total, duration(left));
  if (terminal_) {
    fmt::print(stderr, "\r\033[K{}", line);
  } else {
    fmt::print(stderr, "{}\n", line);
  }
  std::fflush(stderr);
  shown_ = now;
  drawn_ = true;
}

}  // namespace core
