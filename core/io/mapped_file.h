// A whole file mapped read-only.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace core {

class MappedFile {
 public:
  // Errors: missing, not a file, not readable.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view bytes() const { return {static_cast<const char*>(start_), size_}; }

 private:
  void* start_ = nullptr;
  size_t size_ = 0;
};

// Gives mapped pages back to the system (MADV_DONTNEED). What lay there stays valid and is read again when touched.
void release_pages(const void* data, size_t bytes);

}  // namespace core
