// What a model writes beside the full-precision model, and how fast: figures by hand, the cache, what is refused.
#include "experiments/measure/generation.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cmath>

#include "core/text/load_tokenizer.h"
#include "core/text/tokenizer.h"
#include "experiments/measure/latency.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- figures ----

TEST(Generation, CountsTokensUntilTheFirstDifferenceAndThoseThatAgree) {
  const Continuations full{.new_tokens = 4, .ids = {1, 2, 3, 4, /**/ 5, 6, 7, 8}},
      other{.new_tokens = 4, .ids = {1, 2, 9, 4, /**/ 0, 6, 7, 8}};
  const Likeness like = likeness(full, other);
  EXPECT_EQ(like.same_tokens, (2 + 0) / 2.0);
  EXPECT_THAT(like.agreement, ElementsAre(0.5, 1.0, 0.5, 1.0));
  EXPECT_EQ(like.mean_agreement(), 0.75);
  EXPECT_EQ(likeness(full, full).same_tokens, 4.0);
}

TEST(Generation, CountsFourGramsThatAContinuationRepeats) {
  const auto repeated = [](std::vector<int32_t> ids, int64_t tokens) {
    return Continuations{.new_tokens = tokens, .ids = std::move(ids)}.repeated_4grams();
  };
  EXPECT_EQ(repeated({1, 2, 3, 4, 5, 6, 7}, 7), 0.0);
  EXPECT_EQ(repeated({1, 1, 1, 1, 1, 1}, 6), 2 / 3.0) << "three 4-grams, all the same";
  EXPECT_EQ(repeated({1, 2, 3, 4, /**/ 1, 2, 3, 4}, 4), 0.0) << "another prompt's is no repetition";
  EXPECT_EQ(repeated({1, 2, 1, 2, 1, 2, /**/ 1, 2, 3, 4, 5, 6}, 6), 1 / 6.0);
  EXPECT_EQ(repeated({1, 1, 1}, 3), 0.0);
}

TEST(Generation, TellsEveryPromptByItself) {
  const Continuations full{.new_tokens = 4, .ids = {1, 2, 3, 4, /**/ 5, 6, 7, 8}},
      other{.new_tokens = 4, .ids = {1, 2, 9, 4, /**/ 0, 6, 7, 8}};
  const Likeness like = likeness(full, other);
  EXPECT_THAT(like.same_by_prompt, ElementsAre(2, 0));
  EXPECT_THAT(like.agreement_by_prompt, ElementsAre(0.75, 0.75));
  const Continuations again{.new_tokens = 5, .ids = {1, 1, 1, 1, 1, /**/ 1, 2, 3, 4, 5}};
  EXPECT_THAT(again.repeated_by_prompt(), ElementsAre(0.5, 0));
}

class Prompting : public ::testing::Test {
 protected:
  Prompts make(GenerationConfig config, int64_t tokens = 100, int64_t context = 2048) const {
    std::vector<int32_t> ids(tokens);
    for (int64_t i = 0; i < tokens; ++i) ids[i] = static_cast<int32_t>(i);
    config.corpus = "c";
    return make_prompts(config, ids, *tokenizer_, {.vocabulary = 1024, .context = context});
  }
  static GenerationConfig config(int64_t prompts, int64_t prompt_tokens, int64_t new_tokens = 8) {
    GenerationConfig config;
    config.prompts = prompts;
    config.prompt_tokens = prompt_tokens;
    config.new_tokens = new_tokens;
    return config;
  }
  std::unique_ptr<core::Tokenizer> tokenizer_ = core::load_tokenizer(kTinyModel);
};

TEST_F(Prompting, SpreadsThePromptsOverTheText) {
  EXPECT_THAT(make(config(3, 2)).ids, ElementsAre(0, 1, 32, 33, 66, 67));
  EXPECT_THAT(make(config(2, 50)).ids.at(50), 50);
  EXPECT_NE(make(config(3, 2)).token_hash, make(config(2, 2)).token_hash);
}

TEST_F(Prompting, RefusesWhatDoesNotFit) {
  EXPECT_EQ(
      core::message_of([&] { make(config(11, 10)); }),
      "corpus: c has 100 tokens, fewer than prompts x prompt_tokens = 11 x 10. Lower them or name a longer text.");
  EXPECT_EQ(core::message_of([&] { make(config(1, 10, 7), 100, 16); }),
            "new_tokens: 17 tokens are more than the context of the model, which holds 16. Shorten the prompt or ask "
            "for fewer.");
}

TEST(Latency, MeanAndSampleDeviation) {
  const Timing timing = timing_of({1, 2, 3, 4});
  EXPECT_EQ(timing.mean, 2.5);
  EXPECT_DOUBLE_EQ(timing.sd, std::sqrt(5.0 / 3));
  EXPECT_EQ(timing_of({7}).sd, 0.0);
}

// ---- runs ----

class Decoded : public ::testing::Test {
 protected:
  Lab lab_;
  const Strings written_{"measure.generation={corpus: " + lab_.file("text.txt") +
                         ", prompts: 8, prompt_tokens: 24, new_tokens: 16}"};
  const Strings timed_{"measure.latency={contexts: [8, 32], generate: 4, repetitions: 2}"};
};

