// Writing documents: readable, and whatever a node holds reads back as the same node.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/config/sample.h"

namespace {

using core::Node;
using core::parse_yaml;

TEST(ToYaml, IsReadable) {
  const std::string text =
      "name: qwen/group_size\n"
      "weight:\n"
      "  bits: 2\n"
      "  noise:\n"
      "    sigma: 0.0\n"
      "seeds: [1, 2, 3]\n"
      "transform: []\n"
      "empty: {}\n"
      "rules:\n"
      "  - match: \"*.down_proj\"\n"
      "    weight:\n"
      "      bits: 3\n"
      "  - match: x\n"
      "nested:\n"
      "  - - a: 1\n"
      "    - 2\n";
  EXPECT_EQ(core::to_yaml(parse_yaml(text, "a.yaml")), text);
}

TEST(ToYaml, QuotesWhatWouldReadAsSomethingElse) {
  for (const std::string text : {"",      "08",  "2",   "-1",   "+.5", "1e3",  "0x10", "1_000", "2026-01-31", "true",
                                 "False", "yes", "off", "null", "~",   "Null", ".nan", "-.inf", "<<",         "="}) {
    const Node node = core::make_string(text);
    EXPECT_EQ(core::to_yaml(node), "\"" + text + "\"\n");
    EXPECT_EQ(parse_yaml(core::to_yaml(node), "x"), node);
  }
  for (const std::string text : {"a", "tiny/test", "../shared", "a b", "model.layers.0", "/x", "_x", "e3", "none"}) {
    EXPECT_EQ(core::to_yaml(core::make_string(text)), text + "\n");
  }
}

TEST(ToYaml, ReadsBackWhateverTheStringHolds) {
  std::vector<std::string> texts = {"a: b",
                                    "a #b",
                                    "- a",
                                    "---",
                                    "...",
                                    "[a",
                                    "{",
                                    "a,b",
                                    "*a",
                                    "&a",
                                    "!a",
                                    "|",
                                    ">",
                                    "%a",
                                    "@a",
                                    "`",
                                    "'",
                                    "\"",
                                    "\\",
                                    "a\nb",
                                    "\n",
                                    "\t",
                                    " a",
                                    "a ",
                                    "?",
                                    ":",
                                    "-",
                                    "a:",
                                    "é",
                                    "日本",
                                    "\xF0\x9F\x98\x80",
                                    std::string(300, 'w') + " " + std::string(300, 'v')};
  for (int c = 0; c < 128; ++c) texts.push_back(std::string(1, static_cast<char>(c)));
  for (int c = 0; c < 128; ++c) texts.push_back(std::string("x") + static_cast<char>(c) + "y");
  for (const std::string& text : texts) {
    const Node scalar = core::make_string(text);
    const Node list = core::make_list({scalar, scalar});
    Node map = core::make_map({{"k", scalar}, {"l", list}, {"m", core::make_list({core::make_map({{"n", scalar}})})}});
    if (!text.empty()) map.entries.emplace_back(text + "_", scalar);
    for (const Node& node : {scalar, list, map}) {
      EXPECT_EQ(parse_yaml(core::to_yaml(node), "x"), node) << core::to_yaml(node);
      EXPECT_EQ(parse_yaml(core::to_inline_yaml(node), "x"), node) << core::to_inline_yaml(node);
    }
  }
}

TEST(ToYaml, NumbersReadBackAsTheSameDouble) {
  EXPECT_EQ(core::make_number(1).scalar, "1.0");
  EXPECT_EQ(core::make_number(0.1).scalar, "0.1");
  EXPECT_EQ(core::make_number(1e-8).scalar, "1.0e-08");
  EXPECT_EQ(core::make_number(-2.5e300).scalar, "-2.5e+300");
  for (double value : {0.1 + 0.2, 1.0 / 3, 5e-324, 1.7976931348623157e308, -0.0, 123456789.125}) {
    EXPECT_EQ(std::strtod(core::make_number(value).scalar.c_str(), nullptr), value);
  }
}

TEST(Shown, IsOneShortLine) {
  EXPECT_EQ(core::shown("a\nb\x01"), "a\\x0ab\\x01");
  EXPECT_EQ(core::shown(std::string(100, 'x')), std::string(80, 'x') + "...");
  EXPECT_EQ(core::shown(std::string(79, 'x') + "éé"), std::string(79, 'x') + "...");
  EXPECT_EQ(core::shown(core::make_string("2")), "`\"2\"`");
  EXPECT_EQ(core::shown(Node()), "nothing");
}

}  // namespace
