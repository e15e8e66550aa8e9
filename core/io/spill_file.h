// A temporary file for what does not fit into memory: it has no name, so nothing is left behind however the process
// ends; its space is reserved before it is written, so a full disk is an error at once and never a signal later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace core {

class SpillFile {
 public:
  // Lies on the disk of this directory, which is created if needed.
  explicit SpillFile(const std::string& directory);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  // Room for so many bytes; returns where it begins. Error when the disk is full. Not thread-safe.
  int64_t reserve(size_t bytes);

  // Different places may be written and read at the same time.
  void write(int64_t at, const void* data, size_t bytes) const;
  void read(int64_t at, void* data, size_t bytes) const;

 private:
  std::string directory_;
  int file_ = -1;
  int64_t end_ = 0;
};

}  // namespace core
