// What was computed once and need not be computed again. An entry is a directory of files under a key that spells out
// everything that its content depends on; the key is stored with it and compared, so that neither a stale nor a
// colliding number is ever read. One process makes an entry while the others wait for it; any number reads it. An entry
// that was not committed, or whose files are not as they were left, is made anew. When the entries together exceed the
// limit, those used longest ago are removed, except what somebody is using.
//
//   core::CacheEntry entry = cache.open(key);          // key: experiments/inputs/cache_key.h
//   if (!entry.complete()) {
//     compute_into(entry.path("hidden"));              // any size, written by any means
//     entry.write("nll.json", text);                   // small
//     entry.commit();
//   }
//   use(entry.path("hidden"));                         // keep `entry` as long as its files are in use
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/io/file_lock.h"

namespace core {

// Everything that a cached thing depends on. Two keys are the same if and only if their texts are.
struct CacheKey {
  std::string stage;    // what it is a cache of, "baseline"; letters, digits and _
  int version = 0;      // of the code that makes it, bumped by hand when its results change
  std::string depends;  // on what, one "name: value" per line

  std::string text() const;
  std::string id() const;  // "baseline-" and 32 hexadecimal digits: names the entry, and it as a later one's parent
};

// One entry, opened. Not complete: this process alone holds it and is to make it. Complete: it can be read, by others
// too, and stays while this object lives.
class CacheEntry {
 public:
  CacheEntry(CacheEntry&&) noexcept = default;
  CacheEntry& operator=(CacheEntry&&) = delete;
  CacheEntry(const CacheEntry&) = delete;
  ~CacheEntry();  // removes everything that was written and not committed

  bool complete() const { return complete_; }
  // Of a file of this entry, to be written before commit() and read after it. Plain names only.
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void write(const std::string& name, const std::string& content) const;
  std::string read(const std::string& name) const;
  // Everything reaches the disk, the entry is complete, and what is too much in the cache goes.
  void commit();

 private:
  friend class Cache;
  CacheEntry(std::string directory, std::string key, int64_t limit, FileLock lock, bool complete);

  std::string directory_, key_;
  int64_t limit_;
  std::unique_ptr<FileLock> lock_;  // none after a move
  bool complete_;
};

class Cache {
 public:
  static constexpr int64_t kDefaultLimit = 20'000'000'000;  // bytes

  // The directory is made with the first entry.
  explicit Cache(std::string directory, int64_t limit_bytes = kDefaultLimit);

  // Takes the entry, waiting for another process that makes it, with one log line that says for whom. Do not open an
  // entry twice in one process while it is being made. Errors: the cache's directory cannot be written.
  CacheEntry open(const CacheKey& key) const;

  // The entry if it is complete now. Makes nothing, waits for nobody, leaves no trace.
  std::optional<CacheEntry> find(const CacheKey& key) const;

  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
  int64_t limit_;
};

}  // namespace core
