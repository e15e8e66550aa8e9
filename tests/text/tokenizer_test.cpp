// A model directory: which file is the tokenizer, and where BOS and EOS come from.
#include <gmock/gmock.h>

#include "core/text/load_tokenizer.h"
#include "core/text/sentencepiece_tokenizer.h"
#include "tests/support/logged.h"
#include "tests/text/support.h"

namespace core {
namespace {

class ModelDirectory : public testing::Test {
 protected:
  void put_bpe() { scratch_.put("tokenizer.json", small_tokenizer().dump()); }
  void put_sentencepiece() { scratch_.put("tokenizer.model", read_file(golden("sentencepiece/tokenizer.model"))); }
  void put_settings(const std::string& json) { scratch_.put("tokenizer_config.json", json); }
  std::unique_ptr<Tokenizer> load() { return load_tokenizer(scratch_.path()); }
  std::string refused() {
    return message_of([&] { load(); });
  }

  Scratch scratch_;
};

TEST_F(ModelDirectory, BosAndEosAreTextsOfTokenizerConfig) {
  put_bpe();
  put_settings(R"({"bos_token": "<end>", "eos_token": "hell"})");
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->bos_id(), 259);
  EXPECT_EQ(tokenizer->eos_ids(), Ids{258});
  EXPECT_TRUE(tokenizer->ends_text(258));
  EXPECT_FALSE(tokenizer->ends_text(259));
}

// What the post-processor begins a text with, as `tokenizer("ab")` of transformers 5.24 has it; its add_bos_token and
// add_eos_token of tokenizer_config.json count only where there is no tokenizer.json.
TEST_F(ModelDirectory, ThePostProcessorSaysWhetherATextBeginsWithBos) {
  const std::map<std::string, int> ids{{"<end>", 259}, {"hell", 258}};
  const nlohmann::json offsets{{"type", "ByteLevel"}},
      bos = template_of(ids, {"<end>"}),
      around{{"type", "RobertaProcessing"}, {"cls", {"<end>", 259}}, {"sep", {"hell", 258}}};
  struct Case {
    nlohmann::json post_processor;
    bool adds_bos;
  };
  for (const auto& [post_processor, adds_bos] :
       {Case{nullptr, false}, Case{offsets, false}, Case{bos, true}, Case{template_of(ids, {}, {"hell"}), false},
        Case{template_of(ids, {"<end>"}, {"hell"}), true}, Case{around, true},
        Case{{{"type", "Sequence"}, {"processors", {offsets, bos}}}, true},
        Case{{{"type", "Sequence"}, {"processors", {offsets, offsets}}}, false}}) {
    nlohmann::json description = small_tokenizer();
    description["post_processor"] = post_processor;
    scratch_.put("tokenizer.json", description.dump());
    for (const char* more : {"", R"(, "add_bos_token": true)", R"(, "add_bos_token": false)"}) {
      put_settings(R"({"eos_token": "hell")" + std::string(more) + "}");
      const auto tokenizer = load();
      EXPECT_EQ(tokenizer->adds_bos(), adds_bos) << post_processor << more;
      EXPECT_EQ(tokenizer->bos_id(), adds_bos ? std::optional(259) : std::nullopt) << post_processor;
      EXPECT_EQ(tokenizer->encode("hello"), (Ids{258, 'o'})) << "BOS and EOS are the protocol's matter";
    }
  }
}

TEST_F(ModelDirectory, ALineIsLoggedWhenTokenizerConfigSaysSomethingElse) {
  const std::string at = scratch_.path();
  nlohmann::json description = small_tokenizer();
  const auto said = [&](const std::string& settings) {
    scratch_.put("tokenizer.json", description.dump());
    put_settings(settings);
    const Logged log;
    load();
    return log.text();
  };
  const std::string settings = at + "/tokenizer_config.json: ",
                    nothing = "the post_processor of tokenizer.json begins a text with no token; the latter counts\n",
                    end = "the post_processor of tokenizer.json begins a text with `<end>`; the latter counts\n";
  EXPECT_EQ(said(R"({"bos_token": "he", "add_bos_token": false})"), "");
  EXPECT_EQ(said(R"({"bos_token": "he", "add_bos_token": true})"), settings + "add_bos_token true, but " + nothing);
  description["post_processor"] = template_of({{"<end>", 259}}, {"<end>"});
  EXPECT_EQ(said(R"({"bos_token": "<end>", "add_bos_token": true})"), "");
  EXPECT_EQ(said("{}"), "");
  EXPECT_EQ(said(R"({"bos_token": "he"})"), settings + "bos_token `he`, but " + end);
  EXPECT_EQ(load()->bos_id(), 259);
  EXPECT_EQ(said(R"({"bos_token": "he", "add_bos_token": false})"), settings + "add_bos_token false, but " + end);
}

TEST_F(ModelDirectory, BrokenPostProcessorsAreNamed) {
  const auto with = [&](const nlohmann::json& post_processor) {
    nlohmann::json description = small_tokenizer();
    description["post_processor"] = post_processor;
    scratch_.put("tokenizer.json", description.dump());
    return refused();
  };
  const std::string where = scratch_.path() + "/tokenizer.json: post_processor";
  EXPECT_EQ(with(template_of({{"a", 1}, {"b", 2}}, {"a", "b"})),
            where + " puts 2 tokens in front of a text, at most one is implemented. Use a tokenizer with one.");
  EXPECT_EQ(with(template_of({}, {"a"})),
            where + ".special_tokens.a is missing, an object is expected. Replace the file.");
  EXPECT_EQ(with({{"type", "TemplateProcessing"}, {"single", nlohmann::json::array()}}),
            where + ".single does not hold the text. Replace the file.");
  EXPECT_EQ(with({{"type", "BertProcessing"}, {"cls", {"a", -1}}, {"sep", {"b", 2}}}),
            where + ".cls[1] -1 is out of range. Replace the file.");
}

// A sentencepiece model has no post-processor: add_bos_token counts, and absent means no, as in transformers 5.24.
TEST_F(ModelDirectory, BesideASentencepieceModelAddBosTokenCounts) {
  put_sentencepiece();
  EXPECT_FALSE(load()->adds_bos());
  put_settings(R"({"add_bos_token": true})");
  EXPECT_TRUE(load()->adds_bos());
}

TEST_F(ModelDirectory, BosMayBeAnAddedTokenObject) {
  put_bpe();
  put_settings(R"({"bos_token": {"content": "<end>", "lstrip": false}, "eos_token": null})");
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->bos_id(), 259);
  EXPECT_EQ(tokenizer->eos_ids(), Ids{});
  EXPECT_FALSE(tokenizer->adds_bos()) << "absent means no";
}

