// Random damage to the bytes of a good file: the reader either accepts the file or throws a UserError of one line.
#include <gtest/gtest.h>

#include <random>

#include "core/io/safetensors.h"
#include "core/io/safetensors_header.h"
#include "tests/io/support.h"

namespace core {
namespace {

const std::string kHeader =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"BF16","shape":[3,0],"data_offsets":[16,16]},"c":{"dtype":"U8","shape":[5],"data_offsets":[16,21]}})";

// One random edit: a byte changed, removed, inserted, a piece repeated, or the end cut off.
std::string damaged(std::string bytes, std::mt19937& random) {
  static const std::string kLikely = "{}[]\",:-0123456789eE.\\u \xFF\x80\n";
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % std::max<size_t>(n, 1)); };
  const size_t at = below(bytes.size());
  const char byte = below(2) == 0 ? kLikely[below(kLikely.size())] : static_cast<char>(below(256));
  switch (below(5)) {
    case 0:
      bytes[at] = byte;
      break;
    case 1:
      bytes.erase(at, 1 + below(3));
      break;
    case 2:
      bytes.insert(at, 1 + below(3), byte);
      break;
    case 3:
      bytes.insert(at, bytes.substr(below(bytes.size()), below(40)));
      break;
    default:
      bytes.resize(at);
      break;
  }
  return bytes.empty() ? std::string(1, byte) : bytes;
}

// Parses; what is accepted must have every tensor inside the file, what is refused one line of printable text.
bool survives(const std::string& bytes) {
  try {
    const SafetensorsHeader header = parse_safetensors_header(bytes, "f");
    uint64_t covered = 0;
    for (const HeaderEntry& entry : header.tensors) {
      EXPECT_EQ(entry.begin, covered);
      covered = entry.end;
    }
    EXPECT_EQ(header.data_start + covered, bytes.size());
    return true;
  } catch (const UserError& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.rfind("f: ", 0), 0u) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 600u) << text;
    return false;
  }
}

TEST(SafetensorsFuzz, DamagedHeadersOfTrueLength) {
  std::mt19937 random(1);
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string header = kHeader;
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) header = damaged(header, random);
    accepted += survives(safetensors_bytes(header, std::string(21, 'x')));
  }
  EXPECT_GT(accepted, 0);  // the edits are small enough that some still make sense
  EXPECT_LT(accepted, 10'000);
}

TEST(SafetensorsFuzz, DamagedFiles) {
  std::mt19937 random(2);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = safetensors_bytes(kHeader, std::string(21, 'x'));
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) bytes = damaged(bytes, random);
    survives(bytes);
  }
}

TEST(SafetensorsFuzz, EveryPrefixOfAGoodFileIsRefused) {
  const std::string good = safetensors_bytes(kHeader, std::string(21, 'x'));
  EXPECT_TRUE(survives(good));
  for (size_t length = 0; length < good.size(); ++length) EXPECT_FALSE(survives(good.substr(0, length))) << length;
}

TEST(SafetensorsFuzz, RandomBytes) {
  std::mt19937 random(3);
  for (int i = 0; i < 5'000; ++i) {
    std::string header = "{";
    for (unsigned n = random() % 60; n > 0; --n) header += static_cast<char>(random());
    survives(safetensors_bytes(header + "}"));
  }
}

TEST(SafetensorsFuzz, DamagedFilesOnDiskAreReadToTheirLastByteOrRefused) {
  const Scratch scratch;
  std::mt19937 random(4);
  for (int i = 0; i < 200; ++i) {
    const std::string path = scratch.put("x", damaged(safetensors_bytes(kHeader, std::string(21, 'x')), random));
    try {
      const Checkpoint checkpoint = Checkpoint::open(path);
      for (const std::string& name : checkpoint.names()) {
        const TensorView& view = checkpoint.at(name);
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(view.data), view.bytes).size(), view.bytes);
      }
    } catch (const UserError&) {  // the other way out
    }
  }
}

}  // namespace
}  // namespace core
