// Patterns: where the two engines differ, what is refused, and the pieces of the pre-tokenizer.
#include "core/text/pattern.h"

#include <gmock/gmock.h>

#include "core/text/oniguruma.h"
#include "core/text/utf8.h"
#include "tests/text/support.h"

namespace core {
namespace {

using testing::ElementsAre;

std::vector<std::string> pieces(const Pattern& pattern, std::string_view text) {
  std::vector<std::string> texts;
  for (const Pattern::Piece& piece : pattern.split(text)) texts.emplace_back(piece.text);
  return texts;
}

std::vector<std::string> pieces(std::string_view pattern, std::string_view text) {
  return pieces(Pattern::regex(pattern, "here"), text);
}

TEST(Pattern, MatchesAreReplaced) {
  EXPECT_EQ(Pattern::regex("b+", "here").replace("abbcb", "xy"), "axycxy");
  EXPECT_EQ(Pattern::literal(".", "here").replace("a.b", ""), "ab");
  EXPECT_EQ(Pattern::regex(R"(\A +)", "here").replace("  a  b", "-"), "-a  b");
}

TEST(Pattern, MatchesAndGapsTogetherAreTheText) {
  EXPECT_THAT(pieces("b+", "abbcb"), ElementsAre("a", "bb", "c", "b"));
  EXPECT_THAT(pieces("x", "abc"), ElementsAre("abc"));
  EXPECT_THAT(pieces("b", ""), ElementsAre());
  EXPECT_THAT(pieces(Pattern::literal("a.", "here"), "aba.b"), ElementsAre("ab", "a.", "b"));
}

TEST(Pattern, AnEmptyMatchCuts) { EXPECT_THAT(pieces("x*", "abxxc"), ElementsAre("a", "b", "xx", "c")); }

TEST(Pattern, DollarIsTheEndOfALine) {
  EXPECT_THAT(pieces(R"(\s+$)", "a  \n b"), ElementsAre("a", "  ", "\n b"));
  EXPECT_THAT(pieces(R"(\s+$)", "a \n \n"), ElementsAre("a", " \n \n"));
}

TEST(Pattern, SpacesAreUnicodesWhiteSpace) {
  // Before a character that cannot match, a match is cut off and a gap is not.
  const Pattern space = Pattern::regex(R"(\s)", "here"), space_in_class = Pattern::regex(R"([\s])", "here");
  const Pattern other = Pattern::regex(R"([^a]\S)", "here"), other_in_class = Pattern::regex(R"([^a][\S])", "here");
  int spaces = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text = "a";
    append_utf8(text, c);
    const bool is_space = pieces(space, text).size() == 2;
    ASSERT_EQ(pieces(space_in_class, text).size() == 2, is_space) << static_cast<uint32_t>(c);
    text = "ab" + text.substr(1);
    ASSERT_EQ(pieces(other, text).size() == 1, is_space) << static_cast<uint32_t>(c);
    ASSERT_EQ(pieces(other_in_class, text).size() == 1, is_space) << static_cast<uint32_t>(c);
    spaces += is_space;
  }
  EXPECT_EQ(spaces, 25);
}

TEST(Oniguruma, TranslatesWhatDiffers) {
  EXPECT_EQ(to_pcre2(R"(\u3000-[a\u00e9]\x41\x{4e00})", "here"), R"(\x{3000}-[a\x{00e9}]\x41\x{4e00})");
  EXPECT_EQ(to_pcre2(R"((?i:'s|'t)|[^\r\n\p{L}]?\p{Lu}+|\P{N}{1,3}|\d$)", "here"),
            R"((?i:'s|'t)|[^\r\n\p{L}]?\p{Lu}+|\P{N}{1,3}|\d$)");
  EXPECT_EQ(to_pcre2(R"([\S])", "here"), R"([\S\x{180E}])");
}

TEST(Oniguruma, RefusesWhatItWouldReadDifferently) {
  const auto reason = [](const std::string& pattern) {
    const std::string message = message_of([&] { to_pcre2(pattern, "here"); });
    const std::string before = "here: pattern `" + pattern + "` is not implemented: ";
    const std::string after = ". Use a tokenizer without it.";
    if (!message.starts_with(before) || !message.ends_with(after)) return message;
    return message.substr(before.size(), message.size() - before.size() - after.size());
  };
  EXPECT_EQ(reason(R"(\b)"), R"(the escape \b)");
  EXPECT_EQ(reason(R"([\h])"), R"(the escape \h)");
  EXPECT_EQ(reason(R"(a\)"), "it ends in a backslash");
  EXPECT_EQ(reason(R"(\p{Han})"), "the property Han");
  EXPECT_EQ(reason(R"(\pL)"), "a property without braces");
  EXPECT_EQ(reason("[a[b]]"), "a class inside a class");
  EXPECT_EQ(reason("[a&&b]"), "&& in a class");
  EXPECT_EQ(reason("[]a]"), "] at the start of a class");
  EXPECT_EQ(reason("[ab"), "a class without its ]");
  EXPECT_EQ(reason("(?i)a"), "the group (?i)");
  EXPECT_EQ(reason("(*FAIL)"), "the group (*FA");
  EXPECT_EQ(reason("a{1,2}+"), "}+");
  EXPECT_EQ(reason("a{,2}"), "a bare {");
  EXPECT_EQ(reason(R"(\xe9)"), R"(the escape \x of a byte beyond ASCII)");
  EXPECT_EQ(reason(R"(\u12)"), R"(\u without four digits)");
}

}  // namespace
}  // namespace core
