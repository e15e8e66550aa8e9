// Content hashes: 128-bit XXH3 (Yann Collet, xxHash 0.8; not cryptographic), the identity of models, tokenizers,
// corpora, codes and cache entries. A file is hashed once: the memo remembers path, size, modification time and inode.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace core {

// Streaming hash; the pieces' boundaries do not matter.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  // 32 hexadecimal digits of everything so far, most significant first (as `xxhsum -H2` prints it).
  std::string hex() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

std::string hash_text(std::string_view text);

// Of a matrix of codes in the canonical layout (core/codes.h): of its shape, bits and bytes.
std::string hash_codes(int64_t rows, int64_t columns, int64_t bits, const void* packed, size_t bytes);

// Reads the file in pieces; nothing of it stays mapped.
std::string hash_file(const std::string& path);

// hash_file that remembers. Thread-safe. A file changed less than two seconds before it was hashed is not remembered,
// because a second change could hide behind the same time stamp.
class HashMemo {
 public:
  // With a path, hashes are also kept in this file, one line each, appended. Lines that make no sense are skipped, and
  // an unwritable file only costs time.
  explicit HashMemo(std::string memo_file = {});

  std::string of(const std::string& path);
  // How many files were really read by this object.
  int64_t files_read() const { return files_read_; }

 private:
  void load();

  std::string memo_file_;
  std::map<std::string, std::string> known_;  // "size mtime inode path" -> hash
  std::mutex mutex_;
  int64_t files_read_ = 0;
};

}  // namespace core
