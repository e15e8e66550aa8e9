#include "core/io/file_lock.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <filesystem>
#include <utility>

#include "core/interrupt.h"
#include "core/io/files.h"

namespace core {
namespace {

// Returns 0 or the errno; without waiting, no signal ends it.
int lock(int file, int how) {
  int result = 0;
  do result = ::flock(file, how);
  while (result != 0 && errno == EINTR && (how & LOCK_NB) != 0);
  return result == 0 ? 0 : errno;
}

int how_of(FileLock::Kind kind) { return kind == FileLock::Kind::shared ? LOCK_SH : LOCK_EX; }

// The open file is still the one of this name: its last holder may have removed it.
bool is_current(int file, const std::string& path) {
  struct stat opened, named;
  return ::fstat(file, &opened) == 0 && ::stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

void require_locked(int error, const std::string& path) {
  require(error == 0, "{}: cannot be locked: {}. Choose another place.", path, system_reason(error));
}

// "pid 12 on host since 2026-11-22 16:00:00" of this process.
std::string holder() {
  char host[256] = "unknown host";
  if (::gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  ::localtime_r(&now, &local);
  char time[32];
  std::strftime(time, sizeof time, "%Y-%m-%d %H:%M:%S", &local);
  return fmt::format("pid {} on {} since {}", ::getpid(), host, time);
}

void write_holder(int file) {
  const std::string text = holder() + "\n";
  if (::ftruncate(file, 0) == 0) (void)!::pwrite(file, text.data(), text.size(), 0);  // only for the message
}

// What the holder wrote; one that has only just taken the lock gets a moment to write it.
std::string read_holder(int file) {
  std::string text;
  for (int tries = 0; tries < 20 && text.find('\n') == std::string::npos; ++tries) {
    if (tries > 0) ::usleep(5000);
    char piece[400];
    const ssize_t got = ::pread(file, piece, sizeof piece, 0);
    text.assign(piece, got > 0 ? static_cast<size_t>(got) : 0);
  }
  text = text.substr(0, text.find('\n'));
  return text.empty() ? "it did not say which" : text;
}

}  // namespace

FileLock::FileLock(int file, Kind kind) : file_(file) {
  if (kind == Kind::exclusive) write_holder(file_);
}

FileLock FileLock::directory(const std::string& directory, const std::string& noun) {
  const std::string path = (std::filesystem::path(directory) / ".lock").string();
  for (;;) {
    Descriptor file(path, O_RDWR | O_CREAT);
    if (file.number < 0) cannot_write(path, errno);
    const int error = lock(file.number, LOCK_EX | LOCK_NB);
    if (error == EWOULDBLOCK) {
      const std::string by = read_holder(file.number);
      throw HeldElsewhere(fmt::format("{}: another runner holds this {} ({}). Wait for it or choose another --out.",
                                      directory, noun, by),
                          by);
    }
    require_locked(error, path);
    if (is_current(file.number, path)) return FileLock(std::exchange(file.number, -1), Kind::exclusive);
  }
}

FileLock FileLock::wait(const std::string& lock_file, Kind kind, const Waiting& waiting) {
  for (bool told = false;;) {
    Descriptor file(lock_file, O_RDWR | O_CREAT);
    if (file.number < 0) cannot_write(lock_file, errno);
    int error = lock(file.number, how_of(kind) | LOCK_NB);
    if (error == EWOULDBLOCK && waiting && !std::exchange(told, true)) waiting(read_holder(file.number));
    while (error == EWOULDBLOCK || error == EINTR) {
      honour_interrupt();
      error = lock(file.number, how_of(kind));
    }
    require_locked(error, lock_file);
    if (is_current(file.number, lock_file)) return FileLock(std::exchange(file.number, -1), kind);
  }
}

std::optional<FileLock> FileLock::try_take(const std::string& lock_file, Kind kind, bool existing) {
  for (;;) {
    Descriptor file(lock_file, existing ? O_RDONLY : O_RDWR | O_CREAT);
    if (file.number < 0 && existing) return std::nullopt;
    if (file.number < 0) cannot_write(lock_file, errno);
    const int error = lock(file.number, how_of(kind) | LOCK_NB);
    if (error == EWOULDBLOCK) return std::nullopt;
    require_locked(error, lock_file);
    if (is_current(file.number, lock_file)) return FileLock(std::exchange(file.number, -1), kind);
  }
}

void FileLock::share() {
  int error = EINTR;
  while (error == EINTR) error = lock(file_, LOCK_SH);
  require(error == 0, "a lock cannot be shared: {}. Choose another place for the results.", system_reason(error));
}

FileLock::~FileLock() {
  if (file_ < 0) return;
  (void)!::ftruncate(file_, 0);
  ::close(file_);
}

}  // namespace core
