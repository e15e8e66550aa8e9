#include "core/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "core/error.h"
#include "core/io/files.h"

namespace core {

MappedFile::MappedFile(const std::string& path) {
  struct stat info;
  const bool is_there = ::stat(path.c_str(), &info) == 0;  // before errno is read
  require(is_there, "{}: cannot be read: {}. Check the path.", path, system_reason(errno));
  require(S_ISREG(info.st_mode), "{}: this is not a file. Check the path.", path);
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(file >= 0, "{}: cannot be read: {}. Check the path.", path, system_reason(errno));
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) start_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  const int error = errno;
  ::close(file);
  require(start_ != MAP_FAILED, "{}: cannot be mapped: {}. Check the path.", path, system_reason(error));
}

MappedFile::~MappedFile() {
  if (start_ != nullptr && start_ != MAP_FAILED) ::munmap(start_, size_);
}

void release_pages(const void* data, size_t bytes) {
  if (bytes == 0) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;  // neighbours on the page are read again
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + bytes;
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace core
