// BPE on a vocabulary small enough to reckon by hand, against a slow definition, on broken files and on random bytes.
#include <gmock/gmock.h>

#include <algorithm>
#include <climits>
#include <map>
#include <random>

#include "core/io/json_text.h"
#include "core/text/json_tokenizer.h"
#include "core/text/load_tokenizer.h"
#include "core/text/utf8.h"
#include "tests/text/support.h"

namespace core {
namespace {

using nlohmann::json;

JsonTokenizer tokenizer_of(const json& description) { return JsonTokenizer(description.dump(), "t.json"); }

// The message about a small tokenizer that `break_it` has changed.
std::string broken(const std::function<void(json&)>& break_it) {
  json description = small_tokenizer();
  break_it(description);
  return message_of([&] { tokenizer_of(description); });
}

TEST(ByteLevelBpe, MergesInTheOrderOfTheList) {
  const JsonTokenizer tokenizer = tokenizer_of(small_tokenizer());
  EXPECT_EQ(tokenizer.encode("hello"), (Ids{258, 'o'}));
  EXPECT_EQ(tokenizer.encode("shell lhe"), (Ids{'s', 258, ' ', 'l', 256}));
  EXPECT_EQ(tokenizer.encode("lll"), (Ids{257, 'l'})) << "of equal pairs the leftmost";
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.vocabulary_size(), 260);
}

TEST(ByteLevelBpe, AWordThatIsATokenNeedsNoMergesUnderIgnoreMerges) {
  json description = small_tokenizer();
  description["model"]["vocab"]["abc"] = 300;
  EXPECT_EQ(tokenizer_of(description).encode("abc"), (Ids{'a', 'b', 'c'}));
  description["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokenizer_of(description).encode("abc"), Ids{300});
  EXPECT_EQ(tokenizer_of(description).encode("abcd"), (Ids{'a', 'b', 'c', 'd'}));
}

TEST(ByteLevelBpe, AddedTokensAreTakenOutFirstTheLongestOnes) {
  json description = small_tokenizer();
  description["added_tokens"].push_back(
      {{"id", 260}, {"content", "<end>>"}, {"special", false}, {"normalized", false}});
  const JsonTokenizer tokenizer = tokenizer_of(description);
  EXPECT_EQ(tokenizer.encode("he<end>>he<end>"), (Ids{256, 260, 256, 259}));
  EXPECT_EQ(tokenizer.encode("<end<end>"), (Ids{'<', 'e', 'n', 'd', 259}));
  EXPECT_EQ(tokenizer.decode(Ids{256, 259, 260}), "he<end><end>>");
  EXPECT_EQ(tokenizer.token_id("<end>"), 259);
  EXPECT_EQ(tokenizer.token_id("hell"), 258);
  EXPECT_EQ(tokenizer.token_id("nothing"), std::nullopt);
}

TEST(ByteLevelBpe, NormalizationComposesUnlessTheFileHasNone) {
  json description = small_tokenizer();
  const std::string decomposed = "e\u0301", composed = "\u00e9";
  EXPECT_EQ(tokenizer_of(description).decode(tokenizer_of(description).encode(decomposed)), decomposed);
  for (const json& normalizer :
       {json{{"type", "NFC"}}, json{{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "NFC"}}}}}}) {
    description["normalizer"] = normalizer;
    EXPECT_EQ(tokenizer_of(description).decode(tokenizer_of(description).encode(decomposed)), composed);
  }
}

TEST(ByteLevelBpe, EveryByteDecodesToItself) {
  const JsonTokenizer tokenizer = tokenizer_of(small_tokenizer());
  for (int byte = 0; byte < 256; ++byte)
    EXPECT_EQ(tokenizer.decode(Ids{byte}), std::string(1, static_cast<char>(byte)));
}

// The definition: join the pair that comes first in the list, leftmost first, until none is left.
Ids slow_bpe(const std::string& word, const std::map<std::pair<int, int>, std::pair<int, int>>& merges) {
  Ids ids;
  for (const char c : word) ids.push_back(static_cast<unsigned char>(c));
  while (true) {
    int best = INT_MAX, at = -1;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = merges.find({ids[i], ids[i + 1]});
      if (found != merges.end() && found->second.first < best) best = found->second.first, at = static_cast<int>(i);
    }
    if (at < 0) return ids;
    ids[at] = merges.at({ids[at], ids[at + 1]}).second;
    ids.erase(ids.begin() + at + 1);
  }
}

