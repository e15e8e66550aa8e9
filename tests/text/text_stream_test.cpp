// Text of a growing list of tokens: nothing incomplete goes out, and all of it in the end.
#include "core/text/text_stream.h"

#include "core/text/sentencepiece_tokenizer.h"
#include "core/text/utf8.h"
#include "tests/text/support.h"

namespace core {
namespace {

JsonTokenizer bytes() { return JsonTokenizer(small_tokenizer().dump(), "tokenizer.json"); }

TEST(CompleteUtf8, EndsBeforeACharacterThatHasBegun) {
  for (const std::string whole : {"", "a", "é", "€", "😀", "a€"}) {
    EXPECT_EQ(complete_utf8(whole), whole.size()) << whole;
    for (const std::string next : {"é", "€", "😀"}) {
      for (size_t bytes = 1; bytes < next.size(); ++bytes)
        EXPECT_EQ(complete_utf8(whole + next.substr(0, bytes)), whole.size()) << whole << " + " << bytes;
      EXPECT_EQ(complete_utf8(whole + next), whole.size() + next.size());
    }
  }
  EXPECT_EQ(complete_utf8("a\x80\x80\x80\x80"), 5u) << "that will never be a character";
}

TEST(TextStream, HoldsACharacterBackUntilItIsComplete) {
  const JsonTokenizer tokenizer = bytes();
  TextStream stream(tokenizer, {});
  EXPECT_EQ(stream.push('a'), "a");
  EXPECT_EQ(stream.push(0xE2), "");
  EXPECT_EQ(stream.push(0x82), "");
  EXPECT_EQ(stream.push(0xAC), "€");
  EXPECT_EQ(stream.push(258), "hell");
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD") << "one that never came";
}

TEST(TextStream, BytesThatAreNoTextAreReplaced) {
  const JsonTokenizer tokenizer = bytes();
  TextStream stream(tokenizer, {'x'});
  EXPECT_EQ(stream.push(0xE2), "");
  EXPECT_EQ(stream.push('a'),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(stream.push(0x80), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.finish(), "");
}

// All pieces together are the text, for tokens that are pushed one by one behind a prompt; longer than what is decoded
// at once.
void expect_whole(const Tokenizer& tokenizer, const std::string& text) {
  std::string repeated;
  for (int i = 0; i < 40; ++i) repeated += text;
  const Ids ids = tokenizer.encode(repeated);
  ASSERT_GT(ids.size(), 200u);
  for (const size_t prompt : {size_t{0}, size_t{1}, size_t{20}}) {
    const Ids before(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt));
    TextStream stream(tokenizer, before);
    std::string all = tokenizer.decode(before);
    for (size_t i = prompt; i < ids.size(); ++i) {
      const std::string piece = stream.push(ids[i]);
      EXPECT_EQ(first_invalid_utf8(piece), std::nullopt);
      all += piece;
    }
    EXPECT_EQ(all + stream.finish(), repeated) << prompt;
  }
}

// Bytes of a prompt's last character may lie before the tokens that are kept: here its last 8 begin inside one.
TEST(TextStream, APromptMayEndInARunOfBytes) {
  const JsonTokenizer tokenizer(characters_tokenizer(golden_json("characters.json")["base"]).dump(), "tokenizer.json");
  const Ids ids = tokenizer.encode("房子很小但是很贵"), before(ids.begin(), ids.begin() + 1 + 6 * 3);
  TextStream stream(tokenizer, before);
  std::string all;
  for (size_t i = before.size(); i < ids.size(); ++i) all += stream.push(ids[i]);
  EXPECT_EQ(all + stream.finish(), "很贵");
}

TEST(TextStream, ThePiecesAreTheText) {
  const std::string text = "Straße in 北京 costs 5 €. 😀 hello ";
  expect_whole(bytes(), text);
  const JsonTokenizer characters(characters_tokenizer(golden_json("characters.json")["base"]).dump(), "tokenizer.json");
  expect_whole(characters, "a cab in 北京 costs 5 €. ");
  expect_whole(characters,
               "a cab in which one sits, 北京的房子很小但是很贵没有人住在那里北京的房子很小但是很贵没有人住在那里 ");
  const std::string file = golden("sentencepiece/tokenizer.model");
  expect_whole(SentencePieceTokenizer(read_file(file), file), "The house in 北京 is small, it costs 5 €. ");
}

}  // namespace
}  // namespace core
