// config.json: typed reads, defaults, and the message of each mistake.
#include "core/io/hf_config.h"

#include <gmock/gmock.h>

#include <functional>

#include "core/io/json_text.h"
#include "tests/io/support.h"

namespace core {
namespace {

using ::testing::ElementsAre;

const JsonObject& sample() {
  static const JsonObject object = JsonObject::parse(R"({
    "hidden_size": 128, "eps": 1e-6, "tied": true, "act": "silu", "head_dim": null, "zero": 0, "negative": -4,
    "big": 18446744073709551615, "eos": [1, 2], "bos": 7, "betas": [1, 0.5], "names": ["a", "b"],
    "rope_scaling": {"type": "yarn", "inner": {"factor": "x"}}})",
                                                     "m/config.json");
  return object;
}

std::string error(const std::function<void(const JsonObject&)>& read) {
  return message_of([&] { read(sample()); });
}

TEST(HfConfig, ReadsEachType) {
  EXPECT_EQ(sample().integer("hidden_size"), 128);
  EXPECT_EQ(sample().integer("negative"), -4);
  EXPECT_EQ(sample().positive("hidden_size"), 128);
  EXPECT_EQ(sample().number("eps"), 1e-6);
  EXPECT_EQ(sample().number("hidden_size"), 128.0);
  EXPECT_TRUE(sample().boolean("tied"));
  EXPECT_EQ(sample().text("act"), "silu");
  EXPECT_EQ(sample().object("rope_scaling").text("type"), "yarn");
  EXPECT_THAT(sample().integers("eos"), ElementsAre(1, 2));
  EXPECT_THAT(sample().integers("bos"), ElementsAre(7));
  EXPECT_THAT(sample().integers("absent"), ElementsAre());
  EXPECT_THAT(sample().numbers("betas"), ElementsAre(1.0, 0.5));
  EXPECT_THAT(sample().texts("names"), ElementsAre("a", "b"));
}

TEST(HfConfig, NullCountsAsAbsent) {
  EXPECT_FALSE(sample().has("head_dim"));
  EXPECT_TRUE(sample().has("zero"));
  EXPECT_EQ(sample().integer("head_dim", 64), 64);
  EXPECT_EQ(sample().integer("hidden_size", 64), 128);
  EXPECT_EQ(sample().positive("head_dim", 2), 2);
  EXPECT_EQ(sample().number("absent", 0.5), 0.5);
  EXPECT_TRUE(sample().boolean("absent", true));
  EXPECT_EQ(sample().text("absent", "gelu"), "gelu");
  EXPECT_EQ(sample().keys().size(), 12u);
}

TEST(HfConfig, AMissingKeyIsNamed) {
  const std::string end = " is missing. Is this the configuration that belongs to the model?";
  EXPECT_EQ(error([](const auto& c) { c.integer("vocab_size"); }), "m/config.json: vocab_size" + end);
  EXPECT_EQ(error([](const auto& c) { c.integer("head_dim"); }), "m/config.json: head_dim" + end);
  EXPECT_EQ(error([](const auto& c) { c.object("rope_scaling").number("factor"); }),
            "m/config.json: rope_scaling.factor" + end);
}

TEST(HfConfig, AWrongTypeIsNamed) {
  EXPECT_EQ(error([](const auto& c) { c.integer("eps"); }), "m/config.json: eps is 1e-06. It must be a whole number.");
  EXPECT_EQ(error([](const auto& c) { c.integer("act", 3); }),
            "m/config.json: act is \"silu\". It must be a whole number.");
  EXPECT_EQ(error([](const auto& c) { c.integer("big"); }),
            "m/config.json: big is 18446744073709551615. It must be a whole number.");
  EXPECT_EQ(error([](const auto& c) { c.number("tied"); }), "m/config.json: tied is true. It must be a number.");
  EXPECT_EQ(error([](const auto& c) { c.boolean("zero"); }), "m/config.json: zero is 0. It must be true or false.");
  EXPECT_EQ(error([](const auto& c) { c.text("eos"); }), "m/config.json: eos is a list. It must be a text.");
  EXPECT_EQ(error([](const auto& c) { c.object("act"); }), "m/config.json: act is \"silu\". It must be an object.");
  EXPECT_EQ(error([](const auto& c) { c.integers("betas"); }),
            "m/config.json: betas is a list. It must be a list of whole numbers.");
  EXPECT_EQ(error([](const auto& c) { c.numbers("names"); }),
            "m/config.json: names is a list. It must be a list of numbers.");
  EXPECT_EQ(error([](const auto& c) { c.texts("bos"); }), "m/config.json: bos is 7. It must be a list of texts.");
  EXPECT_EQ(error([](const auto& c) { c.object("rope_scaling").object("inner").number("factor"); }),
            "m/config.json: rope_scaling.inner.factor is \"x\". It must be a number.");
}