TEST(ByteLevelBpe, EqualsTheSlowDefinitionOnRandomMergesAndWords) {
  std::mt19937 random(5);
  for (int round = 0; round < 40; ++round) {
    json description = small_tokenizer();
    json& model = description["model"];
    model["merges"] = json::array();
    for (const char* token : {"he", "ll", "hell"}) model["vocab"].erase(token);
    std::map<std::string, int> ids = {{"a", 'a'}, {"b", 'b'}, {"c", 'c'}};
    std::map<std::pair<int, int>, std::pair<int, int>> merges;
    for (int rank = 0, next = 300; rank < 30; ++rank) {
      std::vector<std::string> tokens;
      for (const auto& [token, id] : ids) tokens.push_back(token);
      const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
      if (merges.contains({ids[left], ids[right]})) continue;
      if (ids.try_emplace(left + right, next).second) model["vocab"][left + right] = next++;
      merges[{ids[left], ids[right]}] = {rank, ids[left + right]};
      model["merges"].push_back({left, right});
    }
    const JsonTokenizer tokenizer = tokenizer_of(description);
    for (int word = 0; word < 50; ++word) {
      std::string text;
      for (size_t i = 0, size = 1 + random() % 90; i < size; ++i) text += static_cast<char>('a' + random() % 3);
      for (int again = 0; again < 2; ++again)  // the second time from the cache
        ASSERT_EQ(tokenizer.encode(text), slow_bpe(text, merges)) << "round " << round << " word " << text;
    }
  }
}

TEST(ByteLevelBpe, AMegabyteWithoutWhitespaceIsNotQuadratic) {
  const auto tokenizer = load_tokenizer(golden("qwen"));
  for (const std::string& unit : {std::string("a"), std::string("lantern"), std::string("中"), std::string(" ")}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    // Quadratic would be 10^12 steps, hours; the time limit of the test is minutes.
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << unit;
  }
}

// SmolLM2's vocabulary lacks 21 of the 256 bytes. The ids are those of `tokenizers` 0.23.3: a byte without a token is
// unk_token, also as a part of merges; fuse_unk joins neighbours inside a word. Without unk_token `tokenizers` drops
// the byte silently, which would change a measured text: that text is refused.
TEST(ByteLevelBpe, ABytesTokenMayBeMissingUntilATextNeedsIt) {
  json description = small_tokenizer();
  for (const int byte : {int{'b'}, int{'c'}, 0xc3})
    description["model"]["vocab"].erase(byte_symbol(static_cast<uint8_t>(byte)));
  const JsonTokenizer strict = tokenizer_of(description);
  EXPECT_EQ(strict.encode("hello"), (Ids{258, 'o'}));
  const auto refused = [&](std::string_view text) { return message_of([&] { strict.encode(text); }); };
  const std::string why =
      ", which has no token in t.json, nor is there a model.unk_token for it. Remove the "
      "character, or use another tokenizer.";
  EXPECT_EQ(refused("hello <end> cab"), "text to tokenize: `c` at byte 12 needs byte 0x63" + why);
  EXPECT_EQ(refused("x é"), "text to tokenize: `é` at byte 2 needs byte 0xc3" + why);

  description["model"]["unk_token"] = "l";
  EXPECT_EQ(tokenizer_of(description).encode("xbbcb b x"), (Ids{'x', 257, 257, ' ', 'l', ' ', 'x'}));
  EXPECT_EQ(tokenizer_of(description).encode("heb"), (Ids{256, 'l'}));
  description["model"]["fuse_unk"] = true;
  EXPECT_EQ(tokenizer_of(description).encode("xbbcb b x"), (Ids{'x', 'l', ' ', 'l', ' ', 'x'}));
  EXPECT_EQ(tokenizer_of(description).encode("bb\u00e9b"), (Ids{'l', 0xa9, 'l'}));
  description["model"]["unk_token"] = "<end>";  // an added token is none of the model's
  EXPECT_EQ(message_of([&] { tokenizer_of(description).encode("ab"); }),
            "text to tokenize: `b` at byte 1 needs byte 0x62" + why);
}

