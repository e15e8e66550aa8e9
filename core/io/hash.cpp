#include "core/io/hash.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <new>
#include <vector>

#include "core/error.h"
#include "core/io/files.h"

namespace core {
namespace {

constexpr size_t kPiece = size_t{4} << 20;  // bytes per read
constexpr size_t kDigits = 32;
constexpr int64_t kSettled = 2;  // seconds after which a time stamp can be trusted

// What identifies a file's content without reading it.
struct Stamp {
  std::string key;
  int64_t modified = 0;  // seconds since 1970
};

Stamp stamp_of(const std::string& path) {
  struct stat info;
  require(stat(path.c_str(), &info) == 0, "{}: no such file. Check the path.", path);
#ifdef __APPLE__
  const timespec modified = info.st_mtimespec;
#else
  const timespec modified = info.st_mtim;
#endif
  std::error_code ignored;
  const auto absolute = std::filesystem::weakly_canonical(path, ignored);
  return {fmt::format("{} {}.{:09} {} {}", info.st_size, static_cast<int64_t>(modified.tv_sec), modified.tv_nsec,
                      info.st_ino, absolute.string()),
          static_cast<int64_t>(modified.tv_sec)};
}

bool is_hash(std::string_view text) {
  return text.size() == kDigits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace

void Hasher::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

Hasher::Hasher() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_.get());
}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(const void* data, size_t bytes) {
  if (bytes > 0) XXH3_128bits_update(state_.get(), data, bytes);
}

std::string Hasher::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string hash_codes(int64_t rows, int64_t columns, int64_t bits, const void* packed, size_t bytes) {
  Hasher hasher;
  hasher.update(fmt::format("codes {} {} {} ", rows, columns, bits));
  hasher.update(packed, bytes);
  return hasher.hex();
}

std::string hash_text(std::string_view text) {
  Hasher hasher;
  hasher.update(text);
  return hasher.hex();
}

std::string hash_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(file >= 0, "{}: cannot be read: {}. Check the path.", path, system_reason(errno));
  Hasher hasher;
  std::vector<char> piece(kPiece);
  ssize_t got = 0;
  while ((got = read(file, piece.data(), piece.size())) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) hasher.update(piece.data(), static_cast<size_t>(got));
  }
  const int error = errno;
  close(file);
  require(got == 0, "{}: cannot be read: {}. Check the path.", path, system_reason(error));
  return hasher.hex();
}

HashMemo::HashMemo(std::string memo_file) : memo_file_(std::move(memo_file)) {
  if (!memo_file_.empty()) load();
}

// A line is "hash size mtime inode path". What does not begin with a hash is skipped; of two lines the later one
// counts.
void HashMemo::load() {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(memo_file_, ignored)) return;
  std::string text;
  try {
    text = read_file(memo_file_);
  } catch (const UserError&) {
    return;  // a memo that cannot be read only costs time
  }
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    const std::string_view line = std::string_view(text).substr(start, end - start);
    if (line.size() > kDigits + 1 && line[kDigits] == ' ' && is_hash(line.substr(0, kDigits))) {
      known_[std::string(line.substr(kDigits + 1))] = line.substr(0, kDigits);
    }
    start = end + 1;
  }
}

std::string HashMemo::of(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Stamp before = stamp_of(path);
  if (const auto found = known_.find(before.key); found != known_.end()) return found->second;
  const bool settled = before.modified + kSettled < static_cast<int64_t>(std::time(nullptr));
  const std::string hash = hash_file(path);
  ++files_read_;
  require(stamp_of(path).key == before.key, "{}: the file changed while it was read. Run again.", path);
  if (!settled) return hash;
  known_[before.key] = hash;
  if (memo_file_.empty() || before.key.find('\n') != std::string::npos) return hash;
  try {
    append_line(memo_file_, hash + " " + before.key);
  } catch (const UserError&) {  // as above
  }
  return hash;
}

}  // namespace core
