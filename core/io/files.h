// Files that are never half-written: a result appears under its name complete or not at all, two runners never share a
// directory, and what the system says about a path becomes one line for the user. POSIX calls; no pid files, because
// the kernel releases a lock when its holder dies.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace core {

// What an errno means, in plain words: "the disk is full".
std::string system_reason(int error);

// The whole file. Errors: missing, a directory, not readable.
std::string read_file(const std::string& path);

// Creates the directory and its parents; an existing directory is fine.
void create_directories(const std::string& path);

// Creates the directory if needed and proves that a file can be made in it.
void require_writable_directory(const std::string& path);

// A file written piece by piece under a temporary name in the same directory; commit() gives it its name.
// Destroyed without commit, or after an error, it leaves nothing behind.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // fsync, rename, fsync of the directory.
  void commit();

 private:
  void discard();

  std::string path_;
  std::string temporary_;
  int file_ = -1;
};

// AtomicFile for a content that is in memory.
void write_atomically(const std::string& path, std::string_view content);

// An exclusive flock, held until destruction or the end of the process. The lock file stays; its text says who holds
// it.
class FileLock {
 public:
  // Takes `<directory>/.lock` at once, or throws: "<directory>: another runner holds this <noun> (pid 12 on host since
  // 2026-11-22 16:00:00). Wait for it or choose another --out." The directory must exist.
  static FileLock directory(const std::string& directory, const std::string& noun = "run directory");
  // Takes the lock file (created if needed), waiting as long as it takes.
  static FileLock wait(const std::string& lock_file);

  ~FileLock();
  FileLock(FileLock&& other) noexcept : file_(other.file_) { other.file_ = -1; }
  FileLock& operator=(FileLock&&) = delete;
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  explicit FileLock(int file);
  int file_;
};

// Appends one line (no line break in it) to a file shared by all runners, under a lock on that file. A new file begins
// with `header`, if one is given; an existing file with another first line is refused. A failed write leaves the file
// as it was.
void append_line(const std::string& path, std::string_view line, std::string_view header = {});

}  // namespace core
