// The program that prints text: from the full-precision model and from our checkpoints, repeatable, and its mistakes.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "core/text/load_tokenizer.h"
#include "core/text/utf8.h"
#include "tests/cli/program.h"

namespace cli {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

class Generate : public ::testing::Test {
 protected:
  Generate() { program_.be(REFRAIN_GENERATE); }

  // What is printed behind the prompt.
  std::string text(const Strings& more, const std::string& model = "tiny-qwen3", const std::string& tokens = "24") {
    Strings arguments{model, "--prompt", kPrompt, "--tokens", tokens};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished finished = program_.run(arguments);
    EXPECT_EQ(finished.code, 0) << finished.err;
    EXPECT_THAT(finished.err, MatchesRegex("prompt: [0-9]+ tokens, [0-9.]+ tokens/s; text: [0-9]+ tokens, [0-9.]+ "
                                           "tokens/s; [0-9]+ threads(, kernel [a-z0-9_]+)?\n"));
    said_ = finished.err;
    EXPECT_TRUE(finished.out.starts_with(kPrompt) && finished.out.ends_with("\n")) << finished.out;
    EXPECT_EQ(core::first_invalid_utf8(finished.out), std::nullopt);
    return finished.out.substr(kPrompt.size());
  }
  void refused(const Strings& arguments, const std::string& message) {
    const Finished finished = program_.run(arguments);
    EXPECT_EQ(finished.code, 2);
    EXPECT_EQ(finished.err, message + "\n");
    EXPECT_EQ(finished.out, "");
  }

  // The checkpoint of c.yaml at so many bits.
  static std::string checkpoint(Program& maker, const std::string& bits) {
    maker.edit("bits: 4", "bits: " + bits);
    EXPECT_EQ(maker.run({"c.yaml"}).code, 0);
    for (const std::string& path : maker.everything()) {
      if (path.ends_with("/checkpoint")) return maker.file(path);
    }
    return "";
  }

