#include "core/io/cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/io/files.h"
#include "core/io/hash.h"

namespace core {
namespace {

namespace fs = std::filesystem;

using Json = nlohmann::json;

// The key's text, and what the other files were when they were committed: {"name": {"bytes": n, "hash": "..."}}. The
// latter is written last; its time of modification is when the entry was last used.
constexpr const char *kKey = "key.txt", *kManifest = "manifest.json";
constexpr int64_t kHashed = 64 << 20;  // bytes; of a larger file only the size is compared

std::string lock_of(const std::string& directory) { return directory + ".lock"; }

std::vector<std::string> files_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& file : fs::directory_iterator(directory)) {
    if (const std::string name = file.path().filename(); name != kManifest) names.push_back(name);
  }
  return names;
}

int64_t size_of(const std::string& path) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  return error ? -1 : static_cast<int64_t>(bytes);
}

Json describe(const std::string& directory) {
  Json files = Json::object();
  for (const std::string& name : files_in(directory)) {
    const std::string path = directory + "/" + name;
    synchronise(path);
    const int64_t bytes = size_of(path);
    files[name] = {{"bytes", bytes}, {"hash", bytes <= kHashed ? hash_file(path) : ""}};
  }
  return files;
}

// What is wrong with a file of an entry; "" if it is as it was left.
std::string damage(const std::string& path, const Json& left) {
  const int64_t bytes = size_of(path);
  if (bytes < 0) return "is missing";
  if (bytes != left.at("bytes").get<int64_t>()) return "has another size";
  const std::string hash = left.at("hash");
  return hash.empty() || hash_file(path) == hash ? "" : "has another content";
}

// Whether the entry can be trusted for this key. What is there and cannot be is said, once, to whoever makes it anew.
bool is_good(const std::string& directory, const std::string& key, bool say) {
  const std::string manifest = directory + "/" + kManifest;
  if (!fs::exists(manifest)) return false;
  std::string reason;
  try {
    const Json files = Json::parse(read_file(manifest));
    if (!files.contains(kKey)) reason = fmt::format("{} does not list its files", kManifest);
    for (const auto& [name, left] : files.items()) {
      if (!reason.empty()) break;
      if (const std::string what = damage(directory + "/" + name, left); !what.empty()) reason = name + " " + what;
    }
    if (reason.empty() && read_file(directory + "/" + kKey) != key) reason = "it belongs to another key";
  } catch (const std::exception&) {  // not JSON, not ours, unreadable
    reason = fmt::format("{} cannot be read", kManifest);
  }
  if (!reason.empty() && say) spdlog::warn("{}: {}; made anew", directory, reason);
  return reason.empty();
}

void touch(const std::string& directory) {
  (void)!::utimensat(AT_FDCWD, (directory + "/" + kManifest).c_str(), nullptr, 0);  // only the order of removal
}

// The lock goes last: who holds it exclusively removes the entry as a whole.
void remove_entry(const std::string& directory) {
  std::error_code ignored;
  fs::remove(directory + "/" + kManifest, ignored);  // first: never complete without its files
  fs::remove_all(directory, ignored);
  fs::remove(lock_of(directory), ignored);
}

struct Stored {
  std::string directory;
  int64_t bytes = 0;
  fs::file_time_type used = fs::file_time_type::min();  // min: not complete
};

std::vector<Stored> stored_in(const std::string& cache) {
  std::vector<Stored> entries;
  std::error_code gone;  // another process may remove what is being looked at
  for (const auto& item : fs::directory_iterator(cache, gone)) {
    if (!item.is_directory(gone) || !fs::exists(lock_of(item.path()), gone)) continue;
    Stored& entry = entries.emplace_back(Stored{.directory = item.path()});
    for (const auto& file : fs::directory_iterator(item.path(), gone)) {
      entry.bytes += std::max<int64_t>(0, size_of(file.path()));
    }
    const auto used = fs::last_write_time(item.path() / kManifest, gone);
    if (!gone) entry.used = used;
  }
  return entries;
}

// Removes what killed processes left, then complete entries, those used longest ago first, until the rest fits.
void make_room(const std::string& cache, int64_t limit) {
  std::vector<Stored> entries = stored_in(cache);
  std::sort(entries.begin(), entries.end(), [](const Stored& a, const Stored& b) { return a.used < b.used; });
  int64_t total = 0;
  for (const Stored& entry : entries) total += entry.bytes;
  for (const Stored& entry : entries) {
    const bool left_over = entry.used == fs::file_time_type::min();
    if (!left_over && total <= limit) return;
    const auto lock = FileLock::try_take(lock_of(entry.directory), FileLock::Kind::exclusive, /*existing=*/true);
    if (!lock) continue;  // somebody makes or reads it
    remove_entry(entry.directory);
    total -= entry.bytes;
  }
}

}  // namespace

std::string CacheKey::text() const { return fmt::format("stage: {}\nversion: {}\n{}", stage, version, depends); }

std::string CacheKey::id() const { return stage + "-" + hash_text(text()); }

CacheEntry::CacheEntry(std::string directory, std::string key, int64_t limit, FileLock lock, bool complete)
    : directory_(std::move(directory)),
      key_(std::move(key)),
      limit_(limit),
      lock_(std::make_unique<FileLock>(std::move(lock))),
      complete_(complete) {}

CacheEntry::~CacheEntry() {
  if (lock_ && !complete_) remove_entry(directory_);
}

void CacheEntry::write(const std::string& name, const std::string& content) const {
  write_atomically(path(name), content);
}

std::string CacheEntry::read(const std::string& name) const { return read_file(path(name)); }

void CacheEntry::commit() {
  write(kKey, key_);
  write(kManifest, describe(directory_).dump(1));
  const std::string cache = fs::path(directory_).parent_path();
  const FileLock room = FileLock::wait(cache + "/room.lock");  // one process at a time removes entries
  complete_ = true;
  lock_->share();
  make_room(cache, limit_);
}

Cache::Cache(std::string directory, int64_t limit_bytes) : directory_(std::move(directory)), limit_(limit_bytes) {}

CacheEntry Cache::open(const CacheKey& key) const {
  const std::string entry = directory_ + "/" + key.id(), text = key.text();
  FileLock::Waiting waiting = [&, told = false](const std::string& holder) mutable {
    if (!std::exchange(told, true)) spdlog::info("waiting for the cache entry {}, which {} makes", key.stage, holder);
  };
  create_directories(directory_);
  for (;;) {
    {
      FileLock shared = FileLock::wait(lock_of(entry), FileLock::Kind::shared, waiting);
      if (is_good(entry, text, /*say=*/false)) {
        touch(entry);
        return CacheEntry(entry, text, limit_, std::move(shared), true);
      }
    }
    FileLock alone = FileLock::wait(lock_of(entry), FileLock::Kind::exclusive, waiting);
    if (is_good(entry, text, /*say=*/true)) continue;  // made meanwhile: read it as the others do
    std::error_code ignored;
    fs::remove(entry + "/" + kManifest, ignored);
    fs::remove_all(entry, ignored);
    create_directories(entry);
    return CacheEntry(entry, text, limit_, std::move(alone), false);
  }
}

std::optional<CacheEntry> Cache::find(const CacheKey& key) const {
  const std::string entry = directory_ + "/" + key.id(), text = key.text();
  auto shared = FileLock::try_take(lock_of(entry), FileLock::Kind::shared, /*existing=*/true);
  if (!shared || !is_good(entry, text, /*say=*/false)) return std::nullopt;
  touch(entry);
  return CacheEntry(entry, text, limit_, std::move(*shared), true);
}

}  // namespace core
