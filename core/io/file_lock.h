// Two runners never share a directory: flock on a file beside the work. No pid files, because the kernel releases a
// lock when its holder dies.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/error.h"

namespace core {

// Another runner holds what was asked for.
class HeldElsewhere : public UserError {
 public:
  HeldElsewhere(const std::string& text, std::string holder) : UserError(text), holder(std::move(holder)) {}
  const std::string holder;  // "pid 12 on host since 2026-11-22 16:00:00"
};

// An flock, held until destruction or the end of the process. Exclusive: one holder. Shared: any number of holders,
// and no exclusive one. The lock file's text says who holds it exclusively. The file may be removed by whoever holds
// it exclusively; those who wait for it then take a new one.
class FileLock {
 public:
  enum class Kind { exclusive, shared };
  using Waiting = std::function<void(const std::string& holder)>;

  // Takes `<directory>/.lock` at once, or throws HeldElsewhere: "<directory>: another runner holds this <noun> (pid 12
  // on host since 2026-11-22 16:00:00). Wait for it or choose another --out." The directory must exist.
  static FileLock directory(const std::string& directory, const std::string& noun = "run directory");
  // Takes the lock file (created if needed), waiting as long as it takes; `waiting` is told for whom. An interrupt ends
  // the wait (core/interrupt.h).
  static FileLock wait(const std::string& lock_file, Kind kind = Kind::exclusive, const Waiting& waiting = {});
  // Takes the lock file at once, or not at all; with `existing`, neither when there is no such file.
  static std::optional<FileLock> try_take(const std::string& lock_file, Kind kind, bool existing = false);

  // From exclusive to shared. For a moment nothing is held: whoever may remove the file must be kept out by other
  // means.
  void share();

  ~FileLock();
  FileLock(FileLock&& other) noexcept : file_(other.file_) { other.file_ = -1; }
  FileLock& operator=(FileLock&&) = delete;
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  FileLock(int file, Kind kind);
  int file_;
};

}  // namespace core