TEST(ByteLevelBpe, ThePlaceOfACharacterIsThatOfTheTextBeforeNormalization) {
  json description = small_tokenizer();
  description["model"]["vocab"].erase(byte_symbol(0xc3));
  description["normalizer"] = {{"type", "NFC"}};
  description["pre_tokenizer"]["add_prefix_space"] = true;
  const auto refused = [&](std::string_view text) {
    return message_of([&] { tokenizer_of(description).encode(text); });
  };
  EXPECT_THAT(refused("o\u0308<end>i\u0301 \u00e9"), testing::StartsWith("text to tokenize: `ö` at byte 0 needs"));
  EXPECT_THAT(refused("<end>xy\u00e9"), testing::StartsWith("text to tokenize: `é` at byte 7 needs byte 0xc3"));
}

TEST(ByteLevelBpe, TruncationAndPaddingAreLeftovers) {
  json description = small_tokenizer();
  description["truncation"] = {{"direction", "Right"}, {"max_length", 1}, {"strategy", "LongestFirst"}, {"stride", 0}};
  description["padding"] = {{"strategy", {{"Fixed", 9}}}, {"pad_id", 259}, {"pad_token", "<end>"}};
  EXPECT_EQ(tokenizer_of(description).encode("hello"), (Ids{258, 'o'}));
}

// One word of a million characters, as every text is where spaces are characters like others.
TEST(ByteLevelBpe, AMegabyteOfCharactersIsNotQuadratic) {
  const JsonTokenizer tokenizer(characters_tokenizer(golden_json("characters.json")["base"]).dump(), "tokenizer.json");
  for (const std::string& unit : {std::string("ab cdef  ij "), std::string("a"), std::string("中"), std::string(" ")}) {
    std::string text = "a";
    while (text.size() < (1 << 20)) text += unit;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << unit;
  }
}

TEST(ByteLevelBpe, ACharacterWithoutATokenIsNamedWithItsPlace) {
  json change{{"without", {"<0xC3>"}}, {"model", {{"unk_token", nullptr}}}};
  const JsonTokenizer tokenizer = tokenizer_of(characters_tokenizer(golden_json("characters.json")["base"], change));
  EXPECT_EQ(message_of([&] { tokenizer.encode("a b 中 é"); }),
            "text to tokenize: `é` at byte 8 has no token in t.json, nor is there a model.unk_token for it. Remove the "
            "character, or use another tokenizer.");
}

TEST(ByteLevelBpe, TextThatIsNotUtf8IsRefusedWithTheOffset) {
  const JsonTokenizer tokenizer = tokenizer_of(small_tokenizer());
  const auto refused = [&](std::string_view text) { return message_of([&] { tokenizer.encode(text); }); };
  EXPECT_EQ(refused("ab\xff"), "text to tokenize: byte 2 (0xff) is not valid UTF-8. Convert the text to UTF-8.");
  EXPECT_EQ(refused("\xc3"), "text to tokenize: byte 0 (0xc3) is not valid UTF-8. Convert the text to UTF-8.");
  EXPECT_EQ(refused("é\xed\xa0\x80"), "text to tokenize: byte 2 (0xed) is not valid UTF-8. Convert the text to UTF-8.");
  EXPECT_EQ(refused("\xc0\xaf"), "text to tokenize: byte 0 (0xc0) is not valid UTF-8. Convert the text to UTF-8.");
}

TEST(ByteLevelBpe, IdsOutsideTheVocabularyAreRefused) {
  json description = small_tokenizer();
  description["added_tokens"][0]["id"] = 300;
  const JsonTokenizer tokenizer = tokenizer_of(description);
  for (const int32_t id : {-1, 299, 301})
    EXPECT_EQ(
        message_of([&] { tokenizer.decode(Ids{id}); }),
        "token id " + std::to_string(id) +
            " is not in the tokenizer's vocabulary (ids 0 to 300). Check that model and tokenizer belong together.");
}