TEST_F(Decoded, StandsBesideWhatFullPrecisionWrites) {
  const Json row = lab_.row(written_);
  const Json &full = row["baseline"]["generation"], &quantized = row["quantized"]["generation"];
  EXPECT_EQ(full["prompts"], 8);
  EXPECT_FALSE(full.contains("same_tokens"));
  EXPECT_EQ(full["token_hash"], quantized["token_hash"]);
  EXPECT_EQ(quantized["agreement_by_position"].size(), 16u);
  EXPECT_LT(quantized["agreement"].get<double>(), 0.9) << "2 bits cost nothing?";
  EXPECT_LT(quantized["same_tokens"].get<double>(), 15);
  double mean = 0;
  for (const Json& share : quantized["agreement_by_position"]) mean += share.get<double>() / 16;
  EXPECT_NEAR(quantized["agreement"].get<double>(), mean, 1e-12);
  EXPECT_EQ(quantized["first"]["prompt"], full["first"]["prompt"]);
  EXPECT_NE(quantized["first"]["text"], full["first"]["text"]);
  const std::string prompt = full["first"]["prompt"];
  EXPECT_TRUE(core::slurp(lab_.file("text.txt")).starts_with(prompt)) << prompt;
  EXPECT_FALSE(full["first"]["text"].get<std::string>().empty());
}

TEST_F(Decoded, EightBitsWriteNearlyWhatFullPrecisionWrites) {
  Strings eight = written_;
  eight.push_back("quant.weight.bits=8");
  const Json row = lab_.row(eight)["quantized"]["generation"];
  EXPECT_GT(row["agreement"].get<double>(), 0.9);
  EXPECT_GT(row["same_tokens"].get<double>(), 14);
}

TEST_F(Decoded, TheBaselineIsWrittenOnce) {
  const auto cached = [](const Json& row) { return row["stages"][0]["cached"].get<bool>(); };
  const Json first = lab_.row(written_);
  EXPECT_FALSE(cached(first));
  Strings other = written_;
  other.push_back("quant.weight.bits=3");
  const Json second = lab_.row(other);
  EXPECT_TRUE(cached(second));
  EXPECT_EQ(second["baseline"], first["baseline"]);
  EXPECT_NE(second["quantized"]["generation"], first["quantized"]["generation"]);
}

// Two models that agree draw the same tokens, and another seed draws others.
TEST_F(Decoded, DrawsWithTheSameNumbersForEveryModel) {
  const auto drawn = [&](const Strings& more) {
    Strings all = written_;
    all.insert(all.end(), {"measure.generation.temperature=1", "quant.weight.bits=8"});
    all.insert(all.end(), more.begin(), more.end());
    return lab_.row(all);
  };
  const Json row = drawn({}), quantized = row["quantized"]["generation"];
  EXPECT_EQ(quantized["temperature"], 1.0);
  EXPECT_GT(quantized["agreement"].get<double>(), 0.5);
  EXPECT_NE(quantized["first"]["text"], lab_.row(written_)["quantized"]["generation"]["first"]["text"]);
  const Json& interval = quantized["intervals"]["agreement"];
  EXPECT_LE(interval[0].get<double>(), quantized["agreement"].get<double>());
  EXPECT_GE(interval[1].get<double>(), quantized["agreement"].get<double>());
  const Json other = drawn({"seed=7"});
  EXPECT_NE(other["baseline"]["generation"]["first"], row["baseline"]["generation"]["first"]) << "not another's cache";
}

TEST_F(Decoded, TheModelItselfWritesTheSame) {
  Strings none = written_;
  none.push_back("quant.method=none");
  const Json row = lab_.row(none)["quantized"]["generation"];
  EXPECT_EQ(row["same_tokens"], 16.0);
  EXPECT_EQ(row["agreement"], 1.0);
}

TEST_F(Decoded, TimesEveryContext) {
  const Json row = lab_.row(timed_), &latency = row["quantized"]["latency"];
  ASSERT_EQ(latency["contexts"].size(), 2u);
  for (const Json& at : latency["contexts"]) {
    for (const char* field : {"ttft_ms", "prompt_tokens_per_s", "tokens_per_s", "bandwidth_fraction"})
      EXPECT_GT(at[field].get<double>(), 0.0) << field;
    EXPECT_NEAR(at["bandwidth_fraction"].get<double>(),
                at["tokens_per_s"].get<double>() * row["weight_bytes_per_token"].get<double>() /
                    latency["read_bandwidth"].get<double>(),
                1e-12);
  }
  EXPECT_EQ(latency["contexts"][1]["context"], 32);
  EXPECT_EQ(latency["weight_bytes_per_token"], row["weight_bytes_per_token"]);
  EXPECT_GT(latency["peak_rss_bytes"].get<int64_t>(), 1 << 20);
  EXPECT_NEAR(latency["compression"].get<double>(), 16 / row["bits"]["file"].get<double>(), 1e-9);
  EXPECT_FALSE(row["baseline"].contains("latency"));
}

TEST_F(Decoded, RefusesAContextThatTheModelDoesNotHaveBeforeAnythingIsRead) {
  EXPECT_THAT(core::message_of([&] { lab_.run({"measure.latency={contexts: [64, 2000], generate: 100}"}); }),
              HasSubstr("measure.latency.contexts: 2100 tokens are more than the context of the model, which holds "
                        "2048. Shorten the prompt or ask for fewer."));
  EXPECT_THAT(core::message_of([&] { lab_.run({"measure.generation.prompts=3"}); }),
              HasSubstr("measure.generation: corpus is missing. Name a text, e.g. tiny/test."));
  EXPECT_THAT(core::message_of([&] {
                lab_.run({timed_[0], "model.residency=stream"});
              }),
              HasSubstr("measure.latency: tokens are generated with all weights in memory, and this model is streamed. "
                        "Set model.residency: resident, or leave latency out."));
  EXPECT_THAT(lab_.listing(), ElementsAre("lab.yaml", "text.txt")) << "something was written";
}

}  // namespace
}  // namespace experiments