TEST_F(ModelDirectory, ConfigIsAskedLastForBos) {
  put_bpe();
  scratch_.put("config.json", R"({"bos_token_id": 7})");
  EXPECT_EQ(load()->bos_id(), 7);
  put_settings(R"({"bos_token": null})");
  EXPECT_EQ(load()->bos_id(), 7);
  put_settings(R"({"bos_token": "he"})");
  EXPECT_EQ(load()->bos_id(), 256);
}

// In the order of `generate` of transformers, which does not ask the tokenizer: only where the others say nothing.
TEST_F(ModelDirectory, ATextEndsAtAllThatTheFirstOfThreeFilesNames) {
  put_bpe();
  EXPECT_EQ(load()->eos_ids(), Ids{});
  put_settings(R"({"eos_token": "he"})");
  EXPECT_EQ(load()->eos_ids(), Ids{256});
  scratch_.put("generation_config.json", R"({"bos_token_id": 7})");
  EXPECT_EQ(load()->eos_ids(), Ids{256});
  scratch_.put("config.json", R"({"eos_token_id": [8, 9]})");
  EXPECT_EQ(load()->eos_ids(), (Ids{8, 9}));
  scratch_.put("generation_config.json", R"({"eos_token_id": [257, 258, 8]})");
  EXPECT_EQ(load()->eos_ids(), (Ids{257, 258, 8}));
  scratch_.put("generation_config.json", R"({"eos_token_id": 10})");
  EXPECT_EQ(load()->eos_ids(), Ids{10});
  scratch_.put("generation_config.json", R"({"eos_token_id": [10, -1]})");
  EXPECT_EQ(refused(), scratch_.path() + "/generation_config.json: eos_token_id -1 is out of range. Correct the file.");
}

TEST_F(ModelDirectory, SentencepieceKnowsItsOwnBosAndEos) {
  put_sentencepiece();
  scratch_.put("config.json", R"({"bos_token_id": 7})");
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_ids(), Ids{2});
  EXPECT_EQ(tokenizer->vocabulary_size(), 400);
  EXPECT_EQ(tokenizer->token_id("</s>"), 2);
  EXPECT_EQ(tokenizer->token_id("<unk>"), 0);
  EXPECT_EQ(tokenizer->token_id("no such piece"), std::nullopt);
  EXPECT_EQ(tokenizer->encode("</s>").size(), load()->encode("</s>").size());
  EXPECT_THAT(tokenizer->encode("</s>"), testing::Not(testing::Contains(2))) << "control symbols in a text are text";
  put_settings(R"({"bos_token": "</s>"})");
  EXPECT_EQ(load()->bos_id(), 2);
}

TEST_F(ModelDirectory, TokenizerJsonIsPreferred) {
  put_sentencepiece();
  put_bpe();
  EXPECT_EQ(load()->vocabulary_size(), 260);
}