TEST(ByteLevelBpe, PartsThatAreNotImplementedAreRefusedByName) {
  const auto pre = [](const json& value) { return broken([&](json& j) { j["pre_tokenizer"] = value; }); };
  EXPECT_EQ(
      pre({{"type", "Whitespace"}}),
      "t.json: pre_tokenizer type `Whitespace` is not implemented. Implemented: Split, Digits, Metaspace, ByteLevel, "
      "Sequence.");
  EXPECT_EQ(pre({{"type", "Sequence"}, {"pretokenizers", {{{"type", "Punctuation"}}}}}),
            "t.json: pre_tokenizer.pretokenizers[0] type `Punctuation` is not implemented. Implemented: Split, Digits, "
            "Metaspace, ByteLevel, Sequence.");
  const auto split = [&](const char* pattern, const char* behavior, bool invert) {
    return pre({{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", invert}});
  };
  EXPECT_EQ(split("a", "Doubled", false),
            "t.json: pre_tokenizer.behavior `Doubled` is not known. Known: Isolated, Removed, MergedWithPrevious, "
            "MergedWithNext, Contiguous.");
  EXPECT_EQ(split("(a", "Isolated", false),
            "t.json: pre_tokenizer.pattern: pattern `(a` is not a regular expression: missing closing parenthesis. "
            "Correct the "
            "pattern.");
  EXPECT_EQ(
      split(R"(\w+)", "Isolated", false),
      R"(t.json: pre_tokenizer.pattern: pattern `\w+` is not implemented: the escape \w. Use a tokenizer without it.)");
  EXPECT_EQ(pre({{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}}),
            "t.json: pre_tokenizer.prepend_scheme `last` is not known. Known: always, first, never.");
  EXPECT_EQ(pre(nullptr),
            "t.json: decoder type `ByteLevel` is not implemented. Implemented: Replace, ByteFallback, Fuse, Strip, "
            "Metaspace, Sequence.")
      << "without ByteLevel in the pre-tokenizer it is a vocabulary of characters";

  const auto member = [](const char* key, const json& value) { return broken([&](json& j) { j[key] = value; }); };
  EXPECT_EQ(member("normalizer", {{"type", "Lowercase"}}),
            "t.json: normalizer type `Lowercase` is not implemented. Implemented: NFC, Prepend, Replace, Sequence.");
  EXPECT_EQ(member("decoder", {{"type", "WordPiece"}}),
            "t.json: decoder type `WordPiece` is not implemented. Implemented: ByteLevel.");
  EXPECT_EQ(member("post_processor", {{"type", "Sequence"}, {"processors", {{{"type", "Other"}}}}}),
            "t.json: post_processor.processors[0] type `Other` is not implemented. Implemented: ByteLevel, "
            "TemplateProcessing, BertProcessing, RobertaProcessing, Sequence.");

  const auto model = [](const char* key, const json& value) {
    return broken([&](json& j) { j["model"][key] = value; });
  };
  EXPECT_EQ(model("type", "Unigram"), "t.json: model type `Unigram` is not implemented. Implemented: BPE.");
  EXPECT_EQ(model("type", "WordPiece"), "t.json: model type `WordPiece` is not implemented. Implemented: BPE.");
  EXPECT_EQ(broken([](json& j) {
              j["model"] = {{"type", "Unigram"}, {"vocab", json::array()}};
              j["normalizer"] = {{"type", "Precompiled"}};
            }),
            "t.json: model type `Unigram` is not implemented. Implemented: BPE.");
  EXPECT_EQ(model("dropout", 0.1), "t.json: model.dropout 0.1 is not implemented. Use a tokenizer without it.");
  EXPECT_EQ(model("end_of_word_suffix", "</w>"),
            "t.json: model.end_of_word_suffix \"</w>\" is not implemented. Use a tokenizer without it.");
}

TEST(ByteLevelBpe, BrokenFilesAreRefusedInOneLine) {
  EXPECT_EQ(message_of([] { JsonTokenizer("{\n \"a\": ]", "t.json"); }),
            "t.json: the text is not JSON (line 2, column 7). Replace the file.");
  const auto merge = [](const json& value) { return broken([&](json& j) { j["model"]["merges"][1] = value; }); };
  EXPECT_EQ(merge("l x"), "t.json: model.merges[1] names `lx`, which is not in the vocabulary. Replace the file.");
  EXPECT_EQ(merge({"foo", "l"}),
            "t.json: model.merges[1] names `foo`, which is not in the vocabulary. Replace the file.");
  EXPECT_EQ(merge("l l l"), "t.json: model.merges[1] is \"l l l\", a pair of tokens is expected. Replace the file.");
  EXPECT_EQ(merge(5), "t.json: model.merges[1] is 5, a pair of tokens is expected. Replace the file.");
  const auto id = [](const json& value) { return broken([&](json& j) { j["model"]["vocab"]["he"] = value; }); };
  EXPECT_EQ(id(258), "t.json: model.vocab gives the id 258 to `he` and to `hell`. Replace the file.");
  for (const json& wrong : {json(-1), json(16777216), json(1.5), json("7"), json(18446744073709551615u)})
    EXPECT_EQ(id(wrong), "t.json: model.vocab gives token `he` the id " + printable(wrong.dump()) +
                             ", which is not an integer from 0 to 16777215. Replace the file.");
  EXPECT_EQ(broken([](json& j) { j["model"].erase("vocab"); }),
            "t.json: model.vocab is not an object of tokens and ids. Replace the file.");
  EXPECT_EQ(broken([](json& j) { j["model"].erase("merges"); }),
            "t.json: model.merges is not a list. Replace the file.");
  EXPECT_EQ(broken([](json& j) { j.erase("model"); }),
            "t.json: model is missing, an object is expected. Replace the file.");
  const auto added = [](const char* key, const json& value) {
    return broken([&](json& j) { j["added_tokens"][0][key] = value; });
  };
  EXPECT_EQ(added("id", 258),
            "t.json: added_tokens[0] gives `<end>` the id 258, but the token or the id is taken. Replace the "
            "file.");
  EXPECT_EQ(added("id", -3), "t.json: added_tokens[0].id -3 is out of range. Replace the file.");
  EXPECT_EQ(added("id", "x"), "t.json: added_tokens[0].id is \"x\", an integer is expected. Replace the file.");
  EXPECT_EQ(added("content", ""), "t.json: added_tokens[0].content is empty. Replace the file.");
  EXPECT_EQ(added("content", "he"),
            "t.json: added_tokens[0] gives `he` the id 259, but the token or the id is taken. Replace the file.");
}

// Every outcome but a UserError or ids that decode to the (composed) text is a bug.
TEST(ByteLevelBpe, RandomBytesNeverDoMoreThanBeRefused) {
  std::mt19937 random(3);
  const auto tokenizer = load_tokenizer(golden("qwen"));
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    const unsigned limit = round % 2 ? 256 : 128;
    for (size_t i = 0, size = random() % 12; i < size; ++i) text += static_cast<char>(random() % limit);
    if (first_invalid_utf8(text)) {
      EXPECT_THAT(message_of([&] { tokenizer->encode(text); }), testing::HasSubstr("is not valid UTF-8"));
    } else {
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), nfc(text));
      ++accepted;
    }
  }
  EXPECT_GT(accepted, 5000);
}

TEST(ByteLevelBpe, FilesWithRandomDamageLoadOrAreRefused) {
  std::mt19937 random(4);
  const std::string whole = small_tokenizer().dump();
  int refused = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string text = whole;
    for (int change = 0; change < 3; ++change) {
      const size_t at = random() % text.size();
      if (random() % 2)
        text[at] = static_cast<char>(random() % 256);
      else
        text.erase(at, random() % 20);
    }
    if (round % 10 == 0) text.resize(random() % text.size());
    const std::string message = message_of([&] { JsonTokenizer(text, "t.json").encode("hello <end> world"); });
    EXPECT_THAT(message, testing::AnyOf("no error", testing::StartsWith("t.json: "))) << text;
    EXPECT_THAT(message, testing::Not(testing::HasSubstr("\n")));
    refused += message != "no error";
  }
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace core
