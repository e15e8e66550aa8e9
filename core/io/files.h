// Files that are never half-written: a result appears under its name complete or not at all, and what the system says
// about a path becomes one line for the user. POSIX calls.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/error.h"

namespace core {

// The place of the results takes nothing more: a full disk, a directory that may not be written. A sweep ends with it,
// because its next point would meet the same.
class NoPlace : public UserError {
  using UserError::UserError;
};

// What an errno means, in plain words: "the disk is full".
std::string system_reason(int error);

// Throws "<path>: cannot be written: the disk is full. Free some space or choose another place."
[[noreturn]] void cannot_write(const std::string& path, int error);

// A file descriptor that closes itself; flags as for open(2).
struct Descriptor {
  Descriptor(const std::string& path, int flags);
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number = -1;
};

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

// What is in the file reaches the disk: for files that were written by other means.
void synchronise(const std::string& path);

// Appends one line (no line break in it) to a file shared by all runners, under a lock on that file. A new file begins
// with `header`, if one is given; an existing file with another first line is refused. A failed write leaves the file
// as it was.
void append_line(const std::string& path, std::string_view line, std::string_view header = {});

}  // namespace core
