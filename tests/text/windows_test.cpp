// Windows on a stream of single bytes, where every id can be written down.
#include "core/text/windows.h"

#include <gmock/gmock.h>

#include "core/io/hash.h"
#include "core/text/load_tokenizer.h"
#include "tests/text/support.h"

namespace core {
namespace {

using testing::ElementsAre;

// Ids are the bytes of the text; BOS, where there is one, is 259. `add_bos_token` of the settings stands in
// tokenizer.json, too.
std::unique_ptr<Tokenizer> byte_tokenizer(const std::string& settings) {
  Scratch scratch;
  nlohmann::json description = small_tokenizer();
  if (nlohmann::json::parse(settings).value("add_bos_token", false))
    description["post_processor"] = template_of({{"<end>", 259}}, {"<end>"});
  description["model"]["merges"] = nlohmann::json::array();
  scratch.put("tokenizer.json", description.dump());
  scratch.put("tokenizer_config.json", settings);
  return load_tokenizer(scratch.path());
}

const char* kBos = R"({"bos_token": "<end>"})";
const char* kAddsBos = R"({"bos_token": "<end>", "add_bos_token": true})";
const Corpus kCorpus{"letters", "", "abcdefgh"};

TEST(Windows, DoNotOverlapAndTheTailIsDropped) {
  const Windows windows = make_windows(kCorpus, *byte_tokenizer("{}"), {.seq_len = 3});
  EXPECT_EQ(windows.count, 2);
  EXPECT_EQ(windows.corpus, "letters");
  EXPECT_EQ(windows.bos, "none");
  EXPECT_EQ(windows.scored(), 4);
  EXPECT_THAT(windows.ids, ElementsAre('a', 'b', 'c', 'd', 'e', 'f'));
  EXPECT_THAT(windows.window(1), ElementsAre('d', 'e', 'f'));
}

TEST(Windows, AreLimitedFromTheStart) {
  const auto tokenizer = byte_tokenizer("{}");
  EXPECT_EQ(make_windows(kCorpus, *tokenizer, {.seq_len = 2, .windows = 0}).count, 4);
  EXPECT_EQ(make_windows(kCorpus, *tokenizer, {.seq_len = 2, .windows = 9}).count, 4);
  EXPECT_THAT(make_windows(kCorpus, *tokenizer, {.seq_len = 2, .windows = 1}).ids, ElementsAre('a', 'b'));
}

TEST(Windows, AreSpreadOverTheWholeText) {
  const auto tokenizer = byte_tokenizer("{}");
  const auto spread = [&](int64_t windows, const char* config = "{}", const char* bos = "auto") {
    return make_windows(kCorpus, *byte_tokenizer(config),
                        {.seq_len = 2, .bos = bos, .windows = windows, .windows_from = kSpread});
  };
  EXPECT_THAT(spread(2).ids, ElementsAre('a', 'b', 'e', 'f'));
  EXPECT_THAT(spread(3).ids, ElementsAre('a', 'b', 'c', 'd', 'e', 'f'));
  EXPECT_EQ(spread(4).ids, make_windows(kCorpus, *tokenizer, {.seq_len = 2}).ids);
  EXPECT_EQ(spread(9).ids, spread(0).ids);
  EXPECT_EQ(spread(2).windows_from, kSpread);
  EXPECT_EQ(spread(4).windows_from, kFirst) << "all are the same windows";
  const Corpus published{.name = "letters", .path = "", .text = "abcdefgh", .windows = 3};
  EXPECT_THAT(make_windows(published, *tokenizer, {.seq_len = 2, .windows = 2, .windows_from = kSpread}).ids,
              ElementsAre('a', 'b', 'c', 'd'));
  EXPECT_THAT(spread(2, kBos, "window").ids, ElementsAre(259, 'b', 259, 'f'));
}

TEST(Windows, BosOnceShiftsTheTextByOne) {
  const Windows windows = make_windows(kCorpus, *byte_tokenizer(kBos), {.seq_len = 3, .bos = "once"});
  EXPECT_THAT(windows.ids, ElementsAre(259, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'));
  EXPECT_EQ(windows.bos, "once");
}

TEST(Windows, BosPerWindowOverwritesItsFirstToken) {
  const Windows windows = make_windows(kCorpus, *byte_tokenizer(kBos), {.seq_len = 3, .bos = "window"});
  EXPECT_THAT(windows.ids, ElementsAre(259, 'b', 'c', 259, 'e', 'f'));
  EXPECT_EQ(windows.scored(), 4);
}

TEST(Windows, AutoFollowsTheTokenizer) {
  EXPECT_EQ(resolve_bos("auto", kGptq, *byte_tokenizer(kAddsBos)), "once");
  EXPECT_EQ(resolve_bos("auto", kLlamaCpp, *byte_tokenizer(kAddsBos)), "window");
  for (const char* protocol : {kGptq, kLlamaCpp}) {
    EXPECT_EQ(resolve_bos("auto", protocol, *byte_tokenizer(kBos)), "none");
    EXPECT_EQ(resolve_bos("none", protocol, *byte_tokenizer(kAddsBos)), "none");
    EXPECT_EQ(resolve_bos("once", protocol, *byte_tokenizer(kAddsBos)), "once");
  }
}

TEST(LlamaCppWindows, ScoreTheirSecondHalf) {
  const auto scored = [](int64_t seq_len) {
    Corpus corpus{"letters", "", std::string(2 * seq_len, 'a')};
    const Windows windows = make_windows(corpus, *byte_tokenizer("{}"), {.protocol = kLlamaCpp, .seq_len = seq_len});
    EXPECT_EQ(windows.count, 2);
    EXPECT_EQ(windows.scored(), 2 * windows.scored_per_window());
    return std::pair(windows.first, windows.scored_per_window());
  };
  EXPECT_EQ(scored(512), (std::pair<int64_t, int64_t>(256, 255)));
  EXPECT_EQ(scored(7), (std::pair<int64_t, int64_t>(3, 3)));
  EXPECT_EQ(scored(4), (std::pair<int64_t, int64_t>(2, 1)));
  EXPECT_EQ(scored(3), (std::pair<int64_t, int64_t>(1, 1)));
}

TEST(LlamaCppWindows, BosStandsBeforeTheTextAndThenOverEveryWindow) {
  const auto ids = [](const char* settings, const std::string& bos) {
    return make_windows(kCorpus, *byte_tokenizer(settings), {.protocol = kLlamaCpp, .seq_len = 3, .bos = bos}).ids;
  };
  EXPECT_THAT(ids(kAddsBos, "auto"), ElementsAre(259, 'a', 'b', 259, 'd', 'e', 259, 'g', 'h'));
  EXPECT_EQ(ids(kBos, "window"), ids(kAddsBos, "auto"));
  EXPECT_THAT(ids(kBos, "once"), ElementsAre(259, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'));
  EXPECT_THAT(ids(kBos, "auto"), ElementsAre('a', 'b', 'c', 'd', 'e', 'f'));
}

TEST(LlamaCppWindows, MustBeTwo) {
  const auto refused = [&](int64_t seq_len) {
    return message_of(
        [&] { make_windows(kCorpus, *byte_tokenizer("{}"), {.protocol = kLlamaCpp, .seq_len = seq_len}); });
  };
  EXPECT_EQ(refused(5),
            "letters: 8 tokens are too few: llama.cpp's protocol needs two windows of 5. Choose a smaller seq_len or a "
            "longer corpus.");
  EXPECT_EQ(refused(4), "no error");
  EXPECT_EQ(refused(2), "seq_len: 2 leaves nothing to predict. Choose at least 3.");
  EXPECT_EQ(message_of([&] { make_windows(kCorpus, *byte_tokenizer("{}"), {.protocol = "lama"}); }),
            "protocol: `lama` is not known. Choose gptq or llama.cpp.");
}

TEST(Windows, StopWhereThePublishedMeasurementOfTheTextStops) {
  const Corpus corpus{.name = "letters", .path = "", .text = "abcdefgh", .windows = 2};
  const auto tokenizer = byte_tokenizer("{}");
  EXPECT_EQ(make_windows(corpus, *tokenizer, {.seq_len = 2}).count, 2);
  EXPECT_EQ(make_windows(corpus, *tokenizer, {.seq_len = 2, .windows = 1}).count, 1);
  EXPECT_EQ(make_windows(corpus, *tokenizer, {.seq_len = 2, .windows = 3}).count, 2);
  EXPECT_EQ(make_windows(corpus, *tokenizer, {.seq_len = 8}).count, 1);
}

TEST(Windows, TheHashIsThatOfTheIdsThatTheModelSees) {
  const auto tokenizer = byte_tokenizer(kBos);
  const Windows windows = make_windows(kCorpus, *tokenizer, {.seq_len = 3});
  EXPECT_EQ(windows.token_hash, token_hash(windows.ids));
  EXPECT_EQ(token_hash(Ids{1, 258}), hash_text(std::string_view("\1\0\0\0\2\1\0\0", 8)));
  EXPECT_NE(windows.token_hash, make_windows(kCorpus, *tokenizer, {.seq_len = 3, .bos = "window"}).token_hash);
  EXPECT_NE(windows.token_hash, make_windows(kCorpus, *tokenizer, {.seq_len = 3, .windows = 1}).token_hash);
}

TEST(Windows, MistakesAreRefusedInOneLine) {
  const auto tokenizer = byte_tokenizer("{}");
  const auto refused = [&](const WindowOptions& options) {
    return message_of([&] { make_windows(kCorpus, *tokenizer, options); });
  };
  EXPECT_EQ(refused({.seq_len = 9}),
            "letters: 8 tokens are too few for one window of 9. Choose a smaller seq_len or a longer corpus.");
  EXPECT_EQ(refused({.seq_len = 1}), "seq_len: 1 leaves nothing to predict. Choose at least 2.");
  EXPECT_EQ(refused({.seq_len = 2, .bos = "maybe"}), "bos: `maybe` is not known. Choose none, once, window or auto.");
  EXPECT_EQ(
      refused({.seq_len = 2, .bos = "once"}),
      "bos: `once` asks for BOS, but the tokenizer has none. Set bos to none, or bos_token in tokenizer_config.json.");
  EXPECT_EQ(
      refused({.seq_len = 2, .embedding_rows = 100}),
      "letters: token 3 has the id 100, but the model's embedding has 100 rows. Use the tokenizer that belongs to the "
      "model.");
  EXPECT_EQ(refused({.seq_len = 2, .embedding_rows = 105}), "no error");
}

}  // namespace
}  // namespace core
