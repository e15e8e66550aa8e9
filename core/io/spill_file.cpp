#include "core/io/spill_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "core/error.h"
#include "core/io/files.h"

namespace core {
namespace {

constexpr size_t kAtOnce = size_t{1} << 30;  // macOS refuses more than 2^31 - 1

[[noreturn]] void failed(const std::string& directory, int error) {
  fail(
      "{}: a temporary file cannot be kept here: {}. Free some space, choose another --out, or raise "
      "model.spill_above.",
      directory, system_reason(error));
}

// 0 or the errno.
int reserve_space(int file, int64_t begin, int64_t bytes) {
#ifdef __APPLE__
  fstore_t ask = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, bytes, 0};
  if (::fcntl(file, F_PREALLOCATE, &ask) != 0 || ::ftruncate(file, begin + bytes) != 0) return errno;
  return 0;
#else
  int error = 0;
  do error = ::posix_fallocate(file, begin, bytes);
  while (error == EINTR);
  return error;
#endif
}

}  // namespace

SpillFile::SpillFile(const std::string& directory) : directory_(directory) {
  create_directories(directory);
  std::string name = directory + "/.spill.XXXXXX";
  file_ = ::mkstemp(name.data());
  if (file_ < 0) failed(directory_, errno);
  ::fcntl(file_, F_SETFD, FD_CLOEXEC);
  ::unlink(name.c_str());
}

SpillFile::~SpillFile() { ::close(file_); }

int64_t SpillFile::reserve(size_t bytes) {
  const int64_t begin = end_;
  if (bytes == 0) return begin;
  if (const int error = reserve_space(file_, begin, static_cast<int64_t>(bytes))) failed(directory_, error);
  end_ += static_cast<int64_t>(bytes);
  return begin;
}

void SpillFile::write(int64_t at, const void* data, size_t bytes) const {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pwrite(file_, from, std::min(bytes, kAtOnce), at);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) failed(directory_, errno);
    from += done, at += done, bytes -= static_cast<size_t>(done);
  }
}

void SpillFile::read(int64_t at, void* data, size_t bytes) const {
  char* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pread(file_, to, std::min(bytes, kAtOnce), at);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) failed(directory_, done < 0 ? errno : EIO);
    to += done, at += done, bytes -= static_cast<size_t>(done);
  }
}

}  // namespace core
