// Hashes against published values of XXH3-128, and the memo: what it remembers, and when it must not.
#include "core/io/hash.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <ctime>

#include "tests/io/support.h"

namespace core {
namespace {

// Sets the modification time to `seconds` ago.
void age_file(const std::string& path, int64_t seconds) {
  const timespec times[2] = {{std::time(nullptr) - seconds, 5}, {std::time(nullptr) - seconds, 5}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

std::string bytes_of_length(size_t length) {
  std::string out(length, '\0');
  for (size_t i = 0; i < length; ++i) out[i] = static_cast<char>(i * 131 + i / 256);
  return out;
}

TEST(Hash, KnownValues) {
  EXPECT_EQ(hash_text(""), "99aa06d3014798d86001c324468d497f");  // xxHash's own test vector for the empty input, seed 0
  EXPECT_EQ(Hasher().hex(), hash_text(""));
}

TEST(Hash, PiecesDoNotMatter) {
  for (const size_t length : {1, 3, 4, 16, 17, 128, 129, 240, 241, 256, 1024, 5000}) {
    const std::string bytes = bytes_of_length(length);
    const XXH128_hash_t whole = XXH3_128bits(bytes.data(), bytes.size());
    for (const size_t piece : {1, 7, 64, 1000}) {
      Hasher hasher;
      for (size_t at = 0; at < length; at += piece) hasher.update(std::string_view(bytes).substr(at, piece));
      EXPECT_EQ(hasher.hex(), fmt::format("{:016x}{:016x}", whole.high64, whole.low64)) << length << " " << piece;
    }
  }
}

TEST(Hash, ReadingTheValueDoesNotChangeIt) {
  Hasher hasher;
  hasher.update("ab", 2);
  EXPECT_EQ(hasher.hex(), hasher.hex());
  hasher.update("c");
  EXPECT_EQ(hasher.hex(), hash_text("abc"));
}

TEST(Hash, AFileHashesLikeItsText) {
  const Scratch scratch;
  for (const size_t length : {size_t{0}, size_t{5}, (size_t{4} << 20) + 1}) {
    const std::string bytes = bytes_of_length(length);
    EXPECT_EQ(hash_file(scratch.put("x", bytes)), hash_text(bytes)) << length;
  }
  EXPECT_EQ(message_of([&] { hash_file(scratch.file("none")); }),
            scratch.file("none") + ": cannot be read: no such file or directory. Check the path.");
  EXPECT_EQ(message_of([&] { hash_file(scratch.path()); }),
            scratch.path() + ": cannot be read: it is a directory. Check the path.");
}

TEST(HashMemo, AFileIsReadOnceByAllMemosOfAFile) {
  const Scratch scratch;
  const std::string path = scratch.put("model", "content");
  age_file(path, 100);
  HashMemo first(scratch.file("memo"));
  EXPECT_EQ(first.of(path), hash_text("content"));
  EXPECT_EQ(first.of(path), hash_text("content"));
  EXPECT_EQ(first.files_read(), 1);
  HashMemo second(scratch.file("memo"));
  EXPECT_EQ(second.of(path), hash_text("content"));
  EXPECT_EQ(second.files_read(), 0);
}

TEST(HashMemo, AChangedFileIsReadAgain) {
  const Scratch scratch;
  const std::string path = scratch.put("model", "content");
  age_file(path, 100);
  HashMemo memo(scratch.file("memo"));
  memo.of(path);
  scratch.put("model", "CONTENT");  // same size, same inode, another time
  age_file(path, 50);
  EXPECT_EQ(memo.of(path), hash_text("CONTENT"));
  scratch.put("model", "longer content");
  age_file(path, 50);
  EXPECT_EQ(memo.of(path), hash_text("longer content"));
  scratch.put("other", "LONGER CONTENT");  // same size and time, another inode
  age_file(scratch.file("other"), 50);
  std::filesystem::rename(scratch.file("other"), path);
  EXPECT_EQ(memo.of(path), hash_text("LONGER CONTENT"));
  EXPECT_EQ(memo.files_read(), 4);
}

TEST(HashMemo, AFileChangedJustNowIsNotRemembered) {
  const Scratch scratch;
  const std::string path = scratch.put("model", "content");
  HashMemo memo(scratch.file("memo"));
  memo.of(path);
  memo.of(path);
  EXPECT_EQ(memo.files_read(), 2);
  EXPECT_FALSE(std::filesystem::exists(scratch.file("memo")));
}

TEST(HashMemo, GarbageInTheMemoIsSkipped) {
  const Scratch scratch;
  const std::string path = scratch.put("model", "content");
  age_file(path, 100);
  HashMemo(scratch.file("memo")).of(path);
  const std::string line = slurp(scratch.file("memo"));
  scratch.put("memo",
              "\n\xFF\xFE garbage\n" + std::string(40, 'z') + "\n" + std::string(32, '0') + "\n" + line + "0123");
  HashMemo memo(scratch.file("memo"));
  EXPECT_EQ(memo.of(path), hash_text("content"));
  EXPECT_EQ(memo.files_read(), 0);
  std::string wrong = line;
  wrong[3] = 'X';  // not a hexadecimal digit: the line counts for nothing
  scratch.put("memo", wrong);
  HashMemo other(scratch.file("memo"));
  EXPECT_EQ(other.of(path), hash_text("content"));
  EXPECT_EQ(other.files_read(), 1);
}

TEST(HashMemo, AnUnwritableMemoOnlyCostsTime) {
  const Scratch scratch;
  const std::string path = scratch.put("model", "content");
  age_file(path, 100);
  HashMemo memo(path + "/memo");
  EXPECT_EQ(memo.of(path), hash_text("content"));
  EXPECT_EQ(memo.of(path), hash_text("content"));
  EXPECT_EQ(memo.files_read(), 1);
}

TEST(HashMemo, AMissingFileIsReported) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] { HashMemo().of(scratch.file("none")); }),
            scratch.file("none") + ": no such file. Check the path.");
}

}  // namespace
}  // namespace core