TEST(HfConfig, PositiveRefusesZeroAndLess) {
  EXPECT_EQ(error([](const auto& c) { c.positive("zero"); }), "m/config.json: zero is 0. It must be at least 1.");
  EXPECT_EQ(error([](const auto& c) { c.positive("negative", 1); }),
            "m/config.json: negative is -4. It must be at least 1.");
}

TEST(HfConfig, RequireValueRefusesAnotherValueByName) {
  EXPECT_EQ(error([](const auto& c) {
              c.require_value("act", "silu");
              c.require_value("absent", "gelu");
              c.require_value("head_dim", 64);
              c.require_value("tied", true);
              c.require_value("hidden_size", 128);
              c.require_value("hidden_size", 128.0);
            }),
            "no error");
  EXPECT_EQ(error([](const auto& c) { c.require_value("act", "gelu"); }),
            "m/config.json: act is \"silu\". Only \"gelu\" is implemented.");
  EXPECT_EQ(error([](const auto& c) { c.require_value("tied", false); }),
            "m/config.json: tied is true. Only false is implemented.");
  EXPECT_EQ(error([](const auto& c) { c.require_value("zero", false); }),
            "m/config.json: zero is 0. Only false is implemented.");
  EXPECT_EQ(error([](const auto& c) { c.require_value("rope_scaling", 1.5); }),
            "m/config.json: rope_scaling is an object. Only 1.5 is implemented.");
}

TEST(HfConfig, ANestedObjectOutlivesItsParent) {
  const auto nested = [] { return JsonObject::parse(R"({"a":{"b":3}})", "x").object("a"); }();
  EXPECT_EQ(nested.integer("b"), 3);
  EXPECT_EQ(nested.path_of("b"), "a.b");
}

TEST(HfConfig, TheFileItselfCanBeWrong) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] { read_hf_config(scratch.file("none")); }),
            scratch.file("none") + ": no such directory. Check model.path.");
  EXPECT_EQ(message_of([&] { read_hf_config(scratch.path()); }),
            scratch.path() + ": no config.json here. Is it a Hugging Face model directory?");
  const auto with = [&](const std::string& text) {
    const std::string path = scratch.put("config.json", text);
    return message_of([&] { read_hf_config(scratch.path()); }).substr(path.size());
  };
  const std::string again = " Repair the file or download it again.";
  EXPECT_EQ(with("{\n  \"a\": 1,\n  b\n}"), ": the text is not JSON (line 3, column 3)." + again);
  EXPECT_EQ(with(""), ": the text is not JSON (line 1, column 1)." + again);
  EXPECT_EQ(with("[1]"), ": the text is a list, not an object." + again);
  EXPECT_EQ(with("{\"a\":1,\"a\":2}"), ": the text has the name `a` twice." + again);
  EXPECT_EQ(with("{\"a\":\"\xC0\xAF\"}"), ": the text is not UTF-8 (line 1, column 7)." + again);
}

TEST(JsonText, Utf8IsJudgedByTheStandard) {
  for (const std::string good :
       {"", "abc", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xEF\xBF\xBF", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  for (const std::string bad :
       {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xFF", "\xE2\x82", "a\xE2\x28\xA1"}) {
    EXPECT_FALSE(is_utf8(bad)) << printable(bad);
  }
}

TEST(JsonText, NamesArePrintedOnOneShortLine) {
  EXPECT_EQ(printable("a\xC3\xA4"), "a\xC3\xA4");
  EXPECT_EQ(printable("a\r\n\x7F\xFF"), "a\\x0D\\x0A\\x7F\\xFF");
  EXPECT_EQ(printable(std::string(120, 'a')), std::string(120, 'a'));
  EXPECT_EQ(printable(std::string(121, 'a')), std::string(120, 'a') + "...");
}

}  // namespace
}  // namespace core
