// Reading documents: what a node knows, and the exact message of every refusal.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/config/node.h"
#include "tests/config/sample.h"

namespace {

using core::Node;
using core::parse_yaml;
using sample::assign_error;
using sample::refusal;

std::string syntax_error(const std::string& text) {
  return refusal([&] { parse_yaml(text, "a.yaml"); });
}

TEST(ReadYaml, EveryValueKnowsTheLineOfItsKey) {
  const Node root = parse_yaml("a: 1\nb:\n  c:\n    two\n  d: [x,\n      y]\ne:\n  - 5\n  - f: 6\n", "a.yaml");
  EXPECT_EQ(root.origin, "a.yaml");
  EXPECT_EQ(root.find("a")->origin, "a.yaml:1");
  EXPECT_EQ(root.find("b")->origin, "a.yaml:2");
  EXPECT_EQ(core::lookup(root, "b.c")->origin, "a.yaml:3");
  EXPECT_EQ(core::lookup(root, "b.d[1]")->origin, "a.yaml:6");
  EXPECT_EQ(core::lookup(root, "e[0]")->origin, "a.yaml:8");
  EXPECT_EQ(core::lookup(root, "e[1].f")->origin, "a.yaml:9");
}

TEST(ReadYaml, KeepsKindOrderAndQuotes) {
  const Node root = parse_yaml("z: \"2\"\na: 2\nm: {}\nl: []\nn: ~\n", "a.yaml");
  ASSERT_EQ(root.entries.size(), 5u);
  EXPECT_EQ(root.entries[0].first, "z");
  EXPECT_TRUE(root.entries[0].second.quoted);
  EXPECT_FALSE(root.entries[1].second.quoted);
  EXPECT_TRUE(root.entries[2].second.is_map());
  EXPECT_TRUE(root.entries[3].second.is_list());
  EXPECT_TRUE(root.entries[4].second.is_null());
  EXPECT_FALSE(root.entries[0].second == root.entries[1].second);
}

TEST(ReadYaml, EmptyDocumentIsNull) {
  EXPECT_TRUE(parse_yaml("", "a.yaml").is_null());
  EXPECT_TRUE(parse_yaml("# nothing", "a.yaml").is_null());
  EXPECT_TRUE(parse_yaml("---\n", "a.yaml").is_null());
  EXPECT_EQ(parse_yaml("--- 1\n...\n", "a.yaml").scalar, "1");
}

TEST(ReadYaml, AnAliasIsACopyAtItsOwnLine) {
  const Node root = parse_yaml("a: &x {b: 1}\nc: *x\n", "a.yaml");
  EXPECT_EQ(*root.find("a"), *root.find("c"));
  EXPECT_EQ(root.find("c")->origin, "a.yaml:2");
}

TEST(ReadYaml, RefusesADuplicateKeyAndNamesBothLines) {
  EXPECT_EQ(syntax_error("quant:\n  bits: 2\n  size: 3\n  bits: 4\n"),
            "a.yaml:4: quant.bits is given twice, first on line 2. Keep one of them.");
  EXPECT_EQ(syntax_error("rules:\n  - a: 1\n  - {b: 1,\n     b: 2}\n"),
            "a.yaml:4: rules[1].b is given twice, first on line 3. Keep one of them.");
  EXPECT_EQ(assign_error("", "a={b: 1, b: 2}"), "--set a={b: 1, b: 2}: b is given twice. Keep one of them.");
}

TEST(ReadYaml, RefusesAMergeKey) {
  EXPECT_EQ(syntax_error("a: &x {b: 1}\nc:\n  <<: *x\n"),
            "a.yaml:3: the merge key `<<` is not supported. Write the keys out.");
}

TEST(ReadYaml, RefusesWhatIsNotYaml) {
  EXPECT_EQ(syntax_error("a: 1\nb: [1, 2\nc: 3\n"),
            "a.yaml:3: not valid YAML: end of sequence flow not found. Check indentation, brackets and quotes here.");
  EXPECT_EQ(assign_error("", "a=[1"),
            "--set a=[1: not valid YAML: end of sequence flow not found. Check indentation, brackets and quotes here.");
}

TEST(ReadYaml, RefusesAQuoteThatIsNeverClosed) {
  const std::string message =
      ": a quoted string that begins here, or soon after, is not closed. Add the closing quote.";
  for (const std::string quote : {"'", "\""}) {
    EXPECT_EQ(syntax_error("x: 1\na: " + quote + "b"), "a.yaml:2" + message);
    EXPECT_EQ(syntax_error("x: 1\na: " + quote + "b\n"), "a.yaml:2" + message);
    EXPECT_EQ(syntax_error("x: 1\na: " + quote + "b\nc: 2\nd: 3\n"), "a.yaml:2" + message);
    EXPECT_EQ(syntax_error("- 1\n- " + quote + "b\n- 2\n"), "a.yaml:1" + message);
    EXPECT_EQ(syntax_error(quote), "a.yaml:1" + message);
    EXPECT_EQ(assign_error("", "a=" + quote + "x"), "--set a=" + quote + "x" + message);
  }
}

TEST(ReadYaml, RefusesWhatConfigurationsDoNotNeed) {
  EXPECT_EQ(syntax_error("a: 1\n---\nb: 2\n"), "a.yaml:2: a second document begins here. Keep one document per file.");
  EXPECT_EQ(syntax_error("a: !!int 3\n"),
            "a.yaml:1: the YAML tag `tag:yaml.org,2002:int` is not supported. Remove it.");
  EXPECT_EQ(syntax_error("a: 1\n[b]: 2\n"), "a.yaml:2: a key must be a name, not a list. Write `name: value`.");
  EXPECT_EQ(syntax_error("\"\": 2\n"), "a.yaml:1: a key must be a name, not an empty string. Write `name: value`.");
  EXPECT_EQ(syntax_error("a: &x [*x]\n"),
            "a.yaml:1: an alias stands inside the value that it names. Write the value out.");
  EXPECT_EQ(syntax_error(std::string("a: 1\nb: x\x04y\n")),
            "a.yaml:2: the control character \\x04 cannot stand in YAML. Save the file as UTF-8 text.");
}

TEST(ReadYaml, RefusesWhatIsNotUtf8) {
  EXPECT_EQ(syntax_error("a: 1\nb: x\xF9y\n"), "a.yaml:2: the byte \\xf9 is not UTF-8. Save the file as UTF-8 text.");
  EXPECT_EQ(syntax_error("a: \xC3"), "a.yaml:1: the byte \\xc3 is not UTF-8. Save the file as UTF-8 text.");
  EXPECT_EQ(syntax_error(std::string("\xFF\xFE"
                                     "a\0",
                                     4)),
            "a.yaml:1: the byte \\xff is not UTF-8. Save the file as UTF-8 text.");
  EXPECT_EQ(parse_yaml("\xEF\xBB\xBF"
                       "a: \xC3\xA9",
                       "a.yaml")
                .find("a")
                ->scalar,
            "\xC3\xA9");  // a byte order mark is fine
}

TEST(ReadYaml, RefusesDeepDocuments) {
  const std::string message = "a.yaml:1: nested more than 64 levels deep. Flatten it.";
  EXPECT_EQ(syntax_error(std::string(64, '[') + std::string(64, ']')), "");
  EXPECT_EQ(syntax_error(std::string(65, '[') + std::string(65, ']')), message);
  EXPECT_EQ(syntax_error(std::string(500'000, '[')), message);
  std::string aliases = "a0: &a0 [1]\n";
  for (int i = 1; i < 100; ++i) aliases += fmt::format("a{}: &a{} [*a{}]\n", i, i, i - 1);
  EXPECT_EQ(syntax_error(aliases), "a.yaml:64: nested more than 64 levels deep. Flatten it.");
}

TEST(ReadYaml, RefusesDocumentsThatAliasesBlowUp) {
  std::string nodes = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n";
  for (int i = 1; i < 12; ++i) {
    nodes += fmt::format("a{}: &a{} [", i, i);
    for (int j = 0; j < 10; ++j) nodes += fmt::format("*a{},", i - 1);
    nodes += "]\n";
  }
  const std::string message = ": more than 1000000 values once aliases are expanded. Use fewer aliases.";
  EXPECT_EQ(syntax_error(nodes), "a.yaml:6" + message);
  std::string bytes = "a: &a " + std::string(500'000, 'x') + "\nb: [";
  for (int i = 0; i < 1000; ++i) bytes += "*a ,";
  EXPECT_EQ(syntax_error(bytes + "]\n"), "a.yaml:2" + message);
}

TEST(ReadYaml, RefusesFilesThatAreNone) {
  const auto read_error = [](const std::string& path) { return refusal([&] { core::read_yaml(path); }); };
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "refrain_yaml_test";
  std::filesystem::create_directories(folder);
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder);
  std::ofstream("big.yaml") << std::string(core::kMaxDocumentBytes + 1, '#');
  std::ofstream("good.yaml") << "a: 1\n";
  EXPECT_EQ(read_error("none.yaml"), "none.yaml: no such file. Check the path.");
  EXPECT_EQ(read_error("."), ".: is a directory. Name a YAML file in it.");
  EXPECT_EQ(read_error("big.yaml"), "big.yaml: longer than 1048576 bytes. Is this a YAML configuration?");
  EXPECT_EQ(core::read_yaml("good.yaml").find("a")->origin, "good.yaml:1");
  std::filesystem::current_path(before);
}

}  // namespace