TEST_F(ModelDirectory, ATokenizerJsonThatMirrorsTheSentencepieceModelGivesWayToIt) {
  nlohmann::json mirror = small_tokenizer();
  mirror["model"]["byte_fallback"] = true;
  mirror["post_processor"] = template_of({{"<s>", 1}}, {"<s>"});
  scratch_.put("tokenizer.json", mirror.dump());
  EXPECT_EQ(load()->vocabulary_size(), 260);
  put_sentencepiece();
  EXPECT_EQ(load()->token_id("</s>"), 2);
  put_settings(R"({"add_bos_token": false})");
  EXPECT_TRUE(load()->adds_bos()) << "the post-processor counts all the same";
  EXPECT_EQ(load()->bos_id(), 1);
  scratch_.put("tokenizer.json", "{");
  EXPECT_THAT(refused(), testing::StartsWith(scratch_.path() + "/tokenizer.json: "))
      << "a broken file is not passed over";
}

TEST_F(ModelDirectory, AddedTokensBesideASentencepieceModelAreTokens) {
  put_sentencepiece();
  scratch_.put("added_tokens.json", R"({"<|im_end|>": 400, "<|im_start|>": 401})");
  put_settings(R"({"tokenizer_class": "LlamaTokenizer", "eos_token": "<|im_end|>"})");
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->eos_ids(), Ids{400});
  EXPECT_EQ(tokenizer->vocabulary_size(), 402);
  EXPECT_EQ(tokenizer->decode(Ids{1, 401, 400}), "<s><|im_start|><|im_end|>");
  Ids ids = load()->encode("the house");
  ids.push_back(400);
  EXPECT_EQ(tokenizer->encode("the house<|im_end|>"), ids);
  const std::string hash = tokenizer->hash();
  put_settings(R"({"tokenizer_class": "LlamaTokenizer", "legacy": true})");
  EXPECT_NE(load()->hash(), hash) << "other ids behind an added token";
}

TEST_F(ModelDirectory, BrokenAddedTokensAreNamed) {
  put_sentencepiece();
  const std::string at = scratch_.path();
  put_settings(R"({"added_tokens_decoder": {"x": {"content": "<a>"}}})");
  EXPECT_EQ(refused(), at + "/tokenizer_config.json: added_tokens_decoder has the key `x`, a token id is expected. "
                            "Replace the file.");
  put_settings(R"({"added_tokens_decoder": {"400": {"content": ""}}})");
  EXPECT_EQ(refused(), at + "/tokenizer_config.json: added_tokens_decoder.400.content is empty. Replace the file.");
  put_settings(R"({"added_tokens_decoder": []})");
  EXPECT_EQ(refused(),
            at + "/tokenizer_config.json: added_tokens_decoder is not an object of ids and tokens. Replace the file.");
  put_settings("{}");
  scratch_.put("added_tokens.json", R"({"<a>": "400"})");
  EXPECT_EQ(refused(), at + "/added_tokens.json: <a> is \"400\", an integer is expected. Replace the file.");
}

TEST_F(ModelDirectory, TheHashFollowsTheFile) {
  put_bpe();
  const std::string before = load()->hash();
  EXPECT_EQ(load()->hash(), before);
  EXPECT_EQ(before.size(), 32u);
  nlohmann::json other = small_tokenizer();
  other["added_tokens"][0]["content"] = "<stop>";
  scratch_.put("tokenizer.json", other.dump());
  EXPECT_NE(load()->hash(), before);
}

TEST_F(ModelDirectory, MistakesAreNamedWithTheFile) {
  const std::string at = scratch_.path();
  EXPECT_EQ(refused(), at + ": there is no tokenizer.json and no tokenizer.model. Copy the model's tokenizer there.");
  scratch_.put("tokenizer.model", "not a model");
  EXPECT_EQ(refused(), at + "/tokenizer.model: this is not a sentencepiece model. Replace the file.");
  scratch_.put("tokenizer.model", "");
  EXPECT_EQ(refused(), at + "/tokenizer.model: this is not a sentencepiece model. Replace the file.");
  put_bpe();
  put_settings(R"({"bos_token": "<bos>"})");
  EXPECT_EQ(refused(),
            at + "/tokenizer_config.json: bos_token `<bos>` is not a token of the tokenizer. Correct one of the two "
                 "files.");
  put_settings("{}");
  scratch_.put("config.json", R"({"bos_token_id": -1})");
  EXPECT_EQ(refused(), at + "/config.json: bos_token_id -1 is out of range. Correct the file.");
}

TEST_F(ModelDirectory, SentencepieceRefusesBrokenTextAndIds) {
  put_sentencepiece();
  const auto tokenizer = load();
  EXPECT_EQ(message_of([&] { tokenizer->encode("a\xff"); }),
            "text to tokenize: byte 1 (0xff) is not valid UTF-8. Convert the text to UTF-8.");
  for (const int32_t id : {-1, 400})
    EXPECT_EQ(
        message_of([&] { tokenizer->decode(Ids{id}); }),
        "token id " + std::to_string(id) +
            " is not in the tokenizer's vocabulary (ids 0 to 399). Check that model and tokenizer belong together.");
}

}  // namespace
}  // namespace core
