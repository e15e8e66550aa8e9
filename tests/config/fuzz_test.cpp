// Whatever a file holds, reading and binding it ends in a configuration or in a one-line UserError: a seeded loop of
// random edits of a document that uses every feature. Run with the sanitizers it is a small fuzzer.
#include <gtest/gtest.h>

#include <random>

#include "tests/config/sample.h"

namespace {

const std::string kDocument =
    "# comment\nname: \"08\"\nmethod: gptq\nquiet: true\nseeds: [1, 2]\ncorpora: &c [tiny/train, 'tiny/test']\n"
    "weight: {bits: 2, clip: 1, levels: [-1, .5, 1e-3], noise: {sigma: 0.25, at: train}}\n"
    "rules:\n  - match: '*.down'\n  - {match: x, weight: {bits: 3}}\nexpect: {a: *c, d: [{}, [~]]}\n"
    "transform:\n- smooth:\n    alpha: 0.5\n- ? rotate\n  : {}\n";

const std::vector<std::string> kPieces = {
    "\n",           "  ",          "\t", ":",           ": ",    "- ",     "[",      "]",    "{",   "}",   ",",
    "&a ",          "*a ",         "*c", "<<",          "!x ",   "!!str ", "|",      ">-",   "? ",  "---", "...",
    "\"",           "'",           "#",  "%",           "~",     "null",   "1e9",    "-",    "@",   "`",   "\\",
    "\xff",         "\xc3",        "\r", "%YAML 1.2\n", "\\u12", "08",     "a.b[0]", "\x01", "&c ", "é",   "\xC2\x85",
    "\xE2\x80\xA8", "\xEF\xBB\xBF"};

// One to three random edits: insert a piece, delete, repeat or overwrite a stretch.
std::string mutated(std::string text, std::mt19937& random) {
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % std::max<std::size_t>(n, 1)); };
  for (std::size_t edits = 1 + below(3); edits > 0; --edits) {
    const std::size_t begin = below(text.size() + 1), length = below(12);
    switch (random() % 4) {
      case 0:
        text.insert(begin, kPieces[below(kPieces.size())]);
        break;
      case 1:
        text.erase(begin, length);
        break;
      case 2:
        text.insert(below(text.size() + 1), text.substr(begin, 4 * length));
        break;
      default:
        if (begin < text.size()) text[begin] = static_cast<char>(random() % 256);
    }
  }
  return text;
}

TEST(Fuzz, MutatedDocumentsAreReadOrRefusedInOneLine) {
  std::mt19937 random(42);
  int bound = 0, refused = 0;
  for (int i = 0; i < 5'000; ++i) {
    const std::string text = mutated(kDocument, random);
    SCOPED_TRACE(text);
    try {
      const core::Node root = core::parse_yaml(text, "a.yaml");
      ASSERT_EQ(core::parse_yaml(core::to_yaml(root), "b.yaml"), root) << core::to_yaml(root);
      sample::Config config;
      core::bind(root, config);
      const std::string resolved = core::to_yaml(core::to_node(config));
      sample::Config again;
      core::bind(core::parse_yaml(resolved, "c.yaml"), again);
      ASSERT_EQ(core::to_yaml(core::to_node(again)), resolved);
      ++bound;
    } catch (const core::UserError& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      ASSERT_EQ(std::string(error.what()).rfind("a.yaml", 0), 0u) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(bound, 100);
  EXPECT_GT(refused, 100);
}

TEST(Fuzz, MutatedOverridesAreAssignedOrRefusedInOneLine) {
  std::mt19937 random(43);
  int assigned = 0, refused = 0;
  for (int i = 0; i < 5'000; ++i) {
    const std::string text = mutated("rules[1].weight={bits: 3}", random);
    SCOPED_TRACE(text);
    try {
      core::Node root = core::parse_yaml(kDocument, "a.yaml");
      auto [path, value] = core::parse_override(text);
      core::assign(root, path, std::move(value));
      ASSERT_NE(core::lookup(root, path), nullptr);
      ++assigned;
    } catch (const core::UserError& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      ASSERT_EQ(std::string(error.what()).rfind("--set", 0), 0u) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(assigned, 100);
  EXPECT_GT(refused, 100);
}

}  // namespace
