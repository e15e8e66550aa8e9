// A model directory: which file is the tokenizer, and where BOS and EOS come from.
#include <gmock/gmock.h>

#include "core/text/load_tokenizer.h"
#include "core/text/sentencepiece_tokenizer.h"
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
  put_settings(R"({"bos_token": "<end>", "eos_token": "hell", "add_bos_token": true})");
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->bos_id(), 259);
  EXPECT_EQ(tokenizer->eos_id(), 258);
  EXPECT_TRUE(tokenizer->adds_bos());
}

TEST_F(ModelDirectory, BosMayBeAnAddedTokenObject) {
  put_bpe();
  put_settings(R"({"bos_token": {"content": "<end>", "lstrip": false}, "eos_token": null})");
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->bos_id(), 259);
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);
  EXPECT_FALSE(tokenizer->adds_bos()) << "absent means no";
}

TEST_F(ModelDirectory, ConfigIsAskedLast) {
  put_bpe();
  scratch_.put("config.json", R"({"bos_token_id": 7, "eos_token_id": [8, 9]})");
  EXPECT_EQ(load()->bos_id(), 7);
  EXPECT_EQ(load()->eos_id(), 8);
  put_settings(R"({"bos_token": null, "eos_token": "he"})");
  EXPECT_EQ(load()->bos_id(), 7);
  EXPECT_EQ(load()->eos_id(), 256);
}

TEST_F(ModelDirectory, SentencepieceKnowsItsOwnBosAndEos) {
  put_sentencepiece();
  scratch_.put("config.json", R"({"bos_token_id": 7, "eos_token_id": 8})");
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
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
  scratch_.put("tokenizer.json", mirror.dump());
  const std::string at = scratch_.path();
  EXPECT_EQ(refused(),
            at + "/tokenizer.json: model.byte_fallback true is not implemented. Use a tokenizer without it.");
  put_sentencepiece();
  EXPECT_EQ(load()->token_id("</s>"), 2);
  scratch_.put("tokenizer.json", "{");
  EXPECT_THAT(refused(), testing::StartsWith(at + "/tokenizer.json: ")) << "a broken file is not passed over";
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