  const std::string kPrompt = "Frieda Abbot likes onion soup best. She is often seen";
  Program program_;
  std::string said_;  // on standard error
};

TEST_F(Generate, GoesOnAsTheSeedSays) {
  const std::string one = text({"--seed", "1"});
  EXPECT_GT(one.size(), 20u);
  EXPECT_EQ(text({"--seed", "1"}), one);
  EXPECT_NE(text({"--seed", "2", "--temperature", "2"}), text({"--seed", "3", "--temperature", "2"}));
}

TEST_F(Generate, WithoutTemperatureTheSeedDoesNotMatter) {
  const std::string greedy = text({"--temperature", "0"});
  EXPECT_EQ(text({"--temperature", "0", "--seed", "9"}), greedy);
  EXPECT_EQ(text({"--top-p", "0.000001", "--seed", "9"}), greedy) << "only the likeliest token is left";
  EXPECT_THAT(greedy, HasSubstr(" with a ")) << "the model knows its world by heart";
}

TEST_F(Generate, FewerTokensAreTheBeginning) {
  const std::string long_text = text({"--temperature", "0"}),
                    short_text = text({"--temperature", "0"}, "tiny-qwen3", "5");
  EXPECT_LT(short_text.size(), long_text.size());
  EXPECT_TRUE(long_text.starts_with(short_text.substr(0, short_text.size() - 1))) << short_text;
}

TEST_F(Generate, ATextEndsAtEachTokenThatTheModelsFilesName) {
  program_.own_model();
  const std::string whole = text({"--temperature", "0"}, "model");
  const auto tokenizer = core::load_tokenizer(program_.file("model"));
  const std::vector<int32_t> ids = tokenizer->encode(whole.substr(0, whole.size() - 1));
  const auto end = std::ranges::find(ids, ids.at(6));
  program_.put("model/generation_config.json", fmt::format(R"({{"eos_token_id": [{}, {}]}})", *end, 0));
  EXPECT_EQ(text({"--temperature", "0"}, "model"), tokenizer->decode({ids.begin(), end}) + "\n");
}

TEST_F(Generate, BeginsWithBosWhereThePostProcessorDoes) {
  program_.own_model();
  text({}, "model");
  const std::string without = said_.substr(0, said_.find(" tokens"));
  auto tokenizer = nlohmann::json::parse(core::read_file(program_.file("model/tokenizer.json")));
  tokenizer["post_processor"] = {{"type", "BertProcessing"}, {"cls", {"", 5}}, {"sep", {"", 6}}};
  program_.put("model/tokenizer.json", tokenizer.dump());
  program_.put("model/tokenizer_config.json", "{}");
  text({}, "model");
  const auto count = std::stoi(without.substr(without.find(' ')));
  EXPECT_THAT(said_, HasSubstr(fmt::format("prompt: {} tokens", count + 1)));
}

TEST_F(Generate, ReadsQuantizedCheckpoints) {
  Program maker;
  EXPECT_EQ(text({"--temperature", "0"}, checkpoint(maker, "8")), text({"--temperature", "0"}))
      << "8 bits change nothing";
}

TEST_F(Generate, QuantizedLinearsRunPackedUnlessToldOtherwise) {
  Program maker;
  const std::string quantized = checkpoint(maker, "4");
  const auto as = [&](const std::string& linears) {
    return text({"--temperature", "0", "--linears", linears}, quantized);
  };
  const std::string dense = as("dense");
  EXPECT_THAT(said_, Not(HasSubstr("kernel")));
  EXPECT_EQ(as("packed"), dense) << "the same products, up to float32";
  EXPECT_THAT(said_, HasSubstr(", kernel "));
  EXPECT_EQ(text({"--temperature", "0"}, quantized), dense);
  EXPECT_THAT(said_, HasSubstr(", kernel ")) << "the default";
  const std::string int8 = as("packed_int8");
  EXPECT_THAT(said_, HasSubstr(", kernel "));
  EXPECT_EQ(int8.substr(0, 8), dense.substr(0, 8)) << "int8 inputs cost little";
  text({"--linears", "packed"});
  EXPECT_THAT(said_, Not(HasSubstr("kernel"))) << "nothing is quantized";
}

TEST_F(Generate, WhatHasNoKernelSaysSoOnceAndRunsDense) {
  Program maker;
  const Finished finished =
      program_.run({checkpoint(maker, "5"), "--prompt", kPrompt, "--tokens", "3", "--temperature", "0"});
  EXPECT_EQ(finished.code, 0);
  EXPECT_THAT(finished.err, MatchesRegex("[^\n]* \\(and what is like it\\) runs dense: no kernel has 5-bit codes\n"
                                         "prompt: [^\n]*\n"));
  EXPECT_TRUE(finished.out.starts_with(kPrompt)) << finished.out;
}

TEST_F(Generate, ThreadsAreSettable) {
  const Finished one = program_.run({"tiny-qwen3", "--prompt", "a", "--tokens", "1", "--threads", "1"});
  EXPECT_THAT(one.err, HasSubstr("; 1 threads\n"));
}

TEST_F(Generate, RefusesWhatItCannotDo) {
  refused({"tiny-qwen3", "--prompt", "a", "--tokens", "2048"},
          "--prompt and --tokens: 2049 tokens are more than the context of the model, which holds 2048. Shorten the "
          "prompt or ask for fewer.");
  refused({"tiny-qwen3", "--prompt", ""},
          "--prompt: the prompt is empty. Give the text that the model is to continue.");
  refused({"tiny-qwen3"}, "--prompt is required. Try --help.");
  refused({"tiny-qwen3", "--prompt", "a", "--temperature", "-1"},
          "--temperature: Value -1 not in range 0.000000 to 100.000000. Try --help.");
  refused({"tiny-qwen3", "--prompt", "a", "--dtype", "float16", "--device", "cpu"},
          "dtype: float16 products are about 40 times slower than float32 on a CPU. Use float32 or bfloat16.");
  refused({"tiny-qwen3", "--prompt", "a", "--linears", "int8"},
          "--linears: int8 not in {dense,packed,packed_int8}. Try --help.");
  const Finished unknown = program_.run({"tiny-qwen4", "--prompt", "a"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("tiny-qwen3"));
}

}  // namespace
}  // namespace cli
