// Damage to the bytes of a good GGUF file: the reader either accepts the file or throws a UserError of one line.
#include <gtest/gtest.h>

#include <random>

#include "core/io/gguf_model.h"
#include "core/text/gguf_tokenizer.h"
#include "tests/io/gguf_bytes.h"
#include "tests/io/support.h"

namespace core {
namespace {

class GgufFuzz : public testing::Test {
 protected:
  // Reads all that a model is read from. Returns whether the file was accepted.
  bool accepts(const std::string& bytes) {
    const std::string path = scratch_.put("m.gguf", bytes);
    std::string message;
    try {
      const Gguf file = Gguf::open(path);
      gguf_config(file);
      gguf_tokenizer(file);
      const auto tensors = gguf_tensors(file);
      for (const std::string& name : tensors->names()) {
        const StoredTensor stored = tensors->stored(name);
        if (!stored.decode) continue;
        std::vector<float> row(static_cast<size_t>(stored.shape.back()));
        stored.decode(0, 1, row.data());
      }
      return true;
    } catch (const UserError& error) {
      message = error.what();
    }
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with(path)) << message;
    return false;
  }

  const GgufBytes good_ = small_gguf();
  Scratch scratch_;
};

TEST_F(GgufFuzz, TheGoodFileIsAccepted) { EXPECT_TRUE(accepts(good_.bytes())); }

TEST_F(GgufFuzz, AFileThatIsCutIsRefused) {
  const std::string bytes = good_.bytes();
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    const size_t end = random() % (bytes.size() - 32);  // the last tensor may lack the bytes that fill its place
    EXPECT_FALSE(accepts(bytes.substr(0, end))) << "cut at " << end;
  }
}

TEST_F(GgufFuzz, AnyByteOfTheHeaderMayBeWrong) {
  const std::string bytes = good_.bytes();
  std::mt19937 random(5);
  for (size_t at = 0; at < good_.header().size(); ++at) {
    for (const int flip : {1, 128, static_cast<int>(1 + random() % 255)}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      accepts(damaged);
    }
  }
}

TEST_F(GgufFuzz, PiecesMayBeRepeatedOrLost) {
  std::mt19937 random(11);
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = good_.bytes();
    const size_t at = random() % good_.header().size(), length = 1 + random() % 16;
    if (i % 2 == 0)
      damaged.erase(at, length);
    else
      damaged.insert(at, damaged.substr(random() % damaged.size(), length));
    accepts(damaged);
  }
}

}  // namespace
}  // namespace core
