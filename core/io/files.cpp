#include "core/io/files.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace core {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void cannot_read(const std::string& path, int error) {
  fail("{}: cannot be read: {}. Check the path.", path, system_reason(error));
}

// Writes everything, or returns the errno.
int write_all(int file, const char* data, size_t bytes) {
  constexpr size_t kAtOnce = size_t{1} << 30;  // macOS refuses more than 2^31 - 1
  while (bytes > 0) {
    const ssize_t done = ::write(file, data, std::min(bytes, kAtOnce));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    data += done;
    bytes -= static_cast<size_t>(done);
  }
  return 0;
}

int synchronise(int file) {
  int result = 0;
  do result = ::fsync(file);
  while (result != 0 && errno == EINTR);
  return result == 0 || errno == EINVAL ? 0 : errno;  // EINVAL: this kind of file cannot be synchronised
}

fs::path folder_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

// Bytes [from, from + count) of an open file, fewer at its end.
std::string read_at(int file, off_t from, size_t count) {
  std::string out(count, '\0');
  const ssize_t got = ::pread(file, out.data(), count, from);
  out.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return out;
}

}  // namespace

std::string system_reason(int error) {
  switch (error) {
    case ENOENT:
      return "no such file or directory";
    case ENOTDIR:
      return "a part of the path is a file, not a directory";
    case EISDIR:
      return "it is a directory";
    case EACCES:
    case EPERM:
      return "no permission";
    case EROFS:
      return "the file system is read-only";
    case ENOSPC:
    case EDQUOT:
      return "the disk is full";
    case EFBIG:
      return "the file grows beyond the size limit";
    default:
      return std::generic_category().message(error);
  }
}

void cannot_write(const std::string& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  const bool closed = error == EACCES || error == EPERM || error == EROFS;
  const std::string text = fmt::format("{}: cannot be written: {}. {}", path, system_reason(error),
                                       full ? "Free some space or choose another place." : "Choose another place.");
  if (full || closed) throw NoPlace(text);
  throw UserError(text);
}

Descriptor::Descriptor(const std::string& path, int flags) : number(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}

Descriptor::~Descriptor() {
  if (number >= 0) ::close(number);
}

std::string read_file(const std::string& path) {
  const Descriptor file(path, O_RDONLY);
  if (file.number < 0) cannot_read(path, errno);
  struct stat info;
  std::string out;
  if (::fstat(file.number, &info) == 0 && info.st_size > 0) out.reserve(static_cast<size_t>(info.st_size) + 1);
  char piece[65536];
  for (;;) {
    const ssize_t got = ::read(file.number, piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) cannot_read(path, errno);
    if (got == 0) return out;
    out.append(piece, static_cast<size_t>(got));
  }
}

void create_directories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error && !fs::is_directory(path, error) && !error) error.assign(ENOTDIR, std::generic_category());
  if (!error) return;
  const std::string text =
      fmt::format("{}: this directory cannot be made: {}. Choose another place.", path, system_reason(error.value()));
  if (error.value() == ENOTDIR || error.value() == EEXIST) throw UserError(text);
  throw NoPlace(text);
}

void require_writable_directory(const std::string& path) {
  create_directories(path);
  try {
    AtomicFile probe((fs::path(path) / "probe").string());  // discarded
  } catch (const UserError&) {
    fail("{}: this directory is not writable. Choose another place.", path);
  }
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  static std::atomic<int> count = 0;
  do {  // a left-over of a killed process with the same number is stepped over
    const std::string name = fmt::format(".{}.{}-{}.tmp", fs::path(path_).filename().string(), ::getpid(), ++count);
    temporary_ = (folder_of(path_) / name).string();
    file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (file_ < 0 && errno == EEXIST);
  if (file_ < 0) cannot_write(path_, errno);
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() {
  if (file_ >= 0) ::close(file_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  file_ = -1;
  temporary_.clear();
}

void AtomicFile::write(const void* data, size_t bytes) {
  const int error = write_all(file_, static_cast<const char*>(data), bytes);
  if (error == 0) return;
  discard();
  cannot_write(path_, error);
}

void AtomicFile::commit() {
  int error = synchronise(file_);
  if (::close(std::exchange(file_, -1)) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary_.c_str(), path_.c_str()) != 0) error = errno;
  if (error != 0) {
    discard();
    cannot_write(path_, error);
  }
  temporary_.clear();
  const Descriptor folder(folder_of(path_).string(), O_RDONLY);
  if (folder.number >= 0) synchronise(folder.number);  // the name itself survives a crash
}

void write_atomically(const std::string& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

void synchronise(const std::string& path) {
  const Descriptor file(path, O_RDONLY);
  const int error = file.number < 0 ? errno : synchronise(file.number);
  if (error != 0) cannot_write(path, error);
}

void append_line(const std::string& path, std::string_view line, std::string_view header) {
  if (line.find('\n') != std::string_view::npos) throw std::logic_error("append_line: a line break in the line");
  const Descriptor file(path, O_RDWR | O_CREAT | O_APPEND);
  if (file.number < 0) cannot_write(path, errno);
  int refused = 0;
  do refused = ::flock(file.number, LOCK_EX) == 0 ? 0 : errno;
  while (refused == EINTR);
  require(refused == 0, "{}: cannot be locked: {}. Choose another place.", path, system_reason(refused));
  struct stat info;
  if (::fstat(file.number, &info) != 0) cannot_write(path, errno);
  std::string text;
  if (info.st_size == 0 && !header.empty()) text += std::string(header) + "\n";
  if (info.st_size > 0) {
    const std::string first = read_at(file.number, 0, header.size() + 1);
    require(header.empty() || first == std::string(header) + "\n",
            "{}: the first line does not have this version's columns. Move the file away.", path);
    if (read_at(file.number, info.st_size - 1, 1) != "\n") text += "\n";  // ends a line that a killed writer left open
  }
  text += std::string(line) + "\n";
  const int error = write_all(file.number, text.data(), text.size());
  if (error == 0) return;
  (void)!::ftruncate(file.number, info.st_size);
  cannot_write(path, error);
}

}  // namespace core
